/* store_sqlite.c - the log in an SQLite file of its own.
 *
 * append: BEGIN IMMEDIATE (one writer at a time), read the head, insert each
 *         event at the next offset unless its identity is there already,
 *         move the head, AIF_SQL_COMMIT (WAL, synchronous=FULL: one
 * fdatasync). read:   one statement, which is one snapshot.
 *
 * A full disk, an I/O error or 5 s of somebody else's lock is ESTORE: the
 * transaction is rolled back and the log lives on.
 */
#include "store.h"

#include "point.h"
#include "sqlite.h"

#include <stdio.h>

static void
bind_str(sqlite3_stmt *q, int i, aif_str v)
{
    /* NULL would be SQL's; it fails only for an i or a size out of range */
    (void)sqlite3_bind_text(q, i, v.n == 0 ? "" : v.p, (int)v.n,
                            SQLITE_STATIC);
}

static void
bind_event(sqlite3_stmt *q, const aif_event *ev, uint64_t offset)
{
    (void)sqlite3_bind_int64(q, 1, (sqlite3_int64)offset);
    (void)sqlite3_bind_int64(q, 2, ev->create_time);
    bind_str(q, 3, ev->ns);
    bind_str(q, 4, ev->key);
    bind_str(q, 5, ev->value);
    bind_str(q, 6, ev->type);
    bind_str(q, 7, ev->sender);
    bind_str(q, 8, ev->context);
    bind_str(q, 9, ev->producer);
    (void)sqlite3_bind_int64(q, 10, (sqlite3_int64)ev->sequence);
}

static aif_err
find_known(aif_sqlite *s, const aif_event *ev, uint64_t *offset, aif_error *e)
{
    bind_str(s->stmts[AIF_SQL_KNOWN], 1, ev->producer);
    (void)sqlite3_bind_int64(s->stmts[AIF_SQL_KNOWN], 2,
                             (sqlite3_int64)ev->sequence);
    return aif_sqlite_number(s, s->stmts[AIF_SQL_KNOWN], "appending to",
                             offset, e);
}

/* Insert them after *head, which moves on. */
static aif_err
insert(aif_sqlite *s, const aif_event *events, size_t n, uint64_t *head,
       uint64_t *offsets, aif_error *e)
{
    aif_err err = AIF_OK;

    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        bind_event(s->stmts[AIF_SQL_INSERT], &events[i], *head + 1);
        err = aif_sqlite_run(s, AIF_SQL_INSERT, "appending to", e);
        if (err != AIF_OK) {
            return err;
        }
        if (sqlite3_changes(s->db) == 1) {
            offsets[i] = ++*head;
        } else {
            err = find_known(s, &events[i], &offsets[i], e);
        }
    }
    return err;
}

static aif_err
append_locked(aif_sqlite *s, const aif_event *events, size_t n,
              uint64_t *offsets, aif_error *e)
{
    uint64_t before;
    uint64_t head;
    aif_err err = aif_sqlite_number(s, s->stmts[AIF_SQL_HEAD],
                                    "reading the head of", &before, e);

    if (err != AIF_OK) {
        return err;
    }
    head = before;
    err = insert(s, events, n, &head, offsets, e);
    if (err == AIF_OK && head > before) {
        (void)sqlite3_bind_int64(s->stmts[AIF_SQL_BUMP], 1,
                                 (sqlite3_int64)(head - before));
        err = aif_sqlite_run(s, AIF_SQL_BUMP, "appending to", e);
    }
    if (err != AIF_OK) {
        return err;
    }
    AIF_POINT("append.before_commit");
    return aif_sqlite_run(s, AIF_SQL_COMMIT, "committing to", e);
}

/* Some errors roll back by themselves, others leave it to us. */
static void
roll_back(aif_sqlite *s)
{
    aif_error ignored;

    if (sqlite3_get_autocommit(s->db) == 0 &&
        aif_sqlite_run(s, AIF_SQL_ROLLBACK, "rolling back", &ignored) !=
            AIF_OK) {
        aif_sqlite_shut(s);
    }
}

static aif_err
sqlite_append(void *store, const aif_event *events, size_t n,
              uint64_t *offsets, aif_error *e)
{
    aif_sqlite *s = store;
    aif_err err = aif_sqlite_ready(s, e);

    AIF_POINT("append.begin");
    if (err == AIF_OK) {
        err = aif_sqlite_run(s, AIF_SQL_BEGIN, "locking", e);
    }
    if (err != AIF_OK) {
        return err;
    }
    err = append_locked(s, events, n, offsets, e);
    if (err != AIF_OK) {
        roll_back(s);
        return err;
    }
    AIF_POINT("append.after_commit");
    return AIF_OK;
}

#define SQL_CAP 768 /* the longest is under 600 */

/* A pattern as SQL: " AND key = ?4", or its first bytes (a prefix may hold
 * GLOB's characters).  Nothing where any text will do. */
static void
add_field(char *sql, const char *column, aif_str field, int number)
{
    size_t n = strlen(sql);

    if (aif_pattern_exact(field)) {
        (void)snprintf(sql + n, SQL_CAP - n, " AND %s = ?%d", column, number);
    } else if (field.n > 1) {
        (void)snprintf(sql + n, SQL_CAP - n,
                       " AND substr(CAST(%s AS BLOB), 1, length(?%d)) = ?%d",
                       column, number, number);
    }
}

