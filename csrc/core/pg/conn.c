/* pg/conn.c - connect, set the session up, make or check the schema, prepare.
 *
 * Behind a pooler that lends its sessions for one transaction (PgBouncer) we
 * have no session: what we set would hold for others, and what we prepared
 * would be gone.  There each statement is a transaction that begins with our
 * settings, and is prepared by nobody: three round trips instead of one, and
 * the server plans each statement.  An append of one event takes twice as
 * long (one of 1,000 no longer), a page of 100 events four times, the head
 * twelve times.  Elsewhere statements are kept, for planning alone makes an
 * append 0.37 ms instead of 0.27, and the head 0.09 instead of 0.04 (pgbench).
 *
 * A connection that is lost fails the call that notices with ESTORE; the next
 * call connects again.  No text of ours or of libpq's carries the password.
 */
#include "pg/conn.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/point.h"
#include "log/store.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define NUMBER(n) TEXT(n)
#define TEXT(n) #n

/* Durable means durable, whatever the server's default is.  The planner is
 * told what we know: every query of ours goes by the primary key or by the
 * identity, also while the table is so small that it would rather scan it, as
 * the plan is kept.  The time limits end a call that waits for nothing. */
#define SETTINGS(set, local)                                                  \
    set " lock_timeout = '5s';" set " statement_timeout = '30s';" set         \
        " plan_cache_mode = force_generic_plan;" set                          \
        " enable_seqscan = off;" set " enable_bitmapscan = off;" set          \
        " enable_hashjoin = off;" set " enable_mergejoin = off;" set          \
        " max_parallel_workers_per_gather = 0;" set " jit = off;"             \
        "SELECT set_config('synchronous_commit', 'on', " local ")"            \
        " WHERE current_setting('synchronous_commit') = 'off'"

static const char SESSION[] =
    "SET default_transaction_isolation = 'read committed';" SETTINGS("SET",
                                                                     "false");
static const char TRANSACTION[] =
    "BEGIN ISOLATION LEVEL READ COMMITTED;" SETTINGS("SET LOCAL", "true");

#define PURGED_TABLE                                                          \
    "CREATE TABLE IF NOT EXISTS aiflow_log_purged ("                          \
    "  namespace text COLLATE \"C\" PRIMARY KEY,"                             \
    "  upto int8 NOT NULL,"                                                   \
    "  events int8 NOT NULL,"                                                 \
    "  purged_at int8 NOT NULL);"

/* No index on (key, "offset"), as in SQLite: 67,000 events/s at batch 1000
 * with it, 144,000 without (a server whose disk does not count).
 *
 * Within a transaction.  The lock, because IF NOT EXISTS does not keep two
 * from making the same table. */
static const char SCHEMA[] =
    "SELECT pg_advisory_xact_lock(7092165482341005153);"
    "CREATE TABLE IF NOT EXISTS aiflow_event ("
    "  \"offset\" int8 PRIMARY KEY,"
    "  create_time int8 NOT NULL,"
    "  namespace text NOT NULL,"
    "  key text NOT NULL,"
    "  value text NOT NULL,"
    "  type text NOT NULL,"
    "  sender text NOT NULL,"
    "  context text NOT NULL,"
    "  producer text COLLATE \"C\" NOT NULL,"
    "  sequence int8 NOT NULL,"
    "  CONSTRAINT aiflow_event_identity UNIQUE (producer, sequence));"
    "CREATE TABLE IF NOT EXISTS aiflow_log_head ("
    "  id int4 PRIMARY KEY CHECK (id = 1),"
    "  version int4 NOT NULL,"
    "  \"offset\" int8 NOT NULL,"
    "  purged int8 NOT NULL,"
    "  create_time int8 NOT NULL) WITH (fillfactor = 10);" PURGED_TABLE
    "INSERT INTO aiflow_log_head"
    "  VALUES (1, " NUMBER(AIF_STORE_VERSION) ", 0, 0, 0)"
                                              "  ON CONFLICT DO NOTHING";

/* From version 1, whoever comes first.  What was deleted by hand from its
 * front (there was no other way) was let go. */
