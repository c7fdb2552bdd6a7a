/* Needs a server: AIF_TEST_MYSQL, the URI of a database there, of a user who
 * may make others; it makes one, and drops it. */
#include "cmocka_all.h"

#include "fault_store.h"
#include "log/log.h"
#include "db/mysql.h"
#include "db/mysql_load.h"
#include "log/sql_store.h"
#include "db/mysql_uri.h"
#include "store_contract.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char server[512]; /* AIF_TEST_MYSQL, up to its database */
static MYSQL *admin;
static char name[32]; /* of the database */
static store_case c;
static aif_error e;

static int
admin_query(MYSQL *conn, const char *text)
{
    return mysql_real_query(conn, text, strlen(text));
}

/* The first value, or "". */
static const char *
ask(const char *text)
{
    static char value[200];
    MYSQL_RES *res;
    MYSQL_ROW row;

    if (admin_query(admin, text) != 0) {
        fail_msg("%s: %s", text, mysql_error(admin));
    }
    res = mysql_store_result(admin);
    row = res == NULL ? NULL : mysql_fetch_row(res);
    (void)snprintf(value, sizeof value, "%s",
                   row == NULL || row[0] == NULL ? "" : row[0]);
    mysql_free_result(res);
    return value;
}

static void
sql(const char *text)
{
    (void)ask(text);
}

static void
hold(bool on)
{
    sql(on ? "BEGIN" : "ROLLBACK");
    if (on) {
        sql("SELECT * FROM aiflow_log_head FOR UPDATE");
    }
}

static void
drop(void)
{
    char text[100];

    (void)snprintf(text, sizeof text, "DROP DATABASE IF EXISTS %s", name);
    sql(text);
}

/* Of another character set: ours is said in the tables. */
static void
fresh(void)
{
    char text[100];

    drop();
    (void)snprintf(text, sizeof text,
                   "CREATE DATABASE %s CHARACTER SET latin1", name);
    sql(text);
    (void)snprintf(text, sizeof text, "USE %s", name);
    sql(text);
}

static void
fault(int n)
{
    fault_mysql_after(n, false);
}

static void
fault_lost(int n)
{
    fault_mysql_after(n, true);
}

/* End the server's side of every handle of this program: those that are in
 * our database. */
static void
kill_connections(void)
{
    char text[300];
    char id[32];
    int killed = 0;

    (void)snprintf(text, sizeof text,
                   "SELECT ID FROM information_schema.PROCESSLIST WHERE"
                   " DB = '%s' AND ID <> CONNECTION_ID() AND"
                   " COMMAND <> 'Killed' LIMIT 1",
                   name);
    alarm(1000);
    for (;;) {
        (void)snprintf(id, sizeof id, "%s", ask(text));
        if (id[0] == '\0') {
            break;
        }
        char kill[64];

        (void)snprintf(kill, sizeof kill, "KILL CONNECTION %s", id);
        (void)admin_query(admin, kill); /* it may be gone already */
        killed++;
    }
    alarm(0);
    assert_int_not_equal(killed, 0);
}

/* Until the append of the other thread is at a statement that cannot end, as
 * admin has the lock.  (INNODB_TRX would say more, but what it says grows old
 * while it is asked without a pause.) */
static void
wait_until_at(const char *statement)
{
    char text[300];

    (void)snprintf(text, sizeof text,
                   "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE"
                   " DB = '%s' AND ID <> CONNECTION_ID()"
                   " AND INFO LIKE '%s%%'",
                   name, statement);
    alarm(1000);
    while (strcmp(ask(text), "1") != 0) {
        /* each turn asks the server */
    }
    alarm(0);
}

static void
wait_until_locked(void)
{
    wait_until_at("UPDATE aiflow_log_head");
}

static aif_err
ask_last(aif_log *log)
{
    return aif_log_last(log, AIF_BEYOND(0), &(uint64_t){0}, &e);
}

static aif_err
ask_count(aif_log *log)
{
    return aif_log_count(log, AIF_BEYOND(0), &(uint64_t){0}, &e);
}

static aif_err
ask_sequence(aif_log *log)
{
    return aif_log_sequence(log, AIF_STR("p"), &(uint64_t){0}, &e);
}

static aif_err
ask_keep(aif_log *log)
{
    return aif_log_keep(log, AIF_STR("*"), 1, &(uint64_t){0}, &e);
}

static aif_err
ask_senders(aif_log *log)
{
    aif_buf out = {0};
    aif_err err = aif_log_senders(log, AIF_BEYOND(0), &out, &e);

    aif_buf_fini(&out);
    return err;
}

