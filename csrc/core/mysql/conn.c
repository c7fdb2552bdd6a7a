/* mysql/conn.c - connect, set the session up, prepare.
 *
 * A connection that is lost, or on which anything failed, is dropped; the
 * next call connects again.  No text of ours or of libmariadb's carries the
 * password.
 */
#include "mysql/conn.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errmsg.h>
#include <fcntl.h>
#include <inttypes.h>
#include <mysqld_error.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_S 5
#define ANSWER_S 30
/* An event of the greatest size, and what is around it. */
#define PACKET_MIN (2u << 20)

/* Texts go as they are, whatever the server's defaults.  An idle log keeps its
 * connection: 24 days are the most that every server takes. */
static const char *const SESSION[] = {
    "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET autocommit = 1,"
    " completion_type = 0,"
    " sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION',"
    " innodb_lock_wait_timeout = 5,"
    " lock_wait_timeout = 5,"
    " unique_checks = 1,"
    " wait_timeout = 2147483",
};

static const char SERVER[] =
    "SELECT @@max_allowed_packet, @@innodb_flush_log_at_trx_commit,"
    " @@log_bin, @@sync_binlog";

/* The row is locked to the commit, so that offset order is commit order.  It
 * mostly is what it was after our last append: to take it so, unread, makes
 * an append four round trips instead of five, and 150 us of the server
 * instead of 240. */
static const char TAKE[] =
    "UPDATE aiflow_log_head SET `offset` = ?, create_time = ?"
    " WHERE id = 1 AND `offset` = ? AND create_time = ? AND purged = ?";

static const char INSERT[] =
    "INSERT INTO aiflow_event (" AIF_MYSQL_COLUMNS ") VALUES ";
static const char VALUES[] = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

const size_t aif_mysql_insert_rows[AIF_MYSQL_INSERTS] = {AIF_MYSQL_ROWS_MAX,
                                                         10, 1};

void
aif_mysql_shut(aif_mysql *s)
{
    aif_forks_stop();
    aif_forks_remove(&s->owned);
    aif_forks_go();
    if (s->conn != NULL) {
        mysql_close(s->conn); /* first: then the others have nobody to tell */
        s->conn = NULL;
    }
    if (s->take != NULL) {
        (void)mysql_stmt_close(s->take);
        s->take = NULL;
    }
    for (int i = 0; i < AIF_MYSQL_INSERTS; i++) {
        if (s->inserts[i] != NULL) {
            (void)mysql_stmt_close(s->inserts[i]);
            s->inserts[i] = NULL;
        }
    }
}

static aif_err
code_of(unsigned number)
{
    switch (number) {
    case CR_OUT_OF_MEMORY:
        return AIF_ENOMEM;
    case ER_NO_SUCH_TABLE:
    case ER_BAD_FIELD_ERROR:
    case ER_NOT_KEYFILE: /* "incorrect key file": a page is unreadable */
    case ER_CRASHED_ON_USAGE:
    case 1877: /* ER_TABLE_CORRUPT, of MySQL alone */
        return AIF_ECORRUPT;
    default:
        return AIF_ESTORE;
    }
}

/* The texts live in what is closed at the end. */
static aif_err
fail(aif_mysql *s, unsigned number, const char *state, const char *why,
     const char *what, aif_error *e)
{
    (void)aif_fail(e, code_of(number), "%s: %.*s", what,
                   (int)strcspn(why, "\n"), why);
    (void)snprintf(e->sqlstate, sizeof e->sqlstate, "%.5s", state);
    e->busy = s->hurry && number == ER_LOCK_WAIT_TIMEOUT;
    aif_mysql_shut(s);
    return e->code;
}

aif_err
aif_mysql_fail(aif_mysql *s, const char *what, aif_error *e)
{
    return fail(s, mysql_errno(s->conn), mysql_sqlstate(s->conn),
                mysql_error(s->conn), what, e);
}

aif_err
aif_mysql_fail_stmt(aif_mysql *s, MYSQL_STMT *stmt, const char *what,
                    aif_error *e)
{
    return fail(s, mysql_stmt_errno(stmt), mysql_stmt_sqlstate(stmt),
                mysql_stmt_error(stmt), what, e);
}

aif_err
aif_mysql_run(aif_mysql *s, const char *sql, const char *what, aif_error *e)
{
    return mysql_real_query(s->conn, sql, strlen(sql)) == 0
               ? AIF_OK
               : aif_mysql_fail(s, what, e);
}

uint64_t
aif_mysql_number(const char *text)
{
    return text == NULL ? 0 : (uint64_t)strtoll(text, NULL, 10);
}

