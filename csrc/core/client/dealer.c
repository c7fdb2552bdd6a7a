/* dealer.c - the happy path: connect (zmq does it in the background), queue
 * frames, take frames.
 *
 * A frame is sent once for each connection: a slow broker is not asked again,
 * which would only make it slower.  A dead one is noticed by zmq: its end of
 * the connection closes, or, where it hangs, the heartbeats end.  zmq's own
 * thread answers those, however long a turn takes.
 *
 * Of several brokers one is talked to, at first any of them.  When it is lost,
 * refuses, or does not shake hands in time, the next one, or the same where it
 * is the only one, gets a fresh socket: nothing that was queued for the old
 * one can arrive there later.  zmq's own reconnecting is off.  After a round
 * in vain there is a pause.
 */
#include "client/dealer.h"

#include "base/clock.h"
#include "net/port.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define SEND_HWM 64 /* hints, mostly: one request is under way at a time */
#define PAUSE_MS 20 /* after the first round in vain; then twice as long */
#define PAUSE_MOST_MS 200
#define HANDSHAKE_MS 1000 /* a dead broker's child accepts, but is silent */
#define ATTEMPT_MS 1500   /* a host that is gone does not even refuse */
#define HEARTBEAT_MS 1000
#define HEARTBEAT_TIMEOUT_MS 2000

/* Clients that begin together should not all begin at one broker. */
static size_t
brokers_any_of(size_t n)
{
    uint32_t r = 0;

    if (n > 1 && getrandom(&r, sizeof r, GRND_NONBLOCK) != sizeof r) {
        r = 0; /* no entropy yet, early at boot: the first will do */
    }
    return n > 1 ? r % n : 0;
}

aif_err
aif_dealer_init(aif_dealer *d, const char *uris, const aif_curve *curve,
                aif_error *e)
{
    aif_err err;

    *d = (aif_dealer){.keys = curve != NULL, .fd = -1};
    err = aif_addresses_parse(uris, &d->uris, e);
    if (err == AIF_OK) {
        d->at = brokers_any_of(d->uris.n);
    }
    if (curve != NULL) {
        d->curve = *curve;
    }
    return err;
}

/* First end the monitor: zmq's thread waits, for ever, to tell its news to
 * one that has no reader. */
void
aif_dealer_disconnect(aif_dealer *d)
{
    aif_forks_stop();
    aif_forks_remove(&d->owned);
    aif_forks_go();
    d->fd = -1;
    if (d->monitor != NULL) {
        (void)zmq_socket_monitor(d->socket, NULL, 0);
        (void)zmq_close(d->monitor);
        d->monitor = NULL;
    }
    if (d->socket != NULL) {
        (void)zmq_close(d->socket);
        d->socket = NULL;
    }
    d->up = d->failed = false;
    d->due = aif_now_ms() + ATTEMPT_MS;
}

void
aif_dealer_fini(aif_dealer *d, int linger_ms)
{
    if (d->socket != NULL) {
        (void)aif_port_set(d->socket, ZMQ_LINGER, linger_ms);
    }
    aif_dealer_disconnect(d);
    if (d->ctx != NULL) {
        aif_port_put(d->ctx);
        d->ctx = NULL;
    }
}

static bool
socket_configure(void *s)
{
    const int64_t max = AIF_FRAME_MAX;

    return aif_port_set(s, ZMQ_LINGER, 0) &&
           aif_port_set(s, ZMQ_SNDHWM, SEND_HWM) &&
           aif_port_set(s, ZMQ_RECONNECT_IVL, -1) &&
           aif_port_set(s, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) &&
           aif_port_set(s, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS) &&
           aif_port_set(s, ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS) &&
           zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &max, sizeof max) == 0;
}

/* Only tcp: an ipc socket's file mode keeps others out. */
static aif_err
dealer_set_keys(aif_dealer *d, const char *uri, aif_error *e)
{
    return d->keys && strncmp(uri, "tcp://", 6) == 0
               ? aif_curve_client(d->socket, &d->curve, e)
               : AIF_OK;
}

#define NEWS                                                                  \
    (ZMQ_EVENT_CONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_CLOSED | \
     ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |          \
     ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)

