/* client.c - the happy path: encode a request, send it, wait for the answer
 * that has its id.
 *
 * The connection was lost and made again: the same frame is sent again
 * (events keep their (producer, sequence), the rest only asks).  ETIMEOUT when
 * the caller's time is over; the same call made again goes on waiting for the
 * same answer.  An ERROR answer is the caller's error.
 */
#include "client.h"

#include "clock.h"
#include "dealer.h"
#include "guard.h"
#include "mem.h"

#include <string.h>

#define PUBLISH_BYTES (8u << 20) /* a frame with more than one event */
#define HINT_LINGER_MS 100       /* who hints and goes: the hint may leave */
#define AGAIN_MS 5000 /* no answer on a good connection: no memory for it? */

struct aif_client {
    aif_guard guard;
    aif_dealer dealer;
    aif_buf out;
    aif_buf asked;    /* the request that was sent last */
    uint64_t id;      /* its id; 0: it was answered */
    int64_t again;    /* when to send it again even so */
    bool hinted;      /* since the last answer: a hint may still be queued */
    zmq_msg_t answer; /* what the frame of the last call points into */
};

aif_err
aif_client_open(const char *uri, aif_client **out, aif_error *e)
{
    aif_client *c = aif_zalloc(sizeof *c);
    aif_err err;

    *out = NULL;
    if (c == NULL) {
        return aif_fail(e, AIF_ENOMEM, "a client of %s", uri);
    }
    err = aif_dealer_init(&c->dealer, uri, e);
    if (err != AIF_OK) {
        aif_free(c);
        return err;
    }
    aif_guard_init(&c->guard);
    (void)zmq_msg_init(&c->answer);
    *out = c;
    return AIF_OK;
}

void
aif_client_free(aif_client *c)
{
    if (c == NULL || aif_guard_forked(&c->guard)) {
        return;
    }
    (void)zmq_msg_close(&c->answer);
    aif_dealer_fini(&c->dealer, c->hinted ? HINT_LINGER_MS : 0);
    aif_buf_fini(&c->out);
    aif_buf_fini(&c->asked);
    aif_free(c);
}

static int64_t
deadline(int timeout_ms)
{
    return aif_now_ms() + (timeout_ms > 0 ? timeout_ms : 0);
}

static void
send_asked(aif_client *c)
{
    c->again = aif_now_ms() + AGAIN_MS;
    aif_dealer_send(&c->dealer, &c->asked);
}

/* Is what c->out asks what was asked last, and not answered yet? */
static bool
is_asked(const aif_client *c)
{
    size_t head = AIF_FRAME_HEAD;

    return c->id != 0 && c->out.n == c->asked.n &&
           memcmp(c->out.p, c->asked.p, 4) == 0 &&
           memcmp(c->out.p + head, c->asked.p + head, c->out.n - head) == 0;
}

/* Send c->out, or go on waiting for the answer to the same. */
static aif_err
send_request(aif_client *c, uint64_t id, aif_error *e)
{
    aif_buf spare = c->asked;
    aif_err err = AIF_OK;

    if (c->dealer.socket != NULL && is_asked(c)) {
        return AIF_OK;
    }
    if (c->dealer.socket == NULL || c->id != 0) { /* nobody waits for that */
        err = aif_dealer_connect(&c->dealer, e);
    }
    c->id = 0;
    if (err == AIF_OK) {
        c->asked = c->out;
        c->out = spare;
        c->id = id;
        send_asked(c);
    }
    return err;
}

/* Take frames until one answers, or until end.  Others are answers that came
 * too late, and are dropped. */
static aif_err
take_answer(aif_client *c, int64_t end, aif_frame *f, bool *got, aif_error *e)
{
    int64_t now;
    bool any;
    aif_err err;

    for (*got = false;;) {
        err = aif_dealer_recv(&c->dealer, &c->answer, f, &any, e);
        if (any && f->id == c->id) {
            *got = true;
            return err;
        }
        now = aif_now_ms();
        if (aif_dealer_renewed(&c->dealer) || now >= c->again) {
            send_asked(c);
        }
        if (now >= end) {
            return AIF_OK;
        }
        if (!any) {
            (void)aif_dealer_wait(&c->dealer,
                                  (end < c->again ? end : c->again) - now);
        }
    }
}

