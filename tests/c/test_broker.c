/* The broker as a server: addresses, its lock, its process. */
#include "broker_fixture.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Why no broker opens there. */
static const char *
refused(const char *bind, aif_err code)
{
    static aif_error e;
    aif_broker *b = (aif_broker *)1;

    if (aif_broker_open(&(aif_broker_options){.bind = bind, .log = "mem:"}, &b,
                        &e) != code) {
        fail_msg("%s: %s", bind, e.text);
    }
    assert_null(b);
    return e.text;
}

static void
other_machines_are_served_only_with_keys(void **state)
{
    (void)state;
    assert_string_equal(refused("tcp://0.0.0.0:0", AIF_EINVAL),
                        "tcp://0.0.0.0:0 is open to other machines, and there "
                        "are no keys: make them with `aiflow keys new NAME`, "
                        "or serve tcp://127.0.0.1, or say --insecure");
    (void)refused("tcp://*:5000", AIF_EINVAL);
    (void)refused("tcp://lo:5000", AIF_EINVAL); /* who knows its address */
    (void)refused("tcp://[::ffff:127.0.0.1]:5000", AIF_EINVAL);
    (void)refused("tcp://127.1:5000", AIF_EINVAL);
    (void)refused("tcp://2130706433:5000", AIF_EINVAL);
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

        if (strchr(binds[i], '[') != NULL && !has_ipv6()) {
            continue;
        }
        (void)snprintf(s.bind, sizeof s.bind, "%s", binds[i]);
        serve(&s);
        assert_null(strstr(aif_broker_uri(s.broker), ":0"));
        assert_int_equal(
            aif_client_open(aif_broker_uri(s.broker), NULL, &c, &e), AIF_OK);
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

/* In a child: a broker; told so, it forks a worker that says who it is (its
 * copy of the lock is closed by then) and does nothing. */
static void
serve_and_fork(served *s, int told, int say)
{
    pid_t worker;

    alarm(1000);
    serve(s);
    if (read(told, &worker, 1) == 1) {
        worker = fork() == 0 ? getpid() : 0;
        if (worker != 0 && write(say, &worker, sizeof worker) < 0) {
            _exit(1);
        }
    }
    for (;;) {
        pause();
    }
}

/* Workers outlive a killed scheduler, and keep its connections open: the next
 * one must get the path, and clients must notice that nobody is there. */
static void
a_child_of_a_killed_broker_is_no_broker(void **state)
{
    served *s = *state;
    int tell[2];
    int hear[2];
    int status;
    pid_t broker;
    pid_t worker;
    aif_client *c;
    aif_error e;

    unserve(s);
    assert_int_equal(pipe(tell) + pipe(hear), 0);
    broker = fork();
    if (broker == 0) {
        serve_and_fork(s, tell[0], hear[1]);
    }
    assert_int_equal(aif_client_open(s->bind, NULL, &c, &e), AIF_OK);
    assert_int_equal(publish_one(c, "p", 1), 1);
    assert_int_equal(write(tell[1], "", 1), 1);
    assert_int_equal(read(hear[0], &worker, sizeof worker), sizeof worker);
    (void)refused(s->bind, AIF_ECONFLICT);
    kill(broker, SIGKILL);
    waitpid(broker, &status, 0);
    serve(s);
    assert_int_equal(publish_one(c, "p", 2), 2); /* 1 is still in the log */
    assert_int_equal(kill(worker, SIGKILL), 0);
    aif_client_free(c);
    for (int i = 0; i < 2; i++) {
        close(tell[i]);
        close(hear[i]);
    }
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

        alarm(120);
        aif_broker_stop(b); /* does nothing */
        aif_broker_free(b); /* nor this */
        _exit(aif_broker_run(b, &e) != AIF_EFORKED);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_it_lives(s);
}

static void *
allocate(void *stop)
{
    while (!atomic_load((atomic_bool *)stop)) {
        void *volatile p = malloc(32 << 10); /* as opendir(3) does */

        free(p);
    }
    return NULL;
}

/* Whatever lock another thread holds: a sanitizer's allocator does not give
 * its own to a child. */
static void
a_fork_of_a_busy_process_ends(void **state)
{
    atomic_bool stop = false;
    pthread_t thread;
    int status;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, allocate, &stop), 0);
    alarm(1000);
    for (int i = 0; i < 20; i++) {
        pid_t pid = fork();

        if (pid == 0) {
            _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
    alarm(0);
    atomic_store(&stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void
it_stops_before_it_runs_too(void **state)
{
    aif_broker *b;
    aif_error e;

    (void)state;
    assert_int_equal(
        aif_broker_open(
            &(aif_broker_options){.bind = "tcp://127.0.0.1:0", .log = "mem:"},
            &b, &e),
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
        aif_broker_open(
            &(aif_broker_options){.bind = s->bind,
                                  .log = "sqlite:/no/such/dir/log"},
            &b, &e),
        AIF_ESTORE);
    assert_int_equal(
        aif_broker_open(&(aif_broker_options){.bind = s->bind, .log = "nope:"},
                        &b, &e),
        AIF_EINVAL);
    assert_null(b);
    serve(s); /* the path was given back */
}

int
main(void)
{
#define SERVED(test, how)                                                     \
    cmocka_unit_test_setup_teardown(test, served_##how, served_teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_machines_are_served_only_with_keys),
        cmocka_unit_test(loopback_gets_a_port),
        cmocka_unit_test(a_path_must_be_one_for_sockets),
        SERVED(nobody_else_may_connect, mem),
        SERVED(one_broker_serves_a_path, mem),
        SERVED(a_child_of_a_killed_broker_is_no_broker, sqlite),
        SERVED(a_child_may_not_use_it, mem),
        SERVED(a_fork_of_a_busy_process_ends, mem),
        cmocka_unit_test(it_stops_before_it_runs_too),
        SERVED(a_log_that_does_not_open_is_said, mem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