static aif_err
ask_purged(aif_log *log)
{
    aif_buf out = {0};
    aif_err err = aif_log_purged(log, &out, &e);

    aif_buf_fini(&out);
    return err;
}

static aif_err
ask_read(aif_log *log)
{
    aif_batch out = {0};
    aif_err err = aif_log_read(log, AIF_BEYOND(0), 9, &out, &e);

    aif_batch_fini(&out);
    return err;
}

static aif_err
ask_head(aif_log *log)
{
    return aif_log_head(log, &(aif_head){0}, &e);
}

static aif_err
ask_purge(aif_log *log)
{
    return aif_log_purge(log, AIF_STR("none"), 9, 9, &(uint64_t){0}, &e);
}

/* The connection is lost, and then it cannot be made. */
static void
a_question_fails_until_there_is_a_server(void **state)
{
    aif_err (*const questions[])(aif_log *) = {
        ask_last,   ask_count, ask_sequence, ask_keep,  ask_senders,
        ask_purged, ask_read,  ask_head,     ask_purge,
    };

    append_at(*state, events_of("p", 0, 2), 2, 1);
    for (size_t i = 0; i < sizeof questions / sizeof *questions; i++) {
        fault(0);
        assert_int_equal(questions[i](*state), AIF_ESTORE);
        fault(0);
        assert_int_equal(questions[i](*state), AIF_ESTORE);
        assert_non_null(strstr(e.text, "connecting: Can't connect"));
        fault_store_off();
        assert_int_equal(questions[i](*state), AIF_OK);
    }
}

/* Two transactions that wait for each other: the server ends one of them, and
 * that it is ours, admin makes sure by having changed more. */
static void
a_deadlock_is_estore(void **state)
{
    appending a = {.log = *state};

    append_at(*state, events_of("p", 0, 2), 2, 1);
    sql("BEGIN");
    sql("INSERT INTO aiflow_event VALUES"
        " (3, 0, 'n', 'k', '', 't', '', '', 'q', 0),"
        " (4, 0, 'n', 'k', '', 't', '', '', 'q', 1),"
        " (5, 0, 'n', 'k', '', 't', '', '', 'q', 2)");
    appending_start(&a);
    wait_until_at("INSERT INTO aiflow_event"); /* it has the head */
    sql("UPDATE aiflow_log_head SET \"offset\" = 5");
    appending_join(&a);
    assert_int_equal(a.e.code, AIF_ESTORE);
    assert_string_equal(a.e.sqlstate, "40001");
    sql("COMMIT");
    append_at(*state, events_of("p", 2, 1), 1, 6);
}

/* 'a' equals 'a ' for utf8mb4_bin, and 'a' is not 'A'. */
static void
trailing_spaces_count(void **state)
{
    static const aif_str names[] = {
        {"a", 1}, {"a ", 2}, {"a  ", 3}, {"A", 1}, {"a\t", 2}};
    enum { N = sizeof names / sizeof *names };
    aif_event events[N];
    uint64_t n;

    memcpy(events, events_of("p", 0, N), sizeof events);
    for (size_t i = 0; i < N; i++) {
        events[i].key = events[i].sender = events[i].producer = names[i];
        events[i].sequence = 7;
    }
    append_at(*state, events, N, 1);
    append_at(*state, events, N, 1); /* each finds itself */
    for (size_t i = 0; i < N; i++) {
        const aif_pattern p = {AIF_STR("*"), names[i], AIF_STR("*"), names[i],
                               AIF_STR("")};
        const aif_query q = {.patterns = &p, .n = 1};

        assert_int_equal(aif_log_count(*state, &q, &n, &e), AIF_OK);
        assert_int_equal(n, 1);
    }
}

/* The first rows say nothing of the next ones: a page of them may be of any
 * size, and is not taken in whole. */
static void
a_page_that_grew_too_long_is_left(void **state)
{
    enum { SMALL = 200, BIG = 2000, LONG = 32 << 10 };
    static char text[LONG];
    static aif_event events[BIG];
    uint64_t after = 0;
    size_t reads = 0;

    memset(text, 'x', sizeof text);
    append_at(*state, events_of("p", 0, SMALL), SMALL, 1);
    memcpy(events, events_of("p", SMALL, BIG), sizeof events);
    for (size_t i = 0; i < BIG; i++) {
        events[i].value = (aif_str){text, LONG};
    }
    append_at(*state, events, BIG, SMALL + 1);
    while (after < SMALL + BIG) {
        aif_batch out = {0};

        assert_int_equal(
            aif_log_read(*state, AIF_BEYOND(after), SIZE_MAX, &out, &e),
            AIF_OK);
        assert_in_range(out.n, 1, SMALL + AIF_READ_BYTES / LONG);
        after += out.n;
        reads++;
        aif_batch_fini(&out);
    }
    assert_in_range(reads, 8, 9);
    sql("SET lock_wait_timeout = 30"); /* no page that was left holds the table */
    sql("ALTER TABLE aiflow_event COMMENT = 'changed'");
    sql("SET lock_wait_timeout = DEFAULT");
}

