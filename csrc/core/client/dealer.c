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
#define ATTEMPT_MS 1500 /* a host that is gone does not even refuse */

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

static void
dealer_close(aif_dealer *d, int linger_ms)
{
    aif_forks_disown(&d->owned);
    aif_port_close(d->socket, d->monitor, linger_ms);
    d->socket = d->monitor = NULL;
    d->fd = -1;
    d->up = d->failed = false;
    d->due = aif_now_ms() + ATTEMPT_MS;
}

void
aif_dealer_disconnect(aif_dealer *d)
{
    dealer_close(d, 0);
}

void
aif_dealer_fini(aif_dealer *d, int linger_ms)
{
    dealer_close(d, linger_ms);
    if (d->ctx != NULL) {
        aif_port_put(d->ctx);
        d->ctx = NULL;
    }
}

/* Only tcp: an ipc socket's file mode keeps others out. */
static aif_err
dealer_set_keys(aif_dealer *d, const char *uri, aif_error *e)
{
    return d->keys && aif_address_is_tcp(uri)
               ? aif_curve_client(d->socket, &d->curve, e)
               : AIF_OK;
}

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
    return err != AIF_OK ? err
                         : aif_port_dealer(d->ctx, SEND_HWM, AIF_FRAME_MAX,
                                           &d->socket, &d->monitor, e);
}

static aif_err
dealer_connect_at(aif_dealer *d, const char *uri, aif_error *e)
{
    aif_err err;

    aif_dealer_disconnect(d);
    err = dealer_make_sockets(d, e);
    if (err == AIF_OK) {
        err = dealer_set_keys(d, uri, e);
    }
    if (err == AIF_OK) {
        err = aif_port_connect(d->socket, uri, e);
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
    aif_port_send(d->socket, (aif_str){(const char *)frame->p, frame->n},
                  false);
}

aif_err
aif_dealer_recv(aif_dealer *d, aif_port_msg *msg, aif_frame *f, bool *got,
                aif_error *e)
{
    aif_str bytes;
    bool whole;

    *f = (aif_frame){0};
    *got = aif_port_recv(d->socket, msg, &whole);
    if (!*got) {
        return AIF_OK;
    }
    if (!d->up) { /* it is: the news of it came first */
        (void)aif_dealer_gone(d, 0);
    }
    if (!whole) {
        return aif_fail(e, AIF_EPROTO, "a frame in several parts");
    }
    bytes = aif_port_msg_bytes(msg);
    return aif_frame_decode(bytes.p, bytes.n, f, e);
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
dealer_hear(aif_dealer *d, aif_port_event event, int fd, int64_t now)
{
    bool denied =
        event == AIF_PORT_DENIED || event == AIF_PORT_OTHER_MECHANISM;

    if (event == AIF_PORT_MADE) {
        d->fd = fd;
    } else if (event == AIF_PORT_UP) {
        d->up = true;
        d->tries = d->denied = 0;
    } else {
        d->denied |= (unsigned)denied << d->at;
        if (!d->failed) {
            d->failed = true;
            d->due = now + dealer_pause(d->tries + 1, d->uris.n);
        }
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
    aif_port_event event;
    int fd;

    while (aif_port_event_next(d->monitor, &event, &fd)) {
        dealer_hear(d, event, fd, now);
    }
    if (d->fd >= 0 && d->up && !d->failed) { /* so libzmq has not closed it */
        aif_forks_own(&d->owned, d->fd);
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
                    d->keys ? "the broker does not take our keys: they were "
                              "revoked, or never were in its access.toml"
                            : "the broker wants keys (CURVE), and we have "
                              "none: set AIFLOW_KEY_FILE to the file that "
                              "`aiflow keys new` made for us");
}

bool
aif_dealer_wait(aif_dealer *d, int64_t ms)
{
    aif_port_item items[] = {{.socket = d->socket}, {.socket = d->monitor}};
    aif_error e;
    int ready;

    return aif_port_poll(items, d->socket == NULL ? 0 : 2,
                         ms > 0 ? (long)ms : 0, &ready, &e) == AIF_OK &&
           ready >= 0;
}

bool
aif_dealer_ready(aif_dealer *d)
{
    bool frame =
        aif_port_readable(d->socket); /* both: each look clears an fd */

    return aif_port_readable(d->monitor) || frame;
}

void
aif_dealer_fds(aif_dealer *d, int fds[static 2])
{
    fds[0] = aif_port_fd(d->socket);
    fds[1] = aif_port_fd(d->monitor);
}

aif_err
aif_dealer_error(const aif_frame *f, aif_error *e)
{
    aif_fail(e, f->code, "%.*s", (int)f->text.n, f->text.p);
    memcpy(e->sqlstate, f->sqlstate.p, f->sqlstate.n);
    e->sqlstate[f->sqlstate.n] = '\0';
    return f->code;
}
