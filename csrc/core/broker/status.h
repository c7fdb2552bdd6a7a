/* status.h - what people see of a broker: lines for the host's log, and one
 * JSON text with everything that is counted (docs/broker.md).
 *
 * In:  numbers and lines from every file of broker/.
 * Out: the lines, the numbers, the JSON text.
 * The broker's thread writes, and any thread reads, without waiting for a
 * turn: the numbers are atomics, and the rest is copied under a lock that is
 * held for microseconds.
 */
#ifndef AIF_STATUS_H
#define AIF_STATUS_H

#include "base/buf.h"
#include "base/hist.h"
#include "base/trace.h"
#include "broker/message.h"
#include "broker/route.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

/* What is counted since the broker was opened. */
#define AIF_COUNTERS(X)                                                       \
    X(APPENDED, "appended")   /* events made durable */                       \
    X(PUSHED, "pushed")       /* events sent to subscribers */                \
    X(TURNS, "turns")         /* appends */                                   \
    X(REJECTED, "rejected")   /* frames that the protocol does not allow */   \
    X(RETRIES, "retries")     /* appends and reads that the store failed */   \
    X(FRAMES, "frames")       /* frames received */                           \
    X(BYTES_IN, "bytes_in")   /* their bytes */                               \
    X(BYTES_OUT, "bytes_out") /* bytes sent */                                \
    X(LOST, "lost")           /* answers that a peer did not get */           \
    X(EXPIRED, "expired")     /* subscribers silent for too long */           \
    X(GONE, "gone")           /* subscribers found gone by a push */          \
    X(RETENTION, "retention") /* subscribers whose events were let go */      \
    X(REPLACED, "replaced")   /* subscribers whose log was replaced */        \
    X(DENIED, "denied")       /* frames and subscriptions without a right */  \
    X(STRANGERS, "strangers") /* connections that sent no frame of ours */    \
    X(ENDLESS, "endless")     /* connections closed for endless messages */   \
    X(HUSHED, "hushed")       /* lines that were too many to be said */

/* Numbers that go up and down. */
#define AIF_GAUGES(X)                                                         \
    X(SUBSCRIBERS, "subscribers")                                             \
    X(FLIGHT, "flight") /* bytes under way to all subscribers */              \
    X(HEAD, "head")     /* the newest offset that is known */                 \
    X(PURGED, "purged") /* at or below it events may have been let go */      \
    X(LOG_ID, "log_id") /* which log it is */

/* Times that are measured, in us. */
#define AIF_TIMES(X)                                                          \
    X(TURN, "turn")     /* a turn that had something to do */                 \
    X(APPEND, "append") /* the store's part of it */                          \
    X(ANSWER, "answer") /* from a PUBLISH's arrival to its answer */          \
    X(PUSH, "push")     /* and until the subscribers were sent its events */

typedef enum {
#define X(name, text) AIF_N_##name,
    AIF_COUNTERS(X) AIF_GAUGES(X)
#undef X
        AIF_N_COUNT
} aif_number;

typedef enum {
#define X(name, text) AIF_T_##name,
    AIF_TIMES(X)
#undef X
        AIF_T_COUNT
} aif_timed;

/* What is shown of a subscriber. */
typedef struct {
    aif_route to;
    uint64_t id;
    uint64_t cursor;
    uint64_t lag;    /* how many offsets it is behind */
    uint64_t credit; /* bytes that it may still be sent */
    int64_t heard;   /* when its client last sent something for it */
} aif_status_sub;

#define AIF_STATUS_SUBS 20 /* so many are shown, those furthest behind */

typedef struct {
    aif_route_names names;
    int64_t opened;
    char
        log_kind[16]; /* the scheme of the log's URI: the rest may be secret */
    _Atomic uint64_t numbers[AIF_N_COUNT];
    _Atomic uint64_t refused[AIF_ERR_COUNT]; /* frames, by the reason */
    _Atomic uint64_t busy_since;             /* us; 0: no turn is running */
    aif_hist times[AIF_T_COUNT];
    aif_trace trace;
    int64_t lines_since; /* the bound of lines is for a time from here on */
    unsigned lines;      /* since then */
    pthread_mutex_t lock;
    aif_status_sub subs[AIF_STATUS_SUBS]; /* this and all below: the lock */
    size_t n_subs;
    const char *store_what;  /* that failed last; NULL: the store works */
    int64_t store_since;     /* when it began to fail */
    uint64_t store_failures; /* since then */
    char store_text[240];    /* of the last failure */
} aif_status;

AIF_MUST_CHECK aif_err aif_status_init(aif_status *s, const char *log_uri,
                                       aif_error *e);
void aif_status_fini(aif_status *s);

void aif_status_count(aif_status *s, aif_number what, uint64_t n);
void aif_status_set(aif_status *s, aif_number what, uint64_t value);
uint64_t aif_status_get(const aif_status *s, aif_number what);
void aif_status_took(aif_status *s, aif_timed what, uint64_t us);
/* A turn begins; it ends.  One of more than a second is said. */
void aif_status_turn_begins(aif_status *s);
void aif_status_turn_ends(aif_status *s);

/* A line for people; where there were too many just now it is only counted. */
void aif_status_say(aif_status *s, aif_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Is it the first time that this is asked for these two texts? */
bool aif_status_first(aif_status *s, aif_str a, aif_str b);
/* What lines call a peer. */
aif_peer aif_status_peer(const aif_status *s, const aif_route *r);
/* A call of the store did or did not succeed.  what: a literal, the same one
 * each time that this is tried. */
void aif_status_store(aif_status *s, const char *what, aif_err err,
                      const aif_error *e);
/* A frame was refused; said once for each peer and reason. */
void aif_status_refused(aif_status *s, const aif_message *m,
                        const aif_error *why);
/* From now on these n subscribers are shown, the furthest behind first. */
void aif_status_subs(aif_status *s, const aif_status_sub *subs, size_t n);

/* Add the JSON text of a broker that serves this address to out. */
AIF_MUST_CHECK aif_err aif_status_json(aif_status *s, const char *uri,
                                       aif_buf *out, aif_error *e);
/* The oldest line that is left to say; false: there is none. */
bool aif_status_line(aif_status *s, aif_trace_line *out);

#endif
