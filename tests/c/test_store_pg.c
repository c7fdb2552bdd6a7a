/* Needs a database: AIF_TEST_PG, the URI of one; it makes a schema there, and
 * drops it.  The contract is tested once more through AIF_TEST_POOLER, a
 * PgBouncer before the same server, in a database of its own. */
#include "cmocka_all.h"

#include "fault_store.h"
#include "log/log.h"
#include "db/pg.h"
#include "log/sql_store.h"
#include "store_contract.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *server; /* AIF_TEST_PG */
static PGconn *admin;
static const char *pooler; /* AIF_TEST_POOLER */
static char name[32];      /* of the schema, and of the application */
static store_case c;
static aif_error e;

/* The first value, or "". */
static const char *
ask(const char *text)
{
    static char value[200];
    PGresult *res = PQexec(admin, text);
    ExecStatusType status = PQresultStatus(res);

    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
        fail_msg("%s: %s", text, PQresultErrorMessage(res));
    }
    (void)snprintf(value, sizeof value, "%s",
                   PQntuples(res) > 0 ? PQgetvalue(res, 0, 0) : "");
    PQclear(res);
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

    (void)snprintf(text, sizeof text, "DROP SCHEMA IF EXISTS %s CASCADE",
                   name);
    sql(text);
}

static void
fresh(void)
{
    char text[100];

    drop();
    (void)snprintf(text, sizeof text, "CREATE SCHEMA %s; SET search_path = %s",
                   name, name);
    sql(text);
}

static void
fault(int n)
{
    fault_pg_after(n, false);
}

static void
fault_lost(int n)
{
    fault_pg_after(n, true);
}

/* End the server's side of every handle of this program. */
static void
kill_connections(void)
{
    char text[200];

    (void)snprintf(text, sizeof text,
                   "SELECT count(*) FROM pg_stat_activity, LATERAL"
                   " pg_terminate_backend(pid, 60000) AS ended"
                   " WHERE application_name = '%s' AND ended",
                   name);
    assert_string_not_equal(ask(text), "0");
}

/* Until the append of the other thread waits for the lock that admin has. */
static void
wait_until_locked(void)
{
    char text[200];

    (void)snprintf(text, sizeof text,
                   "SELECT count(*) FROM pg_stat_activity WHERE"
                   " application_name = '%s' AND wait_event_type = 'Lock'",
                   name);
    alarm(1000);
    while (strcmp(ask(text), "1") != 0) {
        /* each turn asks the server */
    }
    alarm(0);
}

/* A trigger sees what the session of the append has. */
static void
an_append_is_durable_whatever_the_default(void **state)
{
    char uri[sizeof c.uri + 50];
    aif_log *log;

    (void)snprintf(uri, sizeof uri, "%s%%20-csynchronous_commit%%3Doff",
                   c.uri);
    sql("CREATE TABLE seen (setting text);"
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        "  INSERT INTO seen VALUES (current_setting('synchronous_commit'));"
        "  RETURN NULL; END $$;"
        "CREATE TRIGGER see AFTER INSERT ON aiflow_event"
        "  FOR EACH STATEMENT EXECUTE FUNCTION see()");
    assert_int_equal(aif_log_open(uri, &log, &e), AIF_OK);
    append_at(log, events_of("p", 0, 1), 1, 1);
    aif_log_free(log);
    append_at(*state, events_of("p", 1, 1), 1, 2);
    assert_string_equal(ask("SELECT string_agg(setting, ' ') FROM seen"),
                        "on on");
}

