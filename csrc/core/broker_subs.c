/* broker_subs.c - subscribers: who wants what, how far each has got.
 *
 * The happy path: SUBSCRIBE makes one, with a cursor and a credit of bytes;
 * each turn's new events are pushed to those whose cursor is at the head;
 * who is behind is caught up from the log, one bounded read a turn, whoever
 * is at the same place sharing it; CREDIT keeps the lease and grants bytes.
 *
 * A subscriber without credit, or whose pipe is full, just falls behind.  One
 * that is gone (zmq says so, or its lease ended) is dropped; when it comes
 * back it subscribes again from the cursor that it was told last.
 */
#include "broker_in.h"

#include "clock.h"
#include "mem.h"

#include <assert.h>
#include <string.h>

static bool
same_route(const aif_route *a, const aif_route *b)
{
    return a->n == b->n && memcmp(a->p, b->p, a->n) == 0;
}

static aif_subscriber *
find(const aif_broker *b, const aif_route *from, uint64_t id)
{
    for (size_t i = 0; i < b->n_subs; i++) {
        if (b->subs[i]->id == id && same_route(&b->subs[i]->to, from)) {
            return b->subs[i];
        }
    }
    return NULL;
}

static void
sub_free(aif_subscriber *s)
{
    if (s != NULL) {
        aif_free(s->bytes);
        aif_free(s);
    }
}

static void
drop(aif_broker *b, size_t i)
{
    sub_free(b->subs[i]);
    b->subs[i] = b->subs[--b->n_subs];
    atomic_store(&b->stats.subscribers, b->n_subs);
}

void
aif_subs_remove(aif_broker *b, const aif_route *from, uint64_t id)
{
    for (size_t i = b->n_subs; i-- > 0;) {
        if (b->subs[i]->id == id && same_route(&b->subs[i]->to, from)) {
            drop(b, i);
        }
    }
}

static aif_err
reserve(aif_broker *b, aif_error *e)
{
    size_t cap = b->cap_subs == 0 ? 16 : 2 * b->cap_subs;
    aif_subscriber **subs;

    if (b->n_subs == AIF_SUBSCRIBERS_MAX) {
        return aif_fail(e, AIF_ECONFLICT,
                        "the broker has %d subscribers: that is its limit",
                        AIF_SUBSCRIBERS_MAX);
    }
    if (b->n_subs < b->cap_subs) {
        return AIF_OK;
    }
    subs = aif_realloc(b->subs, cap * sizeof *subs);
    if (subs == NULL) {
        return aif_fail(e, AIF_ENOMEM, "%zu subscribers", cap);
    }
    b->subs = subs;
    b->cap_subs = cap;
    return AIF_OK;
}

/* A copy of the frame's patterns and their strings. */
static aif_err
copy_patterns(const aif_frame *f, aif_subscriber **out, aif_error *e)
{
    aif_pattern patterns[AIF_PATTERNS_MAX];
    aif_reader in = f->tail;
    aif_subscriber *s;
    size_t n;
    aif_err err;

    *out = NULL;
    err = aif_wire_get_patterns(&in, 1, AIF_PATTERNS_MAX, patterns, &n, e);
    if (err != AIF_OK) {
        return err;
    }
    s = aif_zalloc(sizeof *s + n * sizeof *patterns);
    if (s != NULL) {
        s->bytes = aif_realloc(NULL, f->tail.n);
    }
    if (s == NULL || s->bytes == NULL) {
        sub_free(s);
        return aif_fail(e, AIF_ENOMEM, "a subscriber");
    }
    memcpy(s->bytes, f->tail.p, f->tail.n);
    in = (aif_reader){s->bytes, f->tail.n};
    *out = s; /* the same bytes again, so this cannot fail */
    return aif_wire_get_patterns(&in, n, n, s->patterns, &s->n, e);
}

static aif_err
first_cursor(aif_broker *b, const aif_frame *f, uint64_t *cursor, aif_error *e)
{
    aif_err err = AIF_OK;

    *cursor = f->from;
    if (f->from == AIF_AFTER_NOW) {
        err = aif_log_head(b->log, cursor, e);
    }
    if (err == AIF_OK && f->from == AIF_AFTER_NOW && *cursor > b->head) {
        b->head = *cursor;
    }
    return err;
}

