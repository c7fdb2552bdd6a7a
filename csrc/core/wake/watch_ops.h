/* watch_ops.h - what a database must offer to be watched.  For watch.c and
 * the watch_*.c files only; watch.c holds the guard around every call. */
#ifndef AIF_WATCH_OPS_H
#define AIF_WATCH_OPS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AIF_WATCH_RETRY_MS 1000 /* between two tries to open it again */

typedef struct {
    const char *scheme;
    size_t size; /* of an impl, which is zeroed before open */
    /* uri stays until close.  Nothing is left to close when it fails. */
    aif_err (*open)(void *impl, const char *uri, const char *channel,
                    aif_error *e);
    void (*close)(void *impl);
    /* True when something happened since the last look, or, after the
     * connection was lost, may have.  Never blocks, never fails: what is
     * wrong with the database its real users will hear. */
    bool (*look)(void *impl);
    /* Copy the next payload; "" when there is none. */
    void (*payload)(void *impl, char *out, size_t cap);
    /* As aif_watch_sync. */
    uint64_t (*sync)(void *impl);
    int (*fd)(const void *impl);
    int interval_ms; /* while fd is -1 */
} aif_watch_ops;

extern const aif_watch_ops aif_watch_pg;
extern const aif_watch_ops aif_watch_sqlite;

#endif
