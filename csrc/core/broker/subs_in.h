/* subs_in.h - the list of subscribers, which subs.c, push.c and catch.c share.
 * Nobody else changes it; whole.h includes this, to hold it.
 */
#ifndef AIF_SUBS_IN_H
#define AIF_SUBS_IN_H

#include "broker/credit.h"
#include "broker/subs.h"
#include "event/batch.h"
#include "event/match.h"
#include "event/pattern.h"
#include "net/curve.h"

#define AIF_SUBSCRIBERS_MAX 4096
/* One connection has no more than EACH of them, so that one peer neither keeps
 * all others out nor makes each event slow for them: to compare an event with
 * 4,096 patterns takes some 13 us. */
#define AIF_SUBSCRIBERS_EACH 1024
#define AIF_COMPARED_EACH 4096 /* patterns of those that are not indexed */
/* A turn compares events with patterns no more often, each time some 3 ns.  The
 * rest is caught up in the next turns, and what others ask is done in
 * between. */
#define AIF_TURN_COMPARES 4000000
#define AIF_PIECE_EVENTS 1000      /* in one EVENTS frame at most, */
#define AIF_PIECE_BYTES (1u << 20) /* and bytes, unless one event has more */
#define AIF_BROKER_LEASE_MS 10000  /* who is silent for longer is dropped */
/* A subscriber whose queue in libzmq was full is sent more after this time. */
#define AIF_BROKER_FULL_RETRY_MS 5

typedef struct {
    aif_route to;
    uint64_t id;     /* of its SUBSCRIBE; a route may have several */
    uint64_t start;  /* the cursor that it was given first */
    uint64_t cursor; /* all events up to here were sent, or are not for it */
    uint64_t told;   /* the cursor that the client was told last */
    aif_credit credit;
    uint64_t gone; /* how many events of namespaces that it wants had been let
                      go when aif_missed was asked last */
    int64_t heard; /* when its client last sent something for it */
    unsigned replaced;           /* how often the log had been when it began */
    char key[AIF_CURVE_KEY + 1]; /* of its client; "": no CURVE */
    bool hints;
    bool indexed;     /* found by the index; else each event is compared */
    uint64_t touched; /* the number of the last span in which the index found
                         something for it */
    bool full;        /* its queue in libzmq was full */
    uint8_t *bytes;   /* the strings of its patterns */
    size_t n;
    aif_pattern patterns[];
} aif_subscriber;

struct aif_subs {
    aif_out *out;
    aif_head_watch *head;
    const aif_gate *gate;
    aif_status *status;
    _Atomic uint64_t *flight; /* bytes under way to all of them */
    aif_subscriber **list;
    size_t n;
    size_t cap;
    aif_match *index; /* of those that want exact namespaces and keys only */
    size_t n_indexed;
    int64_t now;       /* of this turn */
    int64_t lease_due; /* the next look for those that are silent */
    int64_t shown;     /* when the furthest behind were last shown */
    /* Of push.c: */
    uint64_t spans;  /* pushed so far */
    size_t compared; /* an event with a pattern, in this turn */
    /* Of catch.c: */
    size_t appended;   /* events of this turn */
    size_t next;       /* in the list; to read for */
    unsigned replaced; /* how often the log was, as they were told */
    aif_batch read;    /* what was read */
    int64_t full_due;  /* when to try the full ones again */
    int64_t store_due; /* when to read again after the store failed */
};

/* subs.c */
/* Drop the i-th of the list; the last one takes its place. */
void aif_subs_drop(aif_subs *s, size_t i);

/* push.c */
/* Send of span what is next for each. */
void aif_subs_push(aif_subs *s, const aif_span *span);
/* Has it credit, and room? */
bool aif_push_may(const aif_subs *s, const aif_subscriber *sub);
/* Tell it its cursor; false: it is gone. */
bool aif_push_cursor(aif_subs *s, aif_subscriber *sub);

/* catch.c */
/* ERETENTION: events that it wants, beyond its cursor, were let go. */
AIF_MUST_CHECK aif_err aif_catch_missed(aif_subs *s, aif_subscriber *sub,
                                        aif_error *e);
/* End those of a log that was replaced. */
void aif_catch_replaced(aif_subs *s);

#endif
