/* The broker and its peers: answers, and what no peer should send. */
#define _GNU_SOURCE
#include "broker_fixture.h"

#include "base/clock.h"
#include "broker/whole.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void
what_waits_is_one_append(void **state)
{
    served *s = *state;
    aif_frame publish = {.kind = AIF_K_PUBLISH};
    bool answered[33] = {false};
    aif_buf tail = {0};
    aif_frame f;
    raw r;

    raw_open(&r, s->bind);
    for (publish.id = 1; publish.id <= 32; publish.id++) {
        tail.n = 0;
        put_events(&tail, "p", publish.id, 1);
        raw_frame(&r, &publish, &tail);
    }
    for (int i = 1; i <= 32; i++) {
        f = raw_next(&r);
        assert_int_equal(f.kind, AIF_K_PUBLISHED);
        assert_false(answered[f.id]);
        answered[f.id] = true;
    }
    assert_int_equal(stats_of(s).appended, 32);
    assert_in_range(stats_of(s).turns, 1, 32);
    aif_buf_fini(&tail);
    raw_close(&r);
}

#define EXPORT __attribute__((visibility("default")))

static _Thread_local bool is_tester;
static atomic_size_t no_room_for; /* bytes of a frame, in the broker, once */
static int (*real_send)(void *, const void *, size_t, int);
static int (*real_init_size)(zmq_msg_t *, size_t);

__attribute__((constructor)) static void
find_real(void)
{
    *(void **)&real_send = dlsym(RTLD_NEXT, "zmq_send");
    *(void **)&real_init_size = dlsym(RTLD_NEXT, "zmq_msg_init_size");
}

static bool
no_room(size_t n)
{
    size_t want = n;

    if (is_tester || n == 0 ||
        !atomic_compare_exchange_strong(&no_room_for, &want, 0)) {
        return false;
    }
    errno = ENOMEM;
    return true;
}

EXPORT int
zmq_send(void *socket, const void *p, size_t n, int flags)
{
    return no_room(n) ? -1 : real_send(socket, p, n, flags);
}

EXPORT int
zmq_msg_init_size(zmq_msg_t *msg, size_t n)
{
    return no_room(n) ? -1 : real_init_size(msg, n);
}

/* It is lost; the next answer, to another peer, is that one's alone. */
static void
an_answer_without_memory_is_nobody_elses(void **state)
{
    served *s = *state;
    aif_frame ping = {.kind = AIF_K_PING, .id = 1};
    raw first;
    raw second;

    is_tester = true;
    raw_open(&first, s->bind);
    raw_open(&second, s->bind);
    atomic_store(&no_room_for, AIF_FRAME_HEAD);
    raw_frame(&first, &ping, NULL);
    while (atomic_load(&no_room_for) != 0) {
        (void)raw_poll(&first, 1);
    }
    ping.id = 2;
    raw_frame(&second, &ping, NULL);
    assert_int_equal(raw_next(&second).id, 2);
    assert_false(raw_poll(&first, 0));
    raw_close(&first);
    raw_close(&second);
}

static void
a_bad_frame_is_refused_and_counted(void **state)
{
    served *s = *state;
    aif_frame publish = {.kind = AIF_K_PUBLISH, .id = 7};
    aif_frame answer = {.kind = AIF_K_PUBLISHED, .id = 8};
    uint8_t version[AIF_FRAME_HEAD] = {AIF_WIRE_MAGIC, 9, AIF_K_HEAD, 0, 6};
    aif_event bad = numbered("p", 1);
    aif_buf tail = {0};
    aif_error e;
    raw r;

    raw_open(&r, s->bind);
    raw_send(&r, "GET / HTTP/1.1", 14);
    expect_error(&r, 0, AIF_EPROTO);
    raw_send(&r, "", 0);
    expect_error(&r, 0, AIF_EPROTO);
    raw_send(&r, version, sizeof version);
    expect_error(&r, 6, AIF_EPROTO);
    raw_frame(&r, &publish, NULL); /* no events */
    expect_error(&r, 7, AIF_EPROTO);
    bad.key.n = 0;
    assert_int_equal(aif_event_encode(&bad, &tail, &e), AIF_OK);
    raw_frame(&r, &publish, &tail);
    expect_error(&r, 7, AIF_EPROTO);
    raw_frame(&r, &answer, NULL);
    expect_error(&r, 8, AIF_EPROTO);
    assert_int_equal(stats_of(s).rejected, 6);
    assert_int_equal(stats_of(s).appended, 0);
    aif_buf_fini(&tail);
    raw_close(&r);
}