aif_err
aif_mysql_numbers(aif_mysql *s, const char *sql, const char *what,
                  uint64_t *out, unsigned n, bool *found, aif_error *e)
{
    aif_err err = aif_mysql_run(s, sql, what, e);
    MYSQL_RES *res;
    MYSQL_ROW row;

    if (err != AIF_OK) {
        return err;
    }
    res = mysql_store_result(s->conn);
    if (res == NULL) {
        return aif_mysql_fail(s, what, e);
    }
    row = mysql_fetch_row(res);
    *found = row != NULL;
    for (unsigned i = 0; row != NULL && i < n; i++) {
        out[i] = aif_mysql_number(row[i]);
    }
    mysql_free_result(res);
    return AIF_OK;
}

aif_err
aif_mysql_head(aif_mysql *s, bool for_update, const char *what, aif_head *out,
               aif_error *e)
{
    uint64_t found[3];
    bool there;
    aif_err err = aif_mysql_numbers(
        s,
        for_update ? "SELECT `offset`, create_time, purged"
                     " FROM aiflow_log_head WHERE id = 1 FOR UPDATE"
                   : "SELECT `offset`, create_time, purged"
                     " FROM aiflow_log_head WHERE id = 1",
        what, found, 3, &there, e);

    if (err != AIF_OK) {
        return err;
    }
    if (!there) {
        return aif_fail(e, AIF_ECORRUPT,
                        "%s: aiflow_log_head has lost its row", what);
    }
    *out = (aif_head){.offset = found[0],
                      .create_time = (int64_t)found[1],
                      .purged = found[2]};
    return AIF_OK;
}

/* MySQL and MariaDB keep these for all sessions: we can but look. */
static aif_err
check_durable(const uint64_t found[4], aif_error *e)
{
    if (found[1] != 1) {
        return aif_fail(e, AIF_EINVAL,
                        "the server's innodb_flush_log_at_trx_commit is "
                        "%" PRIu64 ": a crash may take events that were "
                        "promised; set it to 1, or add durable=no to the URI",
                        found[1]);
    }
    if (found[2] != 0 && found[3] != 1) {
        return aif_fail(e, AIF_EINVAL,
                        "the server has a binary log, and its sync_binlog is "
                        "%" PRIu64 ": a crash may take events that were "
                        "promised; set it to 1, or add durable=no to the URI",
                        found[3]);
    }
    return AIF_OK;
}

static aif_err
check_server(aif_mysql *s, aif_error *e)
{
    uint64_t found[4] = {0};
    bool there;
    aif_err err =
        aif_mysql_numbers(s, SERVER, "opening the log", found, 4, &there, e);

    if (err != AIF_OK) {
        return err;
    }
    s->packet = found[0];
    if (s->packet < PACKET_MIN) {
        return aif_fail(e, AIF_EINVAL,
                        "the server's max_allowed_packet is %" PRIu64
                        " bytes: a log needs %u or more",
                        s->packet, PACKET_MIN);
    }
    return s->at.relaxed ? AIF_OK : check_durable(found, e);
}

static aif_err
prepare(aif_mysql *s, const char *sql, size_t n, MYSQL_STMT **out,
        aif_error *e)
{
    *out = mysql_stmt_init(s->conn);
    if (*out == NULL) {
        return aif_mysql_fail(s, "opening the log", e);
    }
    return mysql_stmt_prepare(*out, sql, n) == 0
               ? AIF_OK
               : aif_mysql_fail_stmt(s, *out, "opening the log", e);
}

static aif_err
prepare_insert(aif_mysql *s, size_t rows, MYSQL_STMT **out, aif_error *e)
{
    aif_buf sql = {0};
    aif_err err = aif_buf_put(&sql, INSERT, sizeof INSERT - 1, e);

    for (size_t i = 0; err == AIF_OK && i < rows; i++) {
        err = aif_buf_put(&sql, ", ", i == 0 ? 0 : 2, e);
        if (err == AIF_OK) {
            err = aif_buf_put(&sql, VALUES, sizeof VALUES - 1, e);
        }
    }
    if (err == AIF_OK) {
        err = prepare(s, (const char *)sql.p, sql.n, out, e);
    }
    aif_buf_fini(&sql);
    return err;
}

static aif_err
prepare_all(aif_mysql *s, aif_error *e)
{
    aif_err err = prepare(s, TAKE, sizeof TAKE - 1, &s->take, e);

    for (int i = 0; err == AIF_OK && i < AIF_MYSQL_INSERTS; i++) {
        err = prepare_insert(s, aif_mysql_insert_rows[i], &s->inserts[i], e);
    }
    return err;
}

