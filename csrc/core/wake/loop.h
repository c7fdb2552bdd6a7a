/* loop.h - one wait over everything that can wake the scheduler: broker
 * subscription, database watch, other people's fds; at most until due.
 *
 * In:  sources and a time limit.  Out: which of them woke it.
 */
#ifndef AIF_LOOP_H
#define AIF_LOOP_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct aif_sub;
struct aif_watch;

typedef struct {
    int fd; /* used when sub and watch are NULL */
    struct aif_sub *sub;
    struct aif_watch *watch;
    bool ready; /* out */
} aif_source;

/* Wait until a source may have something, at most timeout_ms (negative: for
 * ever).  A watch without an fd is looked at each aif_watch_interval_ms.
 * EINTR ends the wait early, with nothing ready.  EINVAL names an fd that is
 * not open. */
AIF_MUST_CHECK aif_err aif_loop_wait(aif_source *sources, size_t n,
                                     int timeout_ms, aif_error *e);

#endif
