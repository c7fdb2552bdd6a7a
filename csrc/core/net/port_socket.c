/* port_socket.c - sockets and messages.
 *
 * The happy path: a ROUTER socket is made and bound, or a DEALER socket is
 * made and connected.  Both are polled, and give and take messages without
 * waiting.  A monitor tells what becomes of their connections.
 */
#include "net/port.h"

#include "net/address.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

/* --- messages ------------------------------------------------------------ */

_Static_assert(sizeof(aif_port_msg) == sizeof(zmq_msg_t),
               "aif_port_msg holds one");

static zmq_msg_t *
msg_of(const aif_port_msg *m)
{
    return (zmq_msg_t *)(uintptr_t)m;
}

void
aif_port_msg_init(aif_port_msg *m)
{
    (void)zmq_msg_init(msg_of(m));
}

void
aif_port_msg_fini(aif_port_msg *m)
{
    (void)zmq_msg_close(msg_of(m));
}

void
aif_port_msg_move(aif_port_msg *to, aif_port_msg *from)
{
    (void)zmq_msg_move(msg_of(to), msg_of(from));
}

aif_str
aif_port_msg_bytes(const aif_port_msg *m)
{
    return (aif_str){zmq_msg_data(msg_of(m)), zmq_msg_size(msg_of(m))};
}

bool
aif_port_msg_more(const aif_port_msg *m)
{
    return zmq_msg_more(msg_of(m)) != 0;
}

const char *
aif_port_msg_property(const aif_port_msg *m, const char *name)
{
    return zmq_msg_gets(msg_of(m), name);
}

int
aif_port_msg_fd(const aif_port_msg *m)
{
    return zmq_msg_get(msg_of(m), ZMQ_SRCFD);
}

bool
aif_port_part(void *socket, aif_port_msg *m)
{
    return zmq_msg_recv(msg_of(m), socket, ZMQ_DONTWAIT) >= 0;
}

bool
aif_port_recv(void *socket, aif_port_msg *m, bool *whole)
{
    if (!aif_port_part(socket, m)) {
        return false;
    }
    *whole = !aif_port_msg_more(m);
    while (aif_port_msg_more(m) && aif_port_part(socket, m)) {
    }
    return true;
}

void
aif_port_send(void *socket, aif_str part, bool more)
{
    (void)zmq_send(socket, part.p, part.n,
                   ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0));
}

aif_sent
aif_port_send_to(void *router, aif_str to, aif_str bytes)
{
    aif_sent how = AIF_SENT;
    zmq_msg_t frame;

    if (zmq_msg_init_size(&frame, bytes.n) != 0) {
        return AIF_FULL; /* nothing was sent yet, not even the route */
    }
    memcpy(zmq_msg_data(&frame), bytes.p, bytes.n);
    if (zmq_send(router, to.p, to.n, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) {
        how = zmq_errno() == EHOSTUNREACH ? AIF_GONE : AIF_FULL;
    } else if (zmq_msg_send(&frame, router, ZMQ_DONTWAIT) < 0) {
        how = AIF_FULL; /* cannot happen: there was room for the route */
    }
    if (how != AIF_SENT) {
        (void)zmq_msg_close(&frame);
    }
    return how;
}

/* --- sockets ------------------------------------------------------------- */

static bool
socket_set(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

static bool
socket_limit(void *s, const aif_port_limits *l)
{
    return socket_set(s, ZMQ_LINGER, 0) &&
           socket_set(s, ZMQ_SNDHWM, l->send_hwm) &&
           socket_set(s, ZMQ_HANDSHAKE_IVL, l->handshake_ms) &&
           socket_set(s, ZMQ_HEARTBEAT_IVL, l->heartbeat_ms) &&
           socket_set(s, ZMQ_HEARTBEAT_TIMEOUT, l->heartbeat_timeout_ms) &&
           zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &l->frame_max,
                          sizeof l->frame_max) == 0;
}

/* First the monitor ends: zmq's thread waits, for ever, to tell its news to
 * one that has no reader. */
void
aif_port_close(void *socket, void *monitor, int linger_ms)
{
    if (monitor != NULL) {
        (void)zmq_socket_monitor(socket, NULL, 0);
        (void)zmq_close(monitor);
    }
    if (socket != NULL) {
        (void)socket_set(socket, ZMQ_LINGER, linger_ms);
        (void)zmq_close(socket);
    }
}

aif_err
aif_port_bind(void *socket, const char *uri, int fd, aif_error *e)
{
    (void)socket_set(socket, ZMQ_IPV6, aif_address_is_v6(uri));
    if ((fd >= 0 && !socket_set(socket, ZMQ_USE_FD, fd)) ||
        zmq_bind(socket, uri) != 0) {
        return aif_fail(e,
                        zmq_errno() == EADDRINUSE ? AIF_ECONFLICT : AIF_EINVAL,
                        "cannot serve %s: %s", uri, zmq_strerror(zmq_errno()));
    }
    return AIF_OK;
}

void
aif_port_endpoint(void *socket, char *uri, size_t n)
{
    (void)zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, uri, &n);
}

