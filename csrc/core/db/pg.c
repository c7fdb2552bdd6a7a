/* pg.c - a connection to PostgreSQL.
 *
 * One that is lost fails the call that notices with ESTORE; the next call
 * connects again.  No text of ours or of libpq's carries the password.
 */
#include "db/pg.h"

#include "base/clock.h"
#include "base/forks.h"
#include "base/mem.h"
#include "db/away.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Durable means durable, whatever the server's default is.  The planner is
 * told what we know: every query of ours goes by a primary key or by a unique
 * one, also while the table is so small that it would rather scan it, as the
 * plan is kept.  The time limits end a call that waits for nothing. */
static const char SESSION[] =
    "SET default_transaction_isolation = 'read committed';"
    "SET lock_timeout = '5s';"
    "SET statement_timeout = '30s';"
    "SET plan_cache_mode = force_generic_plan;"
    "SET enable_seqscan = off;"
    "SET enable_bitmapscan = off;"
    "SET enable_hashjoin = off;"
    "SET enable_mergejoin = off;"
    "SET max_parallel_workers_per_gather = 0;"
    "SET jit = off;"
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') = 'off'";

typedef struct {
    PGconn *conn; /* NULL: lost, to be opened again */
    aif_owned owned;
    aif_away away;
    bool kept[AIF_DB_PLACES]; /* prepared on this connection */
    PGresult *asked;          /* whose rows are being taken */
    int row;
    char uri[];
} pg;

static void
pg_drop(void *db)
{
    pg *s = db;

    aif_forks_stop();
    aif_forks_remove(&s->owned);
    aif_forks_go();
    PQfinish(s->conn);
    s->conn = NULL;
    memset(s->kept, 0, sizeof s->kept);
}

/* Where the server said nothing, it is gone: connection_failure. */
static const char *
sqlstate(const pg *s, const PGresult *res)
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
aif_pg_fail(void *db, PGresult *res, const char *what, aif_error *e)
{
    pg *s = db;
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
    PQclear(res);
    if (PQstatus(s->conn) != CONNECTION_OK ||
        PQtransactionStatus(s->conn) != PQTRANS_IDLE) {
        pg_drop(s);
    }
    return e->code;
}

/* --- opening ------------------------------------------------------------ */

static void
say_nothing(void *arg, const char *message)
{
    (void)arg;
    (void)message; /* libpq's own habit is to print it */
}

static aif_err
check_encoding(const pg *s, aif_error *e)
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
set_session(pg *s, aif_error *e)
{
    PGresult *res = PQexec(s->conn, SESSION);
    const ExecStatusType status = PQresultStatus(res);

    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
        return aif_pg_fail(s, res, "connecting", e);
    }
    PQclear(res);
    return AIF_OK;
}

/* What stands before dbname, the URI may say otherwise.  A server whose
 * machine is gone is noticed in 10 s while we wait for it. */
static aif_err
pg_connect(pg *s, aif_error *e)
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
    aif_err err;

    s->conn = PQconnectdbParams(names, values, 1);
    if (PQstatus(s->conn) != CONNECTION_OK) {
        err = aif_pg_fail(s, NULL, "connecting", e);
        goto fail;
    }
    (void)PQsetNoticeProcessor(s->conn, say_nothing, NULL);
    aif_forks_stop();
    aif_forks_add(&s->owned, PQsocket(s->conn));
    aif_forks_go();
    err = check_encoding(s, e);
    if (err == AIF_OK) {
        err = set_session(s, e);
    }
    if (err == AIF_OK) {
        return AIF_OK;
    }
fail:
    pg_drop(s);
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

static aif_err
pg_open(const char *uri, void **db, aif_error *e)
{
    const size_t n = strlen(uri) + 1;
    aif_err err = check_uri(uri, e);
    pg *s;

    *db = NULL;
    if (err != AIF_OK) {
        return err;
    }
    s = aif_zalloc(sizeof *s + n);
    if (s == NULL) {
        return aif_fail(e, AIF_ENOMEM, "opening a log");
    }
    memcpy(s->uri, uri, n);
    *db = s;
    return AIF_OK;
}

static void
pg_close(void *db)
{
    pg_drop(db);
    aif_free(db);
}

static aif_err
pg_ready(void *db, bool *fresh, aif_error *e)
{
    pg *s = db;
    int64_t since;
    aif_err err;

    *fresh = s->conn == NULL;
    if (!*fresh) {
        return AIF_OK;
    }
    since = aif_now_ms();
    err = aif_away_check(&s->away, since, e);
    if (err != AIF_OK) {
        return err;
    }
    err = pg_connect(s, e);
    if (err != AIF_OK) {
        aif_away_failed(&s->away, since, aif_now_ms(), e);
    }
    return err;
}

