/* dlsym's RTLD_NEXT: to see which names libpq looks up. */
#define _GNU_SOURCE
#include "cmocka_all.h"

#include "fault.h"
#include "wake/watch.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <libpq-fe.h>
#include <netdb.h>
#include <poll.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static aif_error e;
static char payload[8192];
static int lookups; /* of a name, not of an address */

__attribute__((visibility("default"))) int
getaddrinfo(const char *name, const char *service,
            const struct addrinfo *hints, struct addrinfo **out)
{
    static int (*real)(const char *, const char *, const struct addrinfo *,
                       struct addrinfo **);

    if (real == NULL) {
        *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    }
    lookups += hints == NULL || (hints->ai_flags & AI_NUMERICHOST) == 0;
    return real(name, service, hints, out);
}

static bool
changed(aif_watch *w)
{
    bool yes;

    assert_int_equal(aif_watch_poll(w, &yes, payload, sizeof payload, &e),
                     AIF_OK);
    return yes;
}

/* ---- PostgreSQL: a watch, and a second session that speaks ---- */

typedef struct {
    const char *uri;
    PGconn *other;
    aif_watch *w;
} pg;

static void
run(pg *t, const char *sql)
{
    PGresult *res = PQexec(t->other, sql);

    if (PQresultStatus(res) != PGRES_COMMAND_OK &&
        PQresultStatus(res) != PGRES_TUPLES_OK) {
        fail_msg("%s: %s", sql, PQerrorMessage(t->other));
    }
    PQclear(res);
}

static int
pg_setup(void **state)
{
    pg *t = calloc(1, sizeof *t);

    *state = t;
    t->uri = getenv("AIF_TEST_PG");
    if (t->uri == NULL) {
        return 0;
    }
    t->other = PQconnectdb(t->uri);
    assert_int_equal(PQstatus(t->other), CONNECTION_OK);
    assert_int_equal(aif_watch_open(t->uri, "aif_test_watch", &t->w, &e),
                     AIF_OK);
    return 0;
}

static int
pg_teardown(void **state)
{
    pg *t = *state;

    aif_watch_free(t->w);
    PQfinish(t->other);
    free(t);
    return 0;
}

static pg *
server(void **state)
{
    pg *t = *state;

    if (t->uri == NULL) {
        print_message("AIF_TEST_PG is not set: NOT TESTED on PostgreSQL\n");
        skip();
    }
    return t;
}

/* Wait for the fd, not for a time: a minute is only for a hang. */
static void
readable(aif_watch *w)
{
    struct pollfd p = {aif_watch_fd(w), POLLIN, 0};

    assert_true(p.fd >= 0);
    assert_int_equal(poll(&p, 1, 60000), 1);
}

static void
nothing_happened(void **state)
{
    pg *t = server(state);

    assert_false(changed(t->w));
    assert_string_equal(payload, "");
}

static void
a_notify_is_heard_with_its_payload(void **state)
{
    pg *t = server(state);

    run(t, "SELECT pg_notify('aif_test_watch', 'one')");
    readable(t->w);
    assert_true(changed(t->w));
    assert_string_equal(payload, "one");
    (void)changed(t->w);
    assert_string_equal(payload, "");
    assert_false(changed(t->w));
}

/* Nobody waits for the descriptor: the answer to sync comes after it. */
static void
what_was_committed_before_a_sync_is_polled(void **state)
{
    pg *t = server(state);
    char sql[64];
    char text[16];

    for (int n = 1; n <= 1000; n++) {
        (void)snprintf(text, sizeof text, "%d", n);
        (void)snprintf(sql, sizeof sql, "SELECT pg_notify('%s', '%s')",
                       "aif_test_watch", text);
        run(t, sql);
        assert_int_equal(aif_watch_sync(t->w), 1);
        assert_true(changed(t->w));
        assert_string_equal(payload, text);
    }
}

