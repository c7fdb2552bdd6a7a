/* A process has one shared context, as it has one list in forks.c, and under
 * the same lock: no child is forked while it changes. */
#include "net/port.h"

#include "base/forks.h"
#include "net/address.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zmq.h>

#define CONTEXT 5 /* eventfds of three mailboxes, two epolls */
#define SPARE 16  /* for what other threads open meanwhile */
/* Three for each client or subscription, so 4,096 of them; libzmq's default
 * is 1,023.  Its table takes 12 bytes a socket. */
#define SOCKETS (3 * 4096)

static struct {
    void *ctx; /* NULL: nobody uses it */
    size_t users;
    pid_t owner;
} shared;

/* Free numbers below the limit are what counts: a new descriptor has the
 * lowest of them.  A look costs 0.1 us for each one that is open, opens
 * nothing, and stops when it has found enough. */
aif_err
aif_port_room(size_t n, aif_error *e)
{
    struct rlimit limit;
    size_t found = 0;

    n += SPARE;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return AIF_OK; /* nobody knows */
    }
    for (rlim_t fd = 0; fd < limit.rlim_cur && found < n; fd++) {
        found += fcntl((int)fd, F_GETFD) < 0;
    }
    if (found == n) {
        return AIF_OK;
    }
    return aif_fail(e, AIF_EMFILE,
                    "%zu file descriptors are needed, and of the %llu that "
                    "this process may have only %zu are free: raise the limit "
                    "(`ulimit -n`; LimitNOFILE= of a systemd unit), or close "
                    "some",
                    n, (unsigned long long)limit.rlim_cur, found);
}

aif_err
aif_port_failed(const char *what, aif_error *e)
{
    return aif_fail(e, zmq_errno() == EMFILE ? AIF_EMFILE : AIF_ENOMEM,
                    "%s: %s", what, zmq_strerror(zmq_errno()));
}

aif_err
aif_port_new(void **ctx, aif_error *e)
{
    aif_err err = aif_port_room(CONTEXT, e);

    *ctx = NULL;
    if (err == AIF_OK) {
        *ctx = zmq_ctx_new();
        err = *ctx == NULL ? aif_port_failed("a context of libzmq", e) : err;
    }
    return err;
}

void
aif_port_end(void *ctx)
{
    while (zmq_ctx_term(ctx) != 0 && zmq_errno() == EINTR) {
    }
}

aif_err
aif_port_get(void **ctx, aif_error *e)
{
    aif_err err = AIF_OK;

    *ctx = NULL;
    aif_forks_stop();
    if (shared.users > 0 && shared.owner != getpid()) {
        shared.users = 0; /* our parent's: it has no threads here */
    }
    if (shared.users == 0) {
        err = aif_port_new(&shared.ctx, e);
        shared.owner = getpid();
        if (err == AIF_OK) {
            (void)zmq_ctx_set(shared.ctx, ZMQ_MAX_SOCKETS, SOCKETS);
        }
    }
    if (err == AIF_OK) {
        shared.users++;
        *ctx = shared.ctx;
    }
    aif_forks_go();
    return err;
}

/* Who comes while the last one ends it makes another. */
void
aif_port_put(void *ctx)
{
    bool last;

    aif_forks_stop();
    last = --shared.users == 0;
    aif_forks_go();
    if (last) {
        aif_port_end(ctx);
    }
}

