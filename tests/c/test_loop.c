#include "cmocka_all.h"

#include "broker/broker.h"
#include "client/client.h"
#include "fault.h"
#include "wake/loop.h"
#include "wake/watch.h"

#include <libpq-fe.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define HANG 60000 /* ms; only waited for when something is broken */

static aif_error e;

static void
wait_for(aif_source *s, size_t n, int timeout_ms)
{
    aif_err err = aif_loop_wait(s, n, timeout_ms, &e);

    if (err != AIF_OK) {
        fail_msg("%s", e.text);
    }
}

/* ---- fds ---- */

typedef struct {
    int r[2]; /* two pipes: read ends */
    int w[2];
} pipes;

static int
pipes_setup(void **state)
{
    pipes *p = calloc(1, sizeof *p);
    int fd[2];

    for (int i = 0; i < 2; i++) {
        assert_int_equal(pipe(fd), 0);
        p->r[i] = fd[0];
        p->w[i] = fd[1];
    }
    *state = p;
    return 0;
}

static int
pipes_teardown(void **state)
{
    pipes *p = *state;

    for (int i = 0; i < 2; i++) {
        (void)close(p->r[i]);
        (void)close(p->w[i]);
    }
    free(p);
    return 0;
}

static void
the_readable_one_is_ready(void **state)
{
    pipes *p = *state;
    aif_source s[] = {{.fd = p->r[0]}, {.fd = p->r[1]}};

    assert_int_equal(write(p->w[1], "x", 1), 1);
    wait_for(s, 2, HANG);
    assert_false(s[0].ready);
    assert_true(s[1].ready);
    assert_int_equal(write(p->w[0], "x", 1), 1);
    wait_for(s, 2, HANG);
    assert_true(s[0].ready);
    assert_true(s[1].ready);
}

static void
nothing_is_ready_when_the_time_is_over(void **state)
{
    pipes *p = *state;
    aif_source s[] = {{.fd = p->r[0], .ready = true}};

    wait_for(s, 1, 0);
    assert_false(s[0].ready);
    s[0].ready = true;
    wait_for(s, 1, 1);
    assert_false(s[0].ready);
    wait_for(NULL, 0, 1);
}

static void
an_end_that_was_closed_is_ready(void **state)
{
    pipes *p = *state;
    aif_source s[] = {{.fd = p->r[0]}};

    (void)close(p->w[0]);
    wait_for(s, 1, HANG);
    assert_true(s[0].ready);
    p->w[0] = -1;
}

static void
an_fd_that_is_not_open_is_named(void **state)
{
    pipes *p = *state;
    aif_source s[] = {{.fd = p->r[0]}, {.fd = p->r[1]}};

    (void)close(p->r[1]);
    assert_int_equal(aif_loop_wait(s, 2, HANG, &e), AIF_EINVAL);
    assert_non_null(strstr(e.text, "source 1"));
    p->r[1] = s[1].fd = -1;
    assert_int_equal(aif_loop_wait(s, 2, HANG, &e), AIF_EINVAL);
    assert_non_null(strstr(e.text, "source 1"));
}

static void
waiting_survives_every_oom(void **state)
{
    pipes *p = *state;
    aif_source s[] = {{.fd = p->r[0]}};

    assert_int_equal(write(p->w[0], "x", 1), 1);
    fault_alloc_after(0);
    assert_int_equal(aif_loop_wait(s, 1, HANG, &e), AIF_ENOMEM);
    fault_off();
    assert_false(s[0].ready);
    wait_for(s, 1, HANG);
    assert_true(s[0].ready);
}

static atomic_bool back;

static void
on_signal(int number)
{
    (void)number;
}

static void *
keep_interrupting(void *main_thread)
{
    while (!back) {
        (void)pthread_kill(*(pthread_t *)main_thread, SIGUSR1);
    }
    return NULL;
}

/* Without an end: only the signal can bring us back. */
static void
a_signal_ends_the_wait(void **state)
{
    pipes *p = *state;
    aif_source s[] = {{.fd = p->r[0]}};
    struct sigaction action = {.sa_handler = on_signal};
    pthread_t self = pthread_self();
    pthread_t other;

    back = false;
    assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
    assert_int_equal(pthread_create(&other, NULL, keep_interrupting, &self),
                     0);
    wait_for(s, 1, -1);
    back = true;
    assert_false(s[0].ready);
    assert_int_equal(pthread_join(other, NULL), 0);
}

/* ---- a watch without an fd: SQLite ---- */

typedef struct {
    char dir[32];
    char uri[64];
    const char *path;
    sqlite3 *db;
    aif_watch *w;
} lite;

