/* turn.c - the publishes of one turn.
 *
 * The happy path: collect them, append them all in one transaction, answer
 * each publisher, push the new events.
 *
 * It can fail in the store: then every publisher of the append is told, and
 * may send again.  It can fail for memory: then that one publisher is told.  A
 * publisher that sends an identity that belongs to another event is refused,
 * and the others are not touched.  Events were checked when they were decoded,
 * so a bad one hurts only its own PUBLISH.
 */
#include "broker/turn.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/point.h"

static aif_err
turn_reserve_events(aif_turn *t, size_t n, aif_error *e)
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
turn_reserve_request(aif_turn *t, aif_request **out, aif_error *e)
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

/* Decode the events to where they stay; on failure the turn is as before. */
static aif_err
turn_decode(aif_turn *t, aif_reader in, size_t *n, aif_error *e)
{
    int64_t now = aif_wall_ms();
    aif_err err = AIF_OK;

    for (*n = 0; err == AIF_OK && in.n > 0; ++*n) {
        if (*n == AIF_BATCH_MAX) {
            return aif_fail(e, AIF_EPROTO, "more than %d events in a PUBLISH",
                            AIF_BATCH_MAX);
        }
        err = turn_reserve_events(t, *n + 1, e);
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

void
aif_turn_init(aif_turn *t, const aif_gate *gate, aif_head_watch *head,
              aif_out *out, aif_subs *subs, aif_status *status)
{
    *t = (aif_turn){.gate = gate,
                    .head = head,
                    .out = out,
                    .subs = subs,
                    .status = status};
}

aif_err
aif_turn_add(aif_turn *t, aif_message *m, const aif_frame *f, aif_error *e)
{
    aif_request *r;
    size_t n = 0;
    aif_err err = turn_reserve_request(t, &r, e);

    if (err == AIF_OK) {
        err = turn_decode(t, f->tail, &n, e);
    }
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        err = aif_gate_publish(t->gate, &t->events[t->n + i], e);
    }
    if (err != AIF_OK) {
        return err;
    }
    *r = (aif_request){.id = f->id, .at = aif_now_us(), .first = t->n, .n = n};
    aif_message_take(&r->message, m);
    t->n += n;
    t->n_requests++;
    return AIF_OK;
}

static void
request_answer(aif_turn *t, const aif_request *r)
{
    const aif_frame f = {.kind = AIF_K_PUBLISHED, .id = r->id};
    aif_buf *tail;
    aif_error e;
    aif_err err = aif_out_begin(t->out, &f, &tail, &e);

    for (size_t i = 0; err == AIF_OK && i < r->n; i++) {
        err = aif_buf_u64(tail, t->offsets[r->first + i], &e);
    }
    if (err != AIF_OK) { /* no memory: durable, but it must ask again */
        aif_out_refuse(t->out, &r->message.from, r->id, &e);
        return;
    }
    (void)aif_out_send(t->out, &r->message.from); /* lost: it sends again */
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
group_keep_new(aif_event *events, const uint64_t *offsets, size_t n,
               aif_span *span)
{
    for (size_t i = 0; i < n; i++) {
        if (offsets[i] > span->to) {
            span->to = offsets[i];
            events[span->n] = events[i];
            events[span->n++].offset = offsets[i];
        }
    }
}

/* The same rule as in the log, so that what is pushed is what is stored: the
 * time of an event is never before that of the event in front of it. */
static void
group_set_times(aif_event *events, size_t n, int64_t time)
{
    for (size_t i = 0; i < n; i++) {
        time = events[i].create_time > time ? events[i].create_time : time;
        events[i].create_time = time;
    }
}

/* The n events from first on, in one append.  *before: the head that it
 * found. */
static aif_err
group_append(aif_turn *t, size_t first, size_t n, aif_head *before,
             aif_error *e)
{
    uint64_t since = aif_now_us();
    aif_err err;

    AIF_POINT("broker.drained");
    err = aif_log_append(aif_head_log(t->head), t->events + first, n,
                         t->offsets + first, before, e);
    aif_status_took(t->status, AIF_T_APPEND, aif_now_us() - since);
    aif_status_store(t->status, "append", err, e);
    if (err != AIF_OK) {
        aif_status_count(t->status, AIF_N_RETRIES, 1);
        return err;
    }
    AIF_POINT("broker.appended");
    aif_status_count(t->status, AIF_N_TURNS, 1);
    group_set_times(t->events + first, n, before->create_time);
    return AIF_OK;
}

/* Tell a publisher that sent another event by an identity that is taken.  It
 * is done before group_keep_new moves events. */
static void
request_refuse_conflicts(aif_turn *t, aif_request *r)
{
    const uint64_t *offsets = t->offsets + r->first;
    aif_error e;

    for (size_t i = 0; i < r->n && !r->refused; i++) {
        if (offsets[i] == 0 &&
            aif_log_conflict(aif_head_log(t->head), &t->events[r->first + i],
                             &e) != AIF_OK) { /* always an error: which one */
            aif_out_refuse(t->out, &r->message.from, r->id, &e);
            r->refused = true;
        }
    }
}

static void
group_answer(aif_turn *t, size_t from, size_t to, aif_err err,
             const aif_error *e)
{
    for (size_t i = from; i < to; i++) {
        const aif_request *r = t->requests[i];

        if (err != AIF_OK) {
            aif_out_refuse(t->out, &r->message.from, r->id, e);
        } else if (!r->refused) {
            request_answer(t, r);
            aif_status_took(t->status, AIF_T_ANSWER, aif_now_us() - r->at);
        }
    }
    AIF_POINT("broker.answered");
}

/* The requests [from, to): append, answer, push what is new. */
static void
group_commit(aif_turn *t, size_t from, size_t to)
{
    size_t first = t->requests[from]->first;
    size_t n = t->requests[to - 1]->first + t->requests[to - 1]->n - first;
    aif_error e = {.sqlstate = ""};
    aif_head before = {0};
    aif_err err = group_append(t, first, n, &before, &e);
    aif_span span = {t->events + first, 0, before.offset, before.offset};

    for (size_t i = from; err == AIF_OK && i < to; i++) {
        request_refuse_conflicts(t, t->requests[i]);
    }
    if (err == AIF_OK) {
        group_keep_new(t->events + first, t->offsets + first, n, &span);
        aif_head_appended(t->head, &before, span.to);
        aif_status_count(t->status, AIF_N_APPENDED, span.n);
    }
    group_answer(t, from, to, err, &e);
    if (span.n > 0 && aif_subs_appended(t->subs, &span)) {
        aif_status_took(t->status, AIF_T_PUSH,
                        aif_now_us() - t->requests[from]->at);
    }
}

static void
turn_clear(aif_turn *t)
{
    for (size_t i = 0; i < t->n_requests; i++) {
        aif_message_close(&t->requests[i]->message);
    }
    t->n = 0;
    t->n_requests = 0;
}

void
aif_turn_commit(aif_turn *t)
{
    size_t to;

    for (size_t from = 0; from < t->n_requests; from = to) {
        to = group_end(t, from);
        group_commit(t, from, to);
    }
    turn_clear(t);
}

void
aif_turn_fini(aif_turn *t)
{
    turn_clear(t);
    for (size_t i = 0; i < t->cap_requests; i++) {
        aif_free(t->requests[i]);
    }
    aif_free(t->requests);
    aif_free(t->events);
    aif_free(t->offsets);
}
