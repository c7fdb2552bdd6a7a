/* seats.c - counts the connections of a broker, and bounds them.
 *
 * The happy path: libzmq's monitor tells of each connection that came and
 * went, so their number is known.  A connection that ends before its first
 * frame (it does not speak ZMTP, has no key or the wrong one, or says nothing)
 * is counted, and a line says so once for each address and reason.
 *
 * At the bound, new connections have to wait: without a free descriptor libzmq
 * would spin, and the store would fail.  libzmq itself has no such bound:
 * ZMQ_MAX_SOCKETS is of sockets, not of connections.
 */
#include "broker/seats.h"

#include "base/mem.h"
#include "net/port.h"

#include <asm/socket.h>
#include <linux/filter.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define LOOKS 1000  /* pieces of news taken in one turn */
#define RESERVE 128 /* descriptors for the store and the host */

/* As many connections as this process may have descriptors, less those that
 * the store, the host and the kernel's backlog need. */
static size_t
seats_most(void)
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

void
aif_seats_init(aif_seats *s, const aif_listen *listen, bool tcp,
               aif_status *status)
{
    *s = (aif_seats){.listen = listen,
                     .status = status,
                     .tcp = tcp,
                     .listener = -1,
                     .round = 1,
                     .parts = {.statm = -1}};
}

aif_err
aif_seats_open(aif_seats *s, void *ctx, void *router, aif_error *e)
{
    s->most = seats_most();
    if (s->tcp) {
        aif_parts_open(s);
    }
    s->news = true;
    return aif_port_router_monitor(ctx, router, &s->monitor, e);
}

void
aif_seats_close(aif_seats *s)
{
    aif_port_close(s->monitor, NULL, 0);
    aif_free(s->seats);
    aif_parts_close(s);
}

/* For people, once for each address and reason. */
static void
seats_say_refused(aif_seats *s, const char *address, const char *why,
                  const char *key)
{
    if (aif_status_first(s->status, (aif_str){address, strlen(address)},
                         (aif_str){why, strlen(why)})) {
        aif_status_say(s->status, AIF_WARNING,
                       "connection refused address=%s why=\"%s\"%s%s (once; "
                       "further ones are counted)",
                       address, why, key[0] == '\0' ? "" : " key=", key);
    }
}

/* libzmq names only the address when it asks about a key.  Where there are
 * several connections from one address, any of them is marked: it is only so
 * that no second line is said when it ends. */
void
aif_seats_unknown(aif_seats *s, const char *address, const char *key)
{
    for (size_t i = 0; i < s->cap; i++) {
        aif_seat *seat = &s->seats[i];

        if (seat->open && !seat->spoke && !seat->told &&
            strcmp(seat->address, address) == 0) {
            seat->told = true;
            break;
        }
    }
    seats_say_refused(s, address, "its key is not known", key);
}

/* The seat of a descriptor; NULL: no memory, and the connection is not
 * counted. */
static aif_seat *
seats_at(aif_seats *s, uint32_t fd)
{
    size_t cap = s->cap == 0 ? 64 : s->cap;
    aif_seat *seats;

    while (cap <= fd) { /* the kernel bounds descriptors */
        cap *= 2;
    }
    if (cap != s->cap) {
        seats = aif_realloc(s->seats, cap * sizeof *seats);
        if (seats == NULL) {
            return NULL;
        }
        memset(seats + s->cap, 0, (cap - s->cap) * sizeof *seats);
        s->seats = seats;
        s->cap = cap;
    }
    return &s->seats[fd];
}

void
aif_seats_took(aif_seats *s, const aif_message *m)
{
    int fd = aif_message_fd(m);
    aif_seat *seat = fd >= 0 ? seats_at(s, (uint32_t)fd) : NULL;

    s->parts.drained++;
    if (seat != NULL) {
        seat->spoke |= m->ours;
        seat->took = true;
        if (m->ours) {
            seat->heard = s->round;
        }
    }
}

/* While there are too many connections, the kernel drops packets for the
 * listener: a new client waits and tries again, as with a full backlog.  Open
 * connections have sockets of their own and notice nothing.  Over ipc there
 * are no packets to drop, so the socket's file is put aside. */
static bool
seats_shield(aif_seats *s, bool on)
{
    struct sock_filter drop = {.code = BPF_RET | BPF_K, .k = 0};
    struct sock_fprog all = {.len = 1, .filter = &drop};
    bool done = s->tcp ? setsockopt(s->listener, SOL_SOCKET,
                                    on ? SO_ATTACH_FILTER : SO_DETACH_FILTER,
                                    &all, sizeof all) == 0
                       : aif_listen_hide(s->listen, on);

    s->shielded = done ? on : s->shielded;
    return done;
}

