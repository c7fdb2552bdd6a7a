/* broker.h - the server: takes events in, makes them durable, pushes them.
 *
 * In:  frames of clients (wire.h) on a zmq ROUTER socket.
 * Out: one append per turn to its own log, then answers, then pushes.
 * aif_broker_run blocks its thread; stop may be called from any thread.
 */
#ifndef AIF_BROKER_H
#define AIF_BROKER_H

#include "err.h"

#include <stdint.h>

typedef struct aif_broker aif_broker;

typedef struct {
    uint64_t appended; /* events made durable */
    uint64_t pushed;   /* events sent to subscribers */
    uint64_t turns;    /* appends */
    uint64_t rejected; /* frames that were not ours */
    uint64_t retries;  /* appends that failed in the store */
    uint64_t subscribers;
} aif_broker_stats;

/* bind: "ipc://PATH" (socket 0600, its lock file PATH.lock held: ECONFLICT
 * when another process serves it) or "tcp://127.0.0.1:PORT", "[::1]" (any
 * other address is EINVAL: no authentication yet; port 0 picks one). */
AIF_MUST_CHECK aif_err aif_broker_open(const char *bind, const char *log_uri,
                                       aif_broker **out, aif_error *e);
/* The address clients connect to (the port filled in). */
const char *aif_broker_uri(const aif_broker *b);
/* Serve until aif_broker_stop; an error only when it cannot go on. */
AIF_MUST_CHECK aif_err aif_broker_run(aif_broker *b, aif_error *e);
void aif_broker_stop(aif_broker *b);
void aif_broker_get_stats(aif_broker *b, aif_broker_stats *out);
/* Only after run returned (or was never called). Nothing in a fork. */
void aif_broker_free(aif_broker *b);

#endif