/* In each, "sekret" is the password or a part of it. */
static void
no_error_tells_the_password(void **state)
{
    static const char *const uris[] = {
        "postgresql://u:sekret@127.0.0.1:1/db",
        "postgresql://u:sekret@127.0.0.1:port/db",
        "postgresql://u:sekret@127.0.0.1:99999/db",
        "postgresql://u:sekret%zz@127.0.0.1:1/db",
        "postgresql://u:p@sekret@127.0.0.1:1/db",
        "postgresql://u:sekret/x@127.0.0.1:1/db",
        "postgresql://u:x/sekret@127.0.0.1:1/db",
        "postgresql://u:sekret?x@127.0.0.1:1/db",
        "postgresql://u:sekret#x@127.0.0.1:1/db",
        "postgresql://u:sekret:x@127.0.0.1:1/db",
        "postgresql://u:[sekret@127.0.0.1:1/db",
        "postgresql://u@127.0.0.1:1/db?password=sekret",
        "postgresql://u@127.0.0.1:1/db?password=sekret&nonsense=1",
        "postgresql://u:sekret@/db?host=/nowhere",
        "postgresql+psycopg2://u:sekret@127.0.0.1/db",
        "postgres:u:sekret@127.0.0.1/db",
        "mysql://u:sekret@127.0.0.1/db"};
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
    assert_int_equal(aif_log_open("postgresql://127.0.0.1:1/db", &log, &e),
                     AIF_ESTORE);
    assert_non_null(strstr(e.text, "Connection refused"));
    assert_int_equal(aif_log_open("postgresql+psycopg2://h/db", &log, &e),
                     AIF_EINVAL);
    assert_string_equal(
        e.text, "not a PostgreSQL URI: write postgresql://user:password@"
                "host:port/database, with %40 for @ and %2F for / in the "
                "password");
}

/* Every text must come back as it went in: no conversion on the way. */
static void
a_database_that_is_not_utf8_is_refused(void **state)
{
    char text[200];
    char uri[sizeof c.uri + 50];
    aif_log *log;

    (void)state;
    (void)snprintf(text, sizeof text,
                   "CREATE DATABASE %s ENCODING 'SQL_ASCII' LC_COLLATE 'C'"
                   " LC_CTYPE 'C' TEMPLATE template0",
                   name);
    sql(text);
    (void)snprintf(uri, sizeof uri, "%s&dbname=%s", c.uri, name);
    assert_int_equal(aif_log_open(uri, &log, &e), AIF_EINVAL);
    assert_non_null(strstr(e.text, "encoding is SQL_ASCII"));
    (void)snprintf(text, sizeof text, "DROP DATABASE %s WITH (FORCE)", name);
    sql(text);
}

/* A log as version 1 made it, from its first event on that is there. */
static void
make_version_1(int first)
{
    char text[300];

    fresh();
    sql("CREATE TABLE aiflow_event (\"offset\" int8 PRIMARY KEY,"
        " create_time int8 NOT NULL, namespace text NOT NULL,"
        " key text NOT NULL, value text NOT NULL, type text NOT NULL,"
        " sender text NOT NULL, context text NOT NULL,"
        " producer text COLLATE \"C\" NOT NULL, sequence int8 NOT NULL,"
        " CONSTRAINT aiflow_event_identity UNIQUE (producer, sequence));"
        "CREATE TABLE aiflow_log_head (id int4 PRIMARY KEY CHECK (id = 1),"
        " version int4 NOT NULL, \"offset\" int8 NOT NULL)"
        " WITH (fillfactor = 10);"
        "INSERT INTO aiflow_log_head VALUES (1, 1, 5)");
    (void)snprintf(text, sizeof text,
                   "INSERT INTO aiflow_event SELECT i, 9000 + i, 'default',"
                   " 'digits', '17', 'UNDEFINED', '', '', 'p', i"
                   " FROM generate_series(%d, 5) AS i",
                   first);
    sql(text);
}

