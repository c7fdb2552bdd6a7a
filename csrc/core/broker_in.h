/* broker_in.h - what broker.c, broker_turn.c and broker_subs.c share.
 * Nobody else includes it.
 */
#ifndef AIF_BROKER_IN_H
#define AIF_BROKER_IN_H

#include "broker.h"
#include "endpoint.h"
#include "guard.h"
#include "log.h"
#include "store.h"
#include "wire.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <zmq.h>

#define AIF_ROUTE_MAX                                                         \
    32 /* zmq's own are 5 bytes; who sets a longer: refused */

#define AIF_TURN_EVENTS AIF_BATCH_MAX /* one turn drains no more than this */
#define AIF_TURN_BYTES (8u << 20)     /* nor, its last frame apart, this */
#define AIF_READ_COST 1000            /* events; what a LIST or COUNT weighs */
#define AIF_LOOK_COST 100             /* and a HEAD or SUBSCRIBE as these */

#define AIF_PIECE_EVENTS 1000      /* in one EVENTS frame */
#define AIF_PIECE_BYTES (1u << 20) /* unless one event alone is larger */
#define AIF_SUBSCRIBERS_MAX 4096

#define AIF_BROKER_LEASE_MS 10000  /* a subscriber not heard from is gone */
#define AIF_BROKER_FULL_RETRY_MS 5 /* a subscriber whose pipe was full */
#define AIF_BROKER_STORE_RETRY_MS 200
/* Other processes append too: how often to look, while somebody listens. */
#define AIF_BROKER_HEAD_POLL_MS 100 /* postgresql: another broker appends */
#define AIF_BROKER_HEAD_POLL_SLOW_MS 1000 /* a file is not to be shared */

typedef struct {
    uint8_t n;
    uint8_t p[AIF_ROUTE_MAX];
} aif_route; /* whom to answer: zmq's routing id */

/* One PUBLISH of this turn.  Its events are views into frame, so it never
 * moves: the turn keeps pointers. */
typedef struct {
    aif_route from;
    uint64_t id;
    zmq_msg_t frame;
    size_t first; /* in the turn's events */
    size_t n;
} aif_request;

typedef struct {
    aif_event *events; /* views into the requests' frames */
    uint64_t *offsets;
    size_t n;
    size_t cap;
    aif_request **requests; /* made once, used again by later turns */
    size_t n_requests;
    size_t cap_requests;
} aif_turn;

typedef struct {
    aif_route to;
    uint64_t id;     /* of its SUBSCRIBE */
    uint64_t start;  /* the cursor it was given first */
    uint64_t cursor; /* everything up to here was looked at */
    uint64_t told;   /* the cursor the client was told last */
    uint64_t sent;   /* bytes of EVENTS */
    uint64_t granted;
    int64_t heard; /* when it last said something */
    bool hints;
    bool full;      /* zmq took no more for it: try later */
    uint8_t *bytes; /* its patterns' strings */
    size_t n;
    aif_pattern patterns[];
} aif_subscriber;

/* Consecutive events: all of the log beyond from, up to and including to. */
typedef struct {
    const aif_event *events;
    size_t n;
    uint64_t from;
    uint64_t to;
} aif_span;

struct aif_broker {
    aif_guard guard; /* of run: one thread */
    aif_endpoint endpoint;
    void *ctx;
    void *router;
    int stop; /* eventfd: may be written in a signal handler */
    aif_log *log;
    uint64_t head;    /* newest offset we know of */
    bool head_sure;   /* false after a failed append: it may have committed */
    int head_poll_ms; /* 0: never */
    int64_t head_due;
    int64_t lease_due;
    int64_t full_due;  /* when to try the full subscribers again */
    int64_t store_due; /* when to read again after the store failed */
    aif_turn turn;
    aif_subscriber **subs;
    size_t n_subs;
    size_t cap_subs;
    size_t next_sub; /* whose turn it is to read from the log */
    aif_batch span;  /* read for those behind */
    aif_buf out;
    struct {
        _Atomic uint64_t appended, pushed, turns, rejected, retries;
        _Atomic uint64_t subscribers;
    } stats;
};

typedef enum { AIF_SENT, AIF_FULL, AIF_GONE } aif_sent;

/* broker.c: send what b->out holds; never blocks. */
aif_sent aif_broker_send(aif_broker *b, const aif_route *to);
/* Encode f and send it; a peer that is gone or full gets nothing. */
void aif_broker_answer(aif_broker *b, const aif_route *to, const aif_frame *f);
void aif_broker_refuse(aif_broker *b, const aif_route *to, uint64_t id,
                       const aif_error *why);

/* broker_turn.c.  Add a PUBLISH; takes what is in *frame on success. */
AIF_MUST_CHECK aif_err aif_turn_add(aif_turn *t, const aif_route *from,
                                    const aif_frame *f, zmq_msg_t *frame,
                                    aif_error *e);
/* Append, answer, push to those at the head; empties the turn. */
void aif_turn_commit(aif_broker *b);
void aif_turn_fini(aif_turn *t);

/* broker_subs.c */
AIF_MUST_CHECK aif_err aif_subs_add(aif_broker *b, const aif_route *from,
                                    const aif_frame *f, aif_error *e);
AIF_MUST_CHECK aif_err aif_subs_credit(aif_broker *b, const aif_route *from,
                                       const aif_frame *f, aif_error *e);
void aif_subs_remove(aif_broker *b, const aif_route *from, uint64_t id);
void aif_subs_hint(aif_broker *b, aif_str text);
/* Push span to whom it is next. */
void aif_subs_push(aif_broker *b, const aif_span *span);
/* One bounded read for somebody who is behind, and its push. */
void aif_subs_catch_up(aif_broker *b, int64_t now);
void aif_subs_expire(aif_broker *b, int64_t now);
/* When aif_subs_catch_up or _expire has something to do; INT64_MAX: never. */
int64_t aif_subs_due(const aif_broker *b, int64_t now);
void aif_subs_fini(aif_broker *b);

static inline uint64_t
aif_count(_Atomic uint64_t *counter, uint64_t n)
{
    return atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

#endif
