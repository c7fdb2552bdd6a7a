/* mysql.c - a connection to MySQL or MariaDB.
 *
 * One that is lost, or on which anything failed, is dropped; the next call
 * connects again.  No text of ours or of libmariadb's carries the password.
 *
 * Texts of others go into a statement as hexadecimal literals: nothing in
 * them means anything, whatever the character set or the mode of the session.
 */
#include "db/mysql.h"

#include "base/buf.h"
#include "base/forks.h"
#include "base/mem.h"
#include "db/mysql_load.h"
#include "db/mysql_uri.h"

#include <errmsg.h>
#include <fcntl.h>
#include <inttypes.h>
#include <mysqld_error.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define CONNECT_S 5
#define ANSWER_S 30
/* Of an answer that nobody wants any more: if it is longer, the line is cut. */
#define DRAIN_BYTES (8u << 20)

/* Texts go as they are, whatever the server's defaults.  An idle connection is
 * kept: 24 days are the most that every server takes. */
static const char *const SESSION[] = {
    "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET autocommit = 1,"
    " completion_type = 0,"
    " sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION',"
    " sql_select_limit = 18446744073709551615,"
    " wait_timeout = 2147483",
};

/* In seconds, at least one. */
#define WAIT "SET innodb_lock_wait_timeout = %d, lock_wait_timeout = %d"

static const char SERVER[] =
    "SELECT @@max_allowed_packet, @@innodb_flush_log_at_trx_commit,"
    " @@log_bin, @@sync_binlog";

/* No row where a server has no such setting: MySQL has deprecated it. */
static const char BY_STATEMENT[] =
    "SHOW SESSION VARIABLES WHERE Variable_name = 'binlog_format'"
    " AND Value = 'STATEMENT'";

typedef struct {
    MYSQL *conn; /* NULL: lost, to be opened again */
    aif_owned owned;
    bool hurry;
    const aif_db_needs *needs;
    uint64_t packet;
    aif_buf text;     /* of the statement that is sent */
    MYSQL_RES *asked; /* whose rows are being taken */
    MYSQL_ROW row;
    unsigned long *lengths;
    const char *what; /* it is for */
    MYSQL_STMT *kept[AIF_DB_PLACES];
    MYSQL_BIND binds[AIF_MYSQL_VALUES];
    aif_mysql_uri at;
    char uri[]; /* taken apart */
} mysql;

static void
mysql_drop(void *db)
{
    mysql *s = db;

    aif_forks_disown(&s->owned);
    if (s->conn != NULL) {
        mysql_close(s->conn);
        s->conn = NULL;
    }
    for (int i = 0; i < AIF_DB_PLACES;
         i++) { /* the server has none any more */
        if (s->kept[i] != NULL) {
            (void)mysql_stmt_close(s->kept[i]);
            s->kept[i] = NULL;
        }
    }
}

static aif_err
error_code(unsigned number)
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
mysql_fail_with(mysql *s, unsigned number, const char *state, const char *why,
                const char *what, aif_error *e)
{
    (void)aif_fail(e, error_code(number), "%s: %.*s", what,
                   (int)strcspn(why, "\n"), why);
    (void)snprintf(e->sqlstate, sizeof e->sqlstate, "%.5s", state);
    e->busy = s->hurry && number == ER_LOCK_WAIT_TIMEOUT;
    mysql_drop(s);
    return e->code;
}

static aif_err
mysql_fail(mysql *s, const char *what, aif_error *e)
{
    return mysql_fail_with(s, mysql_errno(s->conn), mysql_sqlstate(s->conn),
                           mysql_error(s->conn), what, e);
}

static aif_err
mysql_fail_stmt(mysql *s, MYSQL_STMT *stmt, const char *what, aif_error *e)
{
    return mysql_fail_with(s, mysql_stmt_errno(stmt),
                           mysql_stmt_sqlstate(stmt), mysql_stmt_error(stmt),
                           what, e);
}

uint64_t
aif_mysql_packet(void *db)
{
    return ((mysql *)db)->packet;
}

/* --- opening ------------------------------------------------------------ */

static uint64_t
text_number(const char *text)
{
    return text == NULL ? 0 : (uint64_t)strtoll(text, NULL, 10);
}

/* MySQL and MariaDB keep these for all sessions: we can but look. */
static aif_err
server_check_durable(const uint64_t found[4], aif_error *e)
{
    if (found[1] != 1) {
        return aif_fail(e, AIF_EINVAL,
                        "the server's innodb_flush_log_at_trx_commit is "
                        "%" PRIu64 ": a crash may take what was "
                        "committed; set it to 1, or add durable=no to the URI",
                        found[1]);
    }
    if (found[2] != 0 && found[3] != 1) {
        return aif_fail(e, AIF_EINVAL,
                        "the server has a binary log, and its sync_binlog is "
                        "%" PRIu64 ": a crash may take what was "
                        "committed; set it to 1, or add durable=no to the URI",
                        found[3]);
    }
    return AIF_OK;
}