static void
seats_bound(aif_seats *s)
{
    if (s->listener < 0) {
        return;
    }
    if (!s->shielded && s->n >= s->most && seats_shield(s, true)) {
        aif_status_say(
            s->status, AIF_WARNING,
            "connections are at their bound most=%zu (new ones wait)",
            s->most);
    } else if (s->shielded && s->n < s->most - s->most / 8 &&
               seats_shield(s, false)) {
        aif_status_say(s->status, AIF_INFO, "connections are taken again");
    }
}

/* By now the connection may be closed, and the descriptor another one's.  So
 * the address is good enough for people to read, and for nothing else.
 *
 * Its first frame may have been taken before this news of it.  So whoever had
 * this descriptor and was heard in this round may be this one, and is taken
 * for no stranger. */
static void
seats_on_accepted(aif_seats *s, uint32_t fd)
{
    struct sockaddr_storage sa;
    socklen_t n = sizeof sa;
    aif_seat *seat = seats_at(s, fd);

    if (seat == NULL) {
        return;
    }
    s->n += !seat->open;
    *seat = (aif_seat){
        .open = true, .spoke = seat->heard == s->round, .heard = seat->heard};
    if (!s->tcp) {
        seat->spoke = true; /* only this user may open the socket's file */
        return;
    }
    aif_parts_accepted(seat, (int)fd);
    if (getpeername((int)fd, (struct sockaddr *)&sa, &n) != 0 ||
        getnameinfo((struct sockaddr *)&sa, n, seat->address,
                    sizeof seat->address, NULL, 0, NI_NUMERICHOST) != 0) {
        (void)snprintf(seat->address, sizeof seat->address, "unknown");
    }
}

/* libzmq does not tell of every failure, for example not of a peer that speaks
 * ZMTP 1.0, as HTTP seems to.  Nor is it one when a client goes after its
 * handshake, because we were too slow for it.  Both look alike here. */
static void
seats_on_disconnected(aif_seats *s, uint32_t fd)
{
    aif_seat *seat = fd < s->cap ? &s->seats[fd] : NULL;
    const char *failed = s->failed;

    s->failed = NULL;
    if (seat == NULL || !seat->open) {
        return;
    }
    seat->open = false;
    s->n--;
    if (seat->spoke) {
        return;
    }
    aif_status_count(s->status, AIF_N_STRANGERS, 1);
    if (!seat->told) {
        seats_say_refused(s, seat->address,
                          failed != NULL ? failed
                                         : "it sent no frame: it speaks "
                                           "another protocol, or left at once",
                          "");
    }
}

/* The end of a connection directly follows the news that its handshake failed,
 * because the one I/O thread of this context reports both. */
static void
seats_on_event(aif_seats *s, aif_port_event event, int fd)
{
    switch (event) {
    case AIF_PORT_LISTENING:
        s->listener = fd;
        break;
    case AIF_PORT_MADE:
        seats_on_accepted(s, (uint32_t)fd);
        break;
    case AIF_PORT_LOST:
        seats_on_disconnected(s, (uint32_t)fd);
        break;
    case AIF_PORT_UNFINISHED:
        s->failed = "it did not finish its handshake";
        break;
    case AIF_PORT_OTHER_MECHANISM:
        s->failed = "it uses keys where we do not, or none where we do";
        break;
    case AIF_PORT_OTHER_KEY:
        s->failed = "it has another key for this broker, or replays";
        break;
    case AIF_PORT_OTHER_PROTOCOL:
        s->failed = "it does not speak our protocol";
        break;
    default:
        break;
    }
}

/* A round ends when all news of it was taken: at a look that found nothing, or
 * when there is none before anything is drained. */
void
aif_seats_begin(aif_seats *s, bool news)
{
    s->news |= news;
    s->round += !s->news;
}

/* The broker waits for the monitor's descriptor, not for its socket: zmq_poll
 * asks a socket twice in each turn, which with the look here was 5 % of the
 * turn of one event.  The descriptor tells only of what comes after the last
 * look that found nothing. */
void
aif_seats_tend(aif_seats *s)
{
    aif_port_event event;
    int fd;

    for (int i = 0; i < LOOKS && s->news; i++) {
        s->news = aif_port_event_next(s->monitor, &event, &fd);
        if (s->news) {
            seats_on_event(s, event, fd);
        } else {
            s->round++;
        }
    }
    seats_bound(s);
}
