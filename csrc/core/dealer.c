/* dealer.c - the happy path: connect (zmq does it in the background, and
 * again by itself whenever the broker comes back), queue frames, take frames.
 *
 * Silence is cured by a new connection: a killed broker's connections stay
 * open, and silent, for as long as a child that it forked lives.
 */
#include "dealer.h"

#include <string.h>

#define SEND_HWM 64 /* hints, mostly: one request is under way at a time */
#define RECONNECT_MS 20
#define RECONNECT_MOST_MS 200
#define HANDSHAKE_MS                                                          \
    1000 /* a dead broker's child may accept, but not speak                   \
          */

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
    if (d->socket != NULL) {
        (void)zmq_close(d->socket);
        d->socket = NULL;
    }
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
           zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &max, sizeof max) == 0;
}

aif_err
aif_dealer_connect(aif_dealer *d, aif_error *e)
{
    disconnect(d);
    if (d->ctx == NULL) {
        d->ctx = zmq_ctx_new();
    }
    if (d->ctx != NULL) {
        d->socket = zmq_socket(d->ctx, ZMQ_DEALER);
    }
    if (d->socket == NULL || !configure(d->socket)) {
        aif_fail(e, AIF_ENOMEM, "a DEALER socket: %s",
                 zmq_strerror(zmq_errno()));
        disconnect(d);
        return AIF_ENOMEM;
    }
    aif_endpoint_family(d->socket, d->uri);
    if (zmq_connect(d->socket, d->uri) != 0) {
        aif_fail(e, AIF_EINVAL, "cannot connect to %s: %s", d->uri,
                 zmq_strerror(zmq_errno()));
        disconnect(d);
        return AIF_EINVAL;
    }
    return AIF_OK;
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

bool
aif_dealer_wait(aif_dealer *d, int64_t ms)
{
    zmq_pollitem_t item = {.socket = d->socket, .events = ZMQ_POLLIN};

    return zmq_poll(&item, 1, ms > 0 ? (long)ms : 0) >= 0;
}

bool
aif_dealer_ready(aif_dealer *d)
{
    int events = 0;
    size_t n = sizeof events;

    (void)zmq_getsockopt(d->socket, ZMQ_EVENTS, &events, &n);
    return (events & ZMQ_POLLIN) != 0;
}

int
aif_dealer_fd(aif_dealer *d)
{
    int fd = -1;
    size_t n = sizeof fd;

    (void)zmq_getsockopt(d->socket, ZMQ_FD, &fd, &n);
    return fd;
}

aif_err
aif_dealer_error(const aif_frame *f, aif_error *e)
{
    aif_fail(e, f->code, "%.*s", (int)f->text.n, f->text.p);
    memcpy(e->sqlstate, f->sqlstate.p, f->sqlstate.n);
    e->sqlstate[f->sqlstate.n] = '\0';
    return f->code;
}
