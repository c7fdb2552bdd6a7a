/* Brokers over PostgreSQL: several on one log, and a database that goes away.
 * Needs AIF_TEST_PG; makes a schema there, and drops it. */
#include "broker_fixture.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *server; /* AIF_TEST_PG */
static PGconn *admin;
static char name[32]; /* of the schema, and of the application */

/* The first value, or "". */
static const char *
ask(const char *format)
{
    static char value[64];
    char text[300];
    PGresult *res;

    (void)snprintf(text, sizeof text, format, name, name);
    res = PQexec(admin, text);
    if (PQresultStatus(res) != PGRES_COMMAND_OK &&
        PQresultStatus(res) != PGRES_TUPLES_OK) {
        fail_msg("%s: %s", text, PQresultErrorMessage(res));
    }
    (void)snprintf(value, sizeof value, "%s",
                   PQntuples(res) > 0 ? PQgetvalue(res, 0, 0) : "");
    PQclear(res);
    return value;
}

static int
setup(void **state)
{
    served *s;

    if (served_mem(state) != 0) {
        return -1;
    }
    s = *state;
    unserve(s);
    (void)ask("DROP SCHEMA IF EXISTS %s CASCADE");
    (void)ask("CREATE SCHEMA %s; SET search_path = %s");
    (void)snprintf(s->log, sizeof s->log,
                   "%s%capplication_name=%s&options=-csearch_path%%3D%s",
                   server, strchr(server, '?') == NULL ? '?' : '&', name,
                   name);
    serve(s);
    return 0;
}

static aif_client *
client_of(const char *uri)
{
    aif_client *c;
    aif_error e;

    assert_int_equal(aif_client_open(uri, NULL, &c, &e), AIF_OK);
    return c;
}

static aif_sub *
subscribed(const char *uri)
{
    aif_sub *sub;
    aif_error e;

    assert_int_equal(sub_one(uri, &everything, 1, 0, false, SOON, &sub, &e),
                     AIF_OK);
    return sub;
}

/* Offsets 1 to n, each once, in order. */
static void
expect_all(aif_sub *sub, uint64_t n)
{
    aif_batch out = {0};
    bool hinted;
    aif_error e;

    while (out.n < n) {
        size_t seen = out.n;

        assert_int_equal(
            aif_sub_next(sub, SOON, &out, NULL, NULL, &hinted, &e), AIF_OK);
        assert_true(out.n > seen);
    }
    assert_int_equal(out.n, n);
    for (uint64_t i = 0; i < n; i++) {
        assert_int_equal(out.events[i].offset, i + 1);
    }
    aif_batch_fini(&out);
}

typedef struct {
    aif_client *client;
    const char *producer;
    uint64_t n;
} publisher;

static void *
publish_all(void *arg)
{
    const publisher *p = arg;

    for (uint64_t i = 1; i <= p->n; i++) {
        (void)publish_one(p->client, p->producer, i);
    }
    return NULL;
}

static void
brokers_share_a_log(void **state)
{
    served *one = *state;
    served other = {.bind = "tcp://127.0.0.1:0"};
    publisher p[2] = {{.producer = "p", .n = 100},
                      {.producer = "q", .n = 100}};
    pthread_t threads[2];
    aif_sub *subs[2];

    memcpy(other.log, one->log, sizeof other.log);
    serve(&other);
    p[0].client = client_of(one->bind);
    p[1].client = client_of(aif_broker_uri(other.broker));
    subs[0] = subscribed(one->bind);
    subs[1] = subscribed(aif_broker_uri(other.broker));
    for (int i = 0; i < 2; i++) {
        pthread_create(&threads[i], NULL, publish_all, &p[i]);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < 2; i++) {
        expect_all(subs[i], 200);
        aif_sub_free(subs[i]);
        aif_client_free(p[i].client);
    }
    unserve(&other);
}

/* What the other broker appends wakes our subscribers, without any publish of
 * our own. */
static void
another_brokers_events_are_pushed(void **state)
{
    served *one = *state;
    served other = {.bind = "tcp://127.0.0.1:0"};
    aif_client *c;
    aif_sub *sub;

    memcpy(other.log, one->log, sizeof other.log);
    serve(&other);
    c = client_of(aif_broker_uri(other.broker));
    sub = subscribed(one->bind);
    (void)publish_one(c, "p", 1);
    expect_all(sub, 1);
    assert_int_equal(stats_of(one).appended, 0);
    aif_sub_free(sub);
    aif_client_free(c);
    unserve(&other);
}

/* The server ends every connection, again and again: some publishes fail, and
 * the same ones again succeed; nothing is lost or doubled. */
static void
a_database_that_goes_away_is_ridden_out(void **state)
{
    static const char kill_all[] =
        "SELECT count(*) FROM pg_stat_activity, LATERAL"
        " pg_terminate_backend(pid, 60000) AS ended"
        " WHERE application_name = '%s' AND ended";
    served *s = *state;
    aif_client *c = client_of(s->bind);
    aif_sub *sub = subscribed(s->bind);
    int failed = 0;

    for (uint64_t i = 1; i <= 20; i++) {
        aif_event ev = numbered("p", i);
        uint64_t offset = 0;
        aif_err err;
        aif_error e;

        if (i % 4 == 0) {
            (void)ask(kill_all);
        }
        do {
            err = aif_client_publish(c, &ev, 1, &offset, SOON, &e);
            assert_true(err == AIF_OK || err == AIF_ESTORE);
            failed += err != AIF_OK;
        } while (err != AIF_OK);
        assert_int_equal(offset, i);
    }
    assert_int_equal(stats_of(s).retries > 0, failed > 0);
    expect_all(sub, 20);
    aif_sub_free(sub);
    aif_client_free(c);
}