aif_err
aif_port_connect(void *socket, const char *uri, aif_error *e)
{
    (void)socket_set(socket, ZMQ_IPV6, aif_address_is_v6(uri));
    if (zmq_connect(socket, uri) != 0) {
        return aif_fail(e, AIF_EINVAL, "cannot connect to %s: %s", uri,
                        zmq_strerror(zmq_errno()));
    }
    return AIF_OK;
}

aif_err
aif_port_poll(aif_port_item *items, size_t n, long ms, int *ready,
              aif_error *e)
{
    zmq_pollitem_t all[AIF_PORT_ITEMS];

    assert(n <= AIF_PORT_ITEMS);
    for (size_t i = 0; i < n; i++) {
        all[i] = (zmq_pollitem_t){.socket = items[i].socket,
                                  .fd = items[i].fd,
                                  .events = ZMQ_POLLIN};
    }
    *ready = zmq_poll(all, (int)n, ms);
    for (size_t i = 0; i < n; i++) {
        items[i].ready = all[i].revents != 0;
    }
    return *ready >= 0 || zmq_errno() == EINTR
               ? AIF_OK
               : aif_fail(e, AIF_ECLOSED, "waiting for frames: %s",
                          zmq_strerror(zmq_errno()));
}

bool
aif_port_readable(void *socket)
{
    int events = 0;
    size_t n = sizeof events;

    (void)zmq_getsockopt(socket, ZMQ_EVENTS, &events, &n);
    return (events & ZMQ_POLLIN) != 0;
}

int
aif_port_fd(void *socket)
{
    int fd = -1;
    size_t n = sizeof fd;

    (void)zmq_getsockopt(socket, ZMQ_FD, &fd, &n);
    return fd;
}

/* --- monitors ------------------------------------------------------------ */

/* NULL: zmq_errno says why.  zmq's thread waits, for ever, to tell its news to
 * one that has no room. */
static void *
monitor_open(void *ctx, void *socket, int events)
{
    static atomic_uint names;
    void *monitor = zmq_socket(ctx, ZMQ_PAIR);
    char name[32];
    int kept;

    (void)snprintf(name, sizeof name, "inproc://monitor-%u",
                   atomic_fetch_add(&names, 1));
    if (monitor == NULL || (socket_set(monitor, ZMQ_LINGER, 0) &&
                            socket_set(monitor, ZMQ_RCVHWM, 0) &&
                            zmq_socket_monitor(socket, name, events) == 0 &&
                            zmq_connect(monitor, name) == 0)) {
        return monitor;
    }
    kept = zmq_errno();
    (void)zmq_socket_monitor(socket, NULL, 0);
    (void)zmq_close(monitor);
    errno = kept;
    return NULL;
}

static aif_port_event
event_of(uint16_t event, uint32_t value)
{
    switch (event) {
    case ZMQ_EVENT_LISTENING:
        return AIF_PORT_LISTENING;
    case ZMQ_EVENT_ACCEPTED:
    case ZMQ_EVENT_CONNECTED:
        return AIF_PORT_MADE;
    case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        return AIF_PORT_UP;
    case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
        return AIF_PORT_DENIED;
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        return AIF_PORT_UNFINISHED;
    case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
                   ? AIF_PORT_OTHER_MECHANISM
               : value == ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC
                   ? AIF_PORT_OTHER_KEY
                   : AIF_PORT_OTHER_PROTOCOL;
    default:
        return AIF_PORT_LOST;
    }
}

static int
monitor_part(void *monitor, void *part, size_t size)
{
    int n;

    do {
        n = zmq_recv(monitor, part, size, ZMQ_DONTWAIT);
    } while (n < 0 && zmq_errno() == EINTR);
    return n;
}

/* zmq_socket_monitor(3): a frame with the event's number and its value, which
 * is a descriptor or an error; one with the address. */
bool
aif_port_event_next(void *monitor, aif_port_event *event, int *fd)
{
    uint8_t news[6];
    uint16_t number;
    uint32_t value;

    if (monitor_part(monitor, news, sizeof news) != sizeof news) {
        return false;
    }
    (void)monitor_part(monitor, NULL, 0);
    memcpy(&number, news, sizeof number);
    memcpy(&value, news + sizeof number, sizeof value);
    *event = event_of(number, value);
    *fd = (int)value;
    return true;
}

/* --- a broker's sockets -------------------------------------------------- */