static void
a_batch_is_10000_events(void **state)
{
    served *s = *state;
    aif_frame publish = {.kind = AIF_K_PUBLISH, .id = 1};
    aif_buf tail = {0};
    raw r;

    raw_open(&r, s->bind);
    put_events(&tail, "p", 1, AIF_BATCH_MAX);
    raw_frame(&r, &publish, &tail);
    assert_int_equal(raw_next(&r).kind, AIF_K_PUBLISHED);
    put_events(&tail, "q", 1, 1);
    publish.id = 2;
    raw_frame(&r, &publish, &tail);
    expect_error(&r, 2, AIF_EPROTO);
    assert_int_equal(stats_of(s).appended, AIF_BATCH_MAX);
    aif_buf_fini(&tail);
    raw_close(&r);
}

static void
messages_of_several_parts_are_refused(void **state)
{
    served *s = *state;
    raw r;

    raw_open(&r, s->bind);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(zmq_send(r.socket, "", 0, ZMQ_SNDMORE), 0);
    }
    raw_send(&r, "x", 1);
    while (stats_of(s).rejected == 0) {
        assert_it_lives(s);
    }
    assert_int_equal(stats_of(s).rejected, 1);
    raw_close(&r);
}

/* The numbers that the host draws follow from its own seed. */
static void
the_host_keeps_its_random_numbers(void **state)
{
    served *s = *state;
    int second;

    srand(7);
    (void)rand();
    second = rand();
    unserve(s);
    srand(7);
    (void)rand();
    serve(s);
    assert_int_equal(rand(), second);
}

static void
a_long_routing_id_is_refused(void **state)
{
    served *s = *state;
    static const char id[] = "a routing id that has more than 32 bytes";
    const aif_frame ping = {.kind = AIF_K_PING};
    raw r = {.ctx = zmq_ctx_new()};

    r.socket = zmq_socket(r.ctx, ZMQ_DEALER);
    zmq_msg_init(&r.msg);
    zmq_setsockopt(r.socket, ZMQ_ROUTING_ID, id, sizeof id);
    zmq_connect(r.socket, s->bind);
    raw_frame(&r, &ping, NULL);
    while (stats_of(s).rejected == 0) {
        assert_it_lives(s); /* SOON, or the frame is lost */
    }
    raw_close(&r);
}

/* libzmq drops the connection of who sends a frame beyond the limit. */
static void
an_oversized_frame_costs_its_sender_the_connection(void **state)
{
    served *s = *state;
    char *p = calloc(1, AIF_FRAME_MAX + 1);
    raw r;

    assert_non_null(p);
    raw_open(&r, s->bind);
    raw_send(&r, p, AIF_FRAME_MAX + 1);
    assert_it_lives(s);
    assert_int_equal(stats_of(s).rejected, 0); /* it never came in */
    raw_close(&r);
    free(p);
}

static int
plain_connection(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    (void)snprintf(sa.sun_path, sizeof sa.sun_path, "%s", path);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    return fd;
}

/* Not even zmq's handshake. */
static void
bytes_from_anywhere_do_no_harm(void **state)
{
    served *s = *state;
    uint8_t noise[4096];
    int fds[16];

    srand(1);
    for (int i = 0; i < 16; i++) {
        for (size_t k = 0; k < sizeof noise; k++) {
            noise[k] = (uint8_t)rand();
        }
        if (i % 2 == 0) { /* looks like ZMTP at first */
            memcpy(noise, "\xFF\0\0\0\0\0\0\0\1\x7F\3", 11);
        }
        fds[i] = plain_connection(s->bind + strlen("ipc://"));
        (void)send(fds[i], noise, sizeof noise, MSG_NOSIGNAL);
        assert_it_lives(s);
    }
    for (int i = 0; i < 16; i++) {
        close(fds[i]);
    }
}

