/* pg.c - a connection to PostgreSQL.
 *
 * One that is lost fails the call that notices with ESTORE; the next call
 * connects again.  No text of ours or of libpq's carries the password.
 */
#include "db/pg.h"

#include "base/mem.h"
#include "db/pg_dial.h"

#include <arpa/inet.h>
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SETTINGS_CAP 1024

/* Durable means durable, whatever the server's default is. */
#define DURABLE(local)                                                        \
    ";SELECT set_config('synchronous_commit', 'on', " local ")"               \
    " WHERE current_setting('synchronous_commit') = 'off'"

typedef struct {
    PGconn *conn; /* NULL: lost, to be opened again */
    bool pooled;  /* there is a pooler between the server and us */
    bool hurry;
    const aif_db_needs *needs;
    aif_owned owned;
    char settings[SETTINGS_CAP]; /* what begins a session, or, behind a pooler,
                                    a transaction */
    bool kept[AIF_DB_PLACES];    /* prepared on this connection */
    PGresult *asked;             /* whose rows are being taken */
    int row;
    char uri[];
} pg;

static void
pg_drop(void *db)
{
    pg *s = db;

    aif_pg_hang_up(s->conn, &s->owned);
    s->conn = NULL;
    memset(s->kept, 0, sizeof s->kept);
}

/* Where the server said nothing, it is gone: connection_failure. */
static const char *
result_sqlstate(const pg *s, const PGresult *res)
{
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);

    if (state != NULL) {
        return state;
    }
    return PQstatus(s->conn) == CONNECTION_OK ? "" : "08006";
}

/* Undefined table, a table that is there already, undefined column; data_corrupted, index_corrupted. */
static bool
state_is_corrupt(const char *state)
{
    return strcmp(state, "42P01") == 0 || strcmp(state, "42P07") == 0 ||
           strcmp(state, "42703") == 0 || strcmp(state, "XX001") == 0 ||
           strcmp(state, "XX002") == 0;
}

aif_err
aif_pg_fail(void *db, PGresult *res, const char *what, aif_error *e)
{
    pg *s = db;
    const char *state = result_sqlstate(s, res);
    const char *why = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    bool stale; /* a column is missing: the tables are to be looked at again */

    if (res == NULL && PQstatus(s->conn) == CONNECTION_OK) {
        return aif_fail(e, AIF_ENOMEM, "%s", what);
    }
    if (why == NULL) {
        why = PQerrorMessage(s->conn);
    }
    (void)aif_fail(e, state_is_corrupt(state) ? AIF_ECORRUPT : AIF_ESTORE,
                   "%s: %.*s", what, (int)strcspn(why, "\n"), why);
    (void)snprintf(e->sqlstate, sizeof e->sqlstate, "%.5s", state);
    e->busy = s->hurry && strcmp(state, "55P03") == 0; /* lock_timeout */
    stale = strcmp(state, "42703") == 0;
    PQclear(res);
    if (stale || PQstatus(s->conn) != CONNECTION_OK ||
        PQtransactionStatus(s->conn) != PQTRANS_IDLE) {
        pg_drop(s);
    }
    return e->code;
}

/* --- opening ------------------------------------------------------------ */

static aif_err
encoding_check(const pg *s, aif_error *e)
{
    const char *encoding = PQparameterStatus(s->conn, "server_encoding");

    if (encoding != NULL && strcmp(encoding, "UTF8") == 0) {
        return AIF_OK;
    }
    return aif_fail(e, AIF_EINVAL,
                    "the database's encoding is %s: %s needs one that was "
                    "made with ENCODING 'UTF8'",
                    encoding == NULL ? "unknown" : encoding, s->needs->called);
}

static bool
result_worked(const PGresult *res)
{
    const ExecStatusType status = PQresultStatus(res);

    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
}

static aif_err
pg_run(pg *s, const char *sql, const char *what, aif_error *e)
{
    PGresult *res = PQexec(s->conn, sql);

    if (!result_worked(res)) {
        return aif_pg_fail(s, res, what, e);
    }
    PQclear(res);
    return AIF_OK;
}

/* A pooler tells each client a process of its own invention, to be named when
 * a query is cancelled: the server, asked, says another. */
static aif_err
pooler_find(pg *s, aif_error *e)
{
    PGresult *res = PQexecParams(s->conn, "SELECT pg_backend_pid()", 0, NULL,
                                 NULL, NULL, NULL, 1);

    if (!result_worked(res)) {
        return aif_pg_fail(s, res, "connecting", e);
    }
    s->pooled = aif_pg_int8(res, 0, 0) != (uint64_t)PQbackendPID(s->conn);
    PQclear(res);
    return AIF_OK;
}

static void
settings_add(pg *s, const char *set, const char *setting)
{
    const size_t n = strlen(s->settings);
    const int more =
        snprintf(s->settings + n, SETTINGS_CAP - n, "%s%s", set, setting);

    assert(n + (size_t)more < SETTINGS_CAP);
    (void)more;
}

/* The time limits end a call that waits for nothing.
 *
 * A pooler (PgBouncer in transaction mode) lends us a session of the server
 * for one transaction, then it is somebody else's: so nothing is set or
 * prepared for a session there, and each statement is a transaction that
 * begins with our settings. */
