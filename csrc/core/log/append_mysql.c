/* append_mysql.c - append to a log in MySQL or MariaDB.
 *
 * One transaction: take the head's row, which locks it and moves it on;
 * insert the events, a hundred a statement; commit.  Where an identity is
 * known the first try is undone, and the second one looks for all of them.
 *
 * What fails is dropped with its connection, so the server undoes it.  An
 * answer to COMMIT that was lost is ESTORE, and the events may be there: the
 * same append again finds them.
 */
#include "base/buf.h"
#include "base/mem.h"
#include "base/point.h"
#include "db/mysql.h"
#include "log/identity.h"
#include "log/sql_store.h"

#include <inttypes.h>
#include <mysqld_error.h>
#include <stdio.h>
#include <string.h>

#define WHAT "appending"
_Static_assert(300 <= AIF_DB_TEXTS, "producers are texts");
#define KNOWN_AT_ONCE 300 /* producers are texts: no more than AIF_DB_TEXTS */
/* Of a row in a statement: lengths, types, what is no text. */
#define ROW_BYTES 128

static const char FIND[] =
    "SELECT `offset`, producer, sequence FROM aiflow_event"
    " FORCE INDEX (aiflow_event_identity) WHERE (producer, sequence) IN (";

/* A statement for each number of rows: an append takes the greatest that
 * fits, and takes again.  It costs the server 9 us a row, where SQL text
 * costs 17; an array bound to a statement of one row costs 8, but only
 * MariaDB takes that. */
enum { COLUMNS = 10, INSERTS = 3, ROWS_MAX = 100 };
static const size_t insert_rows[INSERTS] = {ROWS_MAX, 10, 1};

typedef struct {
    aif_sql_store sql;   /* first: what aif_sql_... is given */
    unsigned connection; /* that the statements were prepared on */
    MYSQL_STMT *take;    /* the head, if it is what we think */
    MYSQL_STMT *inserts[INSERTS];
    aif_head head; /* as we saw it last */
    /* What is bound to the inserts. */
    MYSQL_BIND binds[ROWS_MAX * COLUMNS];
    int64_t offsets[ROWS_MAX];
    int64_t times[ROWS_MAX];
    int64_t sequences[ROWS_MAX];
} mysql_store;

/* --- statements --------------------------------------------------------- */

static aif_err
statement_make(mysql_store *s, const char *sql, size_t n, MYSQL_STMT **out,
               aif_error *e)
{
    *out = mysql_stmt_init(aif_mysql_conn(s->sql.db));
    if (*out == NULL) {
        return aif_fail(e, AIF_ENOMEM, WHAT);
    }
    return mysql_stmt_prepare(*out, sql, n) == 0
               ? AIF_OK
               : aif_mysql_fail_stmt(s->sql.db, *out, WHAT, e);
}

static aif_err
insert_make(mysql_store *s, size_t rows, MYSQL_STMT **out, aif_error *e)
{
    static const char row[] = ", (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    const char *into = s->sql.sql->texts[AIF_SQL_APPEND].from;
    aif_buf sql = {0};
    aif_err err = aif_buf_put(&sql, into, strlen(into), e);

    for (size_t i = 0; err == AIF_OK && i < rows; i++) {
        const size_t skip = i == 0 ? 2 : 0;

        err = aif_buf_put(&sql, row + skip, sizeof row - 1 - skip, e);
    }
    if (err == AIF_OK) {
        err = statement_make(s, (const char *)sql.p, sql.n, out, e);
    }
    aif_buf_fini(&sql);
    return err;
}

/* Those of an earlier connection have nobody to tell any more. */
static void
statements_close(MYSQL_STMT **take, MYSQL_STMT *inserts[INSERTS])
{
    if (*take != NULL) {
        (void)mysql_stmt_close(*take);
        *take = NULL;
    }
    for (int i = 0; i < INSERTS; i++) {
        if (inserts[i] != NULL) {
            (void)mysql_stmt_close(inserts[i]);
            inserts[i] = NULL;
        }
    }
}