/* Every kind of request with random bytes behind a good head, and good frames
 * with one byte changed. */
static void
random_frames_do_no_harm(void **state)
{
    served *s = *state;
    const aif_frame ping = {.kind = AIF_K_PING, .id = 0xABCDEF0123456789};
    aif_frame publish = {.kind = AIF_K_PUBLISH, .id = 1};
    aif_frame f;
    aif_buf out = {0};
    aif_error e;
    raw r;

    srand(2);
    raw_open(&r, s->bind);
    for (int i = 0; i < 2000; i++) {
        publish.kind =
            i % 3 == 0 ? AIF_K_PUBLISH : (aif_kind)(1 + rand() % 14);
        assert_int_equal(aif_frame_encode(&publish, &out, &e), AIF_OK);
        put_events(&out, "p", (uint64_t)i, 1);
        for (int k = rand() % 4; k >= 0; k--) {
            out.p[(size_t)rand() % out.n] = (uint8_t)rand();
        }
        raw_send(&r, out.p, (size_t)rand() % out.n);
        while (raw_poll(&r, 0)) {
            (void)raw_next(&r);
        }
    }
    raw_frame(&r, &ping, NULL);
    do { /* all before it were looked at */
        f = raw_next(&r);
    } while (f.kind != AIF_K_PONG || f.id != ping.id);
    assert_true(stats_of(s).rejected > 1000);
    aif_buf_fini(&out);
    raw_close(&r);
}

/* Asks for much and reads nothing: its answers are lost, not our time. */
static void
a_peer_that_does_not_read_delays_nobody(void **state)
{
    served *s = *state;
    aif_frame publish = {.kind = AIF_K_PUBLISH, .id = 1};
    aif_frame list = {.kind = AIF_K_LIST, .id = 2, .max = 1000};
    aif_buf tail = {0};
    raw r;

    raw_open(&r, s->bind);
    put_events(&tail, "p", 1, 1000);
    raw_frame(&r, &publish, &tail);
    for (int i = 0; i < 2000; i++) { /* 170 MB of answers */
        raw_frame(&r, &list, NULL);
        if (i % 100 == 0) {
            assert_it_lives(s);
        }
    }
    assert_it_lives(s);
    aif_buf_fini(&tail);
    raw_close(&r);
}

/* One publisher's mix-up does not touch the other's, in the same turn too. */
static void
another_event_by_a_taken_identity_is_refused(void **state)
{
    const served *s = *state;
    const aif_frame publish = {.kind = AIF_K_PUBLISH, .id = 5};
    aif_event ev = numbered("p", 1);
    aif_buf tail = {0};
    aif_error e;
    aif_frame f;
    raw mixed_up;
    raw other;

    raw_open(&mixed_up, s->bind);
    raw_open(&other, s->bind);
    put_events(&tail, "p", 1, 2);
    raw_frame(&other, &publish, &tail);
    assert_int_equal(raw_next(&other).kind, AIF_K_PUBLISHED);
    tail.n = 0;
    ev.value = AIF_STR("another");
    assert_int_equal(aif_event_encode(&ev, &tail, &e), AIF_OK);
    put_events(&tail, "p", 3, 1);
    raw_frame(&mixed_up, &publish, &tail);
    tail.n = 0;
    put_events(&tail, "q", 1, 1);
    raw_frame(&other, &publish, &tail);
    f = raw_next(&mixed_up);
    assert_int_equal(f.kind, AIF_K_ERROR);
    assert_int_equal(f.code, AIF_ECONFLICT);
    assert_true(aif_str_eq(
        f.text, AIF_STR("sequence 1 of producer p is in the log already, as "
                        "another event (offset 1)")));
    assert_int_equal(raw_next(&other).kind, AIF_K_PUBLISHED);
    assert_it_lives(s); /* it has counted what it appended */
    assert_int_equal(stats_of(s).appended, 4);
    aif_buf_fini(&tail);
    raw_close(&mixed_up);
    raw_close(&other);
}

