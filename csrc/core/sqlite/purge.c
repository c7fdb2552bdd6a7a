/* sqlite/purge.c - aif_store_ops.purge in SQLite.
 *
 * Find the oldest: what is rare is looked for in all of a log, and meanwhile
 * others write.  Then one transaction: delete what was found, count that,
 * commit.
 */
#include "base/clock.h"
#include "base/point.h"
#include "sqlite/conn.h"

/* Their offsets. */
static aif_err
find_oldest(aif_sqlite *s, aif_str ns, uint64_t upto, size_t max, aif_buf *out,
            aif_error *e)
{
    aif_query query = AIF_SQLITE_OF(ns);
    sqlite3_stmt *q;
    int rc = SQLITE_DONE;
    aif_err err = aif_sqlite_number_of(s, AIF_SQL_UPTO, ns, &query.after, e);

    query.upto = upto;
    if (err == AIF_OK) {
        err = aif_sqlite_query(s, AIF_SQL_OLDEST, &query, max, &q, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    while (err == AIF_OK && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        const sqlite3_int64 offset = sqlite3_column_int64(q, 0);

        err = aif_buf_put(out, &offset, sizeof offset, e);
    }
    if (err == AIF_OK && rc != SQLITE_DONE) {
        err = aif_sqlite_fail(s, rc, "purging", e);
    }
    aif_sqlite_done(s, AIF_SQL_OLDEST, q);
    return err;
}

/* Those that are still there. */
static aif_err
erase(aif_sqlite *s, const aif_buf *oldest, uint64_t *gone, uint64_t *last,
      aif_error *e)
{
    aif_err err = AIF_OK;

    for (size_t i = 0; err == AIF_OK && i < oldest->n; i += sizeof *last) {
        memcpy(last, oldest->p + i, sizeof *last);
        (void)sqlite3_bind_int64(s->stmts[AIF_SQL_DELETE], 1,
                                 (sqlite3_int64)*last);
        err = aif_sqlite_run(s, AIF_SQL_DELETE, "purging", e);
        *gone += err == AIF_OK ? (uint64_t)sqlite3_changes(s->db) : 0;
    }
    return err;
}

static aif_err
count_gone(aif_sqlite *s, aif_str ns, uint64_t last, uint64_t gone,
           aif_error *e)
{
    sqlite3_stmt *add = s->stmts[AIF_SQL_ADD_PURGED];
    aif_err err;

    aif_sqlite_bind(add, 1, ns);
    (void)sqlite3_bind_int64(add, 2, (sqlite3_int64)last);
    (void)sqlite3_bind_int64(add, 3, (sqlite3_int64)gone);
    (void)sqlite3_bind_int64(add, 4, aif_wall_ms());
    err = aif_sqlite_run(s, AIF_SQL_ADD_PURGED, "purging", e);
    if (err != AIF_OK) {
        return err;
    }
    (void)sqlite3_bind_int64(s->stmts[AIF_SQL_SET_PURGED], 1,
                             (sqlite3_int64)last);
    return aif_sqlite_run(s, AIF_SQL_SET_PURGED, "purging", e);
}

static aif_err
purge_locked(aif_sqlite *s, aif_str ns, const aif_buf *oldest, uint64_t *gone,
             aif_error *e)
{
    uint64_t last = 0;
    aif_head head; /* it must be there */
    aif_err err = aif_sqlite_head(s, &head, e);

    if (err == AIF_OK) {
        err = erase(s, oldest, gone, &last, e);
    }
    if (err == AIF_OK && *gone > 0) {
        err = count_gone(s, ns, last, *gone, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    AIF_POINT("purge.before_commit");
    err = aif_sqlite_run(s, AIF_SQL_COMMIT, "committing to", e);
    AIF_POINT("purge.after_commit");
    return err;
}

static aif_err
purge_found(aif_sqlite *s, aif_str ns, const aif_buf *oldest, uint64_t *gone,
            aif_error *e)
{
    aif_err err = aif_sqlite_run(s, AIF_SQL_BEGIN, "locking", e);

    if (err != AIF_OK) {
        return err;
    }
    err = purge_locked(s, ns, oldest, gone, e);
    if (err != AIF_OK) {
        aif_sqlite_undo(s);
    }
    return err;
}

/* *all: none that was found was let go by another meanwhile. */
static aif_err
purge_some(aif_sqlite *s, aif_str ns, uint64_t upto, size_t max,
           uint64_t *gone, bool *all, aif_error *e)
{
    aif_buf oldest = {0};
    uint64_t some = 0;
    aif_err err = find_oldest(s, ns, upto, max, &oldest, e);

    if (err == AIF_OK && oldest.n > 0) {
        err = purge_found(s, ns, &oldest, &some, e);
    }
    *all = some == oldest.n / sizeof some;
    *gone += some;
    aif_buf_fini(&oldest);
    return err;
}

aif_err
aif_sqlite_purge(void *store, aif_str ns, uint64_t upto, size_t max,
                 uint64_t *gone, aif_error *e)
{
    aif_sqlite *s = store;
    bool all = false;
    aif_err err = aif_sqlite_ready(s, e);

    *gone = 0;
    AIF_POINT("purge.begin");
    while (err == AIF_OK && !all) {
        err = purge_some(s, ns, upto, max - *gone, gone, &all, e);
    }
    *gone = err == AIF_OK ? *gone : 0;
    return err;
}