static aif_err
dealer_make_sockets(aif_dealer *d, aif_error *e)
{
    aif_err err = AIF_OK;

    if (d->ctx == NULL) {
        err = aif_port_get(&d->ctx, e);
    }
    if (err == AIF_OK) {
        err = aif_port_room(AIF_PORT_CLIENT, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    d->socket = zmq_socket(d->ctx, ZMQ_DEALER);
    if (d->socket != NULL && socket_configure(d->socket)) {
        d->monitor = aif_port_monitor(d->ctx, d->socket, NEWS);
    }
    return d->monitor == NULL ? aif_port_failed("a DEALER socket", e) : err;
}

static aif_err
dealer_connect_at(aif_dealer *d, const char *uri, aif_error *e)
{
    aif_err err;

    aif_dealer_disconnect(d);
    err = dealer_make_sockets(d, e);
    if (err == AIF_OK) {
        (void)aif_port_set(d->socket, ZMQ_IPV6, aif_address_is_v6(uri));
        err = dealer_set_keys(d, uri, e);
    }
    if (err == AIF_OK && zmq_connect(d->socket, uri) != 0) {
        err = aif_fail(e, AIF_EINVAL, "cannot connect to %s: %s", uri,
                       zmq_strerror(zmq_errno()));
    }
    if (err != AIF_OK) {
        aif_dealer_disconnect(d);
    }
    return err;
}

aif_err
aif_dealer_connect(aif_dealer *d, aif_error *e)
{
    aif_err err = dealer_connect_at(d, d->uris.uri[d->at], e);

    for (size_t i = 1; err == AIF_EINVAL && i < d->uris.n; i++) {
        d->at = (d->at + 1) % d->uris.n;
        err = dealer_connect_at(d, d->uris.uri[d->at], e);
    }
    d->tries = d->denied = 0;
    return err;
}

aif_err
aif_dealer_move(aif_dealer *d, aif_error *e)
{
    unsigned tries = d->tries + 1;
    unsigned denied = d->denied;
    aif_err err;

    d->at = (d->at + 1) % d->uris.n;
    err = aif_dealer_connect(d, e);
    d->tries = tries;
    d->denied = denied;
    return err;
}

void
aif_dealer_send(aif_dealer *d, const aif_buf *frame)
{
    (void)zmq_send(d->socket, frame->p, frame->n, ZMQ_DONTWAIT);
}

aif_err
aif_dealer_recv(aif_dealer *d, zmq_msg_t *msg, aif_frame *f, bool *got,
                aif_error *e)
{
    bool whole;

    *f = (aif_frame){0};
    *got = zmq_msg_recv(msg, d->socket, ZMQ_DONTWAIT) >= 0;
    if (!*got) {
        return AIF_OK;
    }
    if (!d->up) { /* it is: the news of it came first */
        (void)aif_dealer_gone(d, 0);
    }
    whole = !zmq_msg_more(msg);
    while (zmq_msg_more(msg) &&
           zmq_msg_recv(msg, d->socket, ZMQ_DONTWAIT) >= 0) {
    }
    if (!whole) {
        return aif_fail(e, AIF_EPROTO, "a frame in several parts");
    }
    return aif_frame_decode(zmq_msg_data(msg), zmq_msg_size(msg), f, e);
}

/* Both sides say which security they speak: one of them has keys and the
 * other none; or the broker does not know our key. */
static bool
news_is_denial(uint16_t event, uint32_t value)
{
    return event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH ||
           (event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL &&
            value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH);
}

/* After the n-th attempt in vain: none but at the end of a round. */
static int64_t
dealer_pause(unsigned n, size_t brokers)
{
    int64_t ms = PAUSE_MS;

    if (n % brokers != 0) {
        return 0;
    }
    for (size_t round = n / brokers; round > 1 && ms < PAUSE_MOST_MS;
         round--) {
        ms *= 2;
    }
    return ms < PAUSE_MOST_MS ? ms : PAUSE_MOST_MS;
}

static void
dealer_hear(aif_dealer *d, uint16_t event, uint32_t value, int64_t now)
{
    if (event == ZMQ_EVENT_CONNECTED) {
        d->fd = (int)value;
        return;
    }
    if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
        d->up = true;
        d->tries = d->denied = 0;
        return;
    }
    d->denied |= (unsigned)news_is_denial(event, value) << d->at;
    if (!d->failed) {
        d->failed = true;
        d->due = now + dealer_pause(d->tries + 1, d->uris.n);
    }
}

int64_t
aif_dealer_due(const aif_dealer *d)
{
    return d->up && !d->failed ? INT64_MAX : d->due;
}

bool
aif_dealer_gone(aif_dealer *d, int64_t now)
{
    uint16_t event;
    uint32_t value;

    while (aif_port_news(d->monitor, &event, &value)) {
        dealer_hear(d, event, value, now);
    }
    if (d->fd >= 0 && d->up && !d->failed) { /* so libzmq has not closed it */
        aif_forks_stop();
        aif_forks_add(&d->owned, d->fd);
        aif_forks_go();
        d->fd = -1;
    }
    return now >= aif_dealer_due(d);
}

aif_err
aif_dealer_denied(const aif_dealer *d, aif_error *e)
{
    if (d->denied != (1u << d->uris.n) - 1) {
        return AIF_OK;
    }
    return aif_fail(e, AIF_EDENIED, "%s: %s", d->uris.names,
                    d->keys ? "the broker does not take our keys"
                            : "the broker wants keys (CURVE), and we have "
                              "none");
}

bool
aif_dealer_wait(aif_dealer *d, int64_t ms)
{
    zmq_pollitem_t items[2] = {{.socket = d->socket, .events = ZMQ_POLLIN},
                               {.socket = d->monitor, .events = ZMQ_POLLIN}};

    return zmq_poll(items, d->socket == NULL ? 0 : 2, ms > 0 ? (long)ms : 0) >=
           0;
}

static bool
socket_readable(void *socket)
{
    int events = 0;
    size_t n = sizeof events;

    (void)zmq_getsockopt(socket, ZMQ_EVENTS, &events, &n);
    return (events & ZMQ_POLLIN) != 0;
}

bool
aif_dealer_ready(aif_dealer *d)
{
    bool frame = socket_readable(d->socket); /* both: each look clears an fd */

    return socket_readable(d->monitor) || frame;
}

void
aif_dealer_fds(aif_dealer *d, int fds[static 2])
{
    size_t n = sizeof *fds;

    (void)zmq_getsockopt(d->socket, ZMQ_FD, &fds[0], &n);
    (void)zmq_getsockopt(d->monitor, ZMQ_FD, &fds[1], &n);
}

aif_err
aif_dealer_error(const aif_frame *f, aif_error *e)
{
    aif_fail(e, f->code, "%.*s", (int)f->text.n, f->text.p);
    memcpy(e->sqlstate, f->sqlstate.p, f->sqlstate.n);
    e->sqlstate[f->sqlstate.n] = '\0';
    return f->code;
}