static void
a_pooler_that_nothing_is_heard_through_is_refused(void **state)
{
    const char *pooler = getenv("AIF_TEST_POOLER");
    char uri[300];
    aif_watch *w;

    (void)server(state);
    if (pooler == NULL) {
        print_message("AIF_TEST_POOLER is not set: NOT TESTED\n");
        skip();
    }
    (void)snprintf(uri, sizeof uri, "%s/postgres", pooler);
    assert_int_equal(aif_watch_open(uri, "aif_test_watch", &w, &e),
                     AIF_EINVAL);
    assert_null(w);
    assert_non_null(strstr(e.text, "a pooler in transaction mode"));
}

/* A listener that nobody reads for would keep the server's queue of
 * notifications from ever getting shorter. */
static void
a_child_does_not_listen(void **state)
{
    pg *t = server(state);
    const int fd = aif_watch_fd(t->w);
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        _exit(fcntl(fd, F_GETFD) != -1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    run(t, "NOTIFY aif_test_watch, 'still'");
    readable(t->w);
    assert_true(changed(t->w));
    assert_string_equal(payload, "still");
}

static void
what_was_rolled_back_is_not_heard(void **state)
{
    pg *t = server(state);

    run(t, "BEGIN; NOTIFY aif_test_watch, 'never'; ROLLBACK");
    run(t, "NOTIFY aif_test_watch, 'said'");
    readable(t->w);
    assert_true(changed(t->w));
    assert_string_equal(payload, "said");
}

static void
other_channels_are_not_heard(void **state)
{
    pg *t = server(state);

    run(t, "NOTIFY aif_test_other, 'not for us'");
    run(t, "NOTIFY aif_test_watch, 'for us'");
    readable(t->w);
    assert_true(changed(t->w));
    assert_string_equal(payload, "for us");
}

static void
payloads_come_in_order_one_a_poll(void **state)
{
    pg *t = server(state);

    run(t, "BEGIN; NOTIFY aif_test_watch, 'a'; NOTIFY aif_test_watch;"
           "NOTIFY aif_test_watch, 'b'; NOTIFY aif_test_watch, 'c'; COMMIT");
    readable(t->w);
    assert_true(changed(t->w));
    assert_string_equal(payload, "a");
    (void)changed(t->w); /* the empty one between them ends nothing */
    assert_string_equal(payload, "b");
    (void)changed(t->w);
    assert_string_equal(payload, "c");
    (void)changed(t->w);
    assert_string_equal(payload, "");
}

static void
a_payload_is_cut_between_characters(void **state)
{
    pg *t = server(state);
    bool yes;

    run(t, "SELECT pg_notify('aif_test_watch', U&'ab\\20AC')"); /* ab€ */
    readable(t->w);
    assert_int_equal(aif_watch_poll(t->w, &yes, payload, 5, &e), AIF_OK);
    assert_string_equal(payload, "ab");
    run(t, "SELECT pg_notify('aif_test_watch', U&'ab\\20AC')");
    readable(t->w);
    assert_int_equal(aif_watch_poll(t->w, &yes, payload, 6, &e), AIF_OK);
    assert_string_equal(payload, "ab\xE2\x82\xAC");
}

static void
terminate(pg *t)
{
    run(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
           " WHERE datname = current_database()"
           " AND application_name = 'aiflow watch'");
    readable(t->w);
    while (aif_watch_fd(t->w) >= 0) {
        assert_false(changed(t->w));
    }
}

static void
until_changed(aif_watch *w)
{
    while (!changed(w)) {
        assert_int_equal(poll(NULL, 0, aif_watch_interval_ms(w)), 0);
    }
}

/* What was said while it was away nobody knows: being back is the change. */
static void
a_lost_connection_comes_back_changed(void **state)
{
    pg *t = server(state);

    assert_int_equal(aif_watch_sync(t->w), 1);
    terminate(t);
    until_changed(t->w);
    assert_int_equal(aif_watch_sync(t->w), 2);
    run(t, "NOTIFY aif_test_watch, 'again'");
    readable(t->w);
    assert_true(changed(t->w));
    assert_string_equal(payload, "again");
}

/* To look a name up is to wait, with all who wait in the same loop. */
static void
a_lost_connection_comes_back_without_a_look_up(void **state)
{
    pg *t = server(state);
    char uri[512];
    int before;

    (void)snprintf(uri, sizeof uri, "%s%shost=localhost", t->uri,
                   strchr(t->uri, '?') == NULL ? "?" : "&");
    aif_watch_free(t->w);
    assert_int_equal(aif_watch_open(uri, "aif_test_watch", &t->w, &e), AIF_OK);
    before = lookups;
    assert_in_range(before, 1, 100);
    for (int i = 0; i < 2; i++) {
        terminate(t);
        until_changed(t->w);
    }
    assert_int_equal(lookups, before);
}

static void
role(pg *t, const char *verb, const char *how)
{
    char sql[128];

    (void)snprintf(sql, sizeof sql, "%s ROLE aif_test_%d %s", verb,
                   (int)getpid(), how);
    run(t, sql);
}

/* 30 polls are 1.5 s: a try or two that the server turns down. */
static void
a_server_that_turns_us_down_is_tried_again(void **state)
{
    pg *t = server(state);
    char uri[512];

    /* roles are the server's, not the database's: one name a process */
    role(t, "CREATE", "LOGIN");
    (void)snprintf(uri, sizeof uri, "%s%suser=aif_test_%d", t->uri,
                   strchr(t->uri, '?') == NULL ? "?" : "&", (int)getpid());
    aif_watch_free(t->w);
    assert_int_equal(aif_watch_open(uri, "aif_test_watch", &t->w, &e), AIF_OK);
    role(t, "ALTER", "NOLOGIN");
    terminate(t);
    for (int i = 0; i < 30; i++) {
        assert_false(changed(t->w));
        assert_int_equal(aif_watch_fd(t->w), -1);
        assert_int_equal(poll(NULL, 0, aif_watch_interval_ms(t->w)), 0);
    }
    role(t, "ALTER", "LOGIN");
    until_changed(t->w);
    role(t, "DROP", "");
}

static void
a_server_that_does_not_let_us_in_is_named(void **state)
{
    aif_watch *w;

    (void)state;
    assert_int_equal(
        aif_watch_open("postgresql://u:secret@127.0.0.1:1/x", "c", &w, &e),
        AIF_ESTORE);
    assert_null(w);
    assert_non_null(strstr(e.text, "refused"));
    assert_null(strstr(e.text, "secret"));
    assert_null(strchr(e.text, '\n'));
}

static void
opening_survives_every_oom_on_pg_too(void **state)
{
    aif_watch *w;
    aif_err err;
    int n = 0;

    (void)state;
    do {
        fault_alloc_after(n++);
        err = aif_watch_open("postgresql://127.0.0.1:1/x", "c", &w, &e);
        fault_off();
        assert_null(w);
        assert_true(err == AIF_ENOMEM || err == AIF_ESTORE);
    } while (err == AIF_ENOMEM);
    assert_int_equal(n, 3);
}

/* ---- wrong arguments ---- */

static void
a_wrong_channel_is_refused(void **state)
{
    static const char *const wrong[] = {
        "", "a b", "a\"; DROP TABLE x; --", "\xC3\xA9",
        "a234567890123456789012345678901234567890123456789012345678901234"};
    aif_watch *w;

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(
            aif_watch_open("postgresql://127.0.0.1/x", wrong[i], &w, &e),
            AIF_EINVAL);
        assert_null(w);
    }
}