static void
a_killed_conversion_is_all_or_nothing(void **state)
{
    (void)state;
    make_version_1(3);
    contract_die_at("convert.before_commit");
    assert_string_equal(ask("SELECT version FROM aiflow_log_head"), "1");
    contract_die_at("convert.after_commit");
    assert_string_equal(ask("SELECT version FROM aiflow_log_head"), "2");
    contract_converted(3, 9005);
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
    aif_sql_store s = {.ops = &aif_pg, .sql = &aif_sql_pg};

    (void)state;
    assert_int_equal(bind(listener, (struct sockaddr *)&at, n), 0);
    assert_int_equal(listen(listener, 9), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &n), 0);
    assert_int_equal(fcntl(listener, F_SETFL, O_NONBLOCK), 0);
    (void)snprintf(uri, sizeof uri,
                   "postgresql://127.0.0.1:%d/x?connect_timeout=5",
                   ntohs(at.sin_port));
    assert_int_equal(aif_pg.open(uri, &s.sql->needs, false, &s.db, &e),
                     AIF_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(aif_sql_ready(&s, &e), AIF_ESTORE);
        assert_non_null(strstr(e.text, "connecting: "));
    }
    assert_int_equal(close(accept(listener, NULL, NULL)), 0);
    assert_int_equal(accept(listener, NULL, NULL), -1);
    (void)close(listener);
    aif_pg.close(s.db);
}

static int
own_tests(void)
{
    const struct CMUnitTest tests[] = {
        OPEN(an_append_is_durable_whatever_the_default),
        cmocka_unit_test(a_killed_conversion_is_all_or_nothing),
        cmocka_unit_test(who_does_not_answer_is_not_waited_for_again),
        cmocka_unit_test(no_error_tells_the_password),
        cmocka_unit_test(what_is_wrong_with_a_server_is_said),
        cmocka_unit_test(a_database_that_is_not_utf8_is_refused),
    };
    return store_contract_convert(make_version_1) +
           cmocka_run_group_tests(tests, NULL, NULL);
}

static void
say_nothing(void *arg, const char *message)
{
    (void)arg;
    (void)message;
}

static PGconn *
connect_to(const char *uri)
{
    PGconn *conn = PQconnectdb(uri);

    if (PQstatus(conn) != CONNECTION_OK) {
        fail_msg("%s", PQerrorMessage(conn));
    }
    (void)PQsetNoticeProcessor(conn, say_nothing, NULL);
    return conn;
}

/* ---- through a pooler, which lends its two sessions for a transaction ---- */

static void
tell_pooler(const char *what)
{
    char text[200];
    PGconn *console;
    PGresult *res;

    (void)snprintf(text, sizeof text, "%s/pgbouncer", pooler);
    console = connect_to(text);
    (void)snprintf(text, sizeof text, "%s %s", what, name);
    res = PQexec(console, text);
    if (PQresultStatus(res) != PGRES_COMMAND_OK) {
        fail_msg("%s: %s", text, PQerrorMessage(console));
    }
    PQclear(res);
    PQfinish(console);
}

static void
kill_pooled(void)
{
    tell_pooler("KILL");
    tell_pooler("RESUME");
}

/* What another client of the pooler has, in a session that we were lent. */
static void
assert_untouched(PGconn *other)
{
    static const char text[] =
        "SELECT (SELECT string_agg(name || '=' || setting, ' ')"
        "  FROM pg_settings WHERE source = 'session'"
        "  AND name NOT IN ('application_name', 'client_encoding',"
        "    'DateStyle', 'TimeZone', 'standard_conforming_strings')),"
        " (SELECT string_agg(name, ' ') FROM pg_prepared_statements),"
        " (SELECT string_agg(objid::text, ' ') FROM pg_locks"
        "  WHERE locktype = 'advisory' AND pid = pg_backend_pid())";
    PGresult *res = PQexec(other, text);

    assert_int_equal(PQresultStatus(res), PGRES_TUPLES_OK);
    for (int i = 0; i < 3; i++) {
        assert_string_equal(PQgetvalue(res, 0, i), "");
    }
    PQclear(res);
}

static void
others_keep_their_settings(void **state)
{
    const aif_pattern pattern = {AIF_STR("*"), AIF_STR("d*"), AIF_STR("*"),
                                 AIF_STR("*"), AIF_STR("*")};
    PGconn *others[2];
    aif_batch out = {0};

    append_at(*state, events_of("p", 0, 3), 3, 1);
    append_at(*state, events_of("p", 2, 2), 2, 3); /* one is known */
    assert_int_equal(aif_log_read(*state, MATCHING(&pattern, 0), 9, &out, &e),
                     AIF_OK);
    assert_int_equal(out.n, 4);
    aif_batch_fini(&out);
    assert_int_equal(purge(*state, AIF_STR("*"), 2, 9), 2);
    for (int i = 0; i < 2; i++) { /* both sessions at once */
        others[i] = connect_to(c.uri);
        PQclear(PQexec(others[i], "BEGIN"));
        assert_untouched(others[i]);
    }
    PQfinish(others[0]);
    PQfinish(others[1]);
}