static aif_err
statements_ready(mysql_store *s, aif_error *e)
{
    const char *take = s->sql.sql->texts[AIF_SQL_MOVE].from;
    aif_err err = aif_sql_ready(&s->sql, e);

    if (err != AIF_OK || s->connection == aif_mysql_connection(s->sql.db)) {
        return err;
    }
    statements_close(&s->take, s->inserts);
    err = statement_make(s, take, strlen(take), &s->take, e);
    for (int i = 0; err == AIF_OK && i < INSERTS; i++) {
        err = insert_make(s, insert_rows[i], &s->inserts[i], e);
    }
    if (err == AIF_OK) {
        s->connection = aif_mysql_connection(s->sql.db);
    }
    return err;
}

/* --- the head, and the rows --------------------------------------------- */

static int64_t
time_later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static aif_head
head_after(const aif_head *before, const aif_event *events, size_t n)
{
    aif_head after = *before;

    after.offset += n;
    for (size_t i = 0; i < n; i++) {
        after.create_time =
            time_later(after.create_time, events[i].create_time);
    }
    return after;
}

static void
number_bind(MYSQL_BIND *b, const void *number)
{
    *b = (MYSQL_BIND){.buffer_type = MYSQL_TYPE_LONGLONG,
                      .buffer = (void *)(uintptr_t)number};
}

static void
text_bind(MYSQL_BIND *b, aif_str s)
{
    const char *p = s.n == 0 ? "" : s.p;

    *b = (MYSQL_BIND){.buffer_type = MYSQL_TYPE_STRING,
                      .buffer = (void *)(uintptr_t)p,
                      .buffer_length = s.n};
}

static bool
statement_execute(MYSQL_STMT *stmt, MYSQL_BIND *binds)
{
    return mysql_stmt_bind_param(stmt, binds) == 0 &&
           mysql_stmt_execute(stmt) == 0;
}

/* Make the head after, if it is s->head; *taken: it was, and is locked. */
static aif_err
head_try(mysql_store *s, const aif_head *after, bool *taken, aif_error *e)
{
    MYSQL_BIND binds[5];

    number_bind(&binds[0], &after->offset);
    number_bind(&binds[1], &after->create_time);
    number_bind(&binds[2], &s->head.offset);
    number_bind(&binds[3], &s->head.create_time);
    number_bind(&binds[4], &s->head.purged);
    if (!statement_execute(s->take, binds)) {
        return aif_mysql_fail_stmt(s->sql.db, s->take, WHAT, e);
    }
    *taken = mysql_stmt_affected_rows(s->take) == 1;
    return AIF_OK;
}

static void
row_bind(mysql_store *s, size_t i, const aif_event *ev)
{
    MYSQL_BIND *b = &s->binds[i * COLUMNS];

    s->times[i] = time_later(ev->create_time, s->head.create_time);
    s->sequences[i] = (int64_t)ev->sequence;
    number_bind(&b[0], &s->offsets[i]);
    number_bind(&b[1], &s->times[i]);
    text_bind(&b[2], ev->ns);
    text_bind(&b[3], ev->key);
    text_bind(&b[4], ev->value);
    text_bind(&b[5], ev->type);
    text_bind(&b[6], ev->sender);
    text_bind(&b[7], ev->context);
    text_bind(&b[8], ev->producer);
    number_bind(&b[9], &s->sequences[i]);
}

/* The statement for as many of them as there are, and as it may be long. */
static int
insert_pick(mysql_store *s, const aif_event *events, size_t n)
{
    for (int which = 0; which < INSERTS - 1; which++) {
        const size_t rows = insert_rows[which];
        size_t bytes = rows * ROW_BYTES;

        for (size_t i = 0; i < rows && rows <= n; i++) {
            bytes += aif_event_bytes(&events[i]);
        }
        if (rows <= n && bytes <= aif_mysql_packet(s->sql.db)) {
            return which;
        }
    }
    return INSERTS - 1;
}

/* Behind s->head; *known: one of them, or its offset, is there already. */
static aif_err
rows_insert(mysql_store *s, const aif_event *events, size_t n, bool *known,
            aif_error *e)
{
    size_t rows;

    *known = false;
    for (size_t done = 0; done < n; done += rows) {
        const int which = insert_pick(s, events + done, n - done);
        MYSQL_STMT *stmt = s->inserts[which];

        rows = insert_rows[which];
        for (size_t i = 0; i < rows; i++) {
            s->offsets[i] = (int64_t)(s->head.offset + done + i + 1);
            row_bind(s, i, &events[done + i]);
        }
        if (!statement_execute(stmt, s->binds)) {
            *known = mysql_stmt_errno(stmt) == ER_DUP_ENTRY;
            return *known ? AIF_OK
                          : aif_mysql_fail_stmt(s->sql.db, stmt, WHAT, e);
        }
    }
    return AIF_OK;
}

