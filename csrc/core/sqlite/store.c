/* sqlite/store.c - the log in an SQLite file of its own.
 *
 * append: BEGIN IMMEDIATE (one writer at a time), read the head, insert each
 *         event at the next offset unless its identity is there already,
 *         move the head, AIF_SQL_COMMIT (WAL, synchronous=FULL: one
 * fdatasync). read:   one statement, which is one snapshot.
 *
 * A full disk, an I/O error or 5 s of somebody else's lock is ESTORE: the
 * transaction is rolled back and the log lives on.
 */
#include "log/store.h"

#include "base/point.h"
#include "sqlite/conn.h"

void
aif_sqlite_bind(sqlite3_stmt *q, int i, aif_str v)
{
    /* NULL would be SQL's; it fails only for an i or a size out of range */
    (void)sqlite3_bind_text(q, i, v.n == 0 ? "" : v.p, (int)v.n,
                            SQLITE_STATIC);
}

static void
bind_event(sqlite3_stmt *q, const aif_event *ev, uint64_t offset, int64_t time)
{
    (void)sqlite3_bind_int64(q, 1, (sqlite3_int64)offset);
    (void)sqlite3_bind_int64(q, 2, time);
    aif_sqlite_bind(q, 3, ev->ns);
    aif_sqlite_bind(q, 4, ev->key);
    aif_sqlite_bind(q, 5, ev->value);
    aif_sqlite_bind(q, 6, ev->type);
    aif_sqlite_bind(q, 7, ev->sender);
    aif_sqlite_bind(q, 8, ev->context);
    aif_sqlite_bind(q, 9, ev->producer);
    (void)sqlite3_bind_int64(q, 10, (sqlite3_int64)ev->sequence);
}

static aif_err
find_known(aif_sqlite *s, aif_str producer, uint64_t sequence,
           uint64_t *offset, aif_error *e)
{
    aif_sqlite_bind(s->stmts[AIF_SQL_KNOWN], 1, producer);
    (void)sqlite3_bind_int64(s->stmts[AIF_SQL_KNOWN], 2,
                             (sqlite3_int64)sequence);
    return aif_sqlite_number(s, s->stmts[AIF_SQL_KNOWN], "looking in", offset,
                             e);
}

/* Insert them after *head, which moves on. */
static aif_err
insert(aif_sqlite *s, const aif_event *events, size_t n, aif_head *head,
       uint64_t *offsets, aif_error *e)
{
    aif_err err = AIF_OK;

    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        const aif_event *ev = &events[i];
        const int64_t time = ev->create_time > head->create_time
                                 ? ev->create_time
                                 : head->create_time;

        bind_event(s->stmts[AIF_SQL_INSERT], ev, head->offset + 1, time);
        err = aif_sqlite_run(s, AIF_SQL_INSERT, "appending to", e);
        if (err != AIF_OK) {
            return err;
        }
        if (sqlite3_changes(s->db) == 1) {
            offsets[i] = ++head->offset;
            head->create_time = time;
        } else {
            err = find_known(s, ev->producer, ev->sequence, &offsets[i], e);
        }
    }
    return err;
}

aif_err
aif_sqlite_head(aif_sqlite *s, aif_head *out, aif_error *e)
{
    sqlite3_stmt *q = s->stmts[AIF_SQL_HEAD];
    int rc = sqlite3_step(q);
    aif_err err = AIF_OK;

    if (rc == SQLITE_ROW) {
        *out = (aif_head){(uint64_t)sqlite3_column_int64(q, 0),
                          (uint64_t)sqlite3_column_int64(q, 1),
                          sqlite3_column_int64(q, 2)};
    } else if (rc == SQLITE_DONE) {
        err = aif_fail(e, AIF_ECORRUPT, "%s has lost its head's row", s->path);
    } else {
        err = aif_sqlite_fail(s, rc, "reading the head of", e);
    }
    (void)sqlite3_reset(q);
    return err;
}