static void
a_wrong_uri_is_refused_and_not_quoted(void **state)
{
    static const char *const wrong[] = {"postgresql://u:secret@[::1/x",
                                        "postgresql://u:a@secret/x@h/db",
                                        "mysql://u:secret@h/x", ""};
    aif_watch *w;

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(aif_watch_open(wrong[i], "c", &w, &e), AIF_EINVAL);
        assert_null(w);
        assert_null(strstr(e.text, "secret"));
    }
}

/* ---- SQLite ---- */

typedef struct {
    char dir[32];
    char uri[64];
    const char *path;
    sqlite3 *other;
    aif_watch *w;
} lite;

static void
exec(lite *t, const char *sql)
{
    assert_int_equal(sqlite3_exec(t->other, sql, NULL, NULL, NULL), SQLITE_OK);
}

static int
lite_open(void **state, const char *journal)
{
    lite *t = calloc(1, sizeof *t);

    *state = t;
    strcpy(t->dir, "/tmp/aif-watch-XXXXXX");
    assert_non_null(mkdtemp(t->dir));
    (void)snprintf(t->uri, sizeof t->uri, "sqlite:%s/db", t->dir);
    t->path = t->uri + strlen("sqlite:");
    assert_int_equal(sqlite3_open(t->path, &t->other), SQLITE_OK);
    exec(t, journal);
    exec(t, "CREATE TABLE t(x)");
    assert_int_equal(aif_watch_open(t->uri, "", &t->w, &e), AIF_OK);
    return 0;
}

