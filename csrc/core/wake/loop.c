/* loop.c - the happy path:
 *   1. look at every watch: libpq may hold what its fd no longer tells
 *   2. poll all fds until the time is over, or the next watch without an fd
 *      wants a look
 *   3. look at the watches again; nothing ready and time left: once more
 *
 * poll, not zmq_poll: a subscription's fd is an fd like any other as long as
 * its owner drains it before waiting (client.h), and we need no header.
 */
#include "wake/loop.h"

#include "client/client.h"
#include "base/clock.h"
#include "base/mem.h"
#include "wake/watch.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#define NO_END INT64_MAX

static int
source_fd(const aif_source *s)
{
    if (s->sub != NULL) {
        return aif_sub_fd(s->sub);
    }
    return s->watch != NULL ? aif_watch_fd(s->watch) : s->fd;
}

/* *any: one of them is ready. */
static aif_err
look_at_watches(aif_source *sources, size_t n, bool *any, aif_error *e)
{
    bool changed;

    for (size_t i = 0; i < n; i++) {
        if (sources[i].watch == NULL) {
            continue;
        }
        if (aif_watch_peek(sources[i].watch, &changed, e) != AIF_OK) {
            return e->code;
        }
        sources[i].ready = changed;
        *any = *any || changed;
    }
    return AIF_OK;
}

/* The next time to look: the end, or when a watch without an fd is due. */
static int
prepare(const aif_source *sources, size_t n, struct pollfd *fds, int64_t left)
{
    int64_t slice = left;
    int interval;

    for (size_t i = 0; i < n; i++) {
        fds[i] = (struct pollfd){source_fd(&sources[i]), POLLIN, 0};
        if (fds[i].fd >= 0 || sources[i].watch == NULL) {
            continue;
        }
        interval = aif_watch_interval_ms(sources[i].watch);
        slice = interval < slice ? interval : slice;
    }
    return slice == NO_END ? -1 : (int)slice;
}

static aif_err
collect(aif_source *sources, size_t n, const struct pollfd *fds, bool *any,
        aif_error *e)
{
    for (size_t i = 0; i < n; i++) {
        if (fds[i].revents & POLLNVAL) {
            return aif_fail(e, AIF_EINVAL, "source %zu: fd %d is not open", i,
                            fds[i].fd);
        }
        if (fds[i].revents != 0 && sources[i].watch == NULL) {
            sources[i].ready = true;
            *any = true;
        }
    }
    return AIF_OK;
}

static aif_err
wait_in(aif_source *sources, size_t n, struct pollfd *fds, int timeout_ms,
        aif_error *e)
{
    int64_t end = timeout_ms < 0 ? NO_END : aif_now_ms() + timeout_ms;
    int64_t left;
    bool any = false;

    if (look_at_watches(sources, n, &any, e) != AIF_OK) {
        return e->code;
    }
    do {
        left = end == NO_END ? NO_END : end - aif_now_ms();
        left = any || left < 0 ? 0 : left;
        if (poll(fds, (nfds_t)n, prepare(sources, n, fds, left)) < 0) {
            return errno == EINTR
                       ? AIF_OK
                       : aif_fail(e, AIF_EINVAL, "poll: %s", strerror(errno));
        }
        if (collect(sources, n, fds, &any, e) != AIF_OK ||
            look_at_watches(sources, n, &any, e) != AIF_OK) {
            return e->code;
        }
    } while (!any && left > 0);
    return AIF_OK;
}

aif_err
aif_loop_wait(aif_source *sources, size_t n, int timeout_ms, aif_error *e)
{
    aif_err err;
    struct pollfd *fds;

    for (size_t i = 0; i < n; i++) {
        sources[i].ready = false;
        if (sources[i].sub == NULL && sources[i].watch == NULL &&
            sources[i].fd < 0) {
            return aif_fail(e, AIF_EINVAL, "source %zu: fd %d", i,
                            sources[i].fd);
        }
    }
    fds = aif_zalloc((n + 1) * sizeof *fds); /* + 1: n may be 0 */
    if (fds == NULL) {
        return aif_fail(e, AIF_ENOMEM, "waiting for %zu sources", n);
    }
    err = wait_in(sources, n, fds, timeout_ms, e);
    aif_free(fds);
    return err;
}
