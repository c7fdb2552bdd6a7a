/* subscribers.c - plain sockets of one thread, so that 1,000 cost little. */
#include "bench.h"

#include "base/buf.h"
#include "event/event.h"
#include "event/pattern.h"
#include "event/query.h"
#include "net/wire.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include <zmq.h>

enum { WINDOW = 4 << 20, TELL = 128 << 10 }; /* as client/sub_stream.c */

typedef struct {
    void *socket;
    uint64_t received; /* bytes of EVENTS */
    uint64_t told;     /* of them, to the broker */
    uint64_t cursor;
    long n;
    bool live;
} subscriber;

static subscriber *subs;
static void *ctx;
static atomic_long live;
static atomic_long delivered;
static atomic_long disorder;
static atomic_bool listening = true;
static pthread_t listener;
static hist took;

static void
say(const subscriber *s, const aif_frame *f, const aif_pattern *p)
{
    aif_buf out = {0};
    aif_error e;

    must(aif_frame_encode(f, &out, &e), &e);
    if (p != NULL) {
        must(aif_wire_put_pattern(p, &out, &e), &e);
    }
    (void)zmq_send(s->socket, out.p, out.n, ZMQ_DONTWAIT);
    aif_buf_fini(&out);
}

static void
credit(subscriber *s)
{
    s->told = s->received;
    say(s,
        &(aif_frame){
            .kind = AIF_K_CREDIT, .id = 1, .from = s->told, .max = WINDOW},
        NULL);
}

static void
subscribe(subscriber *s, long i)
{
    const char *key = opt.keys == 0 ? "*" : keys[i % opt.keys];
    const aif_pattern p = {AIF_STR("default"),
                           {key, strlen(key)},
                           AIF_STR("*"),
                           AIF_STR("*"),
                           AIF_STR("*")};
    const int zero = 0;
    const int few = 64;

    s->socket = zmq_socket(ctx, ZMQ_DEALER);
    if (s->socket == NULL) {
        die("too many sockets");
    }
    (void)zmq_setsockopt(s->socket, ZMQ_LINGER, &zero, sizeof zero);
    if (i >= opt.subscribers) { /* stalled: nothing waits on this side */
        (void)zmq_setsockopt(s->socket, ZMQ_RCVHWM, &few, sizeof few);
    }
    if (zmq_connect(s->socket, uris[opt.second ? 1 : 0]) != 0) {
        die("cannot connect");
    }
    say(s,
        &(aif_frame){.kind = AIF_K_SUBSCRIBE,
                     .id = 1,
                     .from = AIF_AFTER_NOW,
                     .max = WINDOW},
        &p);
}

static void
take(subscriber *s, const aif_frame *f, size_t bytes)
{
    double at = now();
    aif_reader in = f->tail;
    aif_event ev;
    aif_error e;
    long n = 0;

    if (f->kind == AIF_K_SUBSCRIBED) {
        s->live = true;
        s->cursor = f->to;
        live++;
        return;
    }
    if (f->kind != AIF_K_EVENTS) {
        die(f->kind == AIF_K_ERROR ? "a subscriber was refused" : "a frame?");
    }
    disorder += f->from > s->cursor;
    for (; in.n > 0; n++) {
        must(aif_event_decode(&in, &ev, &e), &e);
        disorder += ev.offset <= s->cursor;
        s->cursor = ev.offset;
        hist_add(&took, at - strtod(ev.value.p, NULL) / 1e9);
    }
    s->cursor = f->to > s->cursor ? f->to : s->cursor;
    s->n += n;
    delivered += n;
    s->received += bytes;
    if (s->received - s->told >= TELL) {
        credit(s);
    }
}

static void
drain(subscriber *s)
{
    zmq_msg_t msg;
    aif_frame f;
    aif_error e;

    (void)zmq_msg_init(&msg);
    while (zmq_msg_recv(&msg, s->socket, ZMQ_DONTWAIT) >= 0) {
        must(aif_frame_decode(zmq_msg_data(&msg), zmq_msg_size(&msg), &f, &e),
             &e);
        take(s, &f, zmq_msg_size(&msg));
    }
    (void)zmq_msg_close(&msg);
}

/* Once a second all of them renew their leases, those that stall too. */
static void *
listen_all(void *arg)
{
    struct epoll_event found[256];
    long all = opt.subscribers + opt.stalled;
    int epoll = epoll_create1(0);
    double renew = now() + 1;

    (void)arg;
    for (long i = 0; i < opt.subscribers; i++) {
        struct epoll_event ev = {.events = EPOLLIN, .data.u64 = (uint64_t)i};
        size_t n = sizeof(int);
        int fd;

        (void)zmq_getsockopt(subs[i].socket, ZMQ_FD, &fd, &n);
        (void)epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev);
    }
    while (listening) {
        int n = epoll_wait(epoll, found, 256, 50);

        for (int k = 0; k < n; k++) {
            drain(&subs[found[k].data.u64]);
        }
        if (now() >= renew) {
            renew += 1;
            for (long i = 0; i < all; i++) {
                credit(&subs[i]);
                if (i < opt.subscribers) {
                    drain(&subs[i]); /* sending took the fd's edge */
                }
            }
        }
    }
    (void)close(epoll);
    return NULL;
}

static void
wait_for(atomic_long *what, long n, double seconds)
{
    for (double end = now() + seconds; *what < n && now() < end;) {
        wait_until(now() + 0.01);
    }
}

/* Deliveries: an event's key is its number's, so each key is wanted by those
 * subscribers whose number is the same, modulo. */
static long
wanted(void)
{
    long n = 0;

    if (opt.keys == 0) {
        return opt.subscribers * published;
    }
    for (long i = 0; i < opt.subscribers; i++) {
        long key = i % opt.keys;

        n += published / opt.keys + (key < published % opt.keys);
    }
    return n;
}

void
listen_begin(void)
{
    const long all = opt.subscribers + opt.stalled;

    ctx = zmq_ctx_new();
    (void)zmq_ctx_set(ctx, ZMQ_MAX_SOCKETS, 20000);
    subs = calloc((size_t)all + 1, sizeof *subs);
    if (ctx == NULL || subs == NULL) {
        die("no memory");
    }
    for (long i = 0; i < all; i++) {
        subscribe(&subs[i], i);
    }
    (void)pthread_create(&listener, NULL, listen_all, NULL);
    wait_for(&live, opt.subscribers, 60);
}

void
listen_end(void)
{
    wait_for(&delivered, wanted(), 10);
    listening = false;
    (void)pthread_join(listener, NULL);
}

void
listen_print(void)
{
    if (opt.subscribers > 0) {
        hist_print("delivery_ms", &took);
        (void)printf(", \"delivered\": %ld, \"lost\": %ld", (long)delivered,
                     wanted() - delivered + disorder);
    }
}
