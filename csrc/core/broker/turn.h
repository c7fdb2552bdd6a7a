/* turn.h - the publishes of one turn.
 *
 * In:  PUBLISH frames, until the turn is committed.
 * Out: one append to the log (several, beyond 10,000 events), an answer to
 *      each publisher, and the new events to the subscribers.
 * The log is that of head.  The broker's thread only.
 */
#ifndef AIF_TURN_H
#define AIF_TURN_H

#include "broker/gate.h"
#include "broker/head.h"
#include "broker/message.h"
#include "broker/out.h"
#include "broker/subs.h"
#include "event/event.h"

/* One PUBLISH.  Its events are views into the message. */
typedef struct {
    aif_message message;
    uint64_t id;
    uint64_t at;  /* when it came, us */
    size_t first; /* in the turn's events */
    size_t n;
    bool refused; /* one of its identities belongs to another event; its
                     publisher was told */
} aif_request;

typedef struct {
    const aif_gate *gate;
    aif_head_watch *head;
    aif_out *out;
    aif_subs *subs;
    aif_status *status;
    aif_event *events;
    uint64_t *offsets;
    size_t n; /* events so far */
    size_t cap;
    aif_request **requests; /* each stays where it is, and later turns use it
                               again */
    size_t n_requests;
    size_t cap_requests;
} aif_turn;

void aif_turn_init(aif_turn *t, const aif_gate *gate, aif_head_watch *head,
                   aif_out *out, aif_subs *subs, aif_status *status);
void aif_turn_fini(aif_turn *t);
/* Add a PUBLISH, f of m, where its sender may publish all of it.  On success
 * it takes m, and m is empty. */
AIF_MUST_CHECK aif_err aif_turn_add(aif_turn *t, aif_message *m,
                                    const aif_frame *f, aif_error *e);
/* Append, answer, push; the turn is empty then. */
void aif_turn_commit(aif_turn *t);

#endif