static const char CONVERT[] =
    "SELECT pg_advisory_xact_lock(7092165482341005153);"
    "ALTER TABLE aiflow_log_head"
    "  ADD COLUMN IF NOT EXISTS purged int8 NOT NULL DEFAULT 0,"
    "  ADD COLUMN IF NOT EXISTS create_time int8 NOT NULL DEFAULT "
    "0;" PURGED_TABLE "WITH changed AS ("
    "  UPDATE aiflow_log_head SET version = 2,"
    "    purged = coalesce((SELECT min(\"offset\") - 1 FROM aiflow_event),"
    "      \"offset\"),"
    "    create_time = coalesce((SELECT create_time FROM aiflow_event"
    "      ORDER BY \"offset\" DESC LIMIT 1), 0)"
    "  WHERE version = 1"
    "  RETURNING purged)"
    "INSERT INTO aiflow_log_purged"
    "  SELECT '*', purged, purged,"
    "    (extract(epoch FROM clock_timestamp()) * 1000)::int8"
    "  FROM changed WHERE purged > 0";

static const char VERSION[] =
    "SELECT version::int8 FROM aiflow_log_head WHERE id = 1";

void
aif_pg_drop(aif_pg *s)
{
    aif_forks_stop();
    aif_forks_remove(&s->owned);
    aif_forks_go();
    PQfinish(s->conn);
    s->conn = NULL;
}

/* Where the server said nothing, it is gone: connection_failure. */
static const char *
sqlstate(const aif_pg *s, const PGresult *res)
{
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);

    if (state != NULL) {
        return state;
    }
    return PQstatus(s->conn) == CONNECTION_OK ? "" : "08006";
}

/* Undefined table, undefined column; data_corrupted, index_corrupted. */
static bool
is_corrupt(const char *state)
{
    return strcmp(state, "42P01") == 0 || strcmp(state, "42703") == 0 ||
           strcmp(state, "XX001") == 0 || strcmp(state, "XX002") == 0;
}

aif_err
aif_pg_fail(aif_pg *s, PGresult *res, const char *what, aif_error *e)
{
    const char *state = sqlstate(s, res);
    const char *why = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

    if (res == NULL && PQstatus(s->conn) == CONNECTION_OK) {
        return aif_fail(e, AIF_ENOMEM, "%s", what);
    }
    if (why == NULL) {
        why = PQerrorMessage(s->conn);
    }
    (void)aif_fail(e, is_corrupt(state) ? AIF_ECORRUPT : AIF_ESTORE,
                   "%s: %.*s", what, (int)strcspn(why, "\n"), why);
    (void)snprintf(e->sqlstate, sizeof e->sqlstate, "%.5s", state);
    e->busy = s->hurry && strcmp(state, "55P03") == 0; /* lock_timeout */
    PQclear(res);
    if (PQstatus(s->conn) != CONNECTION_OK ||
        PQtransactionStatus(s->conn) != PQTRANS_IDLE) {
        aif_pg_drop(s);
    }
    return e->code;
}

uint64_t
aif_pg_int8(const PGresult *res, int row, int column)
{
    const unsigned char *p =
        (const unsigned char *)PQgetvalue(res, row, column);
    uint64_t v = 0;

    for (int i = 0; i < PQgetlength(res, row, column) && i < 8; i++) {
        v = v << 8 | p[i];
    }
    return v;
}

aif_str
aif_pg_text(const PGresult *res, int row, int column)
{
    return (aif_str){PQgetvalue(res, row, column),
                     (size_t)PQgetlength(res, row, column)};
}

aif_err
aif_pg_number(aif_pg *s, PGresult *res, const char *what, uint64_t *out,
              aif_error *e)
{
    if (PQresultStatus(res) != PGRES_TUPLES_OK) {
        return aif_pg_fail(s, res, what, e);
    }
    if (PQntuples(res) != 1) {
        PQclear(res);
        return aif_fail(e, AIF_ECORRUPT,
                        "%s: aiflow_log_head has lost its row", what);
    }
    *out = aif_pg_int8(res, 0, 0);
    PQclear(res);
    return AIF_OK;
}

static bool
worked(const PGresult *res)
{
    const ExecStatusType status = PQresultStatus(res);

    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
}

aif_err
aif_pg_run(aif_pg *s, const char *sql, const char *what, aif_error *e)
{
    PGresult *res = PQexec(s->conn, sql);

    if (!worked(res)) {
        return aif_pg_fail(s, res, what, e);
    }
    PQclear(res);
    return AIF_OK;
}

aif_err
aif_pg_begin(aif_pg *s, const char *what, aif_error *e)
{
    return aif_pg_run(s, s->pooled ? TRANSACTION : "BEGIN", what, e);
}