static aif_err
server_ask(mysql *s, const char *sql, MYSQL_RES **res, aif_error *e)
{
    *res = NULL;
    if (mysql_real_query(s->conn, sql, strlen(sql)) == 0) {
        *res = mysql_store_result(s->conn);
    }
    return *res != NULL ? AIF_OK : mysql_fail(s, "connecting", e);
}

/* Such a binary log refuses what InnoDB writes in READ COMMITTED, and a
 * session may not choose another one without a privilege. */
static aif_err
server_check_binlog(mysql *s, aif_error *e)
{
    MYSQL_RES *res;
    bool statement;
    aif_err err = server_ask(s, BY_STATEMENT, &res, e);

    if (err != AIF_OK) {
        return err;
    }
    statement = mysql_fetch_row(res) != NULL;
    mysql_free_result(res);
    return !statement ? AIF_OK
                      : aif_fail(e, AIF_EINVAL,
                                 "the server has a binary log, and its "
                                 "binlog_format is STATEMENT, with which it "
                                 "refuses to write: set it to ROW (or to "
                                 "MIXED)");
}

static aif_err
server_check(mysql *s, aif_error *e)
{
    uint64_t found[4] = {0};
    MYSQL_RES *res;
    MYSQL_ROW row;
    aif_err err = server_ask(s, SERVER, &res, e);

    if (err != AIF_OK) {
        return err;
    }
    row = mysql_fetch_row(res);
    for (int i = 0; row != NULL && i < 4; i++) {
        found[i] = text_number(row[i]);
    }
    mysql_free_result(res);
    s->packet = found[0];
    if (s->packet < s->needs->longest) {
        return aif_fail(e, AIF_EINVAL,
                        "the server's max_allowed_packet is %" PRIu64
                        " bytes: %s needs %zu or more",
                        s->packet, s->needs->called, s->needs->longest);
    }
    if (found[2] != 0) {
        err = server_check_binlog(s, e);
    }
    return err != AIF_OK || s->at.relaxed ? err
                                          : server_check_durable(found, e);
}

static void
options_set_tls(MYSQL *conn, const aif_mysql_uri *at)
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
options_set(MYSQL *conn, const aif_mysql_uri *at, const char *session)
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
                         session);
    options_set_tls(conn, at);
}

static aif_err
mysql_run(mysql *s, const char *sql, const char *what, aif_error *e)
{
    return mysql_real_query(s->conn, sql, strlen(sql)) == 0
               ? AIF_OK
               : mysql_fail(s, what, e);
}

static aif_err
mysql_dial(mysql *s, aif_error *e)
{
    const aif_mysql_uri *at = &s->at;
    int fd;

    s->conn = mysql_init(NULL);
    if (s->conn == NULL) {
        return aif_fail(e, AIF_ENOMEM, "connecting");
    }
    options_set(s->conn, at, s->needs->session);
    if (mysql_real_connect(s->conn, at->unix_socket == NULL ? at->host : NULL,
                           at->user, at->password, at->database, at->port,
                           at->unix_socket, 0) == NULL) {
        return mysql_fail(s, "connecting", e);
    }
    fd = (int)mysql_get_socket(s->conn);
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    aif_forks_own(&s->owned, fd);
    return AIF_OK;
}

static aif_err
session_set(mysql *s, aif_error *e)
{
    const int ms = s->hurry ? AIF_LOCK_SLICE_MS : AIF_LOCK_WAIT_MS;
    const int seconds = (ms + 999) / 1000;
    char sql[200];
    aif_err err;

    (void)snprintf(sql, sizeof sql, WAIT, seconds, seconds);
    err = mysql_run(s, sql, "connecting", e);
    for (size_t i = 0; err == AIF_OK && i < sizeof SESSION / sizeof *SESSION;
         i++) {
        err = mysql_run(s, SESSION[i], "connecting", e);
    }
    for (const char *const *own = s->needs->settings;
         err == AIF_OK && *own != NULL; own++) {
        (void)snprintf(sql, sizeof sql, "SET %s", *own);
        err = mysql_run(s, sql, "connecting", e);
    }
    return err;
}

