/* mysql/append.c - aif_store_ops.append in MySQL.
 *
 * One transaction: take the head's row, which locks it and moves it on;
 * insert the events, a hundred a statement; commit.  Where an identity is
 * known the first try is undone, and the second one looks for all of them.
 *
 * What fails is dropped with its connection, so the server undoes it.  An
 * answer to COMMIT that was lost is ESTORE, and the events may be there: the
 * same append again finds them.
 */
#include "mysql/append.h"

#include "log/ids.h"
#include "base/mem.h"
#include "mysql/sql.h"
#include "base/point.h"

#include <mysqld_error.h>

#define WHAT "appending"
#define KNOWN_AT_ONCE 500 /* of more than 1000 MariaDB makes a table */
/* Of a row in a statement: lengths, types, what is no text. */
#define ROW_BYTES 128

static int64_t
later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static aif_head
advanced(const aif_head *before, const aif_event *events, size_t n)
{
    aif_head after = *before;

    after.offset += n;
    for (size_t i = 0; i < n; i++) {
        after.create_time = later(after.create_time, events[i].create_time);
    }
    return after;
}

static void
bind_number(MYSQL_BIND *b, const void *number)
{
    *b = (MYSQL_BIND){.buffer_type = MYSQL_TYPE_LONGLONG,
                      .buffer = (void *)(uintptr_t)number};
}

static void
bind_text(MYSQL_BIND *b, aif_str s)
{
    const char *p = s.n == 0 ? "" : s.p;

    *b = (MYSQL_BIND){.buffer_type = MYSQL_TYPE_STRING,
                      .buffer = (void *)(uintptr_t)p,
                      .buffer_length = s.n};
}

static bool
execute(MYSQL_STMT *stmt, MYSQL_BIND *binds)
{
    return mysql_stmt_bind_param(stmt, binds) == 0 &&
           mysql_stmt_execute(stmt) == 0;
}

/* Make the head after, if it is s->head; *taken: it was, and is locked. */
static aif_err
take(aif_mysql *s, const aif_head *after, bool *taken, aif_error *e)
{
    MYSQL_BIND binds[5];

    bind_number(&binds[0], &after->offset);
    bind_number(&binds[1], &after->create_time);
    bind_number(&binds[2], &s->head.offset);
    bind_number(&binds[3], &s->head.create_time);
    bind_number(&binds[4], &s->head.purged);
    if (!execute(s->take, binds)) {
        return aif_mysql_fail_stmt(s, s->take, WHAT, e);
    }
    *taken = mysql_stmt_affected_rows(s->take) == 1;
    return AIF_OK;
}

static void
bind_row(aif_mysql_rows *rows, size_t i, const aif_event *ev, uint64_t offset,
         int64_t not_before)
{
    MYSQL_BIND *b = &rows->binds[i * AIF_MYSQL_COLUMN_COUNT];

    rows->offsets[i] = (int64_t)offset;
    rows->times[i] = later(ev->create_time, not_before);
    rows->sequences[i] = (int64_t)ev->sequence;
    bind_number(&b[0], &rows->offsets[i]);
    bind_number(&b[1], &rows->times[i]);
    bind_text(&b[2], ev->ns);
    bind_text(&b[3], ev->key);
    bind_text(&b[4], ev->value);
    bind_text(&b[5], ev->type);
    bind_text(&b[6], ev->sender);
    bind_text(&b[7], ev->context);
    bind_text(&b[8], ev->producer);
    bind_number(&b[9], &rows->sequences[i]);
}

/* The statement for as many of them as there are, and as it may be long. */
static int
pick(const aif_mysql *s, const aif_event *events, size_t n)
{
    for (int which = 0; which < AIF_MYSQL_INSERTS - 1; which++) {
        const size_t rows = aif_mysql_insert_rows[which];
        size_t bytes = rows * ROW_BYTES;

        for (size_t i = 0; i < rows && rows <= n; i++) {
            bytes += aif_event_bytes(&events[i]);
        }
        if (rows <= n && bytes <= s->packet) {
            return which;
        }
    }
    return AIF_MYSQL_INSERTS - 1;
}

/* Behind s->head; *known: one of them, or its offset, is there already. */
static aif_err
insert(aif_mysql *s, const aif_event *events, size_t n, bool *known,
       aif_error *e)
{
    size_t rows;

    *known = false;
    for (size_t done = 0; done < n; done += rows) {
        const int which = pick(s, events + done, n - done);
        MYSQL_STMT *stmt = s->inserts[which];

        rows = aif_mysql_insert_rows[which];
        for (size_t i = 0; i < rows; i++) {
            bind_row(&s->rows, i, &events[done + i],
                     s->head.offset + done + i + 1, s->head.create_time);
        }
        if (!execute(stmt, s->rows.binds)) {
            *known = mysql_stmt_errno(stmt) == ER_DUP_ENTRY;
            return *known ? AIF_OK : aif_mysql_fail_stmt(s, stmt, WHAT, e);
        }
    }
    return AIF_OK;
}

static aif_err
begin(aif_mysql *s, aif_error *e)
{
    return aif_mysql_run(s, "START TRANSACTION", WHAT, e);
}

static aif_err
commit(aif_mysql *s, const aif_head *after, aif_error *e)
{
    aif_err err;

    AIF_POINT("append.before_commit");
    err = aif_mysql_run(s, "COMMIT", WHAT, e);
    if (err == AIF_OK) {
        s->head = *after;
        AIF_POINT("append.after_commit");
    }
    return err;
}