/* What is to be said of the transaction whose one statement gave res. */
static PGresult *
end_transaction(aif_pg *s, PGresult *res)
{
    PGresult *end;

    if (PQstatus(s->conn) != CONNECTION_OK) {
        return res; /* the connection has the text of its error */
    }
    end = PQexec(s->conn, worked(res) ? "COMMIT" : "ROLLBACK");
    if (worked(res) && !worked(end)) {
        PQclear(res);
        return end;
    }
    PQclear(end);
    return res;
}

PGresult *
aif_pg_ask(aif_pg *s, const char *sql, const aif_pg_params *p)
{
    const bool alone =
        s->pooled && PQtransactionStatus(s->conn) == PQTRANS_IDLE;
    PGresult *res;

    if (alone) {
        res = PQexec(s->conn, TRANSACTION);
        if (!worked(res)) {
            return res;
        }
        PQclear(res);
    }
    res = PQexecParams(s->conn, sql, p->n, NULL, p->values, p->lengths,
                       p->formats, 1);
    return alone ? end_transaction(s, res) : res;
}

static aif_err
read_version(aif_pg *s, uint64_t *version, aif_error *e)
{
    const aif_pg_params none = {.n = 0};

    return aif_pg_number(s, aif_pg_ask(s, VERSION, &none), "opening the log",
                         version, e);
}

/* Run sql, all of it or nothing, and read the version again. */
static aif_err
change_schema(aif_pg *s, const char *sql, uint64_t *version, aif_error *e)
{
    aif_err err = aif_pg_begin(s, "opening the log", e);

    if (err == AIF_OK) {
        err = aif_pg_run(s, sql, "opening the log", e);
    }
    AIF_POINT("convert.before_commit");
    if (err == AIF_OK) {
        err = aif_pg_run(s, "COMMIT", "opening the log", e);
    }
    AIF_POINT("convert.after_commit");
    return err != AIF_OK ? err : read_version(s, version, e);
}

/* First a look: to open an existing log needs no right to make tables. */
static aif_err
check_schema(aif_pg *s, aif_error *e)
{
    uint64_t version = 0;
    aif_err err = read_version(s, &version, e);

    if (err == AIF_ECORRUPT && strcmp(e->sqlstate, "42P01") == 0) {
        err = change_schema(s, SCHEMA, &version, e);
    }
    if (err == AIF_OK && version == 1) {
        err = change_schema(s, CONVERT, &version, e);
    }
    if (err == AIF_OK && version != AIF_STORE_VERSION) {
        err = aif_fail(e, AIF_ECORRUPT,
                       "the database has a log of version %llu, this is "
                       "version %d: use the aiflow_ext that wrote it, or "
                       "another database",
                       (unsigned long long)version, AIF_STORE_VERSION);
    }
    return err;
}

static aif_err
check_encoding(aif_pg *s, aif_error *e)
{
    const char *encoding = PQparameterStatus(s->conn, "server_encoding");

    if (encoding != NULL && strcmp(encoding, "UTF8") == 0) {
        return AIF_OK;
    }
    return aif_fail(e, AIF_EINVAL,
                    "the database's encoding is %s: a log needs one that was "
                    "made with ENCODING 'UTF8'",
                    encoding == NULL ? "unknown" : encoding);
}

static aif_err
prepare(aif_pg *s, aif_error *e)
{
    aif_err err = AIF_OK;

    for (int i = 0; err == AIF_OK && i < AIF_PG_STMTS; i++) {
        err = aif_pg_prepare(s, (aif_pg_stmt)i, e);
    }
    return err;
}

static void
say_nothing(void *arg, const char *message)
{
    (void)arg;
    (void)message; /* libpq's own habit is to print it */
}

/* What stands before dbname, the URI may say otherwise.  A server whose
 * machine is gone is noticed in 10 s while we wait for it. */
static aif_err
dial(aif_pg *s, aif_error *e)
{
    static const char *const names[] = {"application_name",
                                        "connect_timeout",
                                        "keepalives_idle",
                                        "keepalives_interval",
                                        "keepalives_count",
                                        "tcp_user_timeout",
                                        "dbname",
                                        "client_encoding",
                                        NULL};
    const char *const values[] = {"aiflow log", "5",    "5",    "2", "3",
                                  "10000",      s->uri, "UTF8", NULL};

    s->conn = PQconnectdbParams(names, values, 1);
    if (PQstatus(s->conn) != CONNECTION_OK) {
        return aif_pg_fail(s, NULL, "connecting", e);
    }
    (void)PQsetNoticeProcessor(s->conn, say_nothing, NULL);
    aif_forks_stop();
    aif_forks_add(&s->owned, PQsocket(s->conn));
    aif_forks_go();
    return AIF_OK;
}