static void
settings_make(pg *s)
{
    const char *set = s->pooled ? ";SET LOCAL " : ";SET ";
    char lock[40];

    (void)snprintf(lock, sizeof lock, "lock_timeout = %d",
                   s->hurry ? AIF_LOCK_SLICE_MS : AIF_LOCK_WAIT_MS);
    s->settings[0] = '\0';
    settings_add(s, "",
                 s->pooled
                     ? "BEGIN ISOLATION LEVEL READ COMMITTED"
                     : "SET default_transaction_isolation = 'read committed'");
    settings_add(s, set, lock);
    settings_add(s, set, "statement_timeout = '30s'");
    for (const char *const *own = s->needs->settings; *own != NULL; own++) {
        settings_add(s, set, *own);
    }
    settings_add(s, "", s->pooled ? DURABLE("true") : DURABLE("false"));
}

static aif_err
pg_connect(void *db, aif_error *e)
{
    pg *s = db;
    aif_err err;

    s->conn = aif_pg_dial(s->uri, s->needs->session, "", &s->owned);
    err = PQstatus(s->conn) == CONNECTION_OK
              ? encoding_check(s, e)
              : aif_pg_fail(s, NULL, "connecting", e);
    if (err == AIF_OK) {
        err = pooler_find(s, e);
    }
    if (err == AIF_OK) {
        settings_make(s);
        err = s->pooled ? AIF_OK : pg_run(s, s->settings, "connecting", e);
    }
    if (err != AIF_OK) {
        pg_drop(s);
    }
    return err;
}

static aif_err
pg_open(const char *uri, const aif_db_needs *needs, bool hurry, void **db,
        aif_error *e)
{
    const size_t n = strlen(uri) + 1;
    aif_err err = aif_pg_check_uri(uri, e);
    pg *s;

    *db = NULL;
    if (err != AIF_OK) {
        return err;
    }
    s = aif_zalloc(sizeof *s + n);
    if (s == NULL) {
        return aif_fail(e, AIF_ENOMEM, "opening %s", needs->called);
    }
    s->needs = needs;
    s->hurry = hurry;
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
pg_ready(void *db, bool *lost, aif_error *e)
{
    (void)e;
    *lost = ((const pg *)db)->conn == NULL;
    return AIF_OK;
}

/* --- statements --------------------------------------------------------- */

static const char *
transaction_begin(const pg *s)
{
    return s->pooled ? s->settings : "BEGIN";
}

/* What is to be said of the transaction whose one statement gave res. */
static PGresult *
transaction_end(pg *s, PGresult *res)
{
    PGresult *end;

    if (PQstatus(s->conn) != CONNECTION_OK) {
        return res; /* the connection has the text of its error */
    }
    end = PQexec(s->conn, result_worked(res) ? "COMMIT" : "ROLLBACK");
    if (result_worked(res) && !result_worked(end)) {
        PQclear(res);
        return end;
    }
    PQclear(end);
    return res;
}

/* One statement: in the transaction that there is, or in one of its own. */
static PGresult *
statement_execute_pooled(pg *s, const char *sql, int n, const Oid *types,
                         const char *const *values, const int *lengths,
                         const int *formats)
{
    const bool alone = PQtransactionStatus(s->conn) == PQTRANS_IDLE;
    PGresult *res;

    if (alone) {
        res = PQexec(s->conn, transaction_begin(s));
        if (!result_worked(res)) {
            return res;
        }
        PQclear(res);
    }
    res = PQexecParams(s->conn, sql, n, types, values, lengths, formats, 1);
    return alone ? transaction_end(s, res) : res;
}

PGresult *
aif_pg_execute(void *db, const char *sql, int place, int n, const Oid *types,
               const char *const *values, const int *lengths)
{
    static const int binary[AIF_DB_NUMBERS + AIF_DB_TEXTS] = {
        [0 ... AIF_DB_NUMBERS + AIF_DB_TEXTS - 1] = 1};
    pg *s = db;
    char name[32];

    if (s->pooled) {
        return statement_execute_pooled(s, sql, n, types, values, lengths,
                                        binary);
    }
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
statement_execute(pg *s, const aif_statement *st)
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
    PGresult *res = statement_execute(s, st);

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
    PGresult *res = statement_execute(s, st);

    if (!result_worked(res)) {
        return aif_pg_fail(s, res, what, e);
    }
    if (changed != NULL) {
        *changed = strtoull(PQcmdTuples(res), NULL, 10);
    }
    PQclear(res);
    return AIF_OK;
}

static aif_err
pg_begin(void *db, const char *what, aif_error *e)
{
    return pg_run(db, transaction_begin(db), what, e);
}

static aif_err
pg_commit(void *db, const char *what, aif_error *e)
{
    return pg_run(db, "COMMIT", what, e);
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
    .connect = pg_connect,
    .begin = pg_begin,
    .commit = pg_commit,
    .undo = pg_undo,
    .ask = pg_ask,
    .next = pg_next,
    .number = pg_number,
    .text = pg_text,
    .done = pg_done,
    .change = pg_change,
    .drop = pg_drop,
};
