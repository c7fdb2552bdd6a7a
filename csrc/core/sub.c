/* sub.c - the happy path: SUBSCRIBE, then take EVENTS; each says from which
 * cursor to which it leads, so a lost one is seen, and a repeated one skipped.
 * CREDIT about once a second keeps the lease, and grants bytes as events are
 * taken.
 *
 * What can go wrong ends in one cure, subscribing again from our own cursor:
 * a gap, a connection that was lost and made again, a broker that does not
 * know us (our lease ended), a frame of which no memory was left to keep the
 * events.
 */
#include "client.h"

#include "clock.h"
#include "dealer.h"
#include "guard.h"
#include "mem.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define WINDOW (4u << 20)  /* bytes on the way to us at most, and one frame */
#define RENEW_MS 1000      /* the broker's lease is ten times that */
#define AGAIN_MS 250       /* after an ERROR that may pass: at first, */
#define AGAIN_MOST_MS 4000 /* then twice as long each time, to this */
#define TAKE_EVENTS 1000   /* one aif_sub_next takes no more, the last frame */
#define TAKE_BYTES (1u << 20) /* apart */

struct aif_sub {
    aif_guard guard;
    aif_dealer dealer;
    aif_buf patterns; /* as in the frame */
    aif_buf out;
    zmq_msg_t msg;
    _Atomic uint64_t cursor;
    uint64_t id;       /* of the SUBSCRIBE that counts; 0: none yet */
    uint64_t received; /* bytes of EVENTS for it */
    uint64_t granted;
    bool hints;
    bool live;        /* SUBSCRIBED came */
    int64_t due;      /* when to renew or, not live, to SUBSCRIBE (again) */
    int64_t patience; /* before the same SUBSCRIBE is sent again */
    int epoll;        /* of zmq's fds and the timer */
    int timer;        /* wakes who only watches the fd */
};

/* What one aif_sub_next is collecting. */
typedef struct {
    aif_batch *out;
    size_t events; /* that out had before */
    size_t bytes;
    uint64_t cursor;
    char *hint;
    bool hinted;
    bool opening; /* stop at SUBSCRIBED: what follows is for the first call */
} taking;

static int64_t
min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void
say(aif_sub *s, const aif_frame *f)
{
    aif_error e;

    if (aif_frame_encode(f, &s->out, &e) == AIF_OK) {
        aif_dealer_send(&s->dealer, &s->out);
    } /* no memory: as if it were lost on the way */
}

static void
credit(aif_sub *s, int64_t now)
{
    s->granted = s->received + WINDOW;
    s->due = now + RENEW_MS;
    say(s, &(aif_frame){.kind = AIF_K_CREDIT, .id = s->id, .to = s->granted});
}

/* Subscribe from our cursor.  The same id asks the same again. */
static void
subscribe(aif_sub *s, int64_t now)
{
    const aif_frame f = {.kind = AIF_K_SUBSCRIBE,
                         .id = s->id,
                         .from = s->cursor,
                         .max = WINDOW,
                         .flag = s->hints};
    aif_error e;

    s->due = now + s->patience;
    s->patience = min(s->patience * 2, AGAIN_MOST_MS);
    if (aif_frame_encode(&f, &s->out, &e) == AIF_OK &&
        aif_buf_put(&s->out, s->patterns.p, s->patterns.n, &e) == AIF_OK) {
        aif_dealer_send(&s->dealer, &s->out);
    }
}

/* From our cursor, under a new id: what comes for the old one is old. */
static void
begin_again(aif_sub *s)
{
    if (s->id != 0) {
        say(s, &(aif_frame){.kind = AIF_K_UNSUBSCRIBE, .id = s->id});
    }
    s->id = ++s->dealer.last_id;
    s->received = 0;
    s->granted = WINDOW;
    s->live = false;
    s->patience = AGAIN_MS;
    s->due = 0;
}

static aif_err
connect_first(aif_sub *s, aif_error *e)
{
    struct epoll_event ev = {.events = EPOLLIN};
    aif_err err = aif_dealer_connect(&s->dealer, e);
    int fds[2];

    if (err != AIF_OK) {
        return err;
    }
    aif_dealer_fds(&s->dealer, fds);
    if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, fds[0], &ev) != 0 ||
        epoll_ctl(s->epoll, EPOLL_CTL_ADD, fds[1], &ev) != 0) {
        return aif_fail(e, AIF_ENOMEM, "a subscription's fds: %s",
                        strerror(errno));
    }
    begin_again(s);
    return AIF_OK;
}

/* Do what is due: renew the lease, or subscribe. */
static void
tend(aif_sub *s)
{
    int64_t now;

    if (aif_dealer_renewed(&s->dealer)) {
        begin_again(s);
    }
    now = aif_now_ms();
    if (now >= s->due && s->live) {
        credit(s, now);
    } else if (now >= s->due) {
        subscribe(s, now);
    }
}