static aif_err
mysql_connect(void *db, aif_error *e)
{
    mysql *s = db;
    unsigned forks = aif_forks_count();
    int tries = 0;
    aif_err err = aif_mysql_load(e);

    if (err != AIF_OK) {
        return err;
    }
    do { /* what a child has, too, is not used */
        mysql_drop(s);
        err = mysql_dial(s, e);
    } while (err == AIF_OK && aif_forks_again(&forks, &tries));
    if (err == AIF_OK) {
        err = session_set(s, e);
    }
    if (err == AIF_OK) {
        err = server_check(s, e);
    }
    if (err != AIF_OK) {
        mysql_drop(s);
    }
    return err;
}

static aif_err
mysql_db_open(const char *uri, const aif_db_needs *needs, bool hurry,
              void **db, aif_error *e)
{
    const size_t n = strlen(uri) + 1;
    mysql *s = aif_zalloc(sizeof *s + n);
    aif_err err;

    *db = NULL;
    if (s == NULL) {
        return aif_fail(e, AIF_ENOMEM, "opening %s", needs->called);
    }
    s->needs = needs;
    s->hurry = hurry;
    memcpy(s->uri, uri, n);
    err = aif_mysql_uri_parse(s->uri, &s->at, e);
    if (err != AIF_OK) {
        aif_free(s);
        return err;
    }
    *db = s;
    return AIF_OK;
}

static void
mysql_db_close(void *db)
{
    mysql *s = db;

    mysql_drop(s);
    aif_buf_fini(&s->text);
    aif_free(s);
}

static aif_err
mysql_ready(void *db, bool *lost, aif_error *e)
{
    (void)e;
    *lost = ((const mysql *)db)->conn == NULL;
    return AIF_OK;
}

/* --- statements --------------------------------------------------------- */

static aif_err
statement_put_text(aif_buf *out, aif_str t, aif_error *e)
{
    static const char digits[] = "0123456789abcdef";
    aif_err err = aif_buf_put(out, "_utf8mb4 X'", 11, e);

    for (size_t i = 0; err == AIF_OK && i < t.n; i++) {
        const unsigned char byte = (unsigned char)t.p[i];
        const char pair[] = {digits[byte >> 4], digits[byte & 15]};

        err = aif_buf_put(out, pair, sizeof pair, e);
    }
    return err != AIF_OK ? err : aif_buf_put(out, "'", 1, e);
}

static aif_err
statement_put(aif_buf *out, const aif_statement *st, int i, aif_error *e)
{
    char number[24];
    int n;

    if (i > st->n_numbers) {
        return statement_put_text(out, st->texts[i - st->n_numbers - 1], e);
    }
    n = snprintf(number, sizeof number, "%" PRIu64, st->numbers[i - 1]);
    return aif_buf_put(out, number, (size_t)n, e);
}

/* Send st, with each $1 and so on replaced by what it stands for.  Our own
 * statements have no other '$'. */
static aif_err
statement_send(mysql *s, const aif_statement *st, const char *what,
               aif_error *e)
{
    const char *sql = st->sql;
    aif_err err = AIF_OK;

    s->text.n = 0;
    while (err == AIF_OK && *sql != '\0') {
        const size_t n = strcspn(sql, "$");

        err = aif_buf_put(&s->text, sql, n, e);
        sql += n;
        if (err == AIF_OK && *sql == '$') {
            char *end;
            const int i = (int)strtol(sql + 1, &end, 10);

            err = statement_put(&s->text, st, i, e);
            sql = end;
        }
    }
    if (err != AIF_OK) {
        return err;
    }
    return mysql_real_query(s->conn, (const char *)s->text.p, s->text.n) == 0
               ? AIF_OK
               : mysql_fail(s, what, e);
}

static aif_err
mysql_ask(void *db, const aif_statement *st, const char *what, aif_error *e)
{
    mysql *s = db;
    aif_err err = statement_send(s, st, what, e);

    if (err != AIF_OK) {
        return err;
    }
    s->what = what;
    s->row = NULL;
    s->asked =
        st->streamed ? mysql_use_result(s->conn) : mysql_store_result(s->conn);
    return s->asked == NULL ? mysql_fail(s, what, e) : AIF_OK;
}

/* After a failure the result has no connection any more. */
static aif_err
mysql_next(void *db, bool *there, aif_error *e)
{
    mysql *s = db;

    s->row = mysql_fetch_row(s->asked);
    *there = s->row != NULL;
    if (*there) {
        s->lengths = mysql_fetch_lengths(s->asked);
        return AIF_OK;
    }
    if (mysql_errno(s->conn) == 0) {
        return AIF_OK;
    }
    mysql_free_result(s->asked);
    s->asked = NULL;
    return mysql_fail(s, s->what, e);
}

static uint64_t
mysql_number(void *db, int column)
{
    return text_number(((mysql *)db)->row[column]);
}