/* Lock the head, and move it on by n. */
static aif_err
take_head(aif_mysql *s, const aif_event *events, size_t n, aif_head *after,
          aif_error *e)
{
    bool taken = false;
    aif_err err;

    *after = advanced(&s->head, events, n);
    err = take(s, after, &taken, e);
    if (err == AIF_OK && !taken) { /* somebody else has moved it */
        err = aif_mysql_head(s, true, WHAT, &s->head, e);
        if (err == AIF_OK) {
            *after = advanced(&s->head, events, n);
            err = take(s, after, &taken, e);
        }
    }
    return err;
}

/* As if all were new; *known: one is not, and nothing was done. */
static aif_err
append_new(aif_mysql *s, const aif_event *events, size_t n, aif_head *before,
           bool *known, aif_error *e)
{
    aif_head after;
    aif_err err = begin(s, e);

    if (err == AIF_OK) {
        err = take_head(s, events, n, &after, e);
    }
    if (err == AIF_OK) {
        *before = s->head;
        err = insert(s, events, n, known, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    return *known ? aif_mysql_run(s, "ROLLBACK", WHAT, e)
                  : commit(s, &after, e);
}

/* The offsets that the server has for events[from] and some behind it. */
static aif_err
find_some(aif_mysql *s, const aif_event *events, size_t n, const aif_ids *ids,
          const aif_event *all, uint64_t *offsets, aif_error *e)
{
    aif_mysql_sql q = {.e = e};
    MYSQL_RES *res = NULL;
    MYSQL_ROW row;
    aif_err err;

    aif_mysql_put(&q, "SELECT `offset`, producer, sequence FROM aiflow_event"
                      " FORCE INDEX (aiflow_event_identity)"
                      " WHERE (producer, sequence) IN (");
    for (size_t i = 0; i < n; i++) {
        aif_mysql_put(&q, i == 0 ? "(" : ", (");
        aif_mysql_put_text(&q, events[i].producer);
        aif_mysql_put(&q, ", ");
        aif_mysql_put_number(&q, events[i].sequence);
        aif_mysql_put(&q, ")");
    }
    aif_mysql_put(&q, ")");
    err = aif_mysql_ask(s, &q, WHAT, &res);
    while (err == AIF_OK && (row = mysql_fetch_row(res)) != NULL) {
        const aif_event ev = {
            .producer = {row[1], mysql_fetch_lengths(res)[1]},
            .sequence = aif_mysql_number(row[2])};
        const size_t place = aif_ids_find(ids, all, &ev);

        if (place != AIF_IDS_NONE) {
            offsets[place] = aif_mysql_number(row[0]);
        }
    }
    mysql_free_result(res);
    return err;
}

/* offsets[i] of each that is in the log; of the others, 0. */
static aif_err
find_known(aif_mysql *s, const aif_event *events, size_t n, uint64_t *offsets,
           aif_error *e)
{
    aif_ids ids = {0};
    aif_err err = aif_ids_reserve(&ids, events, n, e);

    memset(offsets, 0, n * sizeof *offsets);
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        aif_ids_add(&ids, events, i);
    }
    for (size_t i = 0; err == AIF_OK && i < n; i += KNOWN_AT_ONCE) {
        const size_t some = n - i < KNOWN_AT_ONCE ? n - i : KNOWN_AT_ONCE;
        err = find_some(s, events + i, some, &ids, events, offsets, e);
    }
    aif_ids_fini(&ids);
    return err;
}

/* The head is locked. */
static aif_err
insert_fresh(aif_mysql *s, const aif_event *fresh, size_t n, aif_error *e)
{
    aif_head after = s->head;
    bool known = false;
    aif_err err = AIF_OK;

    if (n > 0) {
        err = take_head(s, fresh, n, &after, e);
    }
    if (err == AIF_OK) {
        err = insert(s, fresh, n, &known, e);
    }
    if (err == AIF_OK && known) {
        err = aif_fail(e, AIF_ECORRUPT,
                       WHAT ": aiflow_log_head is behind aiflow_event");
    }
    return err != AIF_OK ? err : commit(s, &after, e);
}

/* Those that are known keep their offsets; fresh has room for the others. */
static aif_err
append_fresh(aif_mysql *s, const aif_event *events, size_t n,
             uint64_t *offsets, aif_event *fresh, aif_head *before,
             aif_error *e)
{
    size_t count = 0;
    aif_err err = begin(s, e);

    if (err == AIF_OK) {
        err = aif_mysql_head(s, true, WHAT, &s->head, e);
    }
    if (err == AIF_OK) {
        *before = s->head;
        err = find_known(s, events, n, offsets, e);
    }
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        if (offsets[i] == 0) {
            fresh[count++] = events[i];
        }
    }
    return err != AIF_OK ? err : insert_fresh(s, fresh, count, e);
}

static aif_err
append_again(aif_mysql *s, const aif_event *events, size_t n,
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

aif_err
aif_mysql_append(void *store, const aif_event *events, size_t n,
                 uint64_t *offsets, aif_head *before, aif_error *e)
{
    aif_mysql *s = store;
    bool known = false;
    uint64_t next;
    aif_err err = aif_mysql_ready(s, e);

    AIF_POINT("append.begin");
    memset(offsets, 0, n * sizeof *offsets);
    if (err == AIF_OK) {
        err = append_new(s, events, n, before, &known, e);
    }
    if (err == AIF_OK && known) {
        err = append_again(s, events, n, offsets, before, e);
    }
    if (err != AIF_OK) {
        aif_mysql_shut(s);
        return err;
    }
    next = before->offset + 1;
    for (size_t i = 0; i < n; i++) {
        offsets[i] = offsets[i] != 0 ? offsets[i] : next++;
    }
    return AIF_OK;
}