/* What another has set for all sessions is not what an append has. */
static void
a_session_has_its_own_settings(void **state)
{
    aif_log *log;

    (void)state;
    sql("CREATE TABLE seen (setting TEXT)");
    sql("CREATE TRIGGER see AFTER INSERT ON aiflow_event FOR EACH ROW"
        " INSERT INTO seen VALUES (CONCAT_WS(' ',"
        "  @@character_set_client, IF(@@autocommit, 'on', 'off'),"
        "  @@innodb_lock_wait_timeout, @@lock_wait_timeout))");
    log = open_again();
    append_at(log, events_of("p", 0, 1), 1, 1);
    aif_log_free(log);
    assert_string_equal(ask("SELECT setting FROM seen"), "utf8mb4 on 5 5");
}

static void
a_process_that_we_start_has_no_socket_of_ours(void **state)
{
    int sockets = 0;

    (void)state;
    for (int fd = 3; fd < 64; fd++) {
        char path[64], to[64] = "";

        (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        if (fd != (int)mysql_get_socket(admin) &&
            readlink(path, to, sizeof to - 1) > 0 &&
            strncmp(to, "socket:", 7) == 0) {
            assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
            sockets++;
        }
    }
    assert_in_range(sockets, 1, 9);
}

static void
expect_refused(const char *change, aif_err code, const char *text)
{
    aif_log *log;

    sql(change);
    assert_int_equal(aif_log_open(c.uri, &log, &e), code);
    assert_null(log);
    if (strstr(e.text, text) == NULL) {
        fail_msg("%s: %s", change, e.text);
    }
}

static void
tables_that_were_converted_are_refused(void **state)
{
    (void)state;
    expect_refused("ALTER TABLE aiflow_event CONVERT TO CHARACTER SET latin1",
                   AIF_EINVAL, "a column of aiflow_event is not utf8mb4_bin");
    expect_refused("ALTER TABLE aiflow_event CONVERT TO CHARACTER SET utf8mb4"
                   " COLLATE utf8mb4_general_ci",
                   AIF_EINVAL, "a column of aiflow_event is not utf8mb4_bin");
    sql("ALTER TABLE aiflow_event CONVERT TO CHARACTER SET utf8mb4"
        " COLLATE utf8mb4_bin"); /* as the error says */
    aif_log_free(open_again());
    expect_refused("ALTER TABLE aiflow_log_head ENGINE = MyISAM", AIF_EINVAL,
                   "a table of the log is not InnoDB's");
    expect_refused("ALTER TABLE aiflow_log_head ENGINE = InnoDB,"
                   " DROP COLUMN version",
                   AIF_ECORRUPT, "version");
}

/* A crash while the tables were made: whatever is there is used. */
static void
tables_that_are_half_made_are_made(void **state)
{
    aif_log *log;

    append_at(*state, events_of("p", 0, 0), 0, 1);
    sql("RENAME TABLE aiflow_log_head TO aiflow_log_head_new");
    log = open_again();
    append_at(log, events_of("p", 0, 2), 2, 1);
    aif_log_free(log);
    sql("TRUNCATE aiflow_event");
    sql("DROP TABLE aiflow_log_head");
    sql("DROP TABLE aiflow_log_purged");
    log = open_again();
    append_at(log, events_of("p", 0, 2), 2, 1);
    aif_log_free(log);
}

/* In each, "sekret" is the password or a part of it. */
static void
no_error_tells_the_password(void **state)
{
    static const char *const uris[] = {
        "mysql://u:sekret@127.0.0.1:1/db",
        "mysql://u:sekret@127.0.0.1:port/db",
        "mysql://u:sekret@127.0.0.1:99999/db",
        "mysql://u:sekret%zz@127.0.0.1:1/db",
        "mysql://u:p@sekret@127.0.0.1:1/db",
        "mysql://u:sekret/x@127.0.0.1:1/db",
        "mysql://u:x/sekret@127.0.0.1:1/db",
        "mysql://u:1/sekret@127.0.0.1:1/db",
        "mysql://u:sekret?x@127.0.0.1:1/db",
        "mysql://u:1/?sekret@127.0.0.1:1/db",
        "mysql://u:sekret#x@127.0.0.1:1/db",
        "mysql://u:sekret:x@127.0.0.1:1/db",
        "mysql://u:[sekret@127.0.0.1:1/db",
        "mysql://u@127.0.0.1:1/db?password=sekret",
        "mysql://u@127.0.0.1:1/db?sekret=1",
        "mysql://u:sekret@/db?unix_socket=/nowhere",
        "mysql+mysqldb://u:sekret@127.0.0.1/db",
        "mariadb+pymysql://u:sekret@127.0.0.1/db",
        "mysql:u:sekret@127.0.0.1/db",
        "mysqlx://u:sekret@127.0.0.1:1/db"};
    aif_log *log;

    (void)state;
    for (size_t i = 0; i < sizeof uris / sizeof *uris; i++) {
        aif_err err = aif_log_open(uris[i], &log, &e);

        assert_null(log);
        assert_true(err == AIF_EINVAL || err == AIF_ESTORE);
        if (strstr(e.text, "sekret") != NULL) {
            fail_msg("%s: %s", uris[i], e.text);
        }
    }
}

static void
what_is_wrong_with_a_server_is_said(void **state)
{
    aif_log *log;

    (void)state;
    assert_int_equal(aif_log_open("mysql://127.0.0.1:1/db", &log, &e),
                     AIF_ESTORE);
    assert_non_null(strstr(e.text, "connecting: Can't connect to server on "
                                   "'127.0.0.1'"));
    assert_int_equal(
        aif_log_open("mysql://h/d?unix_socket=/nowhere", &log, &e),
        AIF_ESTORE);
    assert_non_null(strstr(e.text, "/nowhere"));
    assert_int_equal(aif_log_open("mysql+mysqldb://h/db", &log, &e),
                     AIF_EINVAL);
    assert_string_equal(
        e.text, "not a MySQL URI: write mysql://user:password@host:port/"
                "database, with %40 for @ and %2F for / in the password, and "
                "without a driver (+...)");
    assert_int_equal(aif_log_open("mysql://h/db?sslmode=no", &log, &e),
                     AIF_EINVAL);
    assert_string_equal(
        e.text, "a MySQL URI may end in ?unix_socket=PATH, ssl=required or "
                "verify, ssl_ca=, ssl_cert= or ssl_key=PATH, durable=no, with "
                "& between them");
}

static void
a_uri_is_taken_apart(void **state)
{
    char text[] = "mariadb://us%65r:p%40%2f%3A@[::1]:1234/d%62?unix_socket="
                  "%2ftmp%2fs&ssl_ca=ca.pem&durable=no";
    char least[] = "mysql:///db?";
    aif_mysql_uri u;

    (void)state;
    assert_int_equal(aif_mysql_uri_parse(text, &u, &e), AIF_OK);
    assert_string_equal(u.user, "user");
    assert_string_equal(u.password, "p@/:");
    assert_string_equal(u.host, "::1");
    assert_int_equal(u.port, 1234);
    assert_string_equal(u.database, "db");
    assert_string_equal(u.unix_socket, "/tmp/s");
    assert_string_equal(u.ca, "ca.pem");
    assert_true(u.tls && u.verify && u.relaxed);
    assert_int_equal(aif_mysql_uri_parse(least, &u, &e), AIF_OK);
    assert_string_equal(u.host, "127.0.0.1");
    assert_int_equal(u.port, 3306);
    assert_true(u.user == NULL && u.password == NULL && !u.tls && !u.relaxed);
}

static void
a_uri_that_is_none_is_refused(void **state)
{
    static const char *const uris[] = {"mysql://",
                                       "mysql://h",
                                       "mysql://h/",
                                       "mysql://h/?ssl=required",
                                       "mysql://h:/d",
                                       "mysql://h:0/d",
                                       "mysql://h:65536/d",
                                       "mysql://h:-1/d",
                                       "mysql://h:1:2/d",
                                       "mysql://[::1/d",
                                       "mysql://[::1]x/d",
                                       "mysql://u:%0@h/d",
                                       "mysql://u:%00@h/d",
                                       "mysql://u:%@h/d",
                                       "mysql://h/%g0",
                                       "mysql://h/a/b",
                                       "mysql://h/d?ssl",
                                       "mysql://h/d?ssl=",
                                       "mysql://h/d?ssl=off",
                                       "mysql://h/d?durable=2",
                                       "mysql://h/d?unix_socket=",
                                       "mysql://h/d?=x",
                                       "mysql://h/d?ssl=required&&"};
    char text[64];
    aif_mysql_uri u;

    (void)state;
    for (size_t i = 0; i < sizeof uris / sizeof *uris; i++) {
        (void)snprintf(text, sizeof text, "%s", uris[i]);
        if (aif_mysql_uri_parse(text, &u, &e) != AIF_EINVAL) {
            fail_msg("%s was taken", uris[i]);
        }
    }
}

/* Somebody takes connections there, and says nothing, as if its machine were
 * gone.  Only one came, however often the store was asked meanwhile. */
static void
who_does_not_answer_is_not_waited_for_again(void **state)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    char uri[100];
    aif_sql_store s = {.ops = &aif_mysql, .sql = &aif_sql_mysql};

    (void)state;
    assert_int_equal(bind(listener, (struct sockaddr *)&at, n), 0);
    assert_int_equal(listen(listener, 9), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &n), 0);
    assert_int_equal(fcntl(listener, F_SETFL, O_NONBLOCK), 0);
    (void)snprintf(uri, sizeof uri, "mysql://x@127.0.0.1:%d/x",
                   ntohs(at.sin_port));
    assert_int_equal(aif_mysql.open(uri, &s.sql->needs, false, &s.db, &e),
                     AIF_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(aif_sql_ready(&s, &e), AIF_ESTORE);
        assert_non_null(strstr(e.text, "connecting: "));
    }
    assert_int_equal(close(accept(listener, NULL, NULL)), 0);
    assert_int_equal(accept(listener, NULL, NULL), -1);
    (void)close(listener);
    aif_mysql.close(s.db);
}