static aif_str
mysql_text(void *db, int column)
{
    const mysql *s = db;
    const char *p = s->row[column];

    return (aif_str){p, p == NULL ? 0 : s->lengths[column]};
}

/* The rest of the answer is not read.  A reset tells the server at once: after
 * a plain shutdown it could not send what is left, and would hold the tables
 * until the kernel gives the socket up (60 s). */
static void
mysql_cut(MYSQL *conn)
{
    const int fd = (int)mysql_get_socket(conn);
    const struct linger now = {.l_onoff = 1};

    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    (void)shutdown(fd, SHUT_RDWR);
}

/* What is left of an answer must be taken in. */
static void
mysql_done(void *db)
{
    mysql *s = db;
    uint64_t bytes = 0;

    if (s->asked == NULL) {
        return;
    }
    while (bytes < DRAIN_BYTES && mysql_fetch_row(s->asked) != NULL) {
        const unsigned long *lengths = mysql_fetch_lengths(s->asked);

        for (unsigned i = 0; i < mysql_num_fields(s->asked); i++) {
            bytes += lengths[i];
        }
    }
    if (bytes >= DRAIN_BYTES) {
        mysql_cut(s->conn);
    }
    mysql_free_result(s->asked);
    s->asked = NULL;
    if (bytes >= DRAIN_BYTES) {
        mysql_drop(s);
    }
}

static aif_err
mysql_change(void *db, const aif_statement *st, const char *what,
             uint64_t *changed, aif_error *e)
{
    mysql *s = db;
    aif_err err = statement_send(s, st, what, e);

    if (err == AIF_OK && mysql_field_count(s->conn) > 0) {
        MYSQL_RES *res = mysql_store_result(s->conn);

        if (res == NULL) {
            return mysql_fail(s, what, e);
        }
        mysql_free_result(res);
    }
    if (err == AIF_OK && changed != NULL) {
        *changed = mysql_affected_rows(s->conn);
    }
    return err;
}

static void
binds_set(mysql *s, const aif_mysql_prepared *st)
{
    for (size_t i = 0; i < st->n; i++) {
        const aif_mysql_value *v = &st->values[i];
        MYSQL_BIND *b = &s->binds[i];
        const bool number = v->n == AIF_MYSQL_NUMBER;

        b->buffer_type = number ? MYSQL_TYPE_LONGLONG : MYSQL_TYPE_STRING;
        b->buffer = v->n == 0 ? (void *)"" : (void *)(uintptr_t)v->p;
        b->buffer_length = number ? 0 : v->n;
    }
}

aif_err
aif_mysql_execute(void *db, const aif_mysql_prepared *st, const char *what,
                  uint64_t *changed, aif_error *e)
{
    mysql *s = db;
    MYSQL_STMT *stmt = s->kept[st->place];

    *changed = 0;
    if (stmt == NULL) {
        stmt = s->kept[st->place] = mysql_stmt_init(s->conn);
        if (stmt == NULL) {
            return aif_fail(e, AIF_ENOMEM, "%s", what);
        }
        if (mysql_stmt_prepare(stmt, st->sql.p, st->sql.n) != 0) {
            return mysql_fail_stmt(s, stmt, what, e);
        }
    }
    binds_set(s, st);
    if (mysql_stmt_bind_param(stmt, s->binds) != 0 ||
        mysql_stmt_execute(stmt) != 0) {
        return mysql_stmt_errno(stmt) == ER_DUP_ENTRY
                   ? AIF_OK
                   : mysql_fail_stmt(s, stmt, what, e);
    }
    *changed = mysql_stmt_affected_rows(stmt);
    return AIF_OK;
}

static aif_err
mysql_begin(void *db, const char *what, aif_error *e)
{
    return mysql_run(db, "START TRANSACTION", what, e);
}

static aif_err
mysql_commit_it(void *db, const char *what, aif_error *e)
{
    return mysql_run(db, "COMMIT", what, e);
}

static void
mysql_undo(void *db)
{
    mysql *s = db;
    aif_error ignored;

    if (s->conn != NULL) {
        (void)mysql_run(s, "ROLLBACK", "rolling back", &ignored);
    }
}

const aif_db_ops aif_mysql = {
    .open = mysql_db_open,
    .close = mysql_db_close,
    .ready = mysql_ready,
    .connect = mysql_connect,
    .begin = mysql_begin,
    .commit = mysql_commit_it,
    .undo = mysql_undo,
    .ask = mysql_ask,
    .next = mysql_next,
    .number = mysql_number,
    .text = mysql_text,
    .done = mysql_done,
    .change = mysql_change,
    .drop = mysql_drop,
};