static void
a_pooled_append_has_our_settings(void **state)
{
    sql("CREATE TABLE seen (setting text);"
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        "  INSERT INTO seen SELECT current_setting(n) FROM unnest(ARRAY["
        "    'synchronous_commit', 'transaction_isolation', 'lock_timeout',"
        "    'statement_timeout', 'enable_seqscan']) AS n;"
        "  RETURN NULL; END $$;"
        "CREATE TRIGGER see AFTER INSERT ON aiflow_event"
        "  FOR EACH STATEMENT EXECUTE FUNCTION see()");
    append_at(*state, events_of("p", 0, 1), 1, 1);
    assert_string_equal(ask("SELECT string_agg(setting, ' ') FROM seen"),
                        "on read committed 5s 30s off");
}

/* The database's own defaults are the wrong ones. */
static int
pooled_tests(void)
{
    static const char *const make[] = {
        "CREATE DATABASE %s", "ALTER DATABASE %s SET search_path = %s",
        "ALTER DATABASE %s SET synchronous_commit = off",
        "ALTER DATABASE %s SET default_transaction_isolation = serializable"};
    const struct CMUnitTest tests[] = {
        OPEN(others_keep_their_settings),
        OPEN(a_pooled_append_has_our_settings),
    };
    PGconn *first = admin;
    char text[sizeof c.uri];
    int failed;

    pooler = getenv("AIF_TEST_POOLER");
    if (pooler == NULL) {
        puts("[  SKIPPED ] SKIPPED: AIF_TEST_POOLER not set: the URI of a "
             "PgBouncer, as tests/with_pgbouncer gives one");
        return 0;
    }
    for (size_t i = 0; i < sizeof make / sizeof *make; i++) {
        (void)snprintf(text, sizeof text, make[i], name, name);
        sql(text);
    }
    (void)snprintf(text, sizeof text, "%s%cdbname=%s", server,
                   strchr(server, '?') == NULL ? '?' : '&', name);
    admin = connect_to(text);
    c.kill = kill_pooled;
    c.lost[0] = "08006";
    c.lost[1] = "appending: ";
    (void)snprintf(c.uri, sizeof c.uri, "%s/%s?application_name=%s", pooler,
                   name, name);
    failed = store_contract(&c) + cmocka_run_group_tests(tests, NULL, NULL);
    PQfinish(admin);
    admin = first;
    (void)snprintf(text, sizeof text, "DROP DATABASE %s WITH (FORCE)", name);
    sql(text);
    return failed;
}

int
main(void)
{
    int failed;

    server = getenv("AIF_TEST_PG");
    if (server == NULL) {
        puts("[  SKIPPED ] SKIPPED: AIF_TEST_PG not set: the URI of a "
             "PostgreSQL database for tests");
        return 0;
    }
    admin = connect_to(server);
    c = (store_case){
        .fresh = fresh,
        .sql = sql,
        .hold = hold,
        .fault = fault,
        .fault_lost = fault_lost,
        .kill = kill_connections,
        .wait_until_locked = wait_until_locked,
        .lost = {"08006", "appending: FATAL:  terminating connection due to "
                          "administrator command"},
        .waited = {"55P03",
                   "appending: canceling statement due to lock timeout"},
    };
    (void)snprintf(name, sizeof name, "aiflow_c_%d", (int)getpid());
    (void)snprintf(c.uri, sizeof c.uri,
                   "%s%capplication_name=%s&options=-csearch_path%%3D%s",
                   server, strchr(server, '?') == NULL ? '?' : '&', name,
                   name);
    failed = store_contract(&c) + own_tests();
    drop();
    failed += pooled_tests();
    PQfinish(admin);
    return failed;
}
