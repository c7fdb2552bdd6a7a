/* broker/in.h - what the files of broker/ share.  Nobody else includes it.
 */
#ifndef AIF_BROKER_IN_H
#define AIF_BROKER_IN_H

#include "broker/broker.h"
#include "broker/credit.h"
#include "net/curve.h"
#include "net/listen.h"
#include "base/guard.h"
#include "base/hist.h"
#include "log/log.h"
#include "event/match.h"
#include "log/store.h"
#include "base/trace.h"
#include "net/wire.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <zmq.h>

#define AIF_ROUTE_MAX                                                         \
    32 /* zmq's own are 5 bytes; who sets a longer: refused */

#define AIF_TURN_EVENTS AIF_BATCH_MAX /* one turn drains no more than this */
#define AIF_TURN_BYTES (8u << 20)     /* nor, its last frame apart, this */
#define AIF_READ_COST 1000            /* events; what a question weighs */
#define AIF_LOOK_COST 100             /* and a HEAD or SUBSCRIBE */
/* A question looks at no more offsets than this, and at fewer where its
 * patterns weigh more (aif_query_weight): at 2 * EVENTS * WEIGHT / (WEIGHT +
 * what they weigh), so that the time is about the same.  One that looks at so
 * much ends the turn.  Counting events of 200 bytes, one pattern, exact or a
 * prefix: SQLite 19 to 29 ms, PostgreSQL 23 to 27, MariaDB 36; 64 patterns, of
 * exact keys, of exact namespaces, or of up to 5 prefixes: SQLite 18 to 43 ms,
 * PostgreSQL 38 to 91, MariaDB 18 to 73 on a machine that was four times as
 * busy (all 50,000 offsets, whatever the patterns: up to 2.4 s, 2.4 and 3.7).
 */
#define AIF_SCAN_EVENTS 50000
#define AIF_SCAN_WEIGHT 4

#define AIF_PIECE_EVENTS 1000      /* in one EVENTS frame */
#define AIF_PIECE_BYTES (1u << 20) /* unless one event alone is larger */
#define AIF_SUBSCRIBERS_MAX 4096

#define AIF_BROKER_LEASE_MS 10000  /* a subscriber not heard from is gone */
#define AIF_BROKER_FULL_RETRY_MS 5 /* a subscriber whose pipe was full */
#define AIF_BROKER_STORE_RETRY_MS 200
/* Other brokers append too.  While somebody listens the head is looked at: as
 * often as LEAST for KEEN ms after another one was seen to append, then twice
 * as far apart with each look that finds nothing.  On PostgreSQL that is 0.7 %
 * of a core at the slow beat, and 2 ms on top of the delivery's median
 * (bench_broker ... second=1, on a busy machine).  LISTEN would save the
 * looks, and make each append NOTIFY: that takes a lock of the whole server
 * until the commit is on the disk, for which Airflow's own NOTIFYs would
 * wait; and MySQL has no such thing. */
#define AIF_BROKER_POLL_LEAST_MS 2
#define AIF_BROKER_POLL_MS 16
#define AIF_BROKER_KEEN_MS 200
/* A file has one broker; a program of somebody's may append to it, too. */
#define AIF_BROKER_POLL_FILE_LEAST_MS 50
#define AIF_BROKER_POLL_FILE_MS 1000

typedef struct {
    uint8_t n;
    uint8_t p[AIF_ROUTE_MAX];
} aif_route; /* whom to answer: zmq's routing id */

/* One PUBLISH of this turn.  Its events are views into frame, so it never
 * moves: the turn keeps pointers. */