aif_err
aif_port_router(void *ctx, const aif_port_limits *l, void **socket,
                aif_error *e)
{
    void *s = zmq_socket(ctx, ZMQ_ROUTER);
    aif_err err;

    *socket = s;
    if (s != NULL && socket_limit(s, l) &&
        socket_set(s, ZMQ_ROUTER_MANDATORY, 1) &&
        socket_set(s, ZMQ_RCVHWM, l->recv_hwm) &&
        socket_set(s, ZMQ_BACKLOG, l->backlog)) {
        return AIF_OK;
    }
    err = aif_port_failed("a ROUTER socket", e);
    aif_port_close(s, NULL, 0);
    *socket = NULL;
    return err;
}

aif_err
aif_port_router_monitor(void *ctx, void *router, void **monitor, aif_error *e)
{
    *monitor = monitor_open(ctx, router,
                            ZMQ_EVENT_LISTENING | ZMQ_EVENT_ACCEPTED |
                                ZMQ_EVENT_DISCONNECTED |
                                ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                                ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL);
    return *monitor != NULL ? AIF_OK : aif_port_failed("a monitor", e);
}

aif_err
aif_port_zap(void *ctx, void **socket, aif_error *e)
{
    aif_err err;

    *socket = zmq_socket(ctx, ZMQ_REP);
    if (*socket != NULL && socket_set(*socket, ZMQ_LINGER, 0) &&
        zmq_bind(*socket, "inproc://zeromq.zap.01") == 0) {
        return AIF_OK;
    }
    err = aif_fail(e, AIF_ENOMEM, "a socket for ZAP: %s",
                   zmq_strerror(zmq_errno()));
    aif_port_close(*socket, NULL, 0);
    *socket = NULL;
    return err;
}

aif_err
aif_port_zap_domain(void *router, aif_str domain, aif_error *e)
{
    return zmq_setsockopt(router, ZMQ_ZAP_DOMAIN, domain.p, domain.n) == 0
               ? AIF_OK
               : aif_fail(e, AIF_ENOMEM, "a ZAP domain: %s",
                          zmq_strerror(zmq_errno()));
}

/* --- a client's connection ----------------------------------------------- */

#define HANDSHAKE_MS 1000 /* a dead broker's child accepts, but is silent */
#define HEARTBEAT_MS 1000
#define HEARTBEAT_TIMEOUT_MS 2000

#define NEWS                                                                  \
    (ZMQ_EVENT_CONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_CLOSED | \
     ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |          \
     ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)

aif_err
aif_port_dealer(void *ctx, int hwm, int64_t frame_max, void **socket,
                void **monitor, aif_error *e)
{
    const aif_port_limits limits = {.send_hwm = hwm,
                                    .handshake_ms = HANDSHAKE_MS,
                                    .heartbeat_ms = HEARTBEAT_MS,
                                    .heartbeat_timeout_ms =
                                        HEARTBEAT_TIMEOUT_MS,
                                    .frame_max = frame_max};
    aif_err err = AIF_OK;

    *monitor = NULL;
    *socket = zmq_socket(ctx, ZMQ_DEALER);
    if (*socket != NULL && socket_limit(*socket, &limits) &&
        socket_set(*socket, ZMQ_RECONNECT_IVL, -1)) {
        *monitor = monitor_open(ctx, *socket, NEWS);
    }
    if (*monitor == NULL) {
        err = aif_port_failed("a DEALER socket", e);
        aif_port_close(*socket, NULL, 0);
        *socket = NULL;
    }
    return err;
}

/* --- CURVE --------------------------------------------------------------- */

bool
aif_port_key_pair(char public[static 41], char secret[static 41])
{
    return zmq_curve_keypair(public, secret) == 0;
}

bool
aif_port_key_public(const char *secret, char public[static 41])
{
    return zmq_curve_public(public, secret) == 0;
}

void
aif_port_key_text(const uint8_t key[static 32], char text[static 41])
{
    (void)zmq_z85_encode(text, key, 32);
}

static bool
key_set(void *socket, int option, const char *key)
{
    return zmq_setsockopt(socket, option, key, 41) == 0;
}

bool
aif_port_curve_client(void *socket, const char *server, const char *public,
                      const char *secret)
{
    return key_set(socket, ZMQ_CURVE_SERVERKEY, server) &&
           key_set(socket, ZMQ_CURVE_PUBLICKEY, public) &&
           key_set(socket, ZMQ_CURVE_SECRETKEY, secret);
}

bool
aif_port_curve_server(void *socket, const char *secret)
{
    return socket_set(socket, ZMQ_CURVE_SERVER, 1) &&
           key_set(socket, ZMQ_CURVE_SECRETKEY, secret);
}