static aif_err
append_commit(mysql_store *s, const aif_head *after, aif_error *e)
{
    aif_err err;

    AIF_POINT("append.before_commit");
    err = aif_mysql.commit(s->sql.db, WHAT, e);
    if (err == AIF_OK) {
        s->head = *after;
        AIF_POINT("append.after_commit");
    }
    return err;
}

/* Lock the head, and move it on by n. */
static aif_err
head_take(mysql_store *s, const aif_event *events, size_t n, aif_head *after,
          aif_error *e)
{
    bool taken = false;
    aif_err err;

    *after = head_after(&s->head, events, n);
    err = head_try(s, after, &taken, e);
    if (err == AIF_OK && !taken) { /* somebody else has moved it */
        err = aif_sql_head(&s->sql, AIF_SQL_LOCK, WHAT, &s->head, e);
        if (err == AIF_OK) {
            *after = head_after(&s->head, events, n);
            err = head_try(s, after, &taken, e);
        }
    }
    return err;
}

/* As if all were new; *known: one is not, and nothing was done. */
static aif_err
append_new(mysql_store *s, const aif_event *events, size_t n, aif_head *before,
           bool *known, aif_error *e)
{
    aif_head after;
    aif_err err = aif_mysql.begin(s->sql.db, WHAT, e);

    if (err == AIF_OK) {
        err = head_take(s, events, n, &after, e);
    }
    if (err == AIF_OK) {
        *before = s->head;
        err = rows_insert(s, events, n, known, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    if (*known) { /* a connection that is lost here is looked for again */
        aif_mysql.undo(s->sql.db);
        return statements_ready(s, e);
    }
    return append_commit(s, &after, e);
}

/* The offsets that the server has for n events of all; ids knows all. */
static aif_err
known_find_some(mysql_store *s, const aif_event *events, size_t n,
                const aif_ids *ids, const aif_event *all, uint64_t *offsets,
                aif_error *e)
{
    aif_str producers[KNOWN_AT_ONCE];
    aif_statement st = {.texts = producers, .n_texts = (int)n};
    aif_buf sql = {0};
    bool there = true;
    aif_err err = aif_buf_put(&sql, FIND, sizeof FIND - 1, e);

    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        char pair[64];
        const int bytes =
            snprintf(pair, sizeof pair, "%s($%zu, %" PRIu64 ")",
                     i == 0 ? "" : ", ", i + 1, events[i].sequence);

        producers[i] = events[i].producer;
        err = aif_buf_put(&sql, pair, (size_t)bytes, e);
    }
    if (err == AIF_OK) {
        err = aif_buf_put(&sql, ")", 2, e);
    }
    if (err == AIF_OK) {
        st.sql = (const char *)sql.p;
        st.place = AIF_DB_ONCE;
        err = aif_mysql.ask(s->sql.db, &st, WHAT, e);
    }
    aif_buf_fini(&sql);
    if (err != AIF_OK) {
        return err;
    }
    while (err == AIF_OK && there) {
        err = aif_mysql.next(s->sql.db, &there, e);
        if (err == AIF_OK && there) {
            const aif_event ev = {.producer = aif_mysql.text(s->sql.db, 1),
                                  .sequence = aif_mysql.number(s->sql.db, 2)};
            const size_t place = aif_ids_find(ids, all, &ev);

            if (place != AIF_IDS_NONE) {
                offsets[place] = aif_mysql.number(s->sql.db, 0);
            }
        }
    }
    aif_mysql.done(s->sql.db);
    return err;
}

/* offsets[i] of each that is in the log; of the others, 0. */
static aif_err
known_find(mysql_store *s, const aif_event *events, size_t n,
           uint64_t *offsets, aif_error *e)
{
    aif_ids ids = {0};
    aif_err err = aif_ids_reserve(&ids, events, n, e);

    memset(offsets, 0, n * sizeof *offsets);
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        aif_ids_add(&ids, events, i);
    }
    for (size_t i = 0; err == AIF_OK && i < n; i += KNOWN_AT_ONCE) {
        const size_t some = n - i < KNOWN_AT_ONCE ? n - i : KNOWN_AT_ONCE;
        err = known_find_some(s, events + i, some, &ids, events, offsets, e);
    }
    aif_ids_fini(&ids);
    return err;
}

