/* sub_stream.c - the happy path: SUBSCRIBE, then take EVENTS; each says from
 * which cursor to which it leads, so a lost one is seen, and a repeated one
 * skipped.  CREDIT about once a second keeps the lease, and says how many
 * bytes were taken; sooner, when they are many.
 *
 * What can go wrong ends in one cure, subscribing again from our own cursor:
 * a gap, a connection that was lost, a broker that does not know us (our lease
 * ended), a frame of which no memory was left to keep the events.
 */
#include "client/sub_in.h"

#include "base/clock.h"
#include "base/mem.h"

#include <string.h>

#define WINDOW                                                                \
    (4u << 20) /* bytes on the way to us at most, and a frame each */
#define WINDOW_LEAST (64u << 10) /* of one stream, however many there are */
/* Taken bytes are told before they are more than this: half of what a broker
 * that is short of memory lets a subscriber have under way. */
#define TELL_BYTES (128u << 10)
#define RENEW_MS 1000      /* the broker's lease is ten times that */
#define AGAIN_MS 250       /* after an ERROR that may pass: at first, */
#define AGAIN_MOST_MS 4000 /* then twice as long each time, to this */

static aif_err
stream_put_patterns(aif_stream *st, const aif_pattern *p, size_t n,
                    aif_error *e)
{
    aif_err err = AIF_OK;

    if (n < 1 || n > AIF_PATTERNS_MAX) {
        return aif_fail(e, AIF_EINVAL,
                        "%zu patterns: a subscription has 1 to %d", n,
                        AIF_PATTERNS_MAX);
    }
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        err = aif_pattern_check(&p[i], e);
        if (err == AIF_OK) {
            err = aif_wire_put_pattern(&p[i], &st->patterns, e);
        }
    }
    return err;
}

aif_err
aif_stream_new(const aif_pattern *p, size_t n, aif_place after,
               aif_stream **out, aif_error *e)
{
    aif_stream *st = aif_zalloc(sizeof *st);
    aif_err err;

    *out = NULL;
    if (st == NULL) {
        return aif_fail(e, AIF_ENOMEM, "a stream");
    }
    st->cursor = after.offset;
    st->log_id = after.log_id;
    err = stream_put_patterns(st, p, n, e);
    if (err != AIF_OK) {
        aif_stream_free(st);
        return err;
    }
    *out = st;
    return AIF_OK;
}

void
aif_stream_free(aif_stream *st)
{
    if (st != NULL) {
        aif_buf_fini(&st->patterns);
        aif_free(st);
    }
}

/* They share what one connection may have on the way. */
static uint32_t
stream_window(const aif_sub *s)
{
    size_t share = WINDOW / (s->n + (s->n == 0));

    return share > WINDOW_LEAST ? (uint32_t)share : WINDOW_LEAST;
}

static void
sub_say(aif_sub *s, const aif_frame *f)
{
    aif_error e;

    if (aif_frame_encode(f, &s->out, &e) == AIF_OK) {
        aif_dealer_send(&s->dealer, &s->out);
    } /* no memory: as if it were lost on the way */
}

static void
stream_credit(aif_sub *s, aif_stream *st, int64_t now)
{
    st->told = st->received;
    st->window = stream_window(s);
    st->due = now + RENEW_MS;
    sub_say(s, &(aif_frame){.kind = AIF_K_CREDIT,
                            .id = st->id,
                            .from = st->told,
                            .max = st->window});
}

/* Is it time to say what was taken?  Before the broker waits for it. */
static bool
stream_much_taken(const aif_stream *st)
{
    uint64_t untold = st->received - st->told;

    return untold >= TELL_BYTES || untold >= st->window / 2;
}

/* Subscribe from our cursor.  The same id asks the same again. */
static void
stream_subscribe(aif_sub *s, aif_stream *st, int64_t now)
{
    aif_frame f = {.kind = AIF_K_SUBSCRIBE,
                   .id = st->id,
                   .from = st->cursor,
                   .to = st->log_id,
                   .flag = s->hints};
    aif_error e;

    f.max = st->window = stream_window(s);
    st->due = now + st->patience;
    st->patience =
        2 * st->patience < AGAIN_MOST_MS ? 2 * st->patience : AGAIN_MOST_MS;
    if (aif_frame_encode(&f, &s->out, &e) == AIF_OK &&
        aif_buf_put(&s->out, st->patterns.p, st->patterns.n, &e) == AIF_OK) {
        aif_dealer_send(&s->dealer, &s->out);
    }
}