/* Ask what c->out holds until it is answered. */
static aif_err
ask(aif_client *c, const aif_frame *request, aif_kind kind, int64_t end,
    aif_frame *f, aif_error *e)
{
    bool got = false;
    aif_err err = send_request(c, request->id, e);

    if (err == AIF_OK) {
        err = take_answer(c, end, f, &got, e);
    }
    if (err == AIF_OK && !got) {
        return aif_fail(e, AIF_ETIMEOUT, "no answer to %s from %s in time",
                        aif_kind_name(request->kind), c->dealer.uri);
    }
    c->id = 0;
    c->hinted = false;
    if (err == AIF_OK && f->kind == AIF_K_ERROR) {
        return aif_dealer_error(f, e);
    }
    if (err == AIF_OK && f->kind != kind) {
        return aif_fail(e, AIF_EPROTO, "%s was answered with %s",
                        aif_kind_name(request->kind), aif_kind_name(f->kind));
    }
    return err;
}

/* Begin a request in c->out; its id is new. */
static aif_err
begin(aif_client *c, aif_frame *request, aif_error *e)
{
    request->id = ++c->dealer.last_id;
    return aif_frame_encode(request, &c->out, e);
}

static aif_err
take_offsets(aif_reader in, uint64_t *offsets, size_t n, aif_error *e)
{
    if (in.n != n * sizeof *offsets) {
        return aif_fail(e, AIF_EPROTO,
                        "PUBLISHED has %zu bytes of offsets for %zu events",
                        in.n, n);
    }
    for (size_t i = 0; i < n; i++) {
        aif_err err = aif_read_u64(&in, &offsets[i], e);

        if (err != AIF_OK) {
            return err;
        }
    }
    return AIF_OK;
}

/* How many of n events, at least one, go into one frame. */
static size_t
fits(const aif_event *events, size_t n)
{
    size_t bytes = 0;
    size_t i;

    for (i = 0; i < n && i < AIF_BATCH_MAX; i++) {
        bytes += aif_wire_event_size(&events[i]);
        if (i > 0 && bytes > PUBLISH_BYTES) {
            break;
        }
    }
    return i;
}

static aif_err
publish_frame(aif_client *c, const aif_event *events, size_t n,
              uint64_t *offsets, int64_t end, aif_error *e)
{
    aif_frame request = {.kind = AIF_K_PUBLISH};
    aif_frame f;
    aif_err err = begin(c, &request, e);

    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        err = aif_event_encode(&events[i], &c->out, e);
    }
    if (err == AIF_OK) {
        err = ask(c, &request, AIF_K_PUBLISHED, end, &f, e);
    }
    return err != AIF_OK ? err : take_offsets(f.tail, offsets, n, e);
}

static aif_err
publish(aif_client *c, const aif_event *events, size_t n, uint64_t *offsets,
        int timeout_ms, aif_error *e)
{
    int64_t end = deadline(timeout_ms);
    aif_err err = AIF_OK;
    size_t some;

    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        err = aif_event_check(&events[i], e); /* all before the first goes */
    }
    for (size_t i = 0; err == AIF_OK && i < n; i += some) {
        some = fits(events + i, n - i);
        err = publish_frame(c, events + i, some, offsets + i, end, e);
    }
    return err;
}

aif_err
aif_client_publish(aif_client *c, const aif_event *events, size_t n,
                   uint64_t *offsets, int timeout_ms, aif_error *e)
{
    aif_err err = aif_guard_enter(&c->guard, e);

    if (err == AIF_OK) {
        err = publish(c, events, n, offsets, timeout_ms, e);
        aif_guard_leave(&c->guard);
    }
    return err;
}

static aif_err
put_pattern(aif_client *c, const aif_pattern *p, aif_error *e)
{
    aif_err err;

    if (p == NULL) {
        return AIF_OK;
    }
    err = aif_pattern_check(p, e);
    return err != AIF_OK ? err : aif_wire_put_pattern(p, &c->out, e);
}

static aif_err
take_events(aif_reader in, aif_batch *out, uint64_t *after, aif_error *e)
{
    aif_err err = AIF_OK;
    aif_event ev;

    while (err == AIF_OK && in.n > 0) {
        err = aif_event_decode(&in, &ev, e);
        if (err == AIF_OK) {
            err = aif_batch_add(out, &ev, e);
        }
        if (err == AIF_OK) {
            *after = ev.offset;
        }
    }
    return err;
}