/* The head is locked. */
static aif_err
fresh_insert(mysql_store *s, const aif_event *fresh, size_t n, aif_error *e)
{
    aif_head after = s->head;
    bool known = false;
    aif_err err = AIF_OK;

    if (n > 0) {
        err = head_take(s, fresh, n, &after, e);
    }
    if (err == AIF_OK) {
        err = rows_insert(s, fresh, n, &known, e);
    }
    if (err == AIF_OK && known) {
        err = aif_fail(e, AIF_ECORRUPT,
                       WHAT ": aiflow_log_head is behind aiflow_event");
    }
    return err != AIF_OK ? err : append_commit(s, &after, e);
}

/* Those that are known keep their offsets; fresh has room for the others. */
static aif_err
append_fresh(mysql_store *s, const aif_event *events, size_t n,
             uint64_t *offsets, aif_event *fresh, aif_head *before,
             aif_error *e)
{
    size_t count = 0;
    aif_err err = aif_mysql.begin(s->sql.db, WHAT, e);

    if (err == AIF_OK) {
        err = aif_sql_head(&s->sql, AIF_SQL_LOCK, WHAT, &s->head, e);
    }
    if (err == AIF_OK) {
        *before = s->head;
        err = known_find(s, events, n, offsets, e);
    }
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        if (offsets[i] == 0) {
            fresh[count++] = events[i];
        }
    }
    return err != AIF_OK ? err : fresh_insert(s, fresh, count, e);
}

static aif_err
append_again(mysql_store *s, const aif_event *events, size_t n,
             uint64_t *offsets, aif_head *before, aif_error *e)
{
    aif_event *fresh = aif_zalloc(n * sizeof *fresh);
    aif_err err;

    if (fresh == NULL) {
        return aif_fail(e, AIF_ENOMEM, "appending %zu events", n);
    }
    err = append_fresh(s, events, n, offsets, fresh, before, e);
    aif_free(fresh);
    return err;
}

static aif_err
mysql_append(void *store, const aif_event *events, size_t n, uint64_t *offsets,
             aif_head *before, aif_error *e)
{
    mysql_store *s = store;
    bool known = false;
    uint64_t next;
    aif_err err = statements_ready(s, e);

    AIF_POINT("append.begin");
    memset(offsets, 0, n * sizeof *offsets);
    if (err == AIF_OK) {
        err = append_new(s, events, n, before, &known, e);
    }
    if (err == AIF_OK && known) {
        err = append_again(s, events, n, offsets, before, e);
    }
    if (err != AIF_OK) {
        aif_mysql.drop(s->sql.db);
        return err;
    }
    next = before->offset + 1;
    for (size_t i = 0; i < n; i++) {
        offsets[i] = offsets[i] != 0 ? offsets[i] : next++;
    }
    return AIF_OK;
}

static aif_err
mysql_open(const char *uri, void **store, aif_error *e)
{
    return aif_sql_open(&aif_mysql, &aif_sql_mysql, uri, sizeof(mysql_store),
                        store, e);
}

static void
mysql_store_close(void *store)
{
    mysql_store *s = store;
    MYSQL_STMT *take = s->take;
    MYSQL_STMT *inserts[INSERTS];

    memcpy(inserts, s->inserts, sizeof inserts);
    aif_sql_close(store);
    statements_close(&take, inserts);
}

/* "mysql://"; store.c has "mariadb://" as well. */
const aif_store_ops aif_store_mysql = {
    .scheme = "mysql",
    .open = mysql_open,
    .close = mysql_store_close,
    .hurry = aif_sql_hurry,
    .append = mysql_append,
    .read = aif_sql_read,
    .ask = aif_sql_ask,
    .purge = aif_sql_purge,
};
