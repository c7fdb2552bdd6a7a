/* parts.c - ends connections that send parts of a message without end.
 *
 * libzmq keeps the parts of a message until the last one comes.  It bounds the
 * size of each part (ZMQ_MAXMSGSIZE), and not the sum.  The broker only sees
 * whole messages, but the kernel tells how many bytes a connection received:
 *
 *   tick     every 20 ms: has this process grown by 8 MiB?  Then
 *   note     how many bytes of each connection libzmq has read until now
 *   drain    the broker takes the messages that were whole by then, from all
 *            connections
 *   judge    a connection that gave no message, although libzmq had read more
 *            of it than a frame may have, is shut down; libzmq then frees its
 *            parts
 *
 * A message of the protocol is one frame.  So a peer that keeps to it has at
 * most one message that is not whole, however many others wait to be drained.
 * While the broker waits for its store it does not look.
 *
 * TCP only: over ipc the kernel does not count bytes, and all peers are
 * processes of this user.
 */
#include "broker/seats.h"

#include "base/clock.h"
#include "net/wire.h"

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

/* A peer on this machine can send some 20 MiB in that time.  An idle broker
 * with connections spends 0.3 % of a core on it. */
#define TICK_MS 20
#define PEERS_A_MS 50 /* the next tick is 1 ms later for so many peers */
#define GROWTH (8u << 20)
/* The MiB on top is for heartbeats, which the kernel counts too.  A client that
 * sends nothing else needs weeks for a MiB of them; then it is closed, and
 * connects again. */
#define MOST (AIF_FRAME_MAX + (1u << 20))

void
aif_parts_open(aif_seats *s)
{
    s->parts.statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
}

void
aif_parts_close(aif_seats *s)
{
    if (s->parts.statm >= 0) {
        (void)close(s->parts.statm);
    }
}

/* The bytes of memory that this process has; 0: not known. */
static uint64_t
parts_resident(const aif_parts *p)
{
    char text[64];
    unsigned long long pages;
    ssize_t n = pread(p->statm, text, sizeof text - 1, 0);

    text[n > 0 ? n : 0] = '\0';
    return sscanf(text, "%*u %llu", &pages) == 1
               ? pages * (uint64_t)sysconf(_SC_PAGESIZE)
               : 0;
}

/* Where the size is not known, it counts as grown. */
static bool
parts_grown(aif_parts *p)
{
    uint64_t now = parts_resident(p);

    if (now != 0 && now < p->resident + GROWTH) {
        p->resident = now < p->resident ? now : p->resident;
        return false;
    }
    p->resident = now;
    return true;
}

/* The bytes that the kernel received, less those that libzmq has not read.
 * They are asked for in this order: what arrives in between makes the result
 * smaller, which is harmless. */
static uint64_t
parts_bytes_read(int fd)
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
aif_parts_accepted(aif_seat *seat, int fd)
{
    struct stat st;

    seat->inode = fstat(fd, &st) == 0 ? st.st_ino : 0;
    seat->before = parts_bytes_read(fd);
}

static void
parts_note(aif_seats *s)
{
    for (size_t fd = 0; fd < s->cap; fd++) {
        aif_seat *seat = &s->seats[fd];

        if (seat->open) {
            seat->read = parts_bytes_read((int)fd);
            if (seat->took) { /* at most one message is not whole */
                seat->before = seat->read;
                seat->took = false;
            }
        }
    }
    s->parts.noted = true;
    s->parts.drained = 0;
}

/* By now the descriptor may belong to another connection.  A copy of it keeps
 * meaning the same socket while its inode is compared.  After the shutdown
 * libzmq reads the end and closes.  The reset is for the peer, which otherwise
 * might wait for ever for room in the closed connection's window. */
static bool
parts_shut(const aif_seat *seat, int fd)
{
    const struct linger reset = {.l_onoff = 1, .l_linger = 0};
    struct stat st;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    bool is_it =
        copy >= 0 && fstat(copy, &st) == 0 && st.st_ino == seat->inode;

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
parts_end(aif_seats *s, aif_seat *seat, int fd)
{
    const aif_str why = AIF_STR("its message of many parts does not end");

    if (!parts_shut(seat, fd)) {
        return;
    }
    seat->told = true;
    seat->before = seat->read; /* it is closed in a moment */
    aif_status_count(s->status, AIF_N_ENDLESS, 1);
    if (aif_status_first(
            s->status, (aif_str){seat->address, strlen(seat->address)}, why)) {
        aif_status_say(s->status, AIF_WARNING,
                       "connection closed address=%s why=\"%s\" (once; "
                       "further ones are counted)",
                       seat->address, why.p);
    }
}

static void
parts_judge(aif_seats *s)
{
    for (size_t fd = 0; fd < s->cap; fd++) {
        aif_seat *seat = &s->seats[fd];

        if (seat->open && !seat->took && seat->read > seat->before + MOST) {
            parts_end(s, seat, (int)fd);
        }
    }
    s->parts.noted = false;
}

/* libzmq takes messages from its connections in turn.  So whoever had a whole
 * message has given one when nothing is left, or when as many were taken as
 * give each connection two turns. */
static bool
parts_all_had_a_turn(const aif_seats *s, bool dry)
{
    return dry || s->parts.drained > 2 * s->n + 64;
}

void
aif_parts_look(aif_seats *s, bool dry)
{
    aif_parts *p = &s->parts;
    int64_t now;

    if (!s->tcp) {
        return;
    }
    if (p->noted && parts_all_had_a_turn(s, dry)) {
        parts_judge(s);
    }
    now = aif_now_ms();
    if (!p->noted && now >= p->due) {
        p->due = now + TICK_MS;
        if (parts_grown(p)) {
            p->due += (int64_t)s->n / PEERS_A_MS;
            parts_note(s);
        }
    }
}

long
aif_parts_wait(const aif_seats *s, long due)
{
    int64_t tick = s->parts.noted ? 0 : s->parts.due - aif_now_ms();

    if (!s->tcp || s->n == 0 || (due >= 0 && due <= tick)) {
        return due;
    }
    return tick > 0 ? (long)tick : 0;
}
