/* broker/door.c - the connections of a broker.
 *
 * The happy path: libzmq's monitor tells of each that came and went, so their
 * number is known.  Who never gets as far as a frame (no ZMTP, no key, the
 * wrong one, silence) is counted, and said once.
 *
 * Beyond a bound the listener drops what knocks: with no descriptor left
 * libzmq would spin, and the store fail.  libzmq itself has no such bound:
 * ZMQ_MAX_SOCKETS is of sockets, not of connections.
 */
#include "broker/in.h"

#include "base/hash.h"
#include "base/mem.h"
#include "net/port.h"

#include <asm/socket.h>
#include <linux/filter.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define EVENTS                                                                \
    (ZMQ_EVENT_LISTENING | ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED |      \
     ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |                                   \
     ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL)
#define LOOKS 1000  /* events taken in one turn */
#define RESERVE 128 /* descriptors for the store and the host */

/* As many connections as there may be descriptors, less what we need. */
static size_t
most_connections(void)
{
    const size_t kept = RESERVE + AIF_BACKLOG;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 ||
        limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur > 1u << 20) {
        return 1u << 20;
    }
    return limit.rlim_cur > kept + limit.rlim_cur / 4
               ? (size_t)limit.rlim_cur - kept
               : (size_t)limit.rlim_cur / 4;
}

aif_err
aif_door_open(aif_broker *b, aif_error *e)
{
    aif_door *d = &b->door;

    d->most = most_connections();
    d->listener = -1;
    d->monitor = aif_port_monitor(b->ctx, b->router, EVENTS);
    if (d->monitor != NULL &&
        aif_port_set(b->router, ZMQ_BACKLOG, AIF_BACKLOG)) {
        return AIF_OK;
    }
    return aif_port_failed("a monitor", e);
}

/* For people, once for each address and reason. */
static void
say(aif_broker *b, const char *address, const char *why, const char *key)
{
    const aif_str once[] = {{address, strlen(address)}, {why, strlen(why)}};

    if (aif_trace_first(&b->stats.trace, aif_hash_strs(once, 2).lo)) {
        aif_seen_say(b, AIF_WARNING,
                     "connection refused address=%s why=\"%s\"%s%s (once; "
                     "further ones are counted)",
                     address, why, key[0] == '\0' ? "" : " key=", key);
    }
}

/* libzmq asks about a key by its peer's address only: of several connections
 * from there any one will do. */
void
aif_door_unknown(aif_broker *b, const char *address, const char *key)
{
    aif_door *d = &b->door;

    for (size_t i = 0; i < d->cap_peers; i++) {
        aif_door_peer *peer = &d->peers[i];

        if (peer->open && !peer->spoke && !peer->told &&
            strcmp(peer->address, address) == 0) {
            peer->told = true;
            break;
        }
    }
    say(b, address, "its key is not known", key);
}

void
aif_door_took(aif_broker *b, zmq_msg_t *last, bool ours)
{
    aif_door *d = &b->door;
    int fd = d->monitor == NULL ? -1 : zmq_msg_get(last, ZMQ_SRCFD);

    b->parts.drained++;
    if (fd >= 0 && (size_t)fd < d->cap_peers) {
        d->peers[fd].spoke |= ours;
        d->peers[fd].took = true;
    }
}

/* While there are too many connections, packets for the listener are dropped
 * by the kernel: who knocks waits and tries again, as with a full backlog.
 * Those that are open have sockets of their own and notice nothing.  Over ipc
 * there are no packets to drop, so the socket's file is put aside. */
static bool
shield(aif_broker *b, bool on)
{
    struct sock_filter drop = {.code = BPF_RET | BPF_K, .k = 0};
    struct sock_fprog all = {.len = 1, .filter = &drop};
    aif_door *d = &b->door;
    bool done = aif_address_is_tcp(b->endpoint.uri)
                    ? setsockopt(d->listener, SOL_SOCKET,
                                 on ? SO_ATTACH_FILTER : SO_DETACH_FILTER,
                                 &all, sizeof all) == 0
                    : aif_listen_hide(&b->endpoint, on);

    d->shielded = done ? on : d->shielded;
    return done;
}

