/* Many subscribers, and such that stall: what they cost, and whom they delay.
 * The broker is a process of its own, so that its memory is its own. */
#include "broker_fixture.h"

#include "broker/whole.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* What one connection costs in libzmq, both its queues empty, and rounded up
 * (measured: 45 KiB). */
#define CONNECTION_BYTES (64u << 10)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1, MANY = 100 }; /* slow, and their memory is not ours */
#else
enum { SANITIZED = 0, MANY = 1000 };
#endif
enum { LIMIT_S = 1000 };

typedef struct {
    served *s;
    pid_t broker;
    void *ctx;
    void *sockets[MANY];
} crowd;

static void
serve_here(const served *s)
{
    const aif_broker_options o = {.bind = s->bind, .log = s->log};
    aif_broker *b;
    aif_error e;

    alarm(LIMIT_S);
    if (aif_broker_open(&o, &b, &e) == AIF_OK) {
        b->subs.lease_due =
            INT64_MAX; /* they say nothing, however long it takes */
        if (aif_broker_run(b, &e) == AIF_OK) {
            _exit(0);
        }
    }
    (void)fprintf(stderr, "%s\n", e.text);
    _exit(1);
}

static int
setup(void **state)
{
    crowd *c = calloc(1, sizeof *c);
    struct rlimit most;
    void *s;

    if (c == NULL || served_sqlite(&s) != 0) {
        return -1;
    }
    (void)getrlimit(RLIMIT_NOFILE, &most);
    most.rlim_cur = most.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &most);
    c->s = s;
    unserve(c->s);
    c->broker = fork();
    if (c->broker == 0) {
        serve_here(c->s);
    }
    c->ctx = zmq_ctx_new();
    (void)zmq_ctx_set(c->ctx, ZMQ_MAX_SOCKETS, 2 * MANY);
    *state = c;
    return 0;
}

static int
teardown(void **state)
{
    crowd *c = *state;
    void *s = c->s;
    int status;

    for (int i = 0; i < MANY; i++) {
        if (c->sockets[i] != NULL) {
            (void)zmq_close(c->sockets[i]);
        }
    }
    (void)zmq_ctx_term(c->ctx);
    (void)kill(c->broker, SIGKILL);
    (void)waitpid(c->broker, &status, 0);
    free(c);
    return served_teardown(&s);
}

static size_t
peak_bytes(pid_t pid)
{
    char path[64];
    char line[128];
    size_t kb = 0;
    FILE *f;

    (void)snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "VmHWM:", 6) == 0) {
            kb = strtoul(line + 6, NULL, 10);
        }
    }
    (void)fclose(f);
    return kb << 10;
}

static void *
connection(crowd *c, int i)
{
    const int none = 0;
    const int one = 1;
    void *socket = zmq_socket(c->ctx, ZMQ_DEALER);

    assert_non_null(socket);
    (void)zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof none);
    (void)zmq_setsockopt(socket, ZMQ_RCVHWM, &one, sizeof one);
    assert_int_equal(zmq_connect(socket, c->s->bind), 0);
    c->sockets[i] = socket;
    return socket;
}

static void
say(void *socket, const aif_frame *f, const aif_pattern *p)
{
    aif_buf out = {0};
    aif_error e;

    assert_int_equal(aif_frame_encode(f, &out, &e), AIF_OK);
    if (p != NULL) {
        assert_int_equal(aif_wire_put_pattern(p, &out, &e), AIF_OK);
    }
    assert_int_equal(zmq_send(socket, out.p, out.n, 0), out.n);
    aif_buf_fini(&out);
}

static void
subscribe(void *socket, uint64_t id, uint32_t window)
{
    say(socket,
        &(aif_frame){.kind = AIF_K_SUBSCRIBE,
                     .id = id,
                     .from = AIF_AFTER_NOW,
                     .max = window},
        &everything);
}

/* The next frame, decoded into msg. */
static aif_frame
next(void *socket, zmq_msg_t *msg)
{
    zmq_pollitem_t item = {.socket = socket, .events = ZMQ_POLLIN};
    aif_frame f = {0};
    aif_error e;

    if (zmq_poll(&item, 1, SOON) != 1) {
        fail_msg("no frame came");
    }
    assert_true(zmq_msg_recv(msg, socket, 0) >= 0);
    assert_int_equal(
        aif_frame_decode(zmq_msg_data(msg), zmq_msg_size(msg), &f, &e),
        AIF_OK);
    return f;
}

static void
expect_subscribed(void *socket, int n)
{
    zmq_msg_t msg;

    (void)zmq_msg_init(&msg);
    for (int i = 0; i < n; i++) {
        assert_int_equal(next(socket, &msg).kind, AIF_K_SUBSCRIBED);
    }
    (void)zmq_msg_close(&msg);
}

/* Take frames until each of streams has seen offset `to`; every event once,
 * in order. */
static void
expect_events(void *socket, int streams, uint64_t from, uint64_t to)
{
    uint64_t seen[64];
    int done = 0;
    zmq_msg_t msg;
    aif_event ev;
    aif_error e;

    (void)zmq_msg_init(&msg);
    for (int i = 0; i < streams; i++) {
        seen[i] = from;
    }
    while (done < streams) {
        aif_frame f = next(socket, &msg);

        assert_int_equal(f.kind, AIF_K_EVENTS);
        assert_in_range(f.id, 1, streams);
        while (f.tail.n > 0) {
            assert_int_equal(aif_event_decode(&f.tail, &ev, &e), AIF_OK);
            assert_int_equal(ev.offset, ++seen[f.id - 1]);
        }
        done += seen[f.id - 1] == to;
    }
    (void)zmq_msg_close(&msg);
}