/* --- statements --------------------------------------------------------- */

PGresult *
aif_pg_execute(void *db, const char *sql, int place, int n, const Oid *types,
               const char *const *values, const int *lengths)
{
    static const int binary[AIF_DB_NUMBERS + AIF_DB_TEXTS] = {
        [0 ... AIF_DB_NUMBERS + AIF_DB_TEXTS - 1] = 1};
    pg *s = db;
    char name[32];

    if (place == AIF_DB_ONCE) {
        return PQexecParams(s->conn, sql, n, types, values, lengths, binary,
                            1);
    }
    (void)snprintf(name, sizeof name, "aiflow_%d", place);
    if (!s->kept[place]) {
        PGresult *res = PQprepare(s->conn, name, sql, n, types);

        if (PQresultStatus(res) != PGRES_COMMAND_OK) {
            return res;
        }
        PQclear(res);
        s->kept[place] = true;
    }
    return PQexecPrepared(s->conn, name, n, values, lengths, binary, 1);
}

static PGresult *
execute(pg *s, const aif_statement *st)
{
    uint32_t numbers[AIF_DB_NUMBERS][2]; /* big-endian */
    Oid types[AIF_DB_NUMBERS + AIF_DB_TEXTS];
    const char *values[AIF_DB_NUMBERS + AIF_DB_TEXTS];
    int lengths[AIF_DB_NUMBERS + AIF_DB_TEXTS];
    int n = 0;

    for (int i = 0; i < st->n_numbers; i++, n++) {
        numbers[i][0] = htonl((uint32_t)(st->numbers[i] >> 32));
        numbers[i][1] = htonl((uint32_t)st->numbers[i]);
        types[n] = AIF_PG_INT8;
        values[n] = (const char *)numbers[i];
        lengths[n] = 8;
    }
    for (int i = 0; i < st->n_texts; i++, n++) {
        types[n] = AIF_PG_TEXT;
        values[n] = st->texts[i].n == 0 ? "" : st->texts[i].p;
        lengths[n] = (int)st->texts[i].n;
    }
    return aif_pg_execute(s, st->sql, st->place, n, types, values, lengths);
}

static aif_err
pg_ask(void *db, const aif_statement *st, const char *what, aif_error *e)
{
    pg *s = db;
    PGresult *res = execute(s, st);

    if (PQresultStatus(res) != PGRES_TUPLES_OK) {
        return aif_pg_fail(s, res, what, e);
    }
    s->asked = res;
    s->row = -1;
    return AIF_OK;
}

static aif_err
pg_next(void *db, bool *there, aif_error *e)
{
    pg *s = db;

    (void)e;
    *there = ++s->row < PQntuples(s->asked);
    return AIF_OK;
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

static uint64_t
pg_number(void *db, int column)
{
    const pg *s = db;

    return aif_pg_int8(s->asked, s->row, column);
}

static aif_str
pg_text(void *db, int column)
{
    const pg *s = db;

    return (aif_str){PQgetvalue(s->asked, s->row, column),
                     (size_t)PQgetlength(s->asked, s->row, column)};
}

static void
pg_done(void *db)
{
    pg *s = db;

    PQclear(s->asked);
    s->asked = NULL;
}

static aif_err
pg_change(void *db, const aif_statement *st, const char *what,
          uint64_t *changed, aif_error *e)
{
    pg *s = db;
    PGresult *res = execute(s, st);
    const ExecStatusType status = PQresultStatus(res);

    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
        return aif_pg_fail(s, res, what, e);
    }
    if (changed != NULL) {
        *changed = strtoull(PQcmdTuples(res), NULL, 10);
    }
    PQclear(res);
    return AIF_OK;
}

/* The server rolls back what a connection that ends has not committed. */
static void
pg_undo(void *db)
{
    pg *s = db;

    if (s->conn != NULL && PQtransactionStatus(s->conn) != PQTRANS_IDLE) {
        pg_drop(s);
    }
}

const aif_db_ops aif_pg = {
    .open = pg_open,
    .close = pg_close,
    .ready = pg_ready,
    .ask = pg_ask,
    .next = pg_next,
    .number = pg_number,
    .text = pg_text,
    .done = pg_done,
    .change = pg_change,
    .undo = pg_undo,
    .drop = pg_drop,
};
