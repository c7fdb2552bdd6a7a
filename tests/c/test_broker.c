/* The broker as a server: addresses, group commit, pushes, bad peers. */
#include "broker_fixture.h"

#include "log.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* Why no broker opens there. */
static const char *
refused(const char *bind, aif_err code)
{
    static aif_error e;
    aif_broker *b = (aif_broker *)1;

    if (aif_broker_open(bind, "mem:", &b, &e) != code) {
        fail_msg("%s: %s", bind, e.text);
    }
    assert_null(b);
    return e.text;
}

static void
only_this_machine_is_served(void **state)
{
    (void)state;
    assert_string_equal(refused("tcp://0.0.0.0:0", AIF_EINVAL),
                        "tcp://0.0.0.0:0: the broker has no authentication "
                        "yet, so it serves 127.0.0.1 and [::1] only");
    (void)refused("tcp://*:5000", AIF_EINVAL);
    (void)refused("tcp://example.org:5000", AIF_EINVAL);
    (void)refused("tcp://[::]:5000", AIF_EINVAL);
    (void)refused("tcp://127.0.0.1.example.org:5000", AIF_EINVAL);
    assert_string_equal(refused("tcp://127.0.0.1", AIF_EINVAL),
                        "tcp://127.0.0.1 is no address: as in "
                        "tcp://127.0.0.1:50051, port 0 picks one");
    (void)refused("tcp://127.0.0.1:65536", AIF_EINVAL);
    (void)refused("tcp://127.0.0.1:-1", AIF_EINVAL);
    (void)refused("tcp://127.0.0.1:", AIF_EINVAL);
    assert_string_equal(refused("inproc://x", AIF_EINVAL),
                        "cannot serve inproc://x: ipc://PATH or "
                        "tcp://127.0.0.1:PORT belongs there");
}

static void
loopback_gets_a_port(void **state)
{
    static const char *const binds[] = {"tcp://127.0.0.1:0", "tcp://[::1]:0",
                                        "tcp://localhost:0",
                                        "tcp://127.1.2.3:0"};

    (void)state;
    for (size_t i = 0; i < sizeof binds / sizeof *binds; i++) {
        served s = {.log = "mem:"};
        aif_client *c;
        aif_error e;

        if (strstr(binds[i], "::1") && access("/proc/net/if_inet6", R_OK)) {
            continue; /* a machine without IPv6 */
        }
        (void)snprintf(s.bind, sizeof s.bind, "%s", binds[i]);
        serve(&s);
        assert_null(strstr(aif_broker_uri(s.broker), ":0"));
        assert_int_equal(aif_client_open(aif_broker_uri(s.broker), &c, &e),
                         AIF_OK);
        assert_int_equal(publish_one(c, "p", 1), 1);
        (void)refused(aif_broker_uri(s.broker), AIF_ECONFLICT);
        aif_client_free(c);
        unserve(&s);
    }
}

static void
a_path_must_be_one_for_sockets(void **state)
{
    char uri[160] = "ipc:///tmp/";
    char path[32] = "/tmp/aif-XXXXXX";
    char file[48];

    (void)state;
    memset(uri + strlen(uri), 'x', 103);
    assert_string_equal(
        refused(uri, AIF_EINVAL),
        "an ipc path of 108 bytes: a socket's has at most 107 "
        "(/tmp/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
        "xxxxxxxxxxxx...)");
    (void)refused("ipc://", AIF_EINVAL);
    (void)refused("ipc://@name", AIF_EINVAL);
    (void)refused("ipc:///no/such/dir/s", AIF_EINVAL);
    close(mkstemp(path));
    (void)snprintf(file, sizeof file, "ipc://%s", path);
    assert_non_null(strstr(refused(file, AIF_EINVAL), "and is no socket"));
    assert_int_equal(access(path, F_OK), 0); /* not removed */
    unlink(path);
    strcat(path, ".lock");
    unlink(path);
}