static aif_err
append_locked(aif_sqlite *s, const aif_event *events, size_t n,
              uint64_t *offsets, aif_head *before, aif_error *e)
{
    sqlite3_stmt *bump = s->stmts[AIF_SQL_BUMP];
    aif_head head;
    aif_err err = aif_sqlite_head(s, before, e);

    if (err != AIF_OK) {
        return err;
    }
    head = *before;
    err = insert(s, events, n, &head, offsets, e);
    if (err == AIF_OK && head.offset > before->offset) {
        (void)sqlite3_bind_int64(bump, 1, (sqlite3_int64)head.offset);
        (void)sqlite3_bind_int64(bump, 2, head.create_time);
        err = aif_sqlite_run(s, AIF_SQL_BUMP, "appending to", e);
    }
    if (err != AIF_OK) {
        return err;
    }
    AIF_POINT("append.before_commit");
    return aif_sqlite_run(s, AIF_SQL_COMMIT, "committing to", e);
}

/* Some errors roll back by themselves, others leave it to us. */
void
aif_sqlite_undo(aif_sqlite *s)
{
    aif_error ignored;

    if (sqlite3_get_autocommit(s->db) == 0 &&
        aif_sqlite_run(s, AIF_SQL_ROLLBACK, "rolling back", &ignored) !=
            AIF_OK) {
        aif_sqlite_shut(s);
    }
}

static aif_err
sqlite_hurry(void *store, aif_error *e)
{
    aif_sqlite *s = store;

    (void)e;
    s->hurry = true;
    (void)sqlite3_busy_timeout(s->db, AIF_LOCK_SLICE_MS);
    return AIF_OK;
}