static aif_err
take_events(aif_sub *s, const aif_frame *f, taking *t, aif_error *e)
{
    aif_reader in = f->tail;
    aif_event ev;
    aif_err err = AIF_OK;

    while (err == AIF_OK && in.n > 0) {
        err = aif_event_decode(&in, &ev, e);
        if (err == AIF_OK && ev.offset > s->cursor) {
            err = aif_batch_add(t->out, &ev, e);
        }
        if (err == AIF_OK && ev.offset > s->cursor) {
            s->cursor = ev.offset;
        }
    }
    if (err == AIF_OK && f->to > s->cursor) {
        s->cursor = f->to;
    }
    return err;
}

static aif_err
on_events(aif_sub *s, const aif_frame *f, taking *t, aif_error *e)
{
    aif_err err;

    if (!s->live) {
        return AIF_OK; /* will come again: from the cursor in SUBSCRIBED */
    }
    if (f->from > s->cursor) {
        begin_again(s);
        return AIF_OK;
    }
    s->received += zmq_msg_size(&s->msg);
    err = take_events(s, f, t, e);
    if (s->granted - s->received < WINDOW / 2 || s->received > s->granted) {
        credit(s, aif_now_ms());
    }
    return err;
}

static void
on_subscribed(aif_sub *s, const aif_frame *f)
{
    if (s->live) {
        return; /* it was asked twice */
    }
    s->live = true;
    s->due = aif_now_ms() + RENEW_MS;
    if (s->cursor == AIF_AFTER_NOW) {
        s->cursor = f->to;
    }
}

/* What a retry may cure is retried, by tend; the rest is the caller's. */
static aif_err
on_error(aif_sub *s, const aif_frame *f, aif_error *e)
{
    if (f->code == AIF_ECLOSED) {
        begin_again(s);
        return AIF_OK;
    }
    if (s->cursor != AIF_AFTER_NOW &&
        (f->code == AIF_ESTORE || f->code == AIF_ENOMEM)) {
        return AIF_OK;
    }
    return aif_dealer_error(f, e);
}

static void
on_hint(const aif_frame *f, taking *t)
{
    if (t->hint != NULL) {
        memcpy(t->hint, f->text.p, f->text.n); /* decode checked its length */
        t->hint[f->text.n] = '\0';
    }
    t->hinted = true;
}

static aif_err
on_frame(aif_sub *s, const aif_frame *f, taking *t, aif_error *e)
{
    if (f->kind == AIF_K_HINTED) {
        on_hint(f, t);
        return AIF_OK;
    }
    if (f->id != s->id) {
        return AIF_OK; /* of an earlier SUBSCRIBE */
    }
    switch (f->kind) {
    case AIF_K_EVENTS:
        return on_events(s, f, t, e);
    case AIF_K_SUBSCRIBED:
        on_subscribed(s, f);
        return AIF_OK;
    case AIF_K_ERROR:
        return on_error(s, f, e);
    default:
        return aif_fail(e, AIF_EPROTO, "a subscription was sent %s",
                        aif_kind_name(f->kind));
    }
}

static bool
enough(const aif_sub *s, const taking *t)
{
    if (t->opening) {
        return s->live;
    }
    return t->out->n - t->events >= TAKE_EVENTS ||
           t->out->bytes - t->bytes >= TAKE_BYTES;
}

/* Take what is there, but not beyond `enough`; *empty when all was. */
static aif_err
receive(aif_sub *s, taking *t, bool *empty, aif_error *e)
{
    aif_frame f;
    bool got = true;
    aif_err err = AIF_OK;

    while (err == AIF_OK && got && !enough(s, t)) {
        err = aif_dealer_recv(&s->dealer, &s->msg, &f, &got, e);
        if (err == AIF_OK && got) {
            err = on_frame(s, &f, t, e);
        }
    }
    *empty = !got;
    return err;
}

/* What was taken is not the caller's: as if it had never come. */
static void
put_back(aif_sub *s, const taking *t)
{
    t->out->n = t->events;
    t->out->bytes = t->bytes;
    if (s->cursor != t->cursor) {
        s->cursor = t->cursor;
        begin_again(s);
    }
}

static bool
satisfied(const aif_sub *s, const taking *t)
{
    return t->opening ? s->live : t->out->n > t->events || t->hinted;
}

/* Collect until there is something, or the broker has answered when opening,
 * or the time is over. */
