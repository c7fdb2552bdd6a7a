/* push.c - events to subscribers, in frames.
 *
 * The happy path: of a span of the log, find what a subscriber wants, encode
 * it in pieces, send them, move its cursor.
 *
 * A subscriber without credit, or whose queue in libzmq is full, falls behind
 * (catch.c).  One that is gone is dropped.  Nothing here waits.
 */
#include "broker/subs_in.h"

static bool
sub_wants(const aif_subscriber *sub, const aif_event *ev)
{
    for (size_t i = 0; i < sub->n; i++) {
        if (aif_pattern_matches(&sub->patterns[i], ev)) {
            return true;
        }
    }
    return false;
}

/* The index of span's first event beyond offset. */
static size_t
span_beyond(const aif_span *span, uint64_t offset)
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

/* What one EVENTS frame holds: n events that the subscriber wants, of those
 * before end; and with it all up to the offset `to` was looked at. */
typedef struct {
    size_t n;
    size_t end;
    uint64_t to;
    size_t bytes; /* of the frame */
} piece;

/* The piece that begins at i, and ends where it has `most` bytes or
 * AIF_PIECE_EVENTS events, or where the span does. */
static piece
piece_from(const aif_subscriber *sub, const aif_span *span, size_t i,
           size_t most)
{
    piece p = {.end = i};
    size_t bytes = 0;

    for (; p.end < span->n; p.end++) {
        const aif_event *ev = &span->events[p.end];

        if (!sub_wants(sub, ev)) {
            continue;
        }
        bytes += aif_wire_event_size(ev);
        if (p.n == AIF_PIECE_EVENTS || (p.n > 0 && bytes > most)) {
            break;
        }
        p.n++;
    }
    p.to = p.end == span->n ? span->to : span->events[p.end - 1].offset;
    return p;
}

/* Into the buffer of out: the wanted events of span from i on, as p says. */
static aif_err
piece_encode(aif_subs *s, const aif_subscriber *sub, const aif_span *span,
             size_t i, piece *p)
{
    const aif_frame f = {
        .kind = AIF_K_EVENTS, .id = sub->id, .from = sub->told, .to = p->to};
    aif_buf *frame;
    aif_error e;
    aif_err err = aif_out_begin(s->out, &f, &frame, &e);

    for (; err == AIF_OK && i < p->end; i++) {
        if (sub_wants(sub, &span->events[i])) {
            err = aif_event_encode(&span->events[i], frame, &e);
        }
    }
    p->bytes = frame->n;
    return err;
}

/* Send what was encoded; false when the subscriber is gone. */
static bool
piece_send(aif_subs *s, aif_subscriber *sub, const piece *p)
{
    switch (aif_out_send(s->out, &sub->to)) {
    case AIF_SENT:
        aif_credit_sent(&sub->credit, s->flight, p->bytes);
        sub->cursor = sub->told = p->to;
        aif_status_count(s->status, AIF_N_PUSHED, p->n);
        return true;
    case AIF_FULL:
        sub->full = true;
        return true;
    case AIF_GONE:
        break;
    }
    return false;
}

bool
aif_push_may(const aif_subs *s, const aif_subscriber *sub)
{
    return !sub->full && aif_credit_may(&sub->credit, *s->flight, s->now);
}

/* The most bytes of a frame; one event alone may have more. */
static size_t
piece_bytes(const aif_subs *s, const aif_subscriber *sub)
{
    uint64_t most = aif_credit_share(&sub->credit, *s->flight, s->now);

    return most < AIF_PIECE_BYTES ? (size_t)most : AIF_PIECE_BYTES;
}

/* Push as much of span as it wants and may have; false when it is gone. */
static bool
sub_push(aif_subs *s, aif_subscriber *sub, const aif_span *span)
{
    bool here = true;

    while (here && aif_push_may(s, sub) && sub->cursor >= span->from &&
           sub->cursor < span->to) {
        size_t i = span_beyond(span, sub->cursor);
        piece p = piece_from(sub, span, i, piece_bytes(s, sub));

        if (p.n == 0) { /* nothing for it: it is told with the next CREDIT */
            sub->cursor = p.to;
        } else if (piece_encode(s, sub, span, i, &p) == AIF_OK) {
            here = piece_send(s, sub, &p);
        } else {
            sub->full = true; /* no memory: it is tried again in 5 ms, too */
        }
    }
    return here;
}

/* Mark those for whom the index finds something in span.  False: there was no
 * memory for it, and the patterns of all have to be compared. */
static bool
subs_touch(aif_subs *s, const aif_span *span)
{
    const uint64_t *ids;
    size_t n;
    aif_error e;

    s->spans++;
    for (size_t i = 0; s->n_indexed > 0 && i < span->n; i++) {
        if (aif_match_find(s->index, &span->events[i], &ids, &n, &e) !=
            AIF_OK) {
            return false;
        }
        for (size_t k = 0; k < n; k++) {
            ((aif_subscriber *)(uintptr_t)ids[k])->touched = s->spans;
        }
    }
    return true;
}

/* True where nothing in span is for it.  Then its cursor moves to the end of
 * span, and its client is told so with the next CREDIT. */
static bool
sub_passes(const aif_subs *s, aif_subscriber *sub, const aif_span *span)
{
    if (!sub->indexed || sub->touched == s->spans) {
        return false;
    }
    if (sub->cursor >= span->from && sub->cursor < span->to) {
        sub->cursor = span->to;
    }
    return true;
}

/* Of span, what may still be compared in this turn with the patterns of those
 * whose cursor is in it, but one event at least. */
static aif_span
span_affordable(aif_subs *s, const aif_span *span)
{
    const size_t left =
        s->compared < AIF_TURN_COMPARES ? AIF_TURN_COMPARES - s->compared : 0;
    aif_span some = *span;
    size_t patterns = 0;

    for (size_t i = 0; i < s->n; i++) {
        const aif_subscriber *sub = s->list[i];

        if (!sub->indexed && sub->cursor >= span->from &&
            sub->cursor < span->to && aif_push_may(s, sub)) {
            patterns += sub->n;
        }
    }
    s->compared += span->n * patterns;
    if (span->n > 1 && patterns > 0 && s->compared > AIF_TURN_COMPARES) {
        some.n = left > patterns ? left / patterns : 1;
        some.to = span->events[some.n - 1].offset;
    }
    return some;
}

void
aif_subs_push(aif_subs *s, const aif_span *span)
{
    const aif_span some = span_affordable(s, span);
    bool marked = subs_touch(s, span);

    for (size_t i = s->n; i-- > 0;) {
        aif_subscriber *sub = s->list[i];

        if (!(marked && sub_passes(s, sub, span)) &&
            !sub_push(s, sub, sub->indexed ? span : &some)) {
            aif_status_count(s->status, AIF_N_GONE, 1);
            aif_subs_drop(s, i);
        }
    }
}

void
aif_subs_begin(aif_subs *s, int64_t now)
{
    s->now = now;
    s->appended = 0;
    s->compared = 0;
}

bool
aif_subs_appended(aif_subs *s, const aif_span *span)
{
    s->appended += span->n;
    aif_catch_replaced(s); /* their cursors mean nothing in this span */
    if (s->n == 0) {
        return false;
    }
    aif_subs_push(s, span);
    return true;
}

bool
aif_push_cursor(aif_subs *s, aif_subscriber *sub)
{
    const aif_span nothing = {0};
    piece p = {.to = sub->cursor};

    return piece_encode(s, sub, &nothing, 0, &p) != AIF_OK ||
           piece_send(s, sub, &p);
}