static void
who_is_not_known_is_told(void **state)
{
    const served *s = *state;
    const aif_frame credit = {.kind = AIF_K_CREDIT, .id = 5, .max = 1};
    aif_frame f;
    raw r;

    raw_open(&r, s->bind);
    raw_frame(&r, &credit, NULL);
    f = raw_next(&r);
    assert_int_equal(f.kind, AIF_K_ERROR);
    assert_int_equal(f.id, 5);
    assert_int_equal(f.code, AIF_ECLOSED);
    raw_close(&r);
}

/* It is another subscription that was sent so much: the client begins again,
 * and the broker's figures stay as they are. */
static void
more_taken_than_sent_is_refused(void **state)
{
    const served *s = *state;
    const aif_frame subscribe = {
        .kind = AIF_K_SUBSCRIBE, .id = 5, .max = 1000};
    aif_frame credit = {.kind = AIF_K_CREDIT, .id = 5, .from = 1, .max = 1};
    aif_buf tail = {0};
    aif_frame f;
    aif_error e;
    raw r;

    raw_open(&r, s->bind);
    assert_int_equal(aif_wire_put_pattern(&everything, &tail, &e), AIF_OK);
    raw_frame(&r, &subscribe, &tail);
    assert_int_equal(raw_next(&r).kind, AIF_K_SUBSCRIBED);
    raw_frame(&r, &credit, NULL);
    f = expect_error(&r, 5, AIF_ECLOSED);
    assert_true(
        aif_str_eq(f.text, AIF_STR("no subscription 5 here that was sent 1 "
                                   "bytes: this one was sent 0")));
    assert_int_equal(stats_of(s).flight, 0);
    for (int i = 0; i < 2; i++) { /* nothing, and then the answer to that */
        credit.from = i == 0 ? 0 : zmq_msg_size(&r.msg);
        raw_frame(&r, &credit, NULL);
        assert_int_equal(raw_next(&r).kind, AIF_K_EVENTS);
        assert_it_lives(s); /* it has counted what it sent */
        assert_int_equal(stats_of(s).flight, zmq_msg_size(&r.msg));
    }
    aif_buf_fini(&tail);
    raw_close(&r);
}

/* Nobody has to remember what the first of two SUBSCRIBEs said. */
static void
the_window_said_last_counts(void **state)
{
    const served *s = *state;
    aif_frame subscribe = {.kind = AIF_K_SUBSCRIBE, .id = 5, .max = 1};
    aif_client *c = client_at(s->bind);
    aif_buf tail = {0};
    aif_frame f;
    aif_error e;
    raw r;

    raw_open(&r, s->bind);
    assert_int_equal(aif_wire_put_pattern(&everything, &tail, &e), AIF_OK);
    raw_frame(&r, &subscribe, &tail);
    assert_int_equal(raw_next(&r).kind, AIF_K_SUBSCRIBED);
    (void)publish_one(c, "p", 1);
    (void)publish_one(c, "p", 2);
    f = raw_next(&r);
    assert_int_equal(f.kind, AIF_K_EVENTS);
    assert_int_equal(f.to, 1); /* one frame may go over */
    subscribe.max = 1000;
    raw_frame(&r, &subscribe, &tail);
    assert_int_equal(raw_next(&r).kind, AIF_K_SUBSCRIBED);
    f = raw_next(&r);
    assert_int_equal(f.kind, AIF_K_EVENTS);
    assert_int_equal(f.to, 2);
    aif_buf_fini(&tail);
    raw_close(&r);
    aif_client_free(c);
}

static void
subscribing_again_is_one_subscription(void **state)
{
    const served *s = *state;
    const aif_frame subscribe = {
        .kind = AIF_K_SUBSCRIBE, .id = 5, .max = 1000};
    const aif_frame leave = {.kind = AIF_K_UNSUBSCRIBE, .id = 5};
    aif_buf tail = {0};
    aif_error e;
    raw r;

    raw_open(&r, s->bind);
    assert_int_equal(aif_wire_put_pattern(&everything, &tail, &e), AIF_OK);
    for (int i = 0; i < 2; i++) {
        raw_frame(&r, &subscribe, &tail);
        assert_int_equal(raw_next(&r).kind, AIF_K_SUBSCRIBED);
        assert_int_equal(stats_of(s).subscribers, 1);
    }
    raw_frame(&r, &leave, NULL);
    raw_frame(&r, &leave, NULL); /* no harm */
    while (stats_of(s).subscribers != 0) {
        assert_it_lives(s);
    }
    aif_buf_fini(&tail);
    raw_close(&r);
}