static aif_err
collect(aif_sub *s, taking *t, int64_t end, aif_error *e)
{
    bool empty;
    aif_err err;

    for (;;) {
        err = receive(s, t, &empty, e);
        if (err != AIF_OK) {
            put_back(s, t);
            return err;
        }
        if (empty) {
            tend(s);
        }
        if (satisfied(s, t) || aif_now_ms() >= end) {
            return AIF_OK;
        }
        if (!aif_dealer_wait(&s->dealer, min(end, s->due) - aif_now_ms()) &&
            !t->opening) {
            return AIF_OK; /* a signal: the caller will want to know */
        }
    }
}

/* The fd becomes readable when the next call is due, or at once when frames
 * wait: zmq's own fd tells of each only once. */
static void
arm(aif_sub *s)
{
    int64_t ms = s->due - aif_now_ms();
    struct itimerspec at = {.it_value = {.tv_nsec = 1}};

    if (!aif_dealer_ready(&s->dealer) && ms > 0) {
        at.it_value.tv_sec = (time_t)(ms / 1000);
        at.it_value.tv_nsec = (long)(ms % 1000) * 1000000;
    }
    (void)timerfd_settime(s->timer, 0, &at, NULL);
}

static aif_err
put_patterns(aif_sub *s, const aif_pattern *p, size_t n, aif_error *e)
{
    aif_err err = AIF_OK;

    if (n < 1 || n > AIF_PATTERNS_MAX) {
        return aif_fail(e, AIF_EINVAL,
                        "%zu patterns: a subscription has 1 to %d", n,
                        AIF_PATTERNS_MAX);
    }
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        err = aif_pattern_check(&p[i], e);
        if (err == AIF_OK) {
            err = aif_wire_put_pattern(&p[i], &s->patterns, e);
        }
    }
    return err;
}

static aif_err
open_fds(aif_sub *s, aif_error *e)
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

static void
shut(aif_sub *s)
{
    (void)zmq_msg_close(&s->msg);
    aif_dealer_fini(&s->dealer, 0);
    aif_buf_fini(&s->patterns);
    aif_buf_fini(&s->out);
    if (s->epoll >= 0) {
        (void)close(s->epoll);
    }
    if (s->timer >= 0) {
        (void)close(s->timer);
    }
    aif_free(s);
}

/* Subscribe and wait for the answer. */
static aif_err
first_answer(aif_sub *s, int64_t end, aif_error *e)
{
    aif_batch none = {0};
    taking t = {.out = &none, .cursor = s->cursor, .opening = true};
    aif_err err = collect(s, &t, end, e);

    if (err == AIF_OK && !s->live) {
        err =
            aif_fail(e, AIF_ETIMEOUT, "no answer to SUBSCRIBE from %s in time",
                     s->dealer.uri);
    }
    arm(s);
    return err;
}

aif_err
aif_sub_open(const char *uri, const aif_pattern *p, size_t n, uint64_t after,
             bool hints, int timeout_ms, aif_sub **out, aif_error *e)
{
    int64_t end = aif_now_ms() + timeout_ms;
    aif_sub *s = aif_zalloc(sizeof *s);
    aif_err err;

    *out = NULL;
    if (s == NULL) {
        return aif_fail(e, AIF_ENOMEM, "a subscription to %s", uri);
    }
    aif_guard_init(&s->guard);
    (void)zmq_msg_init(&s->msg);
    s->epoll = s->timer = -1;
    s->cursor = after;
    s->hints = hints;
    err = aif_dealer_init(&s->dealer, uri, e);
    if (err == AIF_OK) {
        err = put_patterns(s, p, n, e);
    }
    if (err == AIF_OK) {
        err = open_fds(s, e);
    }
    if (err == AIF_OK) {
        err = connect_first(s, e);
    }
    if (err == AIF_OK) {
        err = first_answer(s, end, e);
    }
    if (err != AIF_OK) {
        shut(s);
        return err;
    }
    *out = s;
    return AIF_OK;
}

void
aif_sub_free(aif_sub *s)
{
    if (s != NULL && !aif_guard_forked(&s->guard)) {
        shut(s);
    }
}

aif_err
aif_sub_next(aif_sub *s, int timeout_ms, aif_batch *out, char *hint,
             bool *hinted, aif_error *e)
{
    taking t = {.out = out, .events = out->n, .bytes = out->bytes};
    aif_err err = aif_guard_enter(&s->guard, e);

    *hinted = false;
    if (hint != NULL) {
        hint[0] = '\0';
    }
    if (err != AIF_OK) {
        return err;
    }
    t.cursor = s->cursor;
    t.hint = hint;
    err = collect(s, &t, aif_now_ms() + timeout_ms, e);
    *hinted = err == AIF_OK && t.hinted;
    arm(s);
    aif_guard_leave(&s->guard);
    return err;
}

uint64_t
aif_sub_cursor(aif_sub *s)
{
    return s->cursor;
}

int
aif_sub_fd(aif_sub *s)
{
    return s->epoll;
}