static void
set_tls(MYSQL *conn, const aif_mysql_uri *at)
{
    const my_bool tls = at->tls;
    const my_bool verify = at->verify;

    (void)mysql_optionsv(conn, MYSQL_OPT_SSL_ENFORCE, &tls);
    (void)mysql_optionsv(conn, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &verify);
    (void)mysql_optionsv(conn, MYSQL_OPT_SSL_CA, at->ca);
    (void)mysql_optionsv(conn, MYSQL_OPT_SSL_CERT, at->cert);
    (void)mysql_optionsv(conn, MYSQL_OPT_SSL_KEY, at->key);
}

static void
set_options(MYSQL *conn, const aif_mysql_uri *at)
{
    const unsigned connect_s = CONNECT_S;
    const unsigned answer_s = ANSWER_S;
    const unsigned protocol =
        at->unix_socket == NULL ? MYSQL_PROTOCOL_TCP : MYSQL_PROTOCOL_SOCKET;
    const unsigned no = 0;

    (void)mysql_optionsv(conn, MYSQL_OPT_CONNECT_TIMEOUT, &connect_s);
    (void)mysql_optionsv(conn, MYSQL_OPT_READ_TIMEOUT, &answer_s);
    (void)mysql_optionsv(conn, MYSQL_OPT_WRITE_TIMEOUT, &answer_s);
    (void)mysql_optionsv(conn, MYSQL_OPT_PROTOCOL, &protocol);
    (void)mysql_optionsv(conn, MYSQL_OPT_LOCAL_INFILE, &no);
    (void)mysql_optionsv(conn, MYSQL_SET_CHARSET_NAME, "utf8mb4");
    (void)mysql_optionsv(conn, MYSQL_OPT_CONNECT_ATTR_ADD, "program_name",
                         "aiflow log");
    set_tls(conn, at);
}

static aif_err
dial(aif_mysql *s, aif_error *e)
{
    const aif_mysql_uri *at = &s->at;
    aif_err err = aif_mysql_load(e);
    int fd;

    if (err != AIF_OK) {
        return err;
    }
    s->conn = mysql_init(NULL);
    if (s->conn == NULL) {
        return aif_fail(e, AIF_ENOMEM, "opening a log");
    }
    set_options(s->conn, at);
    if (mysql_real_connect(s->conn, at->unix_socket == NULL ? at->host : NULL,
                           at->user, at->password, at->database, at->port,
                           at->unix_socket, 0) == NULL) {
        return aif_mysql_fail(s, "connecting", e);
    }
    fd = (int)mysql_get_socket(s->conn);
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    aif_forks_stop();
    aif_forks_add(&s->owned, fd);
    aif_forks_go();
    return AIF_OK;
}

static aif_err
set_hurry(aif_mysql *s, aif_error *e)
{
    return aif_mysql_run(
        s, "SET innodb_lock_wait_timeout = 1, lock_wait_timeout = 1",
        "opening the log", e);
}

aif_err
aif_mysql_hurry(void *store, aif_error *e)
{
    aif_mysql *s = store;

    s->hurry = true;
    return set_hurry(s, e);
}

static aif_err
set_session(aif_mysql *s, aif_error *e)
{
    aif_err err = AIF_OK;

    for (size_t i = 0; err == AIF_OK && i < sizeof SESSION / sizeof *SESSION;
         i++) {
        err = aif_mysql_run(s, SESSION[i], "opening the log", e);
    }
    return err == AIF_OK && s->hurry ? set_hurry(s, e) : err;
}

static aif_err
connect_db(aif_mysql *s, aif_error *e)
{
    aif_err err = dial(s, e);

    if (err == AIF_OK) {
        err = set_session(s, e);
    }
    if (err == AIF_OK) {
        err = check_server(s, e);
    }
    if (err == AIF_OK) {
        err = aif_mysql_schema(s, e);
    }
    if (err == AIF_OK) {
        err = prepare_all(s, e);
    }
    if (err != AIF_OK) {
        aif_mysql_shut(s);
    }
    return err;
}

aif_err
aif_mysql_open(const char *uri, void **store, aif_error *e)
{
    const size_t n = strlen(uri) + 1;
    aif_err err;
    aif_mysql *s;

    *store = NULL;
    s = aif_zalloc(sizeof *s + n);
    if (s == NULL) {
        return aif_fail(e, AIF_ENOMEM, "opening a log");
    }
    memcpy(s->uri, uri, n);
    err = aif_mysql_uri_parse(s->uri, &s->at, e);
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
aif_mysql_close(void *store)
{
    aif_mysql_shut(store);
    aif_free(store);
}

aif_err
aif_mysql_ready(aif_mysql *s, aif_error *e)
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
