/* store.h - what a storage back-end must do.  tests/c/store_contract.c says
 * the rest: every back-end passes the same tests.
 *
 * One thread at a time (log.c holds the lock).  A store that lost its
 * database fails with ESTORE and reconnects in its next call.
 */
#ifndef AIF_STORE_H
#define AIF_STORE_H

#include "event/batch.h"
#include "base/buf.h"
#include "base/err.h"
#include "event/cursor.h"
#include "event/query.h"

#define AIF_STORE_VERSION 2
#define AIF_READ_BYTES (8u << 20) /* a read stops after this many */
#define AIF_SENDERS_MAX 10000     /* that a query may count apart */

typedef struct {
    uint64_t offset;     /* of the newest event ever; 0: none yet */
    uint64_t purged;     /* at or below it events may have been let go; 0:
                            none were */
    int64_t create_time; /* of the newest event; 0: none yet */
    uint64_t log_id;     /* random: no two logs have the same */
} aif_head;

/* What a store can be asked, and the rows of the answer.  Of one number no
 * row means 0. */
typedef enum {
    AIF_ASK_HEAD,     /* one: the four numbers of aif_head, in their order */
    AIF_ASK_COUNT,    /* one: how many events q means */
    AIF_ASK_NEWEST,   /* one: the offset of the newest event that q means,
                         after n of them were passed over; 0: none */
    AIF_ASK_SENDERS,  /* one for each sender of what q means, by its bytes:
                         how many, sender; no more than AIF_SENDERS_MAX + 1 */
    AIF_ASK_SEQUENCE, /* one: the greatest sequence of producer; 0: none */
    AIF_ASK_FIND,     /* one: the offset of (producer, sequence); 0: it is not
                         in the log */
    AIF_ASK_PURGED,   /* the rows of aiflow_log_purged, by the namespaces'
                         bytes: namespace, upto, events */
    AIF_ASK_CURSORS,  /* all, by the bytes of their namespaces and names:
                         namespace, name, offset, moved_ms */
} aif_ask_what;

typedef struct {
    aif_ask_what what;
    const aif_query *q;
    uint64_t n;
    aif_str producer;
    uint64_t sequence;
} aif_ask;

typedef struct {
    const char *scheme;
    /* hurry: wait no longer for somebody else's lock than AIF_LOCK_SLICE_MS,
     * or what is nearest: then ESTORE, which is busy. */
    aif_err (*open)(const char *uri, bool hurry, void **store, aif_error *e);
    void (*close)(void *store);
    /* All of them durable, or none.  offsets[i] is that of events[i]: a new
     * one without gaps, or, where (producer, sequence) is known already, the
     * one it has.  No two of events have the same identity, and none is
     * created before the one in front of it.  *before: the head that it
     * found; what is new lies beyond, created at before->create_time where
     * it would be earlier: in the log, time does not go backwards.  (Of one
     * new event, before->create_time may be its own.) */
    aif_err (*append)(void *store, const aif_event *events, size_t n,
                      uint64_t *offsets, aif_head *before, aif_error *e);
    /* Add to out, in offset order, at most max of the events that q means,
     * and stop after AIF_READ_BYTES. */
    aif_err (*read)(void *store, const aif_query *q, size_t max,
                    aif_batch *out, aif_error *e);
    /* Add the answer's rows to out: a number as u64, a text as str. */
    aif_err (*ask)(void *store, const aif_ask *ask, aif_buf *out,
                   aif_error *e);
    /* In one transaction, which takes turns with appends: delete the oldest
     * events, at most max, that are at or below upto and in a namespace that
     * ns means; where there were any, raise head.purged to the last of them,
     * and so ns' row of aiflow_log_purged, which also counts them.  What ns
     * means below its row is gone already, and need not be looked at. */
    aif_err (*purge)(void *store, aif_str ns, uint64_t upto, size_t max,
                     uint64_t *gone, aif_error *e);
    /* In one transaction, which takes turns with appends: find the cursor, or
     * make it; it is c->holder's from now on.  *offset: where it is now, as
     * aif_cursor_begin says; *head: the log's. */
    aif_err (*take)(void *store, const aif_cursor *c, uint64_t *offset,
                    aif_head *head, aif_error *e);
    /* Move it on to c->offset, and never back, where c->holder holds it.
     * *holder: who does; 0: there is no such cursor. */
    aif_err (*move)(void *store, const aif_cursor *c, uint64_t *holder,
                    aif_error *e);
    /* Unless it was taken or moved after c->moved_ms. */
    aif_err (*forget)(void *store, const aif_cursor *c, bool *was,
                      aif_error *e);
    /* From now on the log has another id, unless it has another than was. */
    aif_err (*renew)(void *store, uint64_t was, aif_error *e);
} aif_store_ops;

extern const aif_store_ops aif_store_mem;
extern const aif_store_ops aif_store_sqlite;
extern const aif_store_ops aif_store_pg;
extern const aif_store_ops aif_store_mysql; /* "mariadb:", too */

#endif