static int
wal_setup(void **state)
{
    return lite_open(state, "PRAGMA journal_mode=WAL");
}

static int
delete_setup(void **state)
{
    return lite_open(state, "PRAGMA journal_mode=DELETE");
}

static int
lite_teardown(void **state)
{
    static const char *const files[] = {"db", "db-wal", "db-shm", "db-journal",
                                        "kept"};
    lite *t = *state;
    char path[64];

    aif_watch_free(t->w);
    (void)sqlite3_close(t->other);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", t->dir, files[i]);
        (void)unlink(path);
    }
    assert_int_equal(rmdir(t->dir), 0);
    free(t);
    return 0;
}

static void
a_commit_of_another_is_seen_once(void **state)
{
    lite *t = *state;

    assert_false(changed(t->w));
    exec(t, "INSERT INTO t VALUES (1)");
    assert_int_equal(aif_watch_sync(t->w), 0);
    assert_true(changed(t->w));
    assert_string_equal(payload, "");
    assert_false(changed(t->w));
    exec(t, "INSERT INTO t VALUES (2)");
    exec(t, "INSERT INTO t VALUES (3)");
    assert_true(changed(t->w));
    assert_false(changed(t->w));
}

static void
reads_and_rollbacks_are_not_seen(void **state)
{
    lite *t = *state;

    exec(t, "SELECT * FROM t");
    exec(t, "BEGIN; INSERT INTO t VALUES (1)");
    assert_false(changed(t->w));
    exec(t, "ROLLBACK");
    assert_false(changed(t->w));
}

