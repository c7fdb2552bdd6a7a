/* sub_fd.c - the fd of a subscription: readable when a frame is there, when
 * the connection has news, and when something is due.
 */
#include "client/sub_in.h"

#include "base/clock.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define ARM_MOST_MS 60000 /* without streams nothing is ever due */

aif_err
aif_sub_open_fds(aif_sub *s, aif_error *e)
{
    struct epoll_event ev = {.events = EPOLLIN};

    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    s->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (s->epoll < 0 || s->timer < 0 ||
        epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->timer, &ev) != 0) {
        return aif_fail(e, AIF_ENOMEM, "a subscription's fds: %s",
                        strerror(errno));
    }
    return AIF_OK;
}

void
aif_sub_close_fds(aif_sub *s)
{
    if (s->epoll >= 0) {
        (void)close(s->epoll);
    }
    if (s->timer >= 0) {
        (void)close(s->timer);
    }
}

/* Before the sockets go: a forked child may hold their fds open, and epoll
 * would tell of them for ever. */
void
aif_sub_unwatch(aif_sub *s)
{
    for (int i = 0; i < 2 && s->dealer.socket != NULL; i++) {
        (void)epoll_ctl(s->epoll, EPOLL_CTL_DEL, s->fds[i], NULL);
    }
}

aif_err
aif_sub_watch(aif_sub *s, aif_error *e)
{
    struct epoll_event ev = {.events = EPOLLIN};

    aif_dealer_fds(&s->dealer, s->fds);
    if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->fds[0], &ev) != 0 ||
        epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->fds[1], &ev) != 0) {
        return aif_fail(e, AIF_ENOMEM, "a subscription's fds: %s",
                        strerror(errno));
    }
    return AIF_OK;
}

int64_t
aif_sub_due(const aif_sub *s)
{
    int64_t due = aif_dealer_due(&s->dealer);

    for (size_t i = 0; i < s->n; i++) {
        due = s->streams[i]->due < due ? s->streams[i]->due : due;
    }
    return due;
}

/* The fd becomes readable when the next call is due, or at once when frames
 * wait: zmq's own fd tells of each only once. */
void
aif_sub_arm(aif_sub *s)
{
    int64_t ms = aif_sub_due(s) - aif_now_ms();
    struct itimerspec at = {.it_value = {.tv_nsec = 1}};
    bool waits = aif_dealer_ready(&s->dealer) || s->kept != NULL;

    if (!waits && ms > 0) {
        ms = ms < ARM_MOST_MS ? ms : ARM_MOST_MS;
        at.it_value.tv_sec = (time_t)(ms / 1000);
        at.it_value.tv_nsec = (long)(ms % 1000) * 1000000;
    }
    (void)timerfd_settime(s->timer, 0, &at, NULL);
}