static aif_err
sqlite_append(void *store, const aif_event *events, size_t n,
              uint64_t *offsets, aif_head *before, aif_error *e)
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
    err = append_locked(s, events, n, offsets, before, e);
    if (err != AIF_OK) {
        aif_sqlite_undo(s);
        return err;
    }
    AIF_POINT("append.after_commit");
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
sqlite_read(void *store, const aif_query *query, size_t max, aif_batch *out,
            aif_error *e)
{
    aif_sqlite *s = store;
    sqlite3_stmt *q;
    aif_err err = aif_sqlite_ready(s, e);

    if (err == AIF_OK) {
        err = aif_sqlite_query(s, AIF_SQL_READ, query, max, &q, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    err = read_rows(s, q, out, e);
    aif_sqlite_done(s, AIF_SQL_READ, q);
    return err;
}

/* The one number that a query is about. */
static aif_err
number(aif_sqlite *s, aif_sqlite_stmt which, const aif_query *query,
       uint64_t third, uint64_t *out, aif_error *e)
{
    sqlite3_stmt *q;
    aif_err err = aif_sqlite_query(s, which, query, third, &q, e);

    if (err == AIF_OK) {
        err = aif_sqlite_number(s, q, "asking", out, e);
        aif_sqlite_done(s, which, q);
    }
    return err;
}

static aif_err
sqlite_count(void *store, const aif_query *query, uint64_t *n, aif_error *e)
{
    aif_err err = aif_sqlite_ready(store, e);

    return err != AIF_OK ? err : number(store, AIF_SQL_COUNT, query, 0, n, e);
}

static aif_err
sqlite_head(void *store, aif_head *out, aif_error *e)
{
    aif_err err = aif_sqlite_ready(store, e);

    return err != AIF_OK ? err : aif_sqlite_head(store, out, e);
}

static aif_err
sqlite_last(void *store, const aif_query *query, uint64_t *offset,
            aif_error *e)
{
    aif_err err = aif_sqlite_ready(store, e);

    return err != AIF_OK ? err
                         : number(store, AIF_SQL_NEWEST, query, 0, offset, e);
}

/* Add rows of a text and numbers to out: the text last, if it is. */
static aif_err
put_rows(aif_sqlite *s, sqlite3_stmt *q, bool text_last, aif_buf *out,
         aif_error *e)
{
    const int columns = sqlite3_column_count(q);
    aif_err err = AIF_OK;
    int rc = SQLITE_DONE;

    while (err == AIF_OK && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        const aif_str first = text(q, 0);

        if (first.p == NULL) {
            return aif_sqlite_fail(s, SQLITE_NOMEM, "asking", e);
        }
        if (!text_last) {
            err = aif_buf_str(out, first, e);
        }
        for (int i = 1; err == AIF_OK && i < columns; i++) {
            err = aif_buf_u64(out, (uint64_t)sqlite3_column_int64(q, i), e);
        }
        if (err == AIF_OK && text_last) {
            err = aif_buf_str(out, first, e);
        }
    }
    return err != AIF_OK || rc == SQLITE_DONE
               ? err
               : aif_sqlite_fail(s, rc, "asking", e);
}

static aif_err
sqlite_senders(void *store, const aif_query *query, aif_buf *out, aif_error *e)
{
    sqlite3_stmt *q;
    aif_err err = aif_sqlite_ready(store, e);

    if (err == AIF_OK) {
        err = aif_sqlite_query(store, AIF_SQL_SENDERS, query,
                               AIF_SENDERS_MAX + 1, &q, e);
    }
    if (err == AIF_OK) {
        err = put_rows(store, q, true, out, e);
        aif_sqlite_done(store, AIF_SQL_SENDERS, q);
    }
    return err;
}

aif_err
aif_sqlite_number_of(aif_sqlite *s, aif_sqlite_stmt which, aif_str of,
                     uint64_t *out, aif_error *e)
{
    aif_sqlite_bind(s->stmts[which], 1, of);
    return aif_sqlite_number(s, s->stmts[which], "asking", out, e);
}

static aif_err
sqlite_sequence(void *store, aif_str producer, uint64_t *sequence,
                aif_error *e)
{
    aif_err err = aif_sqlite_ready(store, e);

    return err != AIF_OK ? err
                         : aif_sqlite_number_of(store, AIF_SQL_SEQUENCE,
                                                producer, sequence, e);
}

static aif_err
sqlite_find(void *store, aif_str producer, uint64_t sequence, uint64_t *offset,
            aif_error *e)
{
    aif_err err = aif_sqlite_ready(store, e);

    return err != AIF_OK ? err
                         : find_known(store, producer, sequence, offset, e);
}

static aif_err
sqlite_purged(void *store, aif_buf *out, aif_error *e)
{
    aif_sqlite *s = store;
    sqlite3_stmt *q;
    aif_err err = aif_sqlite_ready(s, e);

    if (err == AIF_OK) {
        q = s->stmts[AIF_SQL_PURGED];
        err = put_rows(s, q, false, out, e);
        aif_sqlite_done(s, AIF_SQL_PURGED, q);
    }
    return err;
}

static aif_err
sqlite_keep(void *store, aif_str ns, uint64_t n, uint64_t *upto, aif_error *e)
{
    const aif_query q = AIF_SQLITE_OF(ns);
    aif_err err = aif_sqlite_ready(store, e);

    return err != AIF_OK ? err : number(store, AIF_SQL_NEWEST, &q, n, upto, e);
}

const aif_store_ops aif_store_sqlite = {
    .scheme = AIF_SQLITE_SCHEME,
    .open = aif_sqlite_open,
    .close = aif_sqlite_close,
    .hurry = sqlite_hurry,
    .append = sqlite_append,
    .read = sqlite_read,
    .count = sqlite_count,
    .head = sqlite_head,
    .last = sqlite_last,
    .senders = sqlite_senders,
    .sequence = sqlite_sequence,
    .find = sqlite_find,
    .purge = aif_sqlite_purge,
    .purged = sqlite_purged,
    .keep = sqlite_keep,
};
