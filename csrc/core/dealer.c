/* dealer.c - the happy path: connect (zmq does it in the background, and
 * again by itself whenever the broker comes back), queue frames, take frames.
 *
 * A frame is sent once for each connection: a slow broker is not asked again,
 * which would only make it slower.  A dead one is noticed by zmq: its end of
 * the connection closes, or, where a child that it forked keeps it open, the
 * heartbeats end.  zmq's own thread answers those, however long a turn takes.
 */
#include "dealer.h"

#include <stdio.h>
#include <string.h>

#define SEND_HWM 64 /* hints, mostly: one request is under way at a time */
#define RECONNECT_MS 20
#define RECONNECT_MOST_MS 200
#define HANDSHAKE_MS 1000 /* a dead broker's child accepts, but is silent */
#define HEARTBEAT_MS 1000
#define HEARTBEAT_TIMEOUT_MS 2000

aif_err
aif_dealer_init(aif_dealer *d, const char *uri, aif_error *e)
{
    aif_err err = aif_endpoint_check(uri, e);

    *d = (aif_dealer){0};
    if (err == AIF_OK) {
        memcpy(d->uri, uri, strlen(uri) + 1);
    }
    return err;
}

static bool
set(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

static void
disconnect(aif_dealer *d)
{
    if (d->monitor != NULL) {
        (void)zmq_close(d->monitor);
        d->monitor = NULL;
    }
    if (d->socket != NULL) {
        (void)zmq_close(d->socket);
        d->socket = NULL;
    }
    d->lost = false;
}

void
aif_dealer_fini(aif_dealer *d, int linger_ms)
{
    if (d->socket != NULL) {
        (void)set(d->socket, ZMQ_LINGER, linger_ms);
    }
    disconnect(d);
    if (d->ctx != NULL) {
        (void)zmq_ctx_term(d->ctx);
        d->ctx = NULL;
    }
}

static bool
configure(void *s)
{
    const int64_t max = AIF_FRAME_MAX;

    return set(s, ZMQ_LINGER, 0) && set(s, ZMQ_SNDHWM, SEND_HWM) &&
           set(s, ZMQ_RECONNECT_IVL, RECONNECT_MS) &&
           set(s, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MOST_MS) &&
           set(s, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) &&
           set(s, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS) &&
           set(s, ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS) &&
           zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &max, sizeof max) == 0;
}

static bool
watch(aif_dealer *d)
{
    char name[32];

    (void)snprintf(name, sizeof name, "inproc://monitor-%u", d->connects++);
    d->monitor = zmq_socket(d->ctx, ZMQ_PAIR);
    return d->monitor != NULL && set(d->monitor, ZMQ_LINGER, 0) &&
           zmq_socket_monitor(d->socket, name,
                              ZMQ_EVENT_DISCONNECTED |
                                  ZMQ_EVENT_HANDSHAKE_SUCCEEDED) == 0 &&
           zmq_connect(d->monitor, name) == 0;
}

static bool
make_sockets(aif_dealer *d)
{
    if (d->ctx == NULL) {
        d->ctx = zmq_ctx_new();
    }
    if (d->ctx != NULL) {
        d->socket = zmq_socket(d->ctx, ZMQ_DEALER);
    }
    return d->socket != NULL && configure(d->socket) && watch(d);
}

aif_err
aif_dealer_connect(aif_dealer *d, aif_error *e)
{
    aif_err err = AIF_OK;

    disconnect(d);
    if (!make_sockets(d)) {
        err = aif_fail(e, AIF_ENOMEM, "a DEALER socket: %s",
                       zmq_strerror(zmq_errno()));
    } else {
        aif_endpoint_family(d->socket, d->uri);
        if (zmq_connect(d->socket, d->uri) != 0) {
            err = aif_fail(e, AIF_EINVAL, "cannot connect to %s: %s", d->uri,
                           zmq_strerror(zmq_errno()));
        }
    }
    if (err != AIF_OK) {
        disconnect(d);
    }
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
    whole = !zmq_msg_more(msg);
    while (zmq_msg_more(msg) &&
           zmq_msg_recv(msg, d->socket, ZMQ_DONTWAIT) >= 0) {
    }
    if (!whole) {
        return aif_fail(e, AIF_EPROTO, "a frame in several parts");
    }
    return aif_frame_decode(zmq_msg_data(msg), zmq_msg_size(msg), f, e);
}

/* zmq_socket_monitor(3): a frame with the event's number, one with the
 * address. */
bool
aif_dealer_renewed(aif_dealer *d)
{
    bool renewed = false;
    uint8_t news[6];
    uint16_t event;

    while (zmq_recv(d->monitor, news, sizeof news, ZMQ_DONTWAIT) ==
           sizeof news) {
        (void)zmq_recv(d->monitor, NULL, 0, ZMQ_DONTWAIT);
        memcpy(&event, news, sizeof event);
        if (event == ZMQ_EVENT_DISCONNECTED) {
            d->lost = true;
        } else if (d->lost) {
            d->lost = false;
            renewed = true;
        }
    }
    return renewed;
}

bool
aif_dealer_wait(aif_dealer *d, int64_t ms)
{
    zmq_pollitem_t items[2] = {{.socket = d->socket, .events = ZMQ_POLLIN},
                               {.socket = d->monitor, .events = ZMQ_POLLIN}};

    return zmq_poll(items, 2, ms > 0 ? (long)ms : 0) >= 0;
}

static bool
readable(void *socket)
{
    int events = 0;
    size_t n = sizeof events;

    (void)zmq_getsockopt(socket, ZMQ_EVENTS, &events, &n);
    return (events & ZMQ_POLLIN) != 0;
}

bool
aif_dealer_ready(aif_dealer *d)
{
    bool frame = readable(d->socket); /* both: each look clears an fd */

    return readable(d->monitor) || frame;
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
