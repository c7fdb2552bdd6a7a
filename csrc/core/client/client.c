/* client.c - the happy path: encode a request, send it, wait for the answer
 * that has its id.
 *
 * The broker was lost, and came back or another took its place: the same frame
 * is sent again (events keep their (producer, sequence), the
 * rest only asks).  ETIMEOUT when
 * the caller's time is over; the same call made again goes on waiting for the
 * same answer.  An ERROR answer is the caller's error.
 */
#include "client/client_in.h"

#include "base/clock.h"
#include "base/mem.h"

#include <string.h>

#define PUBLISH_BYTES (8u << 20) /* a frame with more than one event */
#define HINT_LINGER_MS 100       /* who hints and goes: the hint may leave */
#define AGAIN_MS 5000 /* no answer on a good connection: no memory for it? */

aif_err
aif_client_open(const char *uri, const aif_curve *curve, aif_client **out,
                aif_error *e)
{
    aif_client *c = aif_zalloc(sizeof *c);
    aif_err err;

    *out = NULL;
    if (c == NULL) {
        return aif_fail(e, AIF_ENOMEM, "a client of %s", uri);
    }
    err = aif_dealer_init(&c->dealer, uri, curve, e);
    if (err != AIF_OK) {
        aif_free(c);
        return err;
    }
    aif_guard_init(&c->guard);
    aif_port_msg_init(&c->answer);
    *out = c;
    return AIF_OK;
}

void
aif_client_free(aif_client *c)
{
    if (c == NULL || aif_guard_forked(&c->guard)) {
        return;
    }
    aif_port_msg_fini(&c->answer);
    aif_dealer_fini(&c->dealer, c->hinted ? HINT_LINGER_MS : 0);
    aif_buf_fini(&c->out);
    aif_buf_fini(&c->asked);
    aif_free(c);
}

static int64_t
client_deadline(int timeout_ms)
{
    return aif_now_ms() + (timeout_ms > 0 ? timeout_ms : 0);
}

static void
client_send_asked(aif_client *c)
{
    c->again = aif_now_ms() + AGAIN_MS;
    aif_dealer_send(&c->dealer, &c->asked);
}

/* Is what c->out asks what was asked last, and not answered yet? */
static bool
client_is_asked(const aif_client *c)
{
    size_t head = AIF_FRAME_HEAD;

    return c->id != 0 && c->out.n == c->asked.n &&
           memcmp(c->out.p, c->asked.p, 4) == 0 &&
           memcmp(c->out.p + head, c->asked.p + head, c->out.n - head) == 0;
}

/* Send c->out, or go on waiting for the answer to the same. */
static aif_err
client_send_request(aif_client *c, uint64_t id, aif_error *e)
{
    aif_buf spare = c->asked;
    aif_err err = AIF_OK;

    if (c->dealer.socket != NULL && client_is_asked(c)) {
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
        client_send_asked(c);
    }
    return err;
}

/* The broker is gone, or there was no answer for long: the same frame again,
 * to the next one where there are several. */
static aif_err
client_tend(aif_client *c, int64_t now, aif_error *e)
{
    bool gone = aif_dealer_gone(&c->dealer, now);
    bool silent = c->id != 0 && now >= c->again;
    aif_err err = aif_dealer_denied(&c->dealer, e);

    if (err != AIF_OK) {
        aif_dealer_disconnect(&c->dealer); /* the next call tries anew */
        return err;
    }
    if (gone || (silent && c->dealer.uris.n > 1)) {
        err = aif_dealer_move(&c->dealer, e);
    }
    if (err == AIF_OK && c->id != 0 && (gone || silent)) {
        client_send_asked(c);
    }
    return err;
}

static int64_t
ms_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Take frames until one answers, or until end.  Others are answers that came
 * too late, and are dropped. */
static aif_err
client_take_answer(aif_client *c, int64_t end, aif_frame *f, bool *got,
                   aif_error *e)
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
        err = client_tend(c, now, e);
        if (err != AIF_OK || now >= end) {
            return err;
        }
        if (!any) {
            (void)aif_dealer_wait(
                &c->dealer,
                ms_min(end, ms_min(c->again, aif_dealer_due(&c->dealer))) -
                    now);
        }
    }
}

