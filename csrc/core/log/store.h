/* store.h - what a storage back-end must do.  tests/c/store_contract.c says
 * the rest: every back-end passes the same tests.
 *
 * One thread at a time (log.c holds the lock).  A store that lost its
 * database fails with ESTORE and reconnects in its next call.
 */
#ifndef AIF_STORE_H
#define AIF_STORE_H

#include "event/batch.h"
#include "base/err.h"
#include "event/query.h"

#define AIF_STORE_VERSION 2
#define AIF_READ_BYTES (8u << 20) /* a read stops after this many */
#define AIF_LOCK_WAIT_MS 5000     /* for somebody else's lock */
#define AIF_LOCK_SLICE_MS 500     /* the same, in a hurry; MySQL takes 1 s */
#define AIF_SENDERS_MAX 10000     /* that a query may count apart */

typedef struct {
    uint64_t offset;     /* of the newest event ever; 0: none yet */
    uint64_t purged;     /* at or below it events may have been let go; 0:
                            none were */
    int64_t create_time; /* of the newest event; 0: none yet */
} aif_head;

typedef struct {
    const char *scheme;
    aif_err (*open)(const char *uri, void **store, aif_error *e);
    void (*close)(void *store);
    /* From now on, also after it was lost and opened again, wait no longer for
     * somebody else's lock than AIF_LOCK_SLICE_MS, or what is nearest: then
     * ESTORE, which is busy.  NULL: there is nobody else. */
    aif_err (*hurry)(void *store, aif_error *e);
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
    aif_err (*count)(void *store, const aif_query *q, uint64_t *n,
                     aif_error *e);
    aif_err (*head)(void *store, aif_head *out, aif_error *e);
    /* The newest that q means; 0: none. */
    aif_err (*last)(void *store, const aif_query *q, uint64_t *offset,
                    aif_error *e);
    /* Add to out (u64 how many, str sender) for each sender, by its bytes;
     * stops after AIF_SENDERS_MAX + 1 of them. */
    aif_err (*senders)(void *store, const aif_query *q, aif_buf *out,
                       aif_error *e);
    /* The greatest of a producer in the log; 0: none. */
    aif_err (*sequence)(void *store, aif_str producer, uint64_t *sequence,
                        aif_error *e);
    /* Where (producer, sequence) is; 0: it is not in the log. */
    aif_err (*find)(void *store, aif_str producer, uint64_t sequence,
                    uint64_t *offset, aif_error *e);
    /* In one transaction, which takes turns with appends: delete the oldest
     * events, at most max, that are at or below upto and in a namespace that
     * ns means; where there were any, raise head.purged to the last of them,
     * and so ns' row of aiflow_log_purged, which also counts them.  What ns
     * means below its row is gone already, and need not be looked at. */
    aif_err (*purge)(void *store, aif_str ns, uint64_t upto, size_t max,
                     uint64_t *gone, aif_error *e);
    /* Add to out the rows of aiflow_log_purged, by the namespaces' bytes:
     * (str ns, u64 upto, u64 events). */
    aif_err (*purged)(void *store, aif_buf *out, aif_error *e);
    /* The event of ns' that has just n of them beyond it; 0: none has. */
    aif_err (*keep)(void *store, aif_str ns, uint64_t n, uint64_t *upto,
                    aif_error *e);
} aif_store_ops;

extern const aif_store_ops aif_store_mem;
extern const aif_store_ops aif_store_sqlite;
extern const aif_store_ops aif_store_pg;
extern const aif_store_ops aif_store_mysql; /* "mariadb:", too */

/* The back-end whose scheme starts uri, or NULL. */
const aif_store_ops *aif_store_find(const char *uri);

#endif