/* Take the one frame that comes; its connection's descriptor. */
static int
drain_one(aif_broker *b)
{
    zmq_pollitem_t item = {.socket = b->out.router, .events = ZMQ_POLLIN};
    aif_message m;
    int fd;

    aif_message_init(&m);
    assert_int_equal(zmq_poll(&item, 1, SOON), 1);
    assert_true(aif_message_recv(&m, b->out.router));
    aif_seats_took(&b->seats, &m);
    fd = aif_message_fd(&m);
    aif_message_close(&m);
    return fd;
}

/* Take news until there are n connections. */
static void
tend_until(aif_broker *b, size_t n)
{
    int64_t end = aif_now_ms() + SOON;

    do {
        assert_true(aif_now_ms() < end);
        aif_seats_begin(&b->seats, true);
        aif_seats_tend(&b->seats);
    } while (b->seats.n != n);
}

/* A busy broker takes a frame before the news of its connection, and that of
 * the one before, which had the same descriptor. */
static void
who_says_one_thing_and_goes_is_no_stranger(void **state)
{
    const aif_frame ping = {.kind = AIF_K_PING, .id = 1};
    aif_broker *b;
    aif_error e;
    raw r;

    (void)state;
    assert_int_equal(
        aif_broker_open(
            &(aif_broker_options){.bind = "tcp://127.0.0.1:0", .log = "mem:"},
            &b, &e),
        AIF_OK);
    for (int i = 0; i < 4; i++) {
        int64_t end = aif_now_ms() + SOON;
        int fd;

        raw_open(&r, aif_broker_uri(b));
        raw_frame(&r, &ping, NULL);
        fd = drain_one(b);
        if (i == 1) { /* one of them is known when it goes */
            tend_until(b, 1);
        }
        raw_close(&r);
        while (fcntl(fd, F_GETFD) != -1) {
            assert_true(aif_now_ms() < end);
        }
    }
    tend_until(b, 0);
    assert_int_equal(aif_status_get(&b->status, AIF_N_STRANGERS), 0);
    raw_open(&r, aif_broker_uri(b)); /* where they were, and says nothing */
    tend_until(b, 1);
    raw_close(&r);
    tend_until(b, 0);
    assert_int_equal(aif_status_get(&b->status, AIF_N_STRANGERS), 1);
    aif_broker_free(b);
}

int
main(void)
{
#define SERVED(test, how)                                                     \
    cmocka_unit_test_setup_teardown(test, served_##how, served_teardown)
    const struct CMUnitTest tests[] = {
        SERVED(what_waits_is_one_append, sqlite),
        SERVED(an_answer_without_memory_is_nobody_elses, mem),
        SERVED(a_bad_frame_is_refused_and_counted, mem),
        SERVED(a_batch_is_10000_events, mem),
        SERVED(messages_of_several_parts_are_refused, mem),
        SERVED(the_host_keeps_its_random_numbers, mem),
        SERVED(a_long_routing_id_is_refused, mem),
        SERVED(an_oversized_frame_costs_its_sender_the_connection, mem),
        SERVED(bytes_from_anywhere_do_no_harm, mem),
        SERVED(random_frames_do_no_harm, mem),
        SERVED(a_peer_that_does_not_read_delays_nobody, mem),
        SERVED(another_event_by_a_taken_identity_is_refused, mem),
        SERVED(who_is_not_known_is_told, mem),
        SERVED(more_taken_than_sent_is_refused, mem),
        SERVED(the_window_said_last_counts, mem),
        SERVED(subscribing_again_is_one_subscription, mem),
        cmocka_unit_test(who_says_one_thing_and_goes_is_no_stranger),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
