/* broker/turn.c - the publishes of one turn: collect them, append them all in
 * one transaction, answer each, push the new events.  A publisher whose
 * identity belongs to another event is refused; the others are not touched.
 *
 * It can fail in the store (every publisher of the append is told, and may
 * send again) and for memory (the one publisher is told).  Events were
 * checked when they were decoded, so nobody's bad event hurts another's.
 */
#include "broker/in.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/point.h"

static aif_err
reserve_events(aif_turn *t, size_t n, aif_error *e)
{
    size_t cap = t->cap == 0 ? 64 : t->cap;
    aif_event *events;
    uint64_t *offsets;

    while (cap < t->n + n) { /* n is bounded by the size of a frame */
        cap *= 2;
    }
    if (cap == t->cap) {
        return AIF_OK;
    }
    events = aif_realloc(t->events, cap * sizeof *events);
    if (events == NULL) {
        return aif_fail(e, AIF_ENOMEM, "a turn of %zu events", cap);
    }
    t->events = events;
    offsets = aif_realloc(t->offsets, cap * sizeof *offsets);
    if (offsets == NULL) {
        return aif_fail(e, AIF_ENOMEM, "a turn of %zu events", cap);
    }
    t->offsets = offsets;
    t->cap = cap;
    return AIF_OK;
}

/* The next request to fill; those of earlier turns are used again. */
static aif_err
reserve_request(aif_turn *t, aif_request **out, aif_error *e)
{
    size_t cap = t->cap_requests == 0 ? 16 : 2 * t->cap_requests;
    aif_request **requests = t->requests;

    *out = NULL;
    if (t->n_requests == t->cap_requests) {
        requests = aif_realloc(requests, cap * sizeof *requests);
        if (requests == NULL) {
            return aif_fail(e, AIF_ENOMEM, "a turn of %zu requests", cap);
        }
        for (size_t i = t->cap_requests; i < cap; i++) {
            requests[i] = NULL;
        }
        t->requests = requests;
        t->cap_requests = cap;
    }
    if (requests[t->n_requests] == NULL) {
        requests[t->n_requests] = aif_zalloc(sizeof **requests);
    }
    *out = requests[t->n_requests];
    return *out != NULL ? AIF_OK : aif_fail(e, AIF_ENOMEM, "a request");
}

/* Decode the events where they will stay; EPROTO leaves the turn as it was. */
static aif_err
decode_events(aif_turn *t, aif_reader in, size_t *n, aif_error *e)
{
    int64_t now = aif_wall_ms();
    aif_err err = AIF_OK;

    for (*n = 0; err == AIF_OK && in.n > 0; ++*n) {
        if (*n == AIF_BATCH_MAX) {
            return aif_fail(e, AIF_EPROTO, "more than %d events in a PUBLISH",
                            AIF_BATCH_MAX);
        }
        err = reserve_events(t, *n + 1, e);
        if (err == AIF_OK) {
            err = aif_event_decode(&in, &t->events[t->n + *n], e);
        }
        if (err == AIF_OK) {
            t->events[t->n + *n].offset = 0;
            t->events[t->n + *n].create_time = now;
        }
    }
    if (err == AIF_OK && *n == 0) {
        err = aif_fail(e, AIF_EPROTO, "a PUBLISH without events");
    }
    return err;
}

aif_err
aif_turn_add(aif_turn *t, const aif_gate *gate, const aif_route *from,
             const aif_frame *f, zmq_msg_t *frame, aif_error *e)
{
    aif_request *r;
    size_t n = 0;
    aif_err err = reserve_request(t, &r, e);

    if (err == AIF_OK) {
        err = decode_events(t, f->tail, &n, e);
    }
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        err = aif_gate_publish(gate, &t->events[t->n + i], e);
    }
    if (err != AIF_OK) {
        return err;
    }
    *r = (aif_request){
        .from = *from, .id = f->id, .at = aif_now_us(), .first = t->n, .n = n};
    /* A frame of one event is beyond the size that zmq keeps inside
     * zmq_msg_t, so its bytes, and the views, stay where they are. */
    (void)zmq_msg_init(&r->frame);
    (void)zmq_msg_move(&r->frame, frame);
    t->n += n;
    t->n_requests++;
    return AIF_OK;
}

static void
answer_published(aif_broker *b, const aif_request *r, const uint64_t *offsets)
{
    const aif_frame f = {.kind = AIF_K_PUBLISHED, .id = r->id};
    aif_error e;
    aif_err err = aif_frame_encode(&f, &b->out, &e);

    for (size_t i = 0; err == AIF_OK && i < r->n; i++) {
        err = aif_buf_u64(&b->out, offsets[i], &e);
    }
    if (err != AIF_OK) { /* no memory: durable, but it must ask again */
        aif_broker_refuse(b, &r->from, r->id, &e);
        return;
    }
    (void)aif_broker_send(b, &r->from); /* lost: it will send again */
}

