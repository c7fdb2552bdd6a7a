/* store.h - what a storage back-end must do.  tests/c/store_contract.c says
 * the rest: every back-end passes the same tests.
 *
 * One thread at a time (log.c holds the lock).  A store that lost its
 * database fails with ESTORE and reconnects in its next call.
 */
#ifndef AIF_STORE_H
#define AIF_STORE_H

#include "batch.h"
#include "err.h"
#include "pattern.h"

#define AIF_STORE_VERSION 1
#define AIF_READ_BYTES (8u << 20) /* a read stops after this many */

typedef struct {
    const char *scheme;
    aif_err (*open)(const char *uri, void **store, aif_error *e);
    void (*close)(void *store);
    /* All of them durable, or none.  offsets[i] is that of events[i]: a new
     * one without gaps, or, where (producer, sequence) is known already, the
     * one it has.  No two of events have the same identity. */
    aif_err (*append)(void *store, const aif_event *events, size_t n,
                      uint64_t *offsets, aif_error *e);
    /* Add to out, in offset order, at most max of the events beyond after
     * that p matches (NULL: all), and stop after AIF_READ_BYTES. */
    aif_err (*read)(void *store, const aif_pattern *p, uint64_t after,
                    size_t max, aif_batch *out, aif_error *e);
    aif_err (*count)(void *store, const aif_pattern *p, uint64_t after,
                     uint64_t *n, aif_error *e);
    aif_err (*head)(void *store, uint64_t *offset, aif_error *e);
} aif_store_ops;

extern const aif_store_ops aif_store_mem;
extern const aif_store_ops aif_store_sqlite;
extern const aif_store_ops aif_store_pg;

/* The back-end whose scheme starts uri, or NULL. */
const aif_store_ops *aif_store_find(const char *uri);

#endif