void
aif_stream_end(aif_sub *s, aif_stream *st)
{
    if (st->id != 0) {
        sub_say(s, &(aif_frame){.kind = AIF_K_UNSUBSCRIBE, .id = st->id});
    }
}

void
aif_stream_begin(aif_sub *s, aif_stream *st)
{
    aif_stream_end(s, st);
    st->id = ++s->dealer.last_id;
    st->received = st->told = 0;
    st->live = false;
    st->patience = AGAIN_MS;
    st->due = 0;
}

void
aif_stream_tend(aif_sub *s, aif_stream *st, int64_t now)
{
    if (now >= st->due && st->live) {
        stream_credit(s, st, now);
    } else if (now >= st->due) {
        stream_subscribe(s, st, now);
    }
}

static aif_err
stream_take_events(aif_stream *st, const aif_frame *f, aif_taking *t,
                   aif_error *e)
{
    aif_reader in = f->tail;
    aif_event ev;
    aif_err err = AIF_OK;

    while (err == AIF_OK && in.n > 0) {
        err = aif_event_decode(&in, &ev, e);
        if (err == AIF_OK && ev.offset > st->cursor) {
            err = aif_batch_add(t->out, &ev, e);
        }
        if (err == AIF_OK && ev.offset > st->cursor) {
            st->cursor = ev.offset;
        }
    }
    if (err == AIF_OK && f->to > st->cursor) {
        st->cursor = f->to;
    }
    return err;
}

/* Events are taken of one stream at a time. */
static bool
stream_may_take(aif_stream *st, const aif_frame *f, aif_taking *t)
{
    if (t->of == st || f->tail.n == 0) {
        return true;
    }
    if (t->of != NULL) {
        t->full = true;
        return false;
    }
    t->of = st;
    t->cursor = st->cursor;
    return true;
}

static aif_err
stream_on_events(aif_sub *s, aif_stream *st, const aif_frame *f, size_t n,
                 aif_taking *t, aif_error *e)
{
    aif_err err;

    if (!st->live) {
        return AIF_OK; /* will come again: from the cursor in SUBSCRIBED */
    }
    if (f->from > st->cursor) {
        aif_stream_begin(s, st);
        return AIF_OK;
    }
    if (!stream_may_take(st, f, t)) {
        return AIF_OK;
    }
    st->received += n;
    err = stream_take_events(st, f, t, e);
    if (stream_much_taken(st)) {
        stream_credit(s, st, aif_now_ms());
    }
    return err;
}

static void
stream_on_subscribed(aif_stream *st, const aif_frame *f)
{
    if (st->live) {
        return; /* it was asked twice */
    }
    st->live = true;
    st->log_id = f->from;
    st->due = aif_now_ms() + RENEW_MS;
    if (st->cursor == AIF_AFTER_NOW) {
        st->cursor = f->to;
    }
}

/* What a retry may cure is retried, by tend; the rest ends the stream, after
 * the events that came before it. */
static aif_err
stream_on_error(aif_sub *s, aif_stream *st, const aif_frame *f, aif_taking *t,
                aif_error *e)
{
    if (f->code == AIF_ECLOSED) {
        aif_stream_begin(s, st);
        return AIF_OK;
    }
    if (st->cursor != AIF_AFTER_NOW &&
        (f->code == AIF_ESTORE || f->code == AIF_ENOMEM)) {
        return AIF_OK;
    }
    if (t->of != NULL) {
        t->full = true;
        return AIF_OK;
    }
    t->ended = st->number;
    return aif_dealer_error(f, e);
}

aif_err
aif_stream_take(aif_sub *s, aif_stream *st, const aif_frame *f, size_t n,
                aif_taking *t, aif_error *e)
{
    switch (f->kind) {
    case AIF_K_EVENTS:
        return stream_on_events(s, st, f, n, t, e);
    case AIF_K_SUBSCRIBED:
        stream_on_subscribed(st, f);
        return AIF_OK;
    case AIF_K_ERROR:
        return stream_on_error(s, st, f, t, e);
    default:
        return aif_fail(e, AIF_EPROTO, "a subscription was sent %s",
                        aif_kind_name(f->kind));
    }
}