static void
bind_field(sqlite3_stmt *q, aif_str field, int number)
{
    if (aif_pattern_exact(field)) {
        bind_str(q, number, field);
    } else if (field.n > 1) {
        (void)sqlite3_bind_blob(q, number, field.p, (int)field.n - 1,
                                SQLITE_STATIC);
    }
}

static aif_err
prepare_pattern(aif_sqlite *s, const char *from, const char *to,
                const aif_pattern *p, sqlite3_stmt **q, aif_error *e)
{
    char sql[SQL_CAP];
    int rc;

    (void)snprintf(sql, sizeof sql, "%s", from);
    add_field(sql, "namespace", p->ns, 3);
    add_field(sql, "key", p->key, 4);
    add_field(sql, "type", p->type, 5);
    add_field(sql, "sender", p->sender, 6);
    strncat(sql, to, sizeof sql - strlen(sql) - 1);
    rc = sqlite3_prepare_v2(s->db, sql, -1, q, NULL);
    if (rc != SQLITE_OK) {
        return aif_sqlite_fail(s, rc, "querying", e);
    }
    bind_field(*q, p->ns, 3);
    bind_field(*q, p->key, 4);
    bind_field(*q, p->type, 5);
    bind_field(*q, p->sender, 6);
    return AIF_OK;
}

static aif_str
text(sqlite3_stmt *q, int column)
{
    aif_str v = {(const char *)sqlite3_column_text(q, column), 0};

    v.n = (size_t)sqlite3_column_bytes(q, column);
    return v;
}

static aif_event
row(sqlite3_stmt *q)
{
    return (aif_event){
        .offset = (uint64_t)sqlite3_column_int64(q, 0),
        .create_time = sqlite3_column_int64(q, 1),
        .ns = text(q, 2),
        .key = text(q, 3),
        .value = text(q, 4),
        .type = text(q, 5),
        .sender = text(q, 6),
        .context = text(q, 7),
        .producer = text(q, 8),
        .sequence = (uint64_t)sqlite3_column_int64(q, 9),
    };
}

static aif_err
read_rows(aif_sqlite *s, sqlite3_stmt *q, aif_batch *out, aif_error *e)
{
    const size_t bytes = out->bytes;
    aif_event ev;
    aif_err err;
    int rc = SQLITE_ROW;

    while (out->bytes - bytes < AIF_READ_BYTES) {
        rc = sqlite3_step(q);
        if (rc != SQLITE_ROW) {
            break;
        }
        ev = row(q);
        if (sqlite3_errcode(s->db) == SQLITE_NOMEM) { /* a text is missing */
            return aif_sqlite_fail(s, SQLITE_NOMEM, "reading", e);
        }
        err = aif_batch_add(out, &ev, e);
        if (err != AIF_OK) {
            return err;
        }
    }
    return rc == SQLITE_ROW || rc == SQLITE_DONE
               ? AIF_OK
               : aif_sqlite_fail(s, rc, "reading", e);
}

static aif_err
sqlite_read(void *store, const aif_pattern *p, uint64_t after, size_t max,
            aif_batch *out, aif_error *e)
{
    aif_sqlite *s = store;
    sqlite3_stmt *q = NULL;
    aif_err err = aif_sqlite_ready(s, e);

    if (err == AIF_OK && p != NULL) {
        err = prepare_pattern(s, AIF_SQL_READ_FROM, AIF_SQL_READ_TO, p, &q, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    q = q == NULL ? s->stmts[AIF_SQL_READ] : q;
    (void)sqlite3_bind_int64(q, 1, (sqlite3_int64)after);
    (void)sqlite3_bind_int64(q, 2,
                             max > INT64_MAX ? INT64_MAX : (sqlite3_int64)max);
    err = read_rows(s, q, out, e);
    (void)sqlite3_reset(q); /* ends the snapshot */
    if (q != s->stmts[AIF_SQL_READ]) {
        (void)sqlite3_finalize(q);
    }
    return err;
}

static aif_err
sqlite_count(void *store, const aif_pattern *p, uint64_t after, uint64_t *n,
             aif_error *e)
{
    aif_sqlite *s = store;
    sqlite3_stmt *q = NULL;
    aif_err err = aif_sqlite_ready(s, e);

    if (err == AIF_OK && p != NULL) {
        err = prepare_pattern(s, AIF_SQL_COUNT_FROM, "", p, &q, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    q = q == NULL ? s->stmts[AIF_SQL_COUNT] : q;
    (void)sqlite3_bind_int64(q, 1, (sqlite3_int64)after);
    err = aif_sqlite_number(s, q, "counting", n, e);
    if (q != s->stmts[AIF_SQL_COUNT]) {
        (void)sqlite3_finalize(q);
    }
    return err;
}

static aif_err
sqlite_head(void *store, uint64_t *offset, aif_error *e)
{
    aif_sqlite *s = store;
    aif_err err = aif_sqlite_ready(s, e);

    return err != AIF_OK ? err
                         : aif_sqlite_number(s, s->stmts[AIF_SQL_HEAD],
                                             "reading the head of", offset, e);
}

const aif_store_ops aif_store_sqlite = {
    .scheme = AIF_SQLITE_SCHEME,
    .open = aif_sqlite_open,
    .close = aif_sqlite_close,
    .append = sqlite_append,
    .read = sqlite_read,
    .count = sqlite_count,
    .head = sqlite_head,
};
