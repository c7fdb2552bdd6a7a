/* broker.h - the server: takes events in, makes them durable, pushes them.
 *
 * In:  frames of clients (wire.h) on a zmq ROUTER socket.
 * Out: one append per turn to its own log, then answers, then pushes.
 * aif_broker_run blocks its thread; stop may be called from any thread.
 */
#ifndef AIF_BROKER_H
#define AIF_BROKER_H

#include "net/access.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/trace.h"

#include <stdint.h>

typedef struct aif_broker aif_broker;

typedef struct {
    uint64_t appended; /* events made durable */
    uint64_t pushed;   /* events sent to subscribers */
    uint64_t turns;    /* appends */
    uint64_t rejected; /* frames that the protocol does not allow */
    uint64_t retries;  /* appends that failed in the store */
    uint64_t subscribers;
    uint64_t denied;    /* frames and subscriptions that access forbids */
    uint64_t strangers; /* tcp connections that ended before their first
                           frame */
    uint64_t flight;    /* bytes sent to subscribers that they have not said
                           they took */
} aif_broker_stats;

/* bind: "ipc://PATH" (socket 0600, its lock file PATH.lock held: ECONFLICT
 * when another process serves it) or "tcp://HOST:PORT" (port 0 picks one;
 * docs/protocol.md, "Addresses"). */
typedef struct {
    const char *bind;
    const char *log;    /* URI */
    const char *secret; /* the broker's CURVE key, for tcp; NULL: no CURVE */
    bool insecure;      /* serve other machines even without */
} aif_broker_options;

AIF_MUST_CHECK aif_err aif_broker_open(const aif_broker_options *o,
                                       aif_broker **out, aif_error *e);
/* Who may do what, from now on.  The broker frees the table.  Before the first
 * call, and with NULL, nobody may do anything over CURVE.  Any thread; it does
 * not wait. */
void aif_broker_set_access(aif_broker *b, aif_access *access);
/* The address clients connect to (the port filled in). */
const char *aif_broker_uri(const aif_broker *b);
/* Serve until aif_broker_stop; an error only when it cannot go on. */
AIF_MUST_CHECK aif_err aif_broker_run(aif_broker *b, aif_error *e);
void aif_broker_stop(aif_broker *b);
void aif_broker_get_stats(aif_broker *b, aif_broker_stats *out);
/* All that is known of it, as JSON (docs/broker.md); never waits for what the
 * broker is doing.  Any thread. */
AIF_MUST_CHECK aif_err aif_broker_status(aif_broker *b, aif_buf *out,
                                         aif_error *e);
/* Take the oldest line that it has for the host's log; false: there is none.
 * Any thread. */
bool aif_broker_trace(aif_broker *b, aif_trace_line *out);
/* Only after aif_broker_run returned, or where it was never called.  In a
 * forked child it does nothing. */
void aif_broker_free(aif_broker *b);

#endif