/* n events with a value of so many bytes. */
static void
publish(const crowd *c, uint64_t from, uint64_t n, size_t bytes)
{
    char *value = calloc(1, bytes + 1);
    aif_client *client;
    aif_error e;

    assert_non_null(value);
    memset(value, 'x', bytes);
    assert_int_equal(aif_client_open(c->s->bind, NULL, &client, &e), AIF_OK);
    for (uint64_t i = from; i < from + n; i++) {
        aif_event ev = numbered("p", i);
        uint64_t offset;

        ev.value = (aif_str){value, bytes};
        if (aif_client_publish(client, &ev, 1, &offset, SOON, &e) != AIF_OK) {
            fail_msg("%s", e.text);
        }
        assert_int_equal(offset, i);
    }
    aif_client_free(client);
    free(value);
}

static void
a_thousand_subscribers_get_each_event_once(void **state)
{
    crowd *c = *state;

    for (int i = 0; i < MANY; i++) {
        subscribe(connection(c, i), 1, 1u << 20);
    }
    for (int i = 0; i < MANY; i++) {
        expect_subscribed(c->sockets[i], 1);
    }
    publish(c, 1, 50, 100);
    for (int i = 0; i < MANY; i++) {
        expect_events(c->sockets[i], 1, 0, 50);
    }
    if (!SANITIZED) {
        assert_in_range(peak_bytes(c->broker), 0,
                        (32u << 20) + MANY * CONNECTION_BYTES);
    }
}

/* As many as there may be, 64 on a connection. */
static void
four_thousand_subscriptions_get_each_event_once(void **state)
{
    crowd *c = *state;
    enum {
        EACH = 64,
        CONNECTIONS = SANITIZED ? 8 : AIF_SUBSCRIBERS_MAX / EACH
    };

    for (int i = 0; i < CONNECTIONS; i++) {
        void *socket = connection(c, i);

        for (uint64_t id = 1; id <= EACH; id++) {
            subscribe(socket, id, 1u << 20);
        }
        expect_subscribed(socket, EACH);
    }
    publish(c, 1, 20, 100);
    for (int i = 0; i < CONNECTIONS; i++) {
        expect_events(c->sockets[i], EACH, 0, 20);
    }
    if (!SANITIZED) {
        assert_in_range(peak_bytes(c->broker), 0, 64u << 20);
    }
}

/* They ask for 16 GB, and read nothing: it costs what broker/credit.h says, and
 * one who reads gets everything at once. */
static void
who_stalls_costs_little_and_delays_nobody(void **state)
{
    crowd *c = *state;
    enum { EVENTS = 200, BYTES = 100 << 10 };
    const size_t bound = AIF_FLIGHT_BYTES + (32u << 20) +
                         MANY * (AIF_SHARE_BYTES + BYTES + CONNECTION_BYTES);
    aif_batch out = {0};
    bool hinted;
    aif_sub *sub;
    aif_error e;

    for (int i = 0; i < MANY; i++) {
        subscribe(connection(c, i), 1, AIF_WINDOW_MAX);
    }
    for (int i = 0; i < MANY; i++) {
        expect_subscribed(c->sockets[i], 1);
    }
    assert_int_equal(
        sub_one(c->s->bind, &everything, 1, 0, false, SOON, &sub, &e), AIF_OK);
    for (uint64_t n = 0; n < EVENTS; n++) {
        publish(c, n + 1, 1, BYTES);
        while (out.n == n) {
            assert_int_equal(
                aif_sub_next(sub, SOON, &out, NULL, NULL, &hinted, &e),
                AIF_OK);
        }
        assert_int_equal(out.events[n].offset, n + 1);
    }
    if (!SANITIZED) {
        assert_in_range(peak_bytes(c->broker), 0, bound);
    }
    aif_batch_fini(&out);
    aif_sub_free(sub);
}

/* Who stalled is caught up from the log, as far as it has credit. */
static void
who_stalled_is_caught_up(void **state)
{
    crowd *c = *state;
    void *socket = connection(c, 0);
    zmq_msg_t msg;
    aif_frame f;

    subscribe(socket, 1, 1);
    expect_subscribed(socket, 1);
    publish(c, 1, 100, 100);
    expect_events(socket, 1, 0, 1); /* one frame may go over */
    (void)zmq_msg_init(&msg);
    say(socket,
        &(aif_frame){.kind = AIF_K_CREDIT, .id = 1, .max = AIF_WINDOW_MAX},
        NULL);
    f = next(socket, &msg); /* the answer to it: where it is */
    assert_int_equal(f.kind, AIF_K_EVENTS);
    assert_int_equal(f.to, 1);
    expect_events(socket, 1, 1, 100);
    (void)zmq_msg_close(&msg);
}

int
main(void)
{
#define CROWD(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        CROWD(a_thousand_subscribers_get_each_event_once),
        CROWD(four_thousand_subscriptions_get_each_event_once),
        CROWD(who_stalls_costs_little_and_delays_nobody),
        CROWD(who_stalled_is_caught_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