/* The requests [from, to) that fit in one append. */
static size_t
group_end(const aif_turn *t, size_t from)
{
    size_t to = from + 1;
    size_t n = t->requests[from]->n;

    while (to < t->n_requests && n + t->requests[to]->n <= AIF_BATCH_MAX) {
        n += t->requests[to++]->n;
    }
    return to;
}

/* The new events among n, to the front of events: those beyond the head that
 * the append found.  The others were in the log before, or twice in this
 * turn. */
static void
keep_new(aif_event *events, const uint64_t *offsets, size_t n, aif_span *span)
{
    for (size_t i = 0; i < n; i++) {
        if (offsets[i] > span->to) {
            span->to = offsets[i];
            events[span->n] = events[i];
            events[span->n++].offset = offsets[i];
        }
    }
}

/* As the log does: time does not go back, and pushed is what is stored. */
static void
set_times(aif_event *events, size_t n, int64_t time)
{
    for (size_t i = 0; i < n; i++) {
        time = events[i].create_time > time ? events[i].create_time : time;
        events[i].create_time = time;
    }
}

static aif_err
append(aif_broker *b, aif_event *events, uint64_t *offsets, size_t n,
       aif_head *before, aif_error *e)
{
    uint64_t since = aif_now_us();
    aif_err err;

    AIF_POINT("broker.drained");
    err = aif_log_append(b->log, events, n, offsets, before, e);
    aif_hist_add(&b->status.append, aif_now_us() - since);
    aif_status_store(b, "append", err, e);
    if (err != AIF_OK) {
        aif_count(&b->status.retries, 1);
        return err;
    }
    AIF_POINT("broker.appended");
    aif_count(&b->status.turns, 1);
    set_times(events, n, before->create_time);
    return AIF_OK;
}

/* Tell who sent another event by an identity that is taken. */
static void
refuse_conflicts(aif_broker *b, aif_request *r)
{
    const uint64_t *offsets = b->turn.offsets + r->first;
    aif_error e;

    for (size_t i = 0; i < r->n && !r->refused; i++) {
        if (offsets[i] == 0 &&
            aif_log_conflict(b->log, &b->turn.events[r->first + i], &e) !=
                AIF_OK) { /* always: it says what there is */
            aif_broker_refuse(b, &r->from, r->id, &e);
            r->refused = true;
        }
    }
}

static void
answer_all(aif_broker *b, size_t from, size_t to, aif_err err,
           const aif_error *e)
{
    const aif_turn *t = &b->turn;

    for (size_t i = from; i < to; i++) {
        const aif_request *r = t->requests[i];

        if (err != AIF_OK) {
            aif_broker_refuse(b, &r->from, r->id, e);
        } else if (!r->refused) {
            answer_published(b, r, t->offsets + r->first);
            aif_hist_add(&b->status.answer, aif_now_us() - r->at);
        }
    }
    AIF_POINT("broker.answered");
}

/* The requests [from, to): append, answer, push what is new. */
static void
commit_group(aif_broker *b, size_t from, size_t to)
{
    aif_turn *t = &b->turn;
    size_t first = t->requests[from]->first;
    size_t n = t->requests[to - 1]->first + t->requests[to - 1]->n - first;
    aif_error e = {.sqlstate = ""};
    aif_head before = {0};
    aif_err err =
        append(b, t->events + first, t->offsets + first, n, &before, &e);
    aif_span span = {t->events + first, 0, before.offset, before.offset};

    for (size_t i = from; err == AIF_OK && i < to; i++) {
        refuse_conflicts(b, t->requests[i]); /* while the events are there */
    }
    if (err == AIF_OK) {
        keep_new(t->events + first, t->offsets + first, n, &span);
        aif_broker_moved(b, &before);
        b->head = span.to;
        atomic_store(&b->status.head, b->head);
        aif_count(&b->status.appended, span.n);
        b->appended += span.n;
    }
    answer_all(b, from, to, err, &e);
    if (span.n > 0 && b->n_subs > 0) {
        aif_subs_push(b, &span);
        aif_hist_add(&b->status.push, aif_now_us() - t->requests[from]->at);
    }
}

static void
clear(aif_turn *t)
{
    for (size_t i = 0; i < t->n_requests; i++) {
        (void)zmq_msg_close(&t->requests[i]->frame);
    }
    t->n = 0;
    t->n_requests = 0;
}

void
aif_turn_commit(aif_broker *b)
{
    aif_turn *t = &b->turn;
    size_t to;

    for (size_t from = 0; from < t->n_requests; from = to) {
        to = group_end(t, from);
        commit_group(b, from, to);
    }
    clear(t);
}

void
aif_turn_fini(aif_turn *t)
{
    clear(t);
    for (size_t i = 0; i < t->cap_requests; i++) {
        aif_free(t->requests[i]);
    }
    aif_free(t->requests);
    aif_free(t->events);
    aif_free(t->offsets);
    *t = (aif_turn){0};
}