typedef struct {
    aif_route from;
    uint64_t id;
    uint64_t at; /* when it came, us */
    zmq_msg_t frame;
    size_t first; /* in the turn's events */
    size_t n;
    bool refused; /* and told so */
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
    aif_credit credit;
    uint64_t gone; /* events that were let go, of what it wants, and that
                      it misses nothing by, or knows of */
    int64_t heard; /* when it last said something */
    char key[AIF_CURVE_KEY + 1]; /* who asked for it; "": no CURVE */
    bool hints;
    bool indexed;     /* found by the index; else each event is compared */
    uint64_t touched; /* the span in which the index found something for it */
    bool full;        /* zmq took no more for it: try later */
    uint8_t *bytes;   /* its patterns' strings */
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

/* broker/gate.c's own. */
typedef struct {
    void *zap;            /* NULL: no CURVE, and nobody is asked */
    int wake;             /* eventfd */
    pthread_mutex_t lock; /* of next */
    aif_access *next;
    atomic_bool fresh; /* next is to be taken */
    aif_access *now;
    const aif_grant *who;        /* sent the frame that is looked at; NULL:
                                    nobody we know */
    char key[AIF_CURVE_KEY + 1]; /* the same, its public key */
} aif_gate;

typedef struct {
    bool open;
    bool spoke;       /* it has sent a frame */
    bool told;        /* why it did not get in was said */
    char address[47]; /* for people to read */
    /* broker/parts.c's own. */
    bool took;       /* a whole message of it, since the last note */
    ino_t inode;     /* of its socket */
    uint64_t before; /* bytes that it sent before that message's end */
    uint64_t read;   /* and until the last note */
} aif_door_peer;

/* broker/door.c's own. */
typedef struct {
    void *monitor;
    aif_door_peer *peers; /* by descriptor */
    size_t cap_peers;
    size_t n_peers; /* open */
    size_t most;    /* of them */
    int listener;
    bool shielded;      /* nobody new for now */
    const char *failed; /* the connection that is reported as closed next */
} aif_door;

/* broker/parts.c's own. */
typedef struct {
    bool on; /* tcp */
    int statm;
    uint64_t resident; /* bytes of memory, when we looked last */
    int64_t due;
    bool noted;     /* who had sent how much; */
    size_t drained; /* messages since then */
} aif_parts;

#define AIF_GATE_ITEMS 3

/* What broker/seen.c shows of a subscriber. */
typedef struct {
    aif_route to;
    uint64_t id;
    uint64_t cursor;
    uint64_t lag;    /* events that it has not been looked at for */
    uint64_t credit; /* bytes that it may still be sent */
    int64_t heard;
} aif_seen_sub;

#define AIF_SEEN_SUBS 20

/* What others may want to know.  The broker's thread writes; what is no
 * atomic, under the lock. */
typedef struct {
    _Atomic uint64_t appended, pushed, turns, rejected, retries;
    _Atomic uint64_t subscribers, frames, bytes_in, bytes_out, lost;
    _Atomic uint64_t expired, gone, retention, head, purged;
    _Atomic uint64_t denied, strangers, endless;
    _Atomic uint64_t flight; /* bytes under way to all subscribers */
    _Atomic uint64_t refused[AIF_ERR_COUNT];
    _Atomic uint64_t busy_since; /* us; 0: it waits */
    aif_hist turn;               /* a turn that had something to do */
    aif_hist append;             /* the store's part of it */
    aif_hist answer;             /* a PUBLISH, from its arrival on */
    aif_hist push;               /* the same, until subscribers were served */
    pthread_mutex_t lock;
    aif_seen_sub subs[AIF_SEEN_SUBS]; /* those furthest behind */
    size_t n_subs;
    int64_t subs_at;         /* when they were looked at */
    const char *store_what;  /* that failed last; NULL: the store works */
    int64_t store_since;     /* when it began to */
    uint64_t store_failures; /* since then */
    char store_text[240];    /* of the last of them */
    aif_trace trace;
    int64_t lines_since; /* only so many lines in a while */
    unsigned lines;
    _Atomic uint64_t hushed; /* lines that were too many */
} aif_seen;

struct aif_broker {
    aif_guard guard; /* of run: one thread */
    int64_t opened;
    char log_kind[16]; /* the scheme of its URI: the rest may be secret */
    aif_seen stats;
    aif_listen endpoint;
    aif_gate gate;
    aif_door door;
    aif_parts parts;
    void *ctx;
    void *router;
    uint8_t secret[16]; /* of the names that peers have for people */
    int stop;           /* eventfd: may be written in a signal handler */
    aif_log *log;
    uint64_t head;     /* newest offset we know of */
    uint64_t purged;   /* and up to where events may have been let go */
    int poll_ms;       /* between two looks at the head: at most, 0: never; */
    int poll_least_ms; /* at least; */
    int poll_now_ms;   /* and now */
    int64_t keen;      /* until when no less often than that */
    int64_t head_due;
    int64_t lease_due;
    int64_t full_due;  /* when to try the full subscribers again */
    int64_t store_due; /* when to read again after the store failed */
    aif_turn turn;
    aif_match *index; /* of patterns with one namespace and key: who listens */
    size_t n_indexed;
    uint64_t spans;  /* pushed so far */
    size_t appended; /* in this turn */
    int64_t now;     /* of this turn */
    aif_subscriber **subs;
    size_t n_subs;
    size_t cap_subs;
    size_t next_sub; /* whose turn it is to read from the log */
    aif_batch span;  /* read for those behind */
    aif_buf out;
};

typedef enum { AIF_SENT, AIF_FULL, AIF_GONE } aif_sent;

/* broker.c: send what b->out holds; never blocks. */
aif_sent aif_broker_send(aif_broker *b, const aif_route *to);
/* Encode f and send it; a peer that is gone or full gets nothing. */
void aif_broker_answer(aif_broker *b, const aif_route *to, const aif_frame *f);
void aif_broker_refuse(aif_broker *b, const aif_route *to, uint64_t id,
                       const aif_error *why);

/* The head was found to be there: it moves on, and where another process
 * moved it, we look again soon. */
void aif_broker_moved(aif_broker *b, const aif_head *head);
/* The log's head, from the store. */
AIF_MUST_CHECK aif_err aif_broker_look(aif_broker *b, aif_head *head,
                                       aif_error *e);
/* EINVAL: from lies beyond the newest event. */
AIF_MUST_CHECK aif_err aif_broker_reach(aif_broker *b, uint64_t from,
                                        aif_error *e);

/* broker/ask.c: answer a question about the log.  *cost: in events. */
AIF_MUST_CHECK aif_err aif_broker_ask(aif_broker *b, const aif_route *from,
                                      const aif_frame *f, size_t *cost,
                                      aif_error *e);

/* broker/seen.c */
void aif_seen_init(aif_broker *b, const char *log_uri);
void aif_seen_fini(aif_broker *b);
/* A line for people, unless there were too many just now. */
void aif_seen_say(aif_broker *b, aif_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* How the store did; what: a literal, the same one each time. */
void aif_seen_store(aif_broker *b, const char *what, aif_err err,
                    const aif_error *e);
/* A frame was refused; said once for each peer and code. */
void aif_seen_refused(aif_broker *b, const aif_route *from, zmq_msg_t *frame,
                      const aif_error *why);
void aif_seen_turn(aif_broker *b, uint64_t since);
/* Note who is behind; at most once a second, unless it has to be now. */
void aif_seen_subs(aif_broker *b, bool must);

/* broker/route.c.  A ROUTER whose routing ids nobody can guess; NULL: errno
 * says why not. */
void *aif_route_socket(aif_broker *b);
/* A peer's name, for people; its routing id does not follow from it. */
typedef struct {
    char text[9];
} aif_peer;
aif_peer aif_route_text(const aif_broker *b, const aif_route *r);

/* broker/turn.c.  Add a PUBLISH, where its sender may publish all of it;
 * takes what is in *frame on success. */
AIF_MUST_CHECK aif_err aif_turn_add(aif_turn *t, const aif_gate *gate,
                                    const aif_route *from, const aif_frame *f,
                                    zmq_msg_t *frame, aif_error *e);
/* Append, answer, push to those at the head; empties the turn. */
void aif_turn_commit(aif_broker *b);
void aif_turn_fini(aif_turn *t);

/* broker/subs.c */
AIF_MUST_CHECK aif_err aif_subs_add(aif_broker *b, const aif_route *from,
                                    const aif_frame *f, aif_error *e);
AIF_MUST_CHECK aif_err aif_subs_credit(aif_broker *b, const aif_route *from,
                                       const aif_frame *f, aif_error *e);
void aif_subs_remove(aif_broker *b, const aif_route *from, uint64_t id);
void aif_subs_hint(aif_broker *b, aif_str text);
void aif_subs_drop(aif_broker *b, size_t i);

/* broker/push.c: push span to whom it is next. */
void aif_subs_push(aif_broker *b, const aif_span *span);
/* Has it credit, and room? */
bool aif_push_may(const aif_broker *b, const aif_subscriber *s);
/* Tell it how far everything was looked at; false when it is gone. */
bool aif_push_cursor(aif_broker *b, aif_subscriber *s);

/* broker/catch.c.  ERETENTION: what s wants was let go beyond its cursor. */
AIF_MUST_CHECK aif_err aif_catch_missed(aif_broker *b, aif_subscriber *s,
                                        aif_error *e);
/* One bounded read for somebody who is behind, and its push. */
void aif_subs_catch_up(aif_broker *b, int64_t now);
void aif_subs_expire(aif_broker *b, int64_t now);
/* When aif_subs_catch_up or _expire has something to do; INT64_MAX: never. */
int64_t aif_subs_due(const aif_broker *b, int64_t now);
void aif_subs_fini(aif_broker *b);
/* End those that are not allowed any more. */
void aif_subs_recheck(aif_broker *b);

/* broker/gate.c */
void aif_gate_init(aif_broker *b);
/* Before the router is bound; a table comes later. */
AIF_MUST_CHECK aif_err aif_gate_open(aif_broker *b, const char *bind,
                                     const char *secret, aif_error *e);
/* After the router is closed. */
void aif_gate_close(aif_broker *b);
/* May who sent it do what f asks?  EDENIED says what not. */
AIF_MUST_CHECK aif_err aif_gate_check(aif_broker *b, const aif_route *from,
                                      zmq_msg_t *frame, const aif_frame *f,
                                      aif_error *e);
AIF_MUST_CHECK aif_err aif_gate_publish(const aif_gate *g, const aif_event *ev,
                                        aif_error *e);
/* May s go on? */
AIF_MUST_CHECK aif_err aif_gate_keeps(const aif_gate *g,
                                      const aif_subscriber *s, aif_error *e);
/* What to wait for; how many. */
size_t aif_gate_items(const aif_broker *b,
                      zmq_pollitem_t items[static AIF_GATE_ITEMS]);
/* Let in, count, take a new table. */
void aif_gate_tend(aif_broker *b);

/* broker/door.c.  Before the router is bound. */
AIF_MUST_CHECK aif_err aif_door_open(aif_broker *b, aif_error *e);
void aif_door_close(aif_broker *b);
void aif_door_tend(aif_broker *b);
/* A connection from address is not let in. */
void aif_door_unknown(aif_broker *b, const char *address, const char *key);
/* A whole message was taken; whose connection got as far as a frame of ours is
 * no stranger's. */
void aif_door_took(aif_broker *b, zmq_msg_t *last, bool ours);

/* broker/parts.c.  Before the router is bound, to tcp. */
void aif_parts_open(aif_broker *b);
void aif_parts_close(aif_broker *b);
void aif_parts_accepted(aif_door_peer *peer, int fd);
/* Now and then.  dry: nothing whole was left to take when we looked last. */
void aif_parts_look(aif_broker *b, bool dry);
/* due, in ms, or sooner: then it is time to look.  -1: never. */
long aif_parts_wait(const aif_broker *b, long due);

static inline uint64_t
aif_count(_Atomic uint64_t *counter, uint64_t n)
{
    return atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

#endif