static void *
insert(void *state)
{
    lite *t = state;

    return sqlite3_exec(t->db, "INSERT INTO t VALUES (1)", NULL, NULL, NULL) ==
                   SQLITE_OK
               ? t
               : NULL;
}

static int
lite_setup(void **state)
{
    lite *t = calloc(1, sizeof *t);

    *state = t;
    strcpy(t->dir, "/tmp/aif-loop-XXXXXX");
    assert_non_null(mkdtemp(t->dir));
    (void)snprintf(t->uri, sizeof t->uri, "sqlite:%s/db", t->dir);
    t->path = t->uri + strlen("sqlite:");
    assert_int_equal(sqlite3_open(t->path, &t->db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(t->db,
                                  "PRAGMA journal_mode=WAL;"
                                  "CREATE TABLE t(x)",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    assert_int_equal(aif_watch_open(t->uri, "", &t->w, &e), AIF_OK);
    return 0;
}

static int
lite_teardown(void **state)
{
    lite *t = *state;

    aif_watch_free(t->w);
    assert_int_equal(sqlite3_close(t->db), SQLITE_OK);
    assert_int_equal(unlink(t->path), 0);
    assert_int_equal(rmdir(t->dir), 0);
    free(t);
    return 0;
}

static bool
changed(aif_watch *w)
{
    bool yes;
    char payload[64];

    assert_int_equal(aif_watch_poll(w, &yes, payload, sizeof payload, &e),
                     AIF_OK);
    return yes;
}

static void
a_commit_before_the_wait_is_ready_and_kept_for_its_owner(void **state)
{
    lite *t = *state;
    aif_source s[] = {{.watch = t->w}};

    wait_for(s, 1, 5);
    assert_false(s[0].ready);
    assert_non_null(insert(t));
    wait_for(s, 1, HANG);
    assert_true(s[0].ready);
    wait_for(s, 1, HANG); /* not polled yet: still ready */
    assert_true(s[0].ready);
    assert_true(changed(t->w));
    wait_for(s, 1, 5);
    assert_false(s[0].ready);
}

static void
a_commit_during_the_wait_ends_it(void **state)
{
    lite *t = *state;
    aif_source s[] = {{.watch = t->w}};
    pthread_t other;
    void *ok;

    assert_int_equal(pthread_create(&other, NULL, insert, t), 0);
    wait_for(s, 1, -1);
    assert_true(s[0].ready);
    assert_int_equal(pthread_join(other, &ok), 0);
    assert_non_null(ok);
}

static void
an_fd_beside_a_watch_is_ready_too(void **state)
{
    lite *t = *state;
    int fd[2];
    aif_source s[] = {{.watch = t->w}, {.fd = -1}};

    assert_int_equal(pipe(fd), 0);
    s[1].fd = fd[0];
    assert_int_equal(write(fd[1], "x", 1), 1);
    wait_for(s, 2, HANG);
    assert_false(s[0].ready);
    assert_true(s[1].ready);
    assert_non_null(insert(t));
    wait_for(s, 2, HANG);
    assert_true(s[0].ready);
    assert_true(s[1].ready);
    assert_int_equal(close(fd[0]) | close(fd[1]), 0);
}

static void
a_child_is_refused(void **state)
{
    lite *t = *state;
    aif_source s[] = {{.watch = t->w}};
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        alarm(120);
        _exit(aif_loop_wait(s, 1, HANG, &e) != AIF_EFORKED);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* ---- a watch with an fd: PostgreSQL ---- */

static void
run(PGconn *conn, const char *sql)
{
    PGresult *res = PQexec(conn, sql);

    assert_true(PQresultStatus(res) == PGRES_COMMAND_OK ||
                PQresultStatus(res) == PGRES_TUPLES_OK);
    PQclear(res);
}

/* The second payload is in libpq already: no fd tells of it. */
static void
what_libpq_holds_is_ready(void **state)
{
    const char *uri = getenv("AIF_TEST_PG");
    aif_source s[] = {{.watch = NULL}};
    PGconn *conn;

    (void)state;
    if (uri == NULL) {
        print_message("AIF_TEST_PG is not set: NOT TESTED on PostgreSQL\n");
        skip();
    }
    conn = PQconnectdb(uri);
    assert_int_equal(aif_watch_open(uri, "aif_test_loop", &s[0].watch, &e),
                     AIF_OK);
    wait_for(s, 1, 0);
    assert_false(s[0].ready);
    run(conn, "BEGIN; NOTIFY aif_test_loop, 'a'; NOTIFY aif_test_loop, 'b';"
              "COMMIT");
    wait_for(s, 1, -1);
    assert_true(s[0].ready);
    assert_true(changed(s[0].watch));
    wait_for(s, 1, -1);
    assert_true(s[0].ready);
    assert_true(changed(s[0].watch));
    wait_for(s, 1, 0);
    assert_false(s[0].ready);
    aif_watch_free(s[0].watch);
    PQfinish(conn);
}

static void
a_lost_database_wakes_when_it_is_back(void **state)
{
    const char *uri = getenv("AIF_TEST_PG");
    aif_source s[] = {{.watch = NULL}};
    PGconn *conn;

    (void)state;
    if (uri == NULL) {
        print_message("AIF_TEST_PG is not set: NOT TESTED on PostgreSQL\n");
        skip();
    }
    conn = PQconnectdb(uri);
    assert_int_equal(aif_watch_open(uri, "aif_test_loop", &s[0].watch, &e),
                     AIF_OK);
    run(conn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
              " WHERE datname = current_database()"
              " AND query = 'LISTEN \"aif_test_loop\"'");
    wait_for(s, 1, -1);
    assert_true(s[0].ready);
    assert_true(changed(s[0].watch));
    assert_true(aif_watch_fd(s[0].watch) >= 0);
    aif_watch_free(s[0].watch);
    PQfinish(conn);
}

/* ---- a subscription ---- */

static void *
serve(void *broker)
{
    aif_error why;

    return aif_broker_run(broker, &why) == AIF_OK ? broker : NULL;
}

static void
a_pushed_event_ends_the_wait(void **state)
{
    aif_broker *b;
    aif_client *c;
    aif_pattern all = {AIF_STR("*"), AIF_STR("*"), AIF_STR("*"), AIF_STR("*"),
                       AIF_STR("*")};
    aif_event ev = {.ns = AIF_STR("default"),
                    .key = AIF_STR("k"),
                    .type = AIF_STR("t"),
                    .producer = AIF_STR("test_loop"),
                    .sequence = 1};
    aif_source s[] = {{.sub = NULL}};
    aif_batch got = {0};
    uint64_t offset;
    uint64_t stream;
    bool hinted;
    pthread_t server;
    void *ok;

    (void)state;
    assert_int_equal(
        aif_broker_open(
            &(aif_broker_options){.bind = "tcp://127.0.0.1:0", .log = "mem:"},
            &b, &e),
        AIF_OK);
    assert_int_equal(pthread_create(&server, NULL, serve, b), 0);
    assert_int_equal(
        aif_sub_open(aif_broker_uri(b), NULL, false, &s[0].sub, &e), AIF_OK);
    assert_int_equal(aif_sub_add(s[0].sub, &all, 1, 0, HANG, &stream, &e),
                     AIF_OK);
    assert_int_equal(aif_sub_next(s[0].sub, 0, &got, NULL, NULL, &hinted, &e),
                     AIF_OK);
    assert_int_equal(got.n, 0);
    assert_int_equal(aif_client_open(aif_broker_uri(b), NULL, &c, &e), AIF_OK);
    assert_int_equal(aif_client_publish(c, &ev, 1, &offset, HANG, &e), AIF_OK);
    while (got.n == 0) { /* zmq may wake us for its own affairs first */
        wait_for(s, 1, -1);
        assert_true(s[0].ready);
        assert_int_equal(
            aif_sub_next(s[0].sub, 0, &got, NULL, NULL, &hinted, &e), AIF_OK);
    }
    assert_int_equal(got.events[0].offset, offset);
    aif_batch_fini(&got);
    aif_sub_free(s[0].sub);
    aif_client_free(c);
    aif_broker_stop(b);
    assert_int_equal(pthread_join(server, &ok), 0);
    assert_non_null(ok);
    aif_broker_free(b);
}

#define PIPES(test)                                                           \
    cmocka_unit_test_setup_teardown(test, pipes_setup, pipes_teardown)
#define LITE(test)                                                            \
    cmocka_unit_test_setup_teardown(test, lite_setup, lite_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        PIPES(the_readable_one_is_ready),
        PIPES(nothing_is_ready_when_the_time_is_over),
        PIPES(an_end_that_was_closed_is_ready),
        PIPES(an_fd_that_is_not_open_is_named),
        PIPES(waiting_survives_every_oom),
        PIPES(a_signal_ends_the_wait),
        LITE(a_commit_before_the_wait_is_ready_and_kept_for_its_owner),
        LITE(a_commit_during_the_wait_ends_it),
        LITE(an_fd_beside_a_watch_is_ready_too),
        LITE(a_child_is_refused),
        cmocka_unit_test(what_libpq_holds_is_ready),
        cmocka_unit_test(a_lost_database_wakes_when_it_is_back),
        cmocka_unit_test(a_pushed_event_ends_the_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
