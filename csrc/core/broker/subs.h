/* subs.h - subscribers: who wants which events, and how far each has got.
 *
 * In:  SUBSCRIBE, CREDIT, UNSUBSCRIBE and HINT frames (subs.c); the new events
 *      of a turn (push.c); the events of the log beyond the cursor of a
 *      subscriber that is behind (catch.c).
 * Out: EVENTS frames, within the credit that each subscriber gave; refusals;
 *      the subscribers furthest behind, for STATUS.
 * What the three files share is in subs_in.h.  The broker's thread only.
 */
#ifndef AIF_SUBS_H
#define AIF_SUBS_H

#include "broker/gate.h"
#include "broker/head.h"
#include "broker/out.h"
#include "broker/route.h"
#include "broker/status.h"
#include "event/event.h"

typedef struct aif_subs aif_subs;

/* Events of the log, all that there are beyond from, up to and with to. */
typedef struct {
    const aif_event *events;
    size_t n;
    uint64_t from;
    uint64_t to;
} aif_span;

/* The log is that of head. */
AIF_MUST_CHECK aif_err aif_subs_init(aif_subs *s, aif_out *out,
                                     aif_head_watch *head,
                                     const aif_gate *gate, aif_status *status,
                                     aif_error *e);
void aif_subs_fini(aif_subs *s);

/* --- subs.c: frames ------------------------------------------------------ */

/* Asked again for one that exists, it answers again. */
AIF_MUST_CHECK aif_err aif_subs_add(aif_subs *s, const aif_route *from,
                                    const aif_frame *f, aif_error *e);
AIF_MUST_CHECK aif_err aif_subs_credit(aif_subs *s, const aif_route *from,
                                       const aif_frame *f, aif_error *e);
void aif_subs_remove(aif_subs *s, const aif_route *from, uint64_t id);
void aif_subs_hint(aif_subs *s, aif_str text);
/* The table of keys has changed: end what it does not allow any more. */
void aif_subs_recheck(aif_subs *s);
/* Drop those that were silent for longer than their lease. */
void aif_subs_expire(aif_subs *s, int64_t now);
/* Note for STATUS who is furthest behind; once a second unless it must be. */
void aif_subs_show(aif_subs *s, bool must);

/* --- push.c: events ------------------------------------------------------ */

/* A turn begins. */
void aif_subs_begin(aif_subs *s, int64_t now);
/* It appended span: push it.  False: nobody subscribes. */
bool aif_subs_appended(aif_subs *s, const aif_span *span);

/* --- catch.c: those behind ----------------------------------------------- */

/* Read from the log for those behind, within a bound, and push it. */
void aif_subs_catch_up(aif_subs *s, int64_t now);
/* When aif_subs_catch_up or _expire has something to do; INT64_MAX: never. */
int64_t aif_subs_due(const aif_subs *s, int64_t now);

#endif
