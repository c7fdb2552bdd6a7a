/* cursor.h - a reader's place in the log, which has a name.  Pure.
 *
 * In:  what a reader asks for, what the log has.  Out: where it begins, or
 * why it may not.
 *
 * Whoever takes a cursor holds it until another one takes it: there are no
 * leases and no clocks.  Who held it before can move it no more.
 */
#ifndef AIF_CURSOR_H
#define AIF_CURSOR_H

#include "base/err.h"
#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>

#define AIF_CURSORS_MAX 10000 /* of a log */

/* No two of a log have the same ns and name. */
typedef struct {
    aif_str ns;   /* the namespaces that it reads: exact, a prefix, or "*" */
    aif_str name; /* 1 to AIF_NAME_MAX bytes */
    uint64_t offset;  /* to be taken: where a new one begins; AIF_AFTER_NOW: at
                        the head */
    uint64_t holder;  /* random, of who took it last */
    int64_t moved_ms; /* when it was taken or moved last */
} aif_cursor;

/* EINVAL: its ns or its name. */
AIF_MUST_CHECK aif_err aif_cursor_check(const aif_cursor *c, aif_error *e);
/* Where a taker begins.  there: there is such a cursor, at `was`; else there
 * are so many others.  EINVAL: a new one beyond the head; ECONFLICT: there
 * are too many; EREPLACED: `was` is beyond the head. */
AIF_MUST_CHECK aif_err aif_cursor_begin(const aif_cursor *c, bool there,
                                        uint64_t was, uint64_t others,
                                        uint64_t head, uint64_t *offset,
                                        aif_error *e);
/* ECONFLICT unless it is held by c->holder; holder 0: there is none. */
AIF_MUST_CHECK aif_err aif_cursor_held(const aif_cursor *c, uint64_t holder,
                                       aif_error *e);

#endif