static void
nobody_else_may_connect(void **state)
{
    served *s = *state;
    struct stat st;
    mode_t before;

    unserve(s);
    before = umask(0);
    serve(s);
    umask(before);
    assert_int_equal(stat(s->bind + strlen("ipc://"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_true(S_ISSOCK(st.st_mode));
}

static void
one_broker_serves_a_path(void **state)
{
    served *s = *state;
    char want[200];

    (void)snprintf(want, sizeof want, "another process (pid %d) serves %s/s",
                   (int)getpid(), s->dir);
    assert_string_equal(refused(s->bind, AIF_ECONFLICT), want);
    assert_it_lives(s); /* the second try took nothing away */
    unserve(s);
    assert_int_equal(access(s->bind + strlen("ipc://"), F_OK), -1);
    serve(s);
}

/* Workers outlive a killed scheduler; the next one must get the path, and
 * clients must leave the dead one's connections, which the worker keeps open.
 */
static void
a_child_of_a_killed_broker_does_not_keep_the_path(void **state)
{
    served *s = *state;
    int ready[2];
    int status;
    pid_t pid[2];
    aif_client *c;
    aif_error e;

    unserve(s);
    assert_int_equal(pipe(ready), 0);
    pid[0] = fork();
    if (pid[0] == 0) {
        serve(s);
        pid[1] = fork();
        if (pid[1] == 0) {
            alarm(60);
            for (;;) {
                pause();
            }
        }
        _exit(write(ready[1], &pid[1], sizeof pid[1]) < 0 || pause());
    }
    assert_int_equal(read(ready[0], &pid[1], sizeof pid[1]), sizeof pid[1]);
    assert_int_equal(aif_client_open(s->bind, &c, &e), AIF_OK);
    assert_int_equal(publish_one(c, "p", 1), 1);
    (void)refused(s->bind, AIF_ECONFLICT);
    kill(pid[0], SIGKILL);
    waitpid(pid[0], &status, 0);
    serve(s);
    assert_int_equal(publish_one(c, "p", 2), 2); /* sqlite: 1 is still there */
    kill(pid[1], SIGKILL);
    aif_client_free(c);
    close(ready[0]);
    close(ready[1]);
}

static void
a_child_may_not_use_it(void **state)
{
    served *s = *state;
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        aif_error e;
        aif_broker *b = s->broker;

        alarm(5);
        aif_broker_stop(b); /* does nothing */
        aif_broker_free(b); /* nor this */
        _exit(aif_broker_run(b, &e) != AIF_EFORKED);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_it_lives(s);
}

static void
it_stops_before_it_runs_too(void **state)
{
    aif_broker *b;
    aif_error e;

    (void)state;
    assert_int_equal(aif_broker_open("tcp://127.0.0.1:0", "mem:", &b, &e),
                     AIF_OK);
    aif_broker_stop(b);
    assert_int_equal(aif_broker_run(b, &e), AIF_OK);
    aif_broker_free(b);
    aif_broker_free(NULL);
    aif_broker_stop(NULL);
}

static void
a_log_that_does_not_open_is_said(void **state)
{
    served *s = *state;
    aif_broker *b;
    aif_error e;

    unserve(s);
    assert_int_equal(
        aif_broker_open(s->bind, "sqlite:/no/such/dir/log", &b, &e),
        AIF_ESTORE);
    assert_int_equal(aif_broker_open(s->bind, "nope:", &b, &e), AIF_EINVAL);
    assert_null(b);
    serve(s); /* the path was given back */
}

static void
put_events(aif_buf *out, const char *producer, uint64_t from, size_t n)
{
    aif_error e;

    for (size_t i = 0; i < n; i++) {
        aif_event ev = numbered(producer, from + i);

        assert_int_equal(aif_event_encode(&ev, out, &e), AIF_OK);
    }
}

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

static void
expect_error(raw *r, uint64_t id, aif_err code)
{
    aif_frame f = raw_next(r);

    assert_int_equal(f.kind, AIF_K_ERROR);
    assert_int_equal(f.id, id);
    assert_int_equal(f.code, code);
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
    assert_it_lives(s);
    assert_int_equal(stats_of(s).rejected, 1);
    raw_close(&r);
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
        publish.kind = i % 3 == 0 ? AIF_K_PUBLISH : (aif_kind)(1 + rand() % 9);
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

static void
list_count_and_head_ask_the_log(void **state)
{
    served *s = *state;
    const aif_pattern none = {AIF_STR("other"), AIF_STR("*"), AIF_STR("*"),
                              AIF_STR("*")};
    aif_frame count = {.kind = AIF_K_COUNT, .id = 3};
    aif_frame list = {.kind = AIF_K_LIST, .id = 4, .max = 2};
    aif_frame publish = {.kind = AIF_K_PUBLISH, .id = 1};
    aif_buf tail = {0};
    aif_frame f;
    aif_error e;
    raw r;

    raw_open(&r, s->bind);
    put_events(&tail, "p", 1, 3);
    raw_frame(&r, &publish, &tail);
    (void)raw_next(&r);
    tail.n = 0;
    raw_frame(&r, &count, NULL);
    assert_int_equal(raw_next(&r).to, 3);
    assert_int_equal(aif_wire_put_pattern(&none, &tail, &e), AIF_OK);
    raw_frame(&r, &count, &tail);
    assert_int_equal(raw_next(&r).to, 0);
    raw_frame(&r, &list, NULL);
    f = raw_next(&r);
    assert_int_equal(f.kind, AIF_K_LISTED);
    assert_int_equal(f.flag, 1); /* 2 of 3 */
    assert_int_equal(aif_wire_put_pattern(&none, &tail, &e), AIF_OK);
    raw_frame(&r, &list, &tail); /* two patterns */
    expect_error(&r, 4, AIF_EPROTO);
    aif_buf_fini(&tail);
    raw_close(&r);
}

int
main(void)
{
#define SERVED(test, how)                                                     \
    cmocka_unit_test_setup_teardown(test, served_##how, served_teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_this_machine_is_served),
        cmocka_unit_test(loopback_gets_a_port),
        cmocka_unit_test(a_path_must_be_one_for_sockets),
        SERVED(nobody_else_may_connect, mem),
        SERVED(one_broker_serves_a_path, mem),
        SERVED(a_child_of_a_killed_broker_does_not_keep_the_path, sqlite),
        SERVED(a_child_may_not_use_it, mem),
        cmocka_unit_test(it_stops_before_it_runs_too),
        SERVED(a_log_that_does_not_open_is_said, mem),
        SERVED(what_waits_is_one_append, sqlite),
        SERVED(a_bad_frame_is_refused_and_counted, mem),
        SERVED(a_batch_is_10000_events, mem),
        SERVED(messages_of_several_parts_are_refused, mem),
        SERVED(a_long_routing_id_is_refused, mem),
        SERVED(an_oversized_frame_costs_its_sender_the_connection, mem),
        SERVED(bytes_from_anywhere_do_no_harm, mem),
        SERVED(random_frames_do_no_harm, mem),
        SERVED(a_peer_that_does_not_read_delays_nobody, mem),
        SERVED(list_count_and_head_ask_the_log, sqlite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