/* Ask what c->out holds until it is answered. */
static aif_err
client_ask(aif_client *c, const aif_frame *request, aif_kind kind, int64_t end,
           aif_frame *f, aif_error *e)
{
    bool got = false;
    aif_err err = client_send_request(c, request->id, e);

    if (err == AIF_OK) {
        err = client_take_answer(c, end, f, &got, e);
    }
    if (err == AIF_OK && !got) {
        return aif_fail(e, AIF_ETIMEOUT, "no answer to %s from %s in time",
                        aif_kind_name(request->kind), c->dealer.uris.names);
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
client_begin(aif_client *c, aif_frame *request, aif_error *e)
{
    request->id = ++c->dealer.last_id;
    return aif_frame_encode(request, &c->out, e);
}

static aif_err
answer_take_offsets(aif_reader in, uint64_t *offsets, size_t n, aif_error *e)
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
events_fit(const aif_event *events, size_t n)
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
client_publish_frame(aif_client *c, const aif_event *events, size_t n,
                     uint64_t *offsets, int64_t end, aif_error *e)
{
    aif_frame request = {.kind = AIF_K_PUBLISH};
    aif_frame f;
    aif_err err = client_begin(c, &request, e);

    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        err = aif_event_encode(&events[i], &c->out, e);
    }
    if (err == AIF_OK) {
        err = client_ask(c, &request, AIF_K_PUBLISHED, end, &f, e);
    }
    return err != AIF_OK ? err : answer_take_offsets(f.tail, offsets, n, e);
}

static aif_err
client_publish(aif_client *c, const aif_event *events, size_t n,
               uint64_t *offsets, int timeout_ms, aif_error *e)
{
    int64_t end = client_deadline(timeout_ms);
    aif_err err = AIF_OK;
    size_t some;

    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        err = aif_event_check(&events[i], e); /* all before the first goes */
    }
    for (size_t i = 0; err == AIF_OK && i < n; i += some) {
        some = events_fit(events + i, n - i);
        err = client_publish_frame(c, events + i, some, offsets + i, end, e);
    }
    return err;
}

aif_err
aif_client_publish(aif_client *c, const aif_event *events, size_t n,
                   uint64_t *offsets, int timeout_ms, aif_error *e)
{
    aif_err err = aif_guard_enter(&c->guard, e);

    if (err == AIF_OK) {
        err = client_publish(c, events, n, offsets, timeout_ms, e);
        aif_guard_leave(&c->guard);
    }
    return err;
}

static aif_err
client_put_patterns(aif_client *c, const aif_query *q, aif_error *e)
{
    aif_err err = aif_query_check(q, e);

    for (size_t i = 0; err == AIF_OK && i < q->n; i++) {
        err = aif_wire_put_pattern(&q->patterns[i], &c->out, e);
    }
    return err;
}

/* A request with at most a query, and the answer to it. */
static aif_err
client_exchange(aif_client *c, aif_frame *request, const aif_query *q,
                aif_kind kind, aif_frame *f, int timeout_ms, aif_error *e)
{
    aif_err err = client_begin(c, request, e);

    if (err == AIF_OK && q != NULL) {
        err = client_put_patterns(c, q, e);
    }
    return err != AIF_OK ? err
                         : client_ask(c, request, kind,
                                      client_deadline(timeout_ms), f, e);
}

aif_err
aif_client_enter(aif_client *c, aif_frame *request, const aif_query *q,
                 aif_kind kind, aif_frame *f, int timeout_ms, aif_error *e)
{
    aif_err err = aif_guard_enter(&c->guard, e);

    if (err != AIF_OK) {
        return err;
    }
    err = client_exchange(c, request, q, kind, f, timeout_ms, e);
    if (err != AIF_OK) {
        aif_guard_leave(&c->guard);
    }
    return err;
}

static aif_err
client_hint(aif_client *c, aif_str text, aif_error *e)
{
    aif_frame request = {.kind = AIF_K_HINT, .text = text};
    aif_err err = aif_text_check("hint", text, 0, AIF_HINT_MAX, e);

    if (err == AIF_OK) {
        err = client_begin(c, &request, e);
    }
    if (err == AIF_OK) {
        err = c->dealer.socket == NULL ? aif_dealer_connect(&c->dealer, e)
                                       : client_tend(c, aif_now_ms(), e);
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
        err = client_hint(c, text, e);
        aif_guard_leave(&c->guard);
    }
    return err;
}
