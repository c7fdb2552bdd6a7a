/* broker/push.c - events to subscribers, in frames.
 *
 * The happy path: of a span of the log, find what a subscriber wants, encode
 * it in pieces, send them, move its cursor.  A subscriber without credit, or
 * whose pipe is full, just falls behind (broker/catch.c); one that is gone is
 * dropped.  Nothing here waits.
 */
#include "broker/in.h"

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
piece_end(const aif_subscriber *s, const aif_span *span, size_t i, size_t most,
          size_t *n)
{
    size_t bytes = 0;

    for (*n = 0; i < span->n; i++) {
        const aif_event *ev = &span->events[i];

        if (!wants(s, ev)) {
            continue;
        }
        bytes += aif_wire_event_size(ev);
        if (*n == AIF_PIECE_EVENTS || (*n > 0 && bytes > most)) {
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
        aif_credit_sent(&s->credit, &b->stats.flight, b->out.n);
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

bool
aif_push_may(const aif_broker *b, const aif_subscriber *s)
{
    return !s->full && aif_credit_may(&s->credit, b->stats.flight, b->now);
}

/* A frame, unless one event alone is larger. */
static size_t
piece_bytes(const aif_broker *b, const aif_subscriber *s)
{
    uint64_t most = aif_credit_share(&s->credit, b->stats.flight, b->now);

    return most < AIF_PIECE_BYTES ? (size_t)most : AIF_PIECE_BYTES;
}

/* Push as much of span as s wants and may have; false when it is gone. */
static bool
serve(aif_broker *b, aif_subscriber *s, const aif_span *span)
{
    bool here = true;

    while (here && aif_push_may(b, s) && s->cursor >= span->from &&
           s->cursor < span->to) {
        size_t n;
        size_t i = beyond(span, s->cursor);
        size_t end = piece_end(s, span, i, piece_bytes(b, s), &n);
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

/* Mark those for whom the index finds something in span; false when there was
 * no memory for it, and all have to be asked. */
static bool
touch(aif_broker *b, const aif_span *span)
{
    const uint64_t *ids;
    size_t n;
    aif_error e;

    b->spans++;
    for (size_t i = 0; b->n_indexed > 0 && i < span->n; i++) {
        if (aif_match_find(b->index, &span->events[i], &ids, &n, &e) !=
            AIF_OK) {
            return false;
        }
        for (size_t k = 0; k < n; k++) {
            ((aif_subscriber *)(uintptr_t)ids[k])->touched = b->spans;
        }
    }
    return true;
}

/* Nothing in span is for it: it is where span ends, and told so later. */
static bool
passes(const aif_broker *b, aif_subscriber *s, const aif_span *span)
{
    if (!s->indexed || s->touched == b->spans) {
        return false;
    }
    if (s->cursor >= span->from && s->cursor < span->to) {
        s->cursor = span->to;
    }
    return true;
}

/* Of span, what may still be compared in this turn with the patterns of those
 * who are in it, but one event at least. */
static aif_span
affordable(aif_broker *b, const aif_span *span)
{
    const size_t left =
        b->compared < AIF_TURN_COMPARES ? AIF_TURN_COMPARES - b->compared : 0;
    aif_span some = *span;
    size_t patterns = 0;

    for (size_t i = 0; i < b->n_subs; i++) {
        const aif_subscriber *s = b->subs[i];

        if (!s->indexed && s->cursor >= span->from && s->cursor < span->to &&
            aif_push_may(b, s)) {
            patterns += s->n;
        }
    }
    b->compared += span->n * patterns;
    if (span->n > 1 && patterns > 0 && b->compared > AIF_TURN_COMPARES) {
        some.n = left > patterns ? left / patterns : 1;
        some.to = span->events[some.n - 1].offset;
    }
    return some;
}

void
aif_subs_push(aif_broker *b, const aif_span *span)
{
    const aif_span some = affordable(b, span);
    bool marked = touch(b, span);

    for (size_t i = b->n_subs; i-- > 0;) {
        aif_subscriber *s = b->subs[i];

        if (!(marked && passes(b, s, span)) &&
            !serve(b, s, s->indexed ? span : &some)) {
            aif_count(&b->stats.gone, 1);
            aif_subs_drop(b, i);
        }
    }
}

bool
aif_push_cursor(aif_broker *b, aif_subscriber *s)
{
    const aif_span nothing = {0};

    return encode_piece(b, s, &nothing, 0, 0, s->cursor) != AIF_OK ||
           send_piece(b, s, s->cursor, 0);
}