/* A pooler tells each client a process of its own invention, to be named when
 * a query is cancelled: the server, asked, says another. */
static aif_err
find_pooler(aif_pg *s, aif_error *e)
{
    uint64_t pid = 0;
    aif_err err =
        aif_pg_number(s,
                      PQexecParams(s->conn, "SELECT pg_backend_pid()::int8", 0,
                                   NULL, NULL, NULL, NULL, 1),
                      "connecting", &pid, e);

    s->pooled = pid != (uint64_t)PQbackendPID(s->conn);
    return err;
}

static aif_err
set_hurry(aif_pg *s, aif_error *e)
{
    return aif_pg_run(s, "SET lock_timeout = " NUMBER(AIF_LOCK_SLICE_MS),
                      "opening the log", e);
}

aif_err
aif_pg_hurry(void *store, aif_error *e)
{
    aif_pg *s = store;

    s->hurry = true;
    return set_hurry(s, e);
}

static aif_err
connect_db(aif_pg *s, aif_error *e)
{
    aif_err err = dial(s, e);

    if (err == AIF_OK) {
        err = check_encoding(s, e);
    }
    if (err == AIF_OK) {
        err = find_pooler(s, e);
    }
    if (err == AIF_OK && !s->pooled) {
        err = aif_pg_run(s, SESSION, "opening the log", e);
    }
    if (err == AIF_OK && s->hurry) {
        err = set_hurry(s, e);
    }
    if (err == AIF_OK) {
        err = check_schema(s, e);
    }
    if (err == AIF_OK) {
        err = prepare(s, e);
    }
    if (err != AIF_OK) {
        aif_pg_drop(s);
    }
    return err;
}

/* A password with '@' or '/' in it puts its rest into the host, the port or
 * the database, which libpq's messages quote. */
static bool
is_mistaken(const PQconninfoOption *options)
{
    for (const PQconninfoOption *o = options; o->keyword != NULL; o++) {
        if (o->val != NULL && strchr(o->val, '@') != NULL &&
            (strcmp(o->keyword, "host") == 0 ||
             strcmp(o->keyword, "dbname") == 0)) {
            return true;
        }
    }
    return false;
}

/* libpq's own words on a bad URI quote it, password and all. */
static aif_err
check_uri(const char *uri, aif_error *e)
{
    PQconninfoOption *options = PQconninfoParse(uri, NULL);
    bool good = options != NULL && !is_mistaken(options);

    PQconninfoFree(options);
    return good ? AIF_OK
                : aif_fail(e, AIF_EINVAL,
                           "not a PostgreSQL URI: write postgresql://user:"
                           "password@host:port/database, with %%40 for @ and "
                           "%%2F for / in the password");
}

aif_err
aif_pg_open(const char *uri, void **store, aif_error *e)
{
    const size_t n = strlen(uri) + 1;
    aif_err err;
    aif_pg *s;

    *store = NULL;
    s = aif_zalloc(sizeof *s + n);
    if (s == NULL) {
        return aif_fail(e, AIF_ENOMEM, "opening a log");
    }
    memcpy(s->uri, uri, n);
    err = check_uri(uri, e);
    if (err == AIF_OK) {
        err = connect_db(s, e);
    }
    if (err != AIF_OK) {
        aif_free(s);
        return err;
    }
    *store = s;
    return AIF_OK;
}

void
aif_pg_close(void *store)
{
    aif_pg_drop(store);
    aif_free(store);
}

aif_err
aif_pg_ready(aif_pg *s, aif_error *e)
{
    int64_t since;
    aif_err err;

    if (s->conn != NULL) {
        return AIF_OK;
    }
    since = aif_now_ms();
    err = aif_away_check(&s->away, since, e);
    if (err != AIF_OK) {
        return err;
    }
    err = connect_db(s, e);
    if (err != AIF_OK) {
        aif_away_failed(&s->away, since, aif_now_ms(), e);
    }
    return err;
}