/* One LIST; *after moves to the last event that came. */
static aif_err
list_frame(aif_client *c, const aif_pattern *p, uint64_t *after, size_t max,
           aif_batch *out, bool *more, int64_t end, aif_error *e)
{
    aif_frame request = {.kind = AIF_K_LIST, .from = *after};
    aif_frame f;
    aif_err err;

    request.max = max < AIF_BATCH_MAX ? (uint32_t)max : AIF_BATCH_MAX;
    err = begin(c, &request, e);
    if (err == AIF_OK) {
        err = put_pattern(c, p, e);
    }
    if (err == AIF_OK) {
        err = ask(c, &request, AIF_K_LISTED, end, &f, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    *more = f.flag;
    return take_events(f.tail, out, after, e);
}

/* On failure out has the events that it had before. */
static aif_err
list(aif_client *c, const aif_pattern *p, uint64_t after, size_t max,
     aif_batch *out, int timeout_ms, aif_error *e)
{
    int64_t end = deadline(timeout_ms);
    size_t before = out->n;
    size_t bytes = out->bytes;
    bool more = true;
    aif_err err = AIF_OK;

    while (err == AIF_OK && more && out->n - before < max) {
        uint64_t from = after;

        err = list_frame(c, p, &after, max - (out->n - before), out, &more,
                         end, e);
        if (err == AIF_OK && more && after <= from) {
            err = aif_fail(e, AIF_EPROTO, "LISTED goes back from offset %llu",
                           (unsigned long long)from);
        }
    }
    if (err != AIF_OK) {
        out->n = before;
        out->bytes = bytes;
    }
    return err;
}

aif_err
aif_client_list(aif_client *c, const aif_pattern *p, uint64_t after,
                size_t max, aif_batch *out, int timeout_ms, aif_error *e)
{
    aif_err err = aif_guard_enter(&c->guard, e);

    if (err == AIF_OK) {
        err = list(c, p, after, max, out, timeout_ms, e);
        aif_guard_leave(&c->guard);
    }
    return err;
}

/* A request whose answer is one number. */
static aif_err
ask_number(aif_client *c, aif_frame *request, const aif_pattern *p,
           aif_kind kind, uint64_t *n, int timeout_ms, aif_error *e)
{
    aif_frame f;
    aif_err err = aif_guard_enter(&c->guard, e);

    *n = 0;
    if (err != AIF_OK) {
        return err;
    }
    err = begin(c, request, e);
    if (err == AIF_OK) {
        err = put_pattern(c, p, e);
    }
    if (err == AIF_OK) {
        err = ask(c, request, kind, deadline(timeout_ms), &f, e);
    }
    if (err == AIF_OK) {
        *n = f.to;
    }
    aif_guard_leave(&c->guard);
    return err;
}

aif_err
aif_client_count(aif_client *c, const aif_pattern *p, uint64_t after,
                 uint64_t *n, int timeout_ms, aif_error *e)
{
    aif_frame request = {.kind = AIF_K_COUNT, .from = after};

    return ask_number(c, &request, p, AIF_K_COUNTED, n, timeout_ms, e);
}

aif_err
aif_client_head(aif_client *c, uint64_t *offset, int timeout_ms, aif_error *e)
{
    aif_frame request = {.kind = AIF_K_HEAD};

    return ask_number(c, &request, NULL, AIF_K_HEADED, offset, timeout_ms, e);
}

static aif_err
hint(aif_client *c, aif_str text, aif_error *e)
{
    aif_frame request = {.kind = AIF_K_HINT, .text = text};
    aif_err err = aif_text_check("hint", text, 0, AIF_HINT_MAX, e);

    if (err == AIF_OK) {
        err = begin(c, &request, e);
    }
    if (err == AIF_OK && c->dealer.socket == NULL) {
        err = aif_dealer_connect(&c->dealer, e);
    }
    if (err == AIF_OK) {
        aif_dealer_send(&c->dealer, &c->out);
        c->hinted = true;
    }
    return err;
}

aif_err
aif_client_hint(aif_client *c, aif_str text, aif_error *e)
{
    aif_err err = aif_guard_enter(&c->guard, e);

    if (err == AIF_OK) {
        err = hint(c, text, e);
        aif_guard_leave(&c->guard);
    }
    return err;
}