static aif_err
make(aif_broker *b, const aif_route *from, const aif_frame *f,
     aif_subscriber **out, aif_error *e)
{
    uint64_t cursor;
    aif_err err = reserve(b, e);

    *out = NULL;
    if (err == AIF_OK) {
        err = first_cursor(b, f, &cursor, e);
    }
    if (err == AIF_OK) {
        err = copy_patterns(f, out, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    (*out)->to = *from;
    (*out)->id = f->id;
    (*out)->start = (*out)->cursor = (*out)->told = cursor;
    (*out)->granted = f->max;
    (*out)->hints = f->flag;
    b->subs[b->n_subs++] = *out;
    atomic_store(&b->stats.subscribers, b->n_subs);
    return AIF_OK;
}

aif_err
aif_subs_add(aif_broker *b, const aif_route *from, const aif_frame *f,
             aif_error *e)
{
    aif_subscriber *s = find(b, from, f->id);
    aif_err err = AIF_OK;

    if (s == NULL) { /* else it asks again: the answer was slow or lost */
        err = make(b, from, f, &s, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    s->heard = aif_now_ms();
    aif_broker_answer(
        b, from,
        &(aif_frame){.kind = AIF_K_SUBSCRIBED, .id = f->id, .to = s->start});
    return AIF_OK;
}

static bool
wants(const aif_subscriber *s, const aif_event *ev)
{
    for (size_t i = 0; i < s->n; i++) {
        if (aif_pattern_matches(&s->patterns[i], ev)) {
            return true;
        }
    }
    return false;
}

/* The index of span's first event beyond offset. */
static size_t
beyond(const aif_span *span, uint64_t offset)
{
    size_t low = 0;
    size_t high = span->n;

    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (span->events[mid].offset <= offset) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

/* Where a piece that begins at i ends: it is full, or the span is over. */
static size_t
piece_end(const aif_subscriber *s, const aif_span *span, size_t i, size_t *n)
{
    size_t bytes = 0;

    for (*n = 0; i < span->n; i++) {
        const aif_event *ev = &span->events[i];

        if (!wants(s, ev)) {
            continue;
        }
        bytes += aif_wire_event_size(ev);
        if (*n == AIF_PIECE_EVENTS || (*n > 0 && bytes > AIF_PIECE_BYTES)) {
            break;
        }
        ++*n;
    }
    return i;
}

/* b->out: the events of span in [i, end) that s wants. */
static aif_err
encode_piece(aif_broker *b, const aif_subscriber *s, const aif_span *span,
             size_t i, size_t end, uint64_t to)
{
    const aif_frame f = {
        .kind = AIF_K_EVENTS, .id = s->id, .from = s->told, .to = to};
    aif_error e;
    aif_err err = aif_frame_encode(&f, &b->out, &e);

    for (; err == AIF_OK && i < end; i++) {
        if (wants(s, &span->events[i])) {
            err = aif_event_encode(&span->events[i], &b->out, &e);
        }
    }
    return err;
}

/* Send b->out, EVENTS up to `to`; false when s is gone. */
static bool
send_piece(aif_broker *b, aif_subscriber *s, uint64_t to, size_t n)
{
    switch (aif_broker_send(b, &s->to)) {
    case AIF_SENT:
        s->sent += b->out.n;
        s->cursor = s->told = to;
        aif_count(&b->stats.pushed, n);
        return true;
    case AIF_FULL:
        s->full = true;
        return true;
    case AIF_GONE:
        break;
    }
    return false;
}

static bool
can_send(const aif_subscriber *s)
{
    return !s->full && s->sent < s->granted;
}

/* Push as much of span as s wants and may have; false when it is gone. */
static bool
serve(aif_broker *b, aif_subscriber *s, const aif_span *span)
{
    bool here = true;

    while (here && can_send(s) && s->cursor >= span->from &&
           s->cursor < span->to) {
        size_t n;
        size_t i = beyond(span, s->cursor);
        size_t end = piece_end(s, span, i, &n);
        uint64_t to = end == span->n ? span->to : span->events[end - 1].offset;

        if (n == 0) { /* nothing for it: it is told with the next CREDIT */
            s->cursor = to;
        } else if (encode_piece(b, s, span, i, end, to) == AIF_OK) {
            here = send_piece(b, s, to, n);
        } else {
            s->full = true; /* no memory: the same cure */
        }
    }
    return here;
}

void
aif_subs_push(aif_broker *b, const aif_span *span)
{
    for (size_t i = b->n_subs; i-- > 0;) {
        if (!serve(b, b->subs[i], span)) {
            drop(b, i);
        }
    }
}

/* Grant, renew the lease, and say how far everything was looked at: a client
 * that wants few events can then begin again from there. */
aif_err
aif_subs_credit(aif_broker *b, const aif_route *from, const aif_frame *f,
                aif_error *e)
{
    const aif_span nothing = {0};
    aif_subscriber *s = find(b, from, f->id);
    uint64_t most;

    if (s == NULL) {
        return aif_fail(e, AIF_ECLOSED, "no subscription %llu here",
                        (unsigned long long)f->id);
    }
    most = s->sent + AIF_WINDOW_MAX;
    s->granted = f->to < most ? f->to : most;
    s->heard = aif_now_ms();
    if (encode_piece(b, s, &nothing, 0, 0, s->cursor) == AIF_OK &&
        !send_piece(b, s, s->cursor, 0)) {
        aif_subs_remove(b, from, f->id);
    }
    return AIF_OK;
}

void
aif_subs_hint(aif_broker *b, aif_str text)
{
    for (size_t i = 0; i < b->n_subs; i++) {
        if (b->subs[i]->hints) {
            aif_broker_answer(b, &b->subs[i]->to,
                              &(aif_frame){.kind = AIF_K_HINTED,
                                           .id = b->subs[i]->id,
                                           .text = text});
        }
    }
}

static bool
behind(const aif_broker *b, const aif_subscriber *s)
{
    return s->cursor < b->head && can_send(s);
}

/* Whom to read for: each in turn, so that one who is far behind does not keep
 * the others waiting. */
static const aif_subscriber *
next_behind(aif_broker *b)
{
    for (size_t i = 0; i < b->n_subs; i++) {
        size_t at = (b->next_sub + i) % b->n_subs;

        if (behind(b, b->subs[at])) {
            b->next_sub = at + 1;
            return b->subs[at];
        }
    }
    return NULL;
}

/* Not the pattern but all: the read is bounded by what is there, not by how
 * far apart the wanted ones lie, and others at the same place share it. */
static aif_err
read_span(aif_broker *b, uint64_t from, aif_span *span)
{
    aif_error e;
    aif_err err =
        aif_log_read(b->log, NULL, from, AIF_PIECE_EVENTS, &b->span, &e);
    size_t n = b->span.n;
    uint64_t last = n == 0 ? from : b->span.events[n - 1].offset;
    bool cut = n == AIF_PIECE_EVENTS || b->span.bytes >= AIF_READ_BYTES;

    if (err == AIF_OK && last > b->head) {
        b->head = last; /* another process's */
    }
    *span = (aif_span){b->span.events, n, from, cut ? last : b->head};
    return err;
}

static void
unblock(aif_broker *b, int64_t now)
{
    if (now < b->full_due) {
        return;
    }
    for (size_t i = 0; i < b->n_subs; i++) {
        b->subs[i]->full = false;
    }
    b->full_due = now + AIF_BROKER_FULL_RETRY_MS;
}

void
aif_subs_catch_up(aif_broker *b, int64_t now)
{
    const aif_subscriber *s;
    aif_span span;

    unblock(b, now);
    s = now < b->store_due ? NULL : next_behind(b);
    if (s == NULL) {
        return;
    }
    if (read_span(b, s->cursor, &span) == AIF_OK) {
        aif_subs_push(b, &span);
    } else {
        aif_count(&b->stats.retries, 1);
        b->store_due = now + AIF_BROKER_STORE_RETRY_MS;
    }
    aif_batch_fini(&b->span);
}

void
aif_subs_expire(aif_broker *b, int64_t now)
{
    if (now < b->lease_due) {
        return;
    }
    for (size_t i = b->n_subs; i-- > 0;) {
        if (now - b->subs[i]->heard > AIF_BROKER_LEASE_MS) {
            drop(b, i);
        }
    }
    b->lease_due = now + AIF_BROKER_LEASE_MS / 10;
}

int64_t
aif_subs_due(const aif_broker *b, int64_t now)
{
    int64_t due = b->n_subs == 0 ? INT64_MAX : b->lease_due;

    for (size_t i = 0; i < b->n_subs; i++) {
        const aif_subscriber *s = b->subs[i];

        if (s->full && b->full_due < due) {
            due = b->full_due;
        }
        if (behind(b, s) && due > now) {
            due = now < b->store_due ? b->store_due : now;
        }
    }
    return due;
}

void
aif_subs_fini(aif_broker *b)
{
    while (b->n_subs > 0) {
        drop(b, b->n_subs - 1);
    }
    aif_free(b->subs);
    aif_batch_fini(&b->span);
}