bool
aif_port_set(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

/* zmq's thread waits, for ever, to tell its news to one that has no room. */
void *
aif_port_monitor(void *ctx, void *socket, int events)
{
    static atomic_uint names;
    void *monitor = zmq_socket(ctx, ZMQ_PAIR);
    char name[32];
    int kept;

    (void)snprintf(name, sizeof name, "inproc://monitor-%u",
                   atomic_fetch_add(&names, 1));
    if (monitor == NULL || (aif_port_set(monitor, ZMQ_LINGER, 0) &&
                            aif_port_set(monitor, ZMQ_RCVHWM, 0) &&
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

/* zmq_socket_monitor(3): a frame with the event's number and its value, one
 * with the address. */
bool
aif_port_news(void *monitor, uint16_t *event, uint32_t *value)
{
    uint8_t news[6];

    if (zmq_recv(monitor, news, sizeof news, ZMQ_DONTWAIT) != sizeof news) {
        return false;
    }
    (void)zmq_recv(monitor, NULL, 0, ZMQ_DONTWAIT);
    memcpy(event, news, sizeof *event);
    memcpy(value, news + sizeof *event, sizeof *value);
    return true;
}

/* --- a client's connection ----------------------------------------------- */

#define HANDSHAKE_MS 1000 /* a dead broker's child accepts, but is silent */
#define HEARTBEAT_MS 1000
#define HEARTBEAT_TIMEOUT_MS 2000

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

static bool
dealer_configure(void *s, int hwm, int64_t frame_max)
{
    return aif_port_set(s, ZMQ_LINGER, 0) &&
           aif_port_set(s, ZMQ_SNDHWM, hwm) &&
           aif_port_set(s, ZMQ_RECONNECT_IVL, -1) &&
           aif_port_set(s, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) &&
           aif_port_set(s, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS) &&
           aif_port_set(s, ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS) &&
           zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &frame_max, sizeof frame_max) ==
               0;
}

#define NEWS                                                                  \
    (ZMQ_EVENT_CONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_CLOSED | \
     ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |          \
     ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)

aif_err
aif_port_dealer(void *ctx, int hwm, int64_t frame_max, void **socket,
                void **monitor, aif_error *e)
{
    aif_err err = AIF_OK;

    *monitor = NULL;
    *socket = zmq_socket(ctx, ZMQ_DEALER);
    if (*socket != NULL && dealer_configure(*socket, hwm, frame_max)) {
        *monitor = aif_port_monitor(ctx, *socket, NEWS);
    }
    if (*monitor == NULL) {
        err = aif_port_failed("a DEALER socket", e);
        aif_port_close(*socket, NULL, 0);
        *socket = NULL;
    }
    return err;
}

aif_err
aif_port_connect(void *socket, const char *uri, aif_error *e)
{
    (void)aif_port_set(socket, ZMQ_IPV6, aif_address_is_v6(uri));
    if (zmq_connect(socket, uri) != 0) {
        return aif_fail(e, AIF_EINVAL, "cannot connect to %s: %s", uri,
                        zmq_strerror(zmq_errno()));
    }
    return AIF_OK;
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
        (void)aif_port_set(socket, ZMQ_LINGER, linger_ms);
        (void)zmq_close(socket);
    }
}

void
aif_port_send(void *socket, const void *p, size_t n)
{
    (void)zmq_send(socket, p, n, ZMQ_DONTWAIT);
}

bool
aif_port_recv(void *socket, aif_port_msg *m, bool *whole)
{
    if (zmq_msg_recv(msg_of(m), socket, ZMQ_DONTWAIT) < 0) {
        return false;
    }
    *whole = !zmq_msg_more(msg_of(m));
    while (zmq_msg_more(msg_of(m)) &&
           zmq_msg_recv(msg_of(m), socket, ZMQ_DONTWAIT) >= 0) {
    }
    return true;
}

bool
aif_port_event_next(void *monitor, aif_port_event *event, int *fd)
{
    uint16_t news;
    uint32_t value;

    if (!aif_port_news(monitor, &news, &value)) {
        return false;
    }
    *event = AIF_PORT_LOST;
    if (news == ZMQ_EVENT_CONNECTED) {
        *event = AIF_PORT_MADE;
        *fd = (int)value;
    } else if (news == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
        *event = AIF_PORT_UP;
    } else if (news == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH ||
               (news == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL &&
                value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)) {
        *event = AIF_PORT_DENIED;
    }
    return true;
}

bool
aif_port_wait(void *socket, void *monitor, int64_t ms)
{
    zmq_pollitem_t items[2] = {{.socket = socket, .events = ZMQ_POLLIN},
                               {.socket = monitor, .events = ZMQ_POLLIN}};

    return zmq_poll(items, socket == NULL ? 0 : 2, ms > 0 ? (long)ms : 0) >= 0;
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
