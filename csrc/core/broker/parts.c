/* broker/parts.c - who sends parts of a message that does not end.
 *
 * libzmq keeps the parts of a message until the last one comes, and bounds
 * each (ZMQ_MAXMSGSIZE), not all of them.  We see only whole messages; but
 * the kernel tells how many bytes a connection received:
 *
 *   tick     the process grew: there may be somebody
 *   note     how much each connection has sent until now, and libzmq read
 *   drain    what was whole by then is taken, from everybody
 *   judge    who gave nothing, and had sent more than a frame may have: its
 *            connection is shut down, and libzmq frees the parts
 *
 * A message of ours is one frame, so who keeps to the protocol has no more
 * than one that is not whole, however much of his waits to be drained.  A
 * broker that waits for its store does not look meanwhile.
 *
 * TCP only: the kernel does not count for ipc, where all are this user.
 */
#include "broker/in.h"

#include "base/clock.h"
#include "base/hash.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* A peer on this machine sends some 20 MiB meanwhile.  While somebody is
 * connected a broker that has nothing to do takes 0.3 % of a core for it. */
#define TICK_MS 20
#define PEERS_A_MS 50 /* a look at so many is paid for by a ms without one */
#define GROWTH (8u << 20)
/* Heartbeats are counted too: those of a client that says nothing need weeks
 * for a MiB, and then it connects again. */
#define MOST (AIF_FRAME_MAX + (1u << 20))

void
aif_parts_open(aif_broker *b)
{
    b->parts.statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    b->parts.on = true;
}

void
aif_parts_close(aif_broker *b)
{
    if (b->parts.on && b->parts.statm >= 0) {
        (void)close(b->parts.statm);
    }
}

/* Bytes of memory; 0: not known. */
static uint64_t
resident(const aif_parts *p)
{
    char text[64];
    unsigned long long pages;
    ssize_t n = pread(p->statm, text, sizeof text - 1, 0);

    text[n > 0 ? n : 0] = '\0';
    return sscanf(text, "%*u %llu", &pages) == 1
               ? pages * (uint64_t)sysconf(_SC_PAGESIZE)
               : 0;
}

/* Where it is not known, each tick looks. */
static bool
has_grown(aif_parts *p)
{
    uint64_t now = resident(p);

    if (now != 0 && now < p->resident + GROWTH) {
        p->resident = now < p->resident ? now : p->resident;
        return false;
    }
    p->resident = now;
    return true;
}

/* Bytes that the peer sent and libzmq read, in this order: what comes
 * meanwhile makes it less. */
static uint64_t
bytes_read(int fd)
{
    const size_t needed =
        offsetof(struct tcp_info, tcpi_bytes_received) + sizeof(uint64_t);
    struct tcp_info info;
    socklen_t n = sizeof info;
    int waiting = 0;
    uint64_t all;

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) != 0 || n < needed ||
        ioctl(fd, SIOCINQ, &waiting) != 0) {
        return 0;
    }
    all = info.tcpi_bytes_received;
    return all > (uint64_t)waiting ? all - (uint64_t)waiting : 0;
}

void
aif_parts_accepted(aif_seat *peer, int fd)
{
    struct stat st;

    peer->inode = fstat(fd, &st) == 0 ? st.st_ino : 0;
    peer->before = bytes_read(fd);
}

static void
note(aif_broker *b)
{
    for (size_t fd = 0; fd < b->seats.cap_peers; fd++) {
        aif_seat *peer = &b->seats.peers[fd];

        if (peer->open) {
            peer->read = bytes_read((int)fd);
            if (peer->took) { /* what came before is whole, but for a part */
                peer->before = peer->read;
                peer->took = false;
            }
        }
    }
    b->parts.noted = true;
    b->parts.drained = 0;
}

/* The descriptor may be another's by now: a copy stays what it is while we
 * look whose.  libzmq finds the end and closes; without a reset the peer might
 * wait for room in a window of which nobody tells it any more. */
static bool
shut_peer(const aif_seat *peer, int fd)
{
    const struct linger reset = {.l_onoff = 1, .l_linger = 0};
    struct stat st;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    bool is_it =
        copy >= 0 && fstat(copy, &st) == 0 && st.st_ino == peer->inode;

    if (is_it) {
        (void)setsockopt(copy, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        (void)shutdown(copy, SHUT_RDWR);
    }
    if (copy >= 0) {
        (void)close(copy);
    }
    return is_it;
}

static void
end(aif_broker *b, aif_seat *peer, int fd)
{
    static const char why[] = "its message of many parts does not end";
    const aif_str once[] = {{peer->address, strlen(peer->address)},
                            {why, sizeof why - 1}};

    if (!shut_peer(peer, fd)) {
        return;
    }
    peer->told = true;
    peer->before = peer->read; /* it is closed in a moment */
    aif_count(&b->status.endless, 1);
    if (aif_trace_first(&b->status.trace, aif_hash_strs(once, 2).lo)) {
        aif_status_say(
            b, AIF_WARNING,
            "connection closed address=%s why=\"%s\" (once; further "
            "ones are counted)",
            peer->address, why);
    }
}

static void
judge(aif_broker *b)
{
    for (size_t fd = 0; fd < b->seats.cap_peers; fd++) {
        aif_seat *peer = &b->seats.peers[fd];

        if (peer->open && !peer->took && peer->read > peer->before + MOST) {
            end(b, peer, (int)fd);
        }
    }
    b->parts.noted = false;
}

/* libzmq takes from its connections in turn: who had something whole has
 * given some of it when there is nothing left, or all had two turns. */
static bool
all_had_a_turn(const aif_broker *b, bool dry)
{
    return dry || b->parts.drained > 2 * b->seats.n_peers + 64;
}

void
aif_parts_look(aif_broker *b, bool dry)
{
    aif_parts *p = &b->parts;
    int64_t now;

    if (!p->on) {
        return;
    }
    if (p->noted && all_had_a_turn(b, dry)) {
        judge(b);
    }
    now = aif_now_ms();
    if (!p->noted && now >= p->due) {
        p->due = now + TICK_MS;
        if (has_grown(p)) {
            p->due += (int64_t)b->seats.n_peers / PEERS_A_MS;
            note(b);
        }
    }
}

long
aif_parts_wait(const aif_broker *b, long due)
{
    int64_t tick = b->parts.noted ? 0 : b->parts.due - aif_now_ms();

    if (!b->parts.on || b->seats.n_peers == 0 || (due >= 0 && due <= tick)) {
        return due;
    }
    return tick > 0 ? (long)tick : 0;
}