static int
own_tests(void)
{
    const struct CMUnitTest tests[] = {
        OPEN(a_question_fails_until_there_is_a_server),
        OPEN(a_deadlock_is_estore),
        OPEN(trailing_spaces_count),
        OPEN(a_page_that_grew_too_long_is_left),
        OPEN(a_session_has_its_own_settings),
        OPEN(a_process_that_we_start_has_no_socket_of_ours),
        OPEN(tables_that_were_converted_are_refused),
        cmocka_unit_test(who_does_not_answer_is_not_waited_for_again),
        OPEN(tables_that_are_half_made_are_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

static int
tests_without_a_server(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_error_tells_the_password),
        cmocka_unit_test(what_is_wrong_with_a_server_is_said),
        cmocka_unit_test(a_uri_is_taken_apart),
        cmocka_unit_test(a_uri_that_is_none_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

static MYSQL *
connect_admin(const char *uri)
{
    char text[512];
    aif_mysql_uri u;
    MYSQL *conn;

    (void)snprintf(text, sizeof text, "%s", uri);
    if (aif_mysql_load(&e) != AIF_OK) {
        fprintf(stderr, "%s\n", e.text);
        exit(1);
    }
    conn = mysql_init(NULL);
    if (conn == NULL || aif_mysql_uri_parse(text, &u, &e) != AIF_OK ||
        mysql_real_connect(conn, u.host, u.user, u.password, u.database,
                           u.port, u.unix_socket, 0) == NULL ||
        admin_query(conn, "SET sql_mode = 'ANSI_QUOTES', autocommit = 1") !=
            0) {
        fprintf(stderr, "AIF_TEST_MYSQL: %s\n",
                conn == NULL ? "" : mysql_error(conn));
        exit(1);
    }
    return conn;
}

/* The URI with our database in the place of its own. */
static void
set_uri(const char *uri)
{
    const char *database = strchr(strstr(uri, "://") + 3, '/') + 1;
    const char *rest = database + strcspn(database, "?");

    (void)snprintf(server, sizeof server, "%.*s", (int)(database - uri), uri);
    (void)snprintf(c.uri, sizeof c.uri, "%.300s%s%.100s", server, name, rest);
}

int
main(void)
{
    const char *uri = getenv("AIF_TEST_MYSQL");
    int failed = tests_without_a_server();

    if (uri == NULL) {
        puts("[  SKIPPED ] SKIPPED: AIF_TEST_MYSQL not set: the URI of a "
             "MySQL or MariaDB database for tests");
        return failed;
    }
    admin = connect_admin(uri);
    c = (store_case){
        .fresh = fresh,
        .sql = sql,
        .hold = hold,
        .fault = fault,
        .fault_lost = fault_lost,
        .kill = kill_connections,
        .wait_until_locked = wait_until_locked,
        .lost = {"", "appending: "},
        .waited = {"HY000", "appending: Lock wait timeout exceeded"},
    };
    fault_mysql_init();
    (void)snprintf(name, sizeof name, "aiflow_c_%d", (int)getpid());
    set_uri(uri);
    failed += store_contract(&c) + own_tests();
    drop();
    mysql_close(admin);
    return failed;
}