/* The server lets us in no more, for a while: publishers are told, those who
 * listen wait, and get everything once it does. */
static void
a_database_that_refuses_us_is_waited_for(void **state)
{
    static const char shut[] = "ALTER ROLE %s NOLOGIN";
    static const char ended[] =
        "SELECT count(*) FROM pg_stat_activity, LATERAL"
        " pg_terminate_backend(pid, 60000) AS ended"
        " WHERE usename = '%s' AND ended";
    served *s = *state;
    char text[AIF_STATUS_MAX + 1] = "";
    aif_event ev = numbered("p", 2);
    aif_buf status = {0};
    uint64_t offset;
    aif_client *c;
    aif_sub *sub;
    aif_error e;

    unserve(s);
    (void)ask("CREATE ROLE %s LOGIN");
    (void)ask("DROP SCHEMA %s CASCADE"); /* its tables would be ours */
    (void)ask("CREATE SCHEMA %s AUTHORIZATION %s");
    (void)snprintf(s->log + strlen(s->log), sizeof s->log - strlen(s->log),
                   "&user=%s", name);
    serve(s);
    c = client_of(s->bind);
    sub = subscribed(s->bind);
    assert_int_equal(publish_one(c, "p", 1), 1);
    (void)ask(shut);
    (void)ask(ended);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(aif_client_publish(c, &ev, 1, &offset, SOON, &e),
                         AIF_ESTORE);
        assert_it_lives(s);
    }
    assert_int_equal(aif_broker_status(s->broker, &status, &e), AIF_OK);
    memcpy(text, status.p, status.n);
    aif_buf_fini(&status);
    assert_non_null(strstr(text, "\"store\": {\"ok\": false"));
    assert_non_null(strstr(text, "is not permitted to log in"));
    (void)ask("ALTER ROLE %s LOGIN");
    assert_int_equal(publish_one(c, "p", 2), 2);
    expect_all(sub, 2);
    aif_sub_free(sub);
    aif_client_free(c);
    unserve(s);
    (void)ask("DROP SCHEMA %s CASCADE");
    (void)ask("DROP ROLE %s");
}

/* A turn that waits for a lock, longer than a client is patient: the call
 * made again waits for the same answer, and sends nothing more. */
static void
a_slow_turn_is_waited_for(void **state)
{
    static const char waiting[] =
        "SELECT count(*) FROM pg_stat_activity WHERE"
        " application_name = '%s' AND wait_event_type = 'Lock'";
    served *s = *state;
    aif_client *c = client_of(s->bind);
    aif_event ev = numbered("p", 1);
    uint64_t offset = 0;
    aif_error e;

    assert_string_equal(ask("BEGIN; LOCK TABLE %s.aiflow_log_head"), "");
    for (int i = 0; i < 3; i++) {
        assert_int_equal(aif_client_publish(c, &ev, 1, &offset, 50, &e),
                         AIF_ETIMEOUT);
    }
    alarm(1000);
    while (strcmp(ask(waiting), "1") != 0) {
        /* each turn asks the server */
    }
    alarm(0);
    (void)ask("COMMIT");
    assert_int_equal(aif_client_publish(c, &ev, 1, &offset, SOON, &e), AIF_OK);
    assert_int_equal(offset, 1);
    assert_int_equal(stats_of(s).turns, 1);
    aif_client_free(c);
}

static void
say_nothing(void *arg, const char *message)
{
    (void)arg;
    (void)message;
}

int
main(void)
{
#define SERVED(test)                                                          \
    cmocka_unit_test_setup_teardown(test, setup, served_teardown)
    const struct CMUnitTest tests[] = {
        SERVED(brokers_share_a_log),
        SERVED(another_brokers_events_are_pushed),
        SERVED(a_database_that_goes_away_is_ridden_out),
        SERVED(a_database_that_refuses_us_is_waited_for),
        SERVED(a_slow_turn_is_waited_for),
    };
    int failed;

    server = getenv("AIF_TEST_PG");
    if (server == NULL) {
        puts("[  SKIPPED ] SKIPPED: AIF_TEST_PG not set: the URI of a "
             "PostgreSQL database for tests");
        return 0;
    }
    admin = PQconnectdb(server);
    if (PQstatus(admin) != CONNECTION_OK) {
        fprintf(stderr, "AIF_TEST_PG: %s", PQerrorMessage(admin));
        return 1;
    }
    (void)PQsetNoticeProcessor(admin, say_nothing, NULL);
    (void)snprintf(name, sizeof name, "aiflow_b_%d", (int)getpid());
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)ask("DROP SCHEMA IF EXISTS %s CASCADE");
    PQfinish(admin);
    return failed;
}