static void
a_commit_of_another_process_is_seen(void **state)
{
    lite *t = *state;
    int status;
    pid_t pid = fork();

    if (pid == 0) { /* exec: a child must not use our connection */
        execl("/proc/self/exe", "test_watch", "--insert", t->path,
              (char *)NULL);
        _exit(9);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_true(changed(t->w));
    assert_false(changed(t->w));
}

static int
insert(const char *path)
{
    sqlite3 *db;
    int rc = sqlite3_open(path, &db);

    if (rc == SQLITE_OK) {
        rc = sqlite3_exec(db, "INSERT INTO t VALUES (1)", NULL, NULL, NULL);
    }
    (void)sqlite3_close(db);
    return rc;
}

/* A writer that holds the file (not in WAL mode) is not an error. */
static void
a_busy_file_is_looked_at_later(void **state)
{
    lite *t = *state;

    exec(t, "BEGIN EXCLUSIVE; INSERT INTO t VALUES (1)");
    assert_false(changed(t->w));
    exec(t, "COMMIT");
    assert_true(changed(t->w));
}

/* The file turns to rubbish under us, and comes back: that is a change.  40
 * bytes: up to and with the change counter, or nobody would look further. */
static void
a_broken_file_is_ridden_out(void **state)
{
    lite *t = *state;
    char kept[40];
    FILE *f = fopen(t->path, "r+");

    assert_non_null(f);
    setbuf(f, NULL);
    assert_int_equal(fread(kept, 1, sizeof kept, f), sizeof kept);
    rewind(f);
    assert_int_equal(fprintf(f, "%40s", "no SQLite here"), 40);
    assert_false(changed(t->w));
    assert_false(changed(t->w));
    rewind(f);
    assert_int_equal(fwrite(kept, 1, sizeof kept, f), sizeof kept);
    assert_int_equal(fclose(f), 0);
    while (!changed(t->w)) {
        assert_int_equal(poll(NULL, 0, aif_watch_interval_ms(t->w)), 0);
    }
    assert_false(changed(t->w));
    exec(t, "INSERT INTO t VALUES (1)");
    assert_true(changed(t->w));
}

static void
a_file_that_is_missing_is_named(void **state)
{
    aif_watch *w;

    (void)state;
    assert_int_equal(aif_watch_open("sqlite:/nowhere/db", "", &w, &e),
                     AIF_ESTORE);
    assert_null(w);
    assert_non_null(strstr(e.text, "/nowhere/db"));
}

static void
opening_survives_every_oom(void **state)
{
    lite *t = *state;
    aif_watch *w;
    aif_err err;
    int n = 0;

    do {
        fault_alloc_after(n++);
        err = aif_watch_open(t->uri, "", &w, &e);
        fault_off();
        assert_true(err == AIF_ENOMEM ? w == NULL : err == AIF_OK);
    } while (err != AIF_OK);
    assert_true(n > 2);
    aif_watch_free(w);
}

static void
a_child_is_refused(void **state)
{
    lite *t = *state;
    bool yes;
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        aif_watch *own;

        alarm(120);
        aif_watch_free(t->w);
        _exit(aif_watch_open(t->uri, "", &own, &e) != AIF_EFORKED ||
              aif_watch_poll(t->w, &yes, payload, 1, &e) != AIF_EFORKED ||
              aif_watch_fd(t->w) != -1 || aif_watch_sync(t->w) != 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    exec(t, "INSERT INTO t VALUES (1)");
    assert_true(changed(t->w));
}

#define PG(test) cmocka_unit_test_setup_teardown(test, pg_setup, pg_teardown)
#define WAL(test)                                                             \
    cmocka_unit_test_setup_teardown(test, wal_setup, lite_teardown)
#define DELETE(test)                                                          \
    cmocka_unit_test_setup_teardown(test, delete_setup, lite_teardown)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        PG(nothing_happened),
        PG(a_notify_is_heard_with_its_payload),
        PG(what_was_committed_before_a_sync_is_polled),
        PG(a_pooler_that_nothing_is_heard_through_is_refused),
        PG(a_child_does_not_listen),
        PG(what_was_rolled_back_is_not_heard),
        PG(other_channels_are_not_heard),
        PG(payloads_come_in_order_one_a_poll),
        PG(a_payload_is_cut_between_characters),
        PG(a_lost_connection_comes_back_changed),
        PG(a_lost_connection_comes_back_without_a_look_up),
        PG(a_server_that_turns_us_down_is_tried_again),
        cmocka_unit_test(a_server_that_does_not_let_us_in_is_named),
        cmocka_unit_test(opening_survives_every_oom_on_pg_too),
        cmocka_unit_test(a_wrong_channel_is_refused),
        cmocka_unit_test(a_wrong_uri_is_refused_and_not_quoted),
        WAL(a_commit_of_another_is_seen_once),
        DELETE(a_commit_of_another_is_seen_once),
        WAL(reads_and_rollbacks_are_not_seen),
        DELETE(reads_and_rollbacks_are_not_seen),
        WAL(a_commit_of_another_process_is_seen),
        DELETE(a_commit_of_another_process_is_seen),
        DELETE(a_busy_file_is_looked_at_later),
        DELETE(a_broken_file_is_ridden_out),
        cmocka_unit_test(a_file_that_is_missing_is_named),
        WAL(opening_survives_every_oom),
        WAL(a_child_is_refused),
    };

    if (argc == 3 && strcmp(argv[1], "--insert") == 0) {
        return insert(argv[2]);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