static void
bound_connections(aif_broker *b)
{
    aif_door *d = &b->door;

    if (d->listener < 0) {
        return;
    }
    if (!d->shielded && d->n_peers >= d->most && shield(b, true)) {
        aif_seen_say(b, AIF_WARNING,
                     "connections are at their bound most=%zu (new ones wait)",
                     d->most);
    } else if (d->shielded && d->n_peers < d->most - d->most / 8 &&
               shield(b, false)) {
        aif_seen_say(b, AIF_INFO, "connections are taken again");
    }
}

/* Room for fd; without memory it stays unknown. */
static aif_door_peer *
peer_at(aif_door *d, uint32_t fd)
{
    size_t cap = d->cap_peers == 0 ? 64 : d->cap_peers;
    aif_door_peer *peers;

    while (cap <= fd) { /* a descriptor: the kernel bounds it */
        cap *= 2;
    }
    if (cap != d->cap_peers) {
        peers = aif_realloc(d->peers, cap * sizeof *peers);
        if (peers == NULL) {
            return NULL;
        }
        memset(peers + d->cap_peers, 0, (cap - d->cap_peers) * sizeof *peers);
        d->peers = peers;
        d->cap_peers = cap;
    }
    return &d->peers[fd];
}

/* It may be closed again, and fd another's: this is for people to read. */
static void
on_accepted(aif_broker *b, uint32_t fd)
{
    aif_door *d = &b->door;
    struct sockaddr_storage sa;
    socklen_t n = sizeof sa;
    aif_door_peer *peer = peer_at(d, fd);

    if (peer == NULL) {
        return;
    }
    d->n_peers += !peer->open;
    *peer = (aif_door_peer){.open = true};
    if (!aif_address_is_tcp(b->endpoint.uri)) {
        peer->spoke = true; /* who may open our file is no stranger */
        return;
    }
    aif_parts_accepted(peer, (int)fd);
    if (getpeername((int)fd, (struct sockaddr *)&sa, &n) != 0 ||
        getnameinfo((struct sockaddr *)&sa, n, peer->address,
                    sizeof peer->address, NULL, 0, NI_NUMERICHOST) != 0) {
        (void)snprintf(peer->address, sizeof peer->address, "unknown");
    }
}

static const char *
why(uint32_t code)
{
    switch (code) {
    case ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
        return "it uses keys where we do not, or none where we do";
    case ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
        return "it has another key for this broker, or replays";
    default:
        return "it does not speak our protocol";
    }
}

/* libzmq does not tell of every failure: of ZMTP 1.0, for one.  Who has not
 * said a word failed. */
static void
on_disconnected(aif_broker *b, uint32_t fd)
{
    aif_door *d = &b->door;
    aif_door_peer *peer = fd < d->cap_peers ? &d->peers[fd] : NULL;
    const char *failed = d->failed;

    d->failed = NULL;
    if (peer == NULL || !peer->open) {
        return;
    }
    peer->open = false;
    d->n_peers--;
    if (peer->spoke) {
        return;
    }
    aif_count(&b->stats.strangers, 1);
    if (!peer->told) {
        say(b, peer->address, failed != NULL ? failed : why(0), "");
    }
}

/* A failure is followed by its connection's end: libzmq has one I/O thread
 * here, which reports both. */
static void
on_event(aif_broker *b, uint16_t event, uint32_t value)
{
    aif_door *d = &b->door;

    switch (event) {
    case ZMQ_EVENT_LISTENING:
        d->listener = (int)value;
        break;
    case ZMQ_EVENT_ACCEPTED:
        on_accepted(b, value);
        break;
    case ZMQ_EVENT_DISCONNECTED:
        on_disconnected(b, value);
        break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        d->failed = "it did not finish its handshake";
        break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        d->failed = why(value);
        break;
    default:
        break;
    }
}

void
aif_door_tend(aif_broker *b)
{
    uint16_t event;
    uint32_t value;

    for (int i = 0;
         i < LOOKS && aif_port_news(b->door.monitor, &event, &value); i++) {
        on_event(b, event, value);
    }
    bound_connections(b);
}

void
aif_door_close(aif_broker *b)
{
    if (b->door.monitor != NULL) {
        (void)zmq_close(b->door.monitor);
    }
    aif_free(b->door.peers);
}
