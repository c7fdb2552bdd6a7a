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
enum { COLUMNS = 10, INSERTS = 3 };
static const struct {
    size_t rows;
    int place;
} insert[INSERTS] = {{AIF_SQL_ROWS, AIF_SQL_APPEND},
                     {10, AIF_SQL_APPEND_AGAIN},
                     {1, AIF_SQL_APPEND_ONE}};
_Static_assert(AIF_SQL_ROWS *COLUMNS <= AIF_MYSQL_VALUES, "room for values");

typedef struct {
    aif_sql_store sql; /* first: what aif_sql_... is given */
    aif_head head;     /* as we saw it last */
    /* What is bound to the inserts. */
    aif_mysql_value values[AIF_SQL_ROWS * COLUMNS];
    uint64_t offsets[AIF_SQL_ROWS];
    int64_t times[AIF_SQL_ROWS];
} mysql_store;

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

static aif_mysql_value
value_number(const void *number)
{
    return (aif_mysql_value){number, AIF_MYSQL_NUMBER};
}

static aif_mysql_value
value_text(aif_str s)
{
    return (aif_mysql_value){s.p, s.n};
}

/* Make the head after, if it is s->head; *taken: it was, and is locked. */
static aif_err
head_try(mysql_store *s, const aif_head *after, bool *taken, aif_error *e)
{
    const char *take = s->sql.sql->texts[AIF_SQL_MOVE].from;
    const aif_mysql_value values[] = {
        value_number(&after->offset),  value_number(&after->create_time),
        value_number(&s->head.offset), value_number(&s->head.create_time),
        value_number(&s->head.purged), value_number(&s->head.log_id)};
    const aif_mysql_prepared st = {
        {take, strlen(take)}, AIF_SQL_MOVE, values, 6};
    uint64_t changed;
    aif_err err = aif_mysql_execute(s->sql.db, &st, WHAT, &changed, e);

    *taken = changed == 1;
    return err;
}

static void
row_fill(mysql_store *s, size_t i, const aif_event *ev)
{
    aif_mysql_value *v = &s->values[i * COLUMNS];

    s->times[i] = time_later(ev->create_time, s->head.create_time);
    v[0] = value_number(&s->offsets[i]);
    v[1] = value_number(&s->times[i]);
    v[2] = value_text(ev->ns);
    v[3] = value_text(ev->key);
    v[4] = value_text(ev->value);
    v[5] = value_text(ev->type);
    v[6] = value_text(ev->sender);
    v[7] = value_text(ev->context);
    v[8] = value_text(ev->producer);
    v[9] = value_number(&ev->sequence);
}

/* The statement for as many of them as there are, and as it may be long. */
static int
insert_pick(mysql_store *s, const aif_event *events, size_t n)
{
    for (int which = 0; which < INSERTS - 1; which++) {
        const size_t rows = insert[which].rows;
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

/* INSERT INTO ... VALUES with so many rows. */
static aif_str
insert_text(const mysql_store *s, size_t rows)
{
    const char *all = s->sql.sql->texts[AIF_SQL_APPEND].from;

    return (aif_str){all, strlen(all) - (AIF_SQL_ROWS + 1 - rows) *
                                            (sizeof AIF_SQL_ROW - 1)};
}

/* Behind s->head; *known: one of them, or its offset, is there already. */
static aif_err
rows_insert(mysql_store *s, const aif_event *events, size_t n, bool *known,
            aif_error *e)
{
    aif_err err = AIF_OK;
    size_t rows;

    *known = false;
    for (size_t done = 0; err == AIF_OK && !*known && done < n; done += rows) {
        const int which = insert_pick(s, events + done, n - done);
        aif_mysql_prepared st = {.place = insert[which].place,
                                 .values = s->values};
        uint64_t inserted;

        rows = insert[which].rows;
        st.sql = insert_text(s, rows);
        st.n = rows * COLUMNS;
        for (size_t i = 0; i < rows; i++) {
            s->offsets[i] = s->head.offset + done + i + 1;
            row_fill(s, i, &events[done + i]);
        }
        err = aif_mysql_execute(s->sql.db, &st, WHAT, &inserted, e);
        *known = err == AIF_OK && inserted == 0;
    }
    return err;
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
        return aif_sql_ready(&s->sql, e);
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
    aif_err err = aif_sql_ready(&s->sql, e);

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
mysql_open(const char *uri, bool hurry, void **store, aif_error *e)
{
    return aif_sql_open(&aif_mysql, &aif_sql_mysql, uri, hurry,
                        sizeof(mysql_store), store, e);
}

/* "mysql://"; store.c has "mariadb://" as well. */
const aif_store_ops aif_store_mysql = {
    .scheme = "mysql",
    .open = mysql_open,
    .close = aif_sql_close,
    .append = mysql_append,
    .read = aif_sql_read,
    .ask = aif_sql_ask,
    .purge = aif_sql_purge,
    .take = aif_sql_take,
    .move = aif_sql_move,
    .forget = aif_sql_forget,
    .renew = aif_sql_renew,
};
