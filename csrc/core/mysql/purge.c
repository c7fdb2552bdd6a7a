/* mysql/purge.c - aif_store_ops.purge in MySQL.
 *
 * Find the oldest: what is rare is looked for in all of a log, and meanwhile
 * others write.  Then one transaction: lock the head's row, delete what was
 * found, count that, commit.  A failure drops the connection, and so
 * everything is undone.
 */
#include "base/clock.h"
#include "mysql/append.h"
#include "mysql/sql.h"
#include "base/point.h"

#define WHAT "purging"
#define ERASED_AT_ONCE 500 /* of more than 1000 MariaDB makes a table */

/* What was let go of ns already need not be looked at again. */
static aif_err
find_after(aif_mysql *s, aif_str ns, uint64_t *after, aif_error *e)
{
    aif_mysql_sql q = {.e = e};

    aif_mysql_put(&q, "SELECT upto FROM aiflow_log_purged WHERE namespace = ");
    aif_mysql_put_text(&q, ns);
    return aif_mysql_ask_number(s, &q, WHAT, after);
}

/* Their offsets. */
static aif_err
find_oldest(aif_mysql *s, aif_str ns, uint64_t upto, size_t max,
            MYSQL_RES **out, aif_error *e)
{
    aif_query query = AIF_MYSQL_OF(ns);
    aif_mysql_sql q = {.e = e};
    aif_err err = find_after(s, ns, &query.after, e);

    *out = NULL;
    if (err != AIF_OK) {
        return err;
    }
    query.upto = upto;
    aif_mysql_put(&q, "SELECT `offset`");
    aif_mysql_put_query(&q, &query);
    aif_mysql_put(&q, " ORDER BY `offset` LIMIT ");
    aif_mysql_put_number(&q, max);
    return aif_mysql_ask(s, &q, WHAT, out);
}

/* Those that are still there. */
static aif_err
erase(aif_mysql *s, MYSQL_RES *oldest, uint64_t *last, uint64_t *gone,
      aif_error *e)
{
    MYSQL_ROW row = mysql_fetch_row(oldest);
    aif_err err = AIF_OK;

    while (err == AIF_OK && row != NULL) {
        aif_mysql_sql q = {.e = e};
        uint64_t changed = 0;

        aif_mysql_put(&q, "DELETE FROM aiflow_event WHERE `offset` IN (");
        for (int i = 0; i < ERASED_AT_ONCE && row != NULL; i++) {
            aif_mysql_put(&q, i == 0 ? "" : ", ");
            aif_mysql_put(&q, row[0]);
            *last = aif_mysql_number(row[0]);
            row = mysql_fetch_row(oldest);
        }
        aif_mysql_put(&q, ")");
        err = aif_mysql_change(s, &q, WHAT, &changed);
        *gone += changed;
    }
    return err;
}

/* (VALUES() in ON DUPLICATE KEY is MariaDB's VALUE(), and MySQL would rather
 * have an alias there: the numbers go in twice.) */
static aif_err
count_gone(aif_mysql *s, aif_str ns, uint64_t upto, uint64_t gone,
           aif_error *e)
{
    const uint64_t now = (uint64_t)aif_wall_ms();
    aif_mysql_sql q = {.e = e};
    uint64_t changed;

    aif_mysql_put(&q, "INSERT INTO aiflow_log_purged VALUES (");
    aif_mysql_put_text(&q, ns);
    aif_mysql_put(&q, ", ");
    aif_mysql_put_number(&q, upto);
    aif_mysql_put(&q, ", ");
    aif_mysql_put_number(&q, gone);
    aif_mysql_put(&q, ", ");
    aif_mysql_put_number(&q, now);
    aif_mysql_put(&q, ") ON DUPLICATE KEY UPDATE upto = GREATEST(upto, ");
    aif_mysql_put_number(&q, upto);
    aif_mysql_put(&q, "), events = events + ");
    aif_mysql_put_number(&q, gone);
    aif_mysql_put(&q, ", purged_at = ");
    aif_mysql_put_number(&q, now);
    return aif_mysql_change(s, &q, WHAT, &changed);
}

static aif_err
raise_head(aif_mysql *s, uint64_t upto, aif_error *e)
{
    aif_mysql_sql q = {.e = e};
    uint64_t changed;

    aif_mysql_put(&q, "UPDATE aiflow_log_head SET purged = GREATEST(purged, ");
    aif_mysql_put_number(&q, upto);
    aif_mysql_put(&q, ") WHERE id = 1");
    return aif_mysql_change(s, &q, WHAT, &changed);
}

static aif_err
purge_locked(aif_mysql *s, aif_str ns, MYSQL_RES *oldest, uint64_t *gone,
             aif_error *e)
{
    uint64_t last = 0;
    aif_err err = erase(s, oldest, &last, gone, e);

    if (err == AIF_OK && *gone > 0) {
        err = count_gone(s, ns, last, *gone, e);
    }
    if (err == AIF_OK && *gone > 0) {
        err = raise_head(s, last, e);
    }
    return err;
}

static aif_err
purge_found(aif_mysql *s, aif_str ns, MYSQL_RES *oldest, uint64_t *gone,
            aif_error *e)
{
    aif_err err = aif_mysql_run(s, "START TRANSACTION", WHAT, e);

    if (err == AIF_OK) {
        err = aif_mysql_head(s, true, WHAT, &s->head, e);
    }
    if (err == AIF_OK) {
        err = purge_locked(s, ns, oldest, gone, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    AIF_POINT("purge.before_commit");
    err = aif_mysql_run(s, "COMMIT", WHAT, e);
    AIF_POINT("purge.after_commit");
    return err;
}

/* *all: none that was found was let go by another meanwhile. */
static aif_err
purge_some(aif_mysql *s, aif_str ns, uint64_t upto, size_t max, uint64_t *gone,
           bool *all, aif_error *e)
{
    uint64_t some = 0;
    MYSQL_RES *oldest;
    aif_err err = find_oldest(s, ns, upto, max, &oldest, e);

    if (err == AIF_OK && mysql_num_rows(oldest) > 0) {
        err = purge_found(s, ns, oldest, &some, e);
    }
    *all = err == AIF_OK && some == mysql_num_rows(oldest);
    *gone += some;
    mysql_free_result(oldest);
    return err;
}

aif_err
aif_mysql_purge(void *store, aif_str ns, uint64_t upto, size_t max,
                uint64_t *gone, aif_error *e)
{
    aif_mysql *s = store;
    bool all = false;
    aif_err err = aif_mysql_ready(s, e);

    *gone = 0;
    AIF_POINT("purge.begin");
    while (err == AIF_OK && !all) {
        err = purge_some(s, ns, upto, max - *gone, gone, &all, e);
    }
    if (err != AIF_OK) {
        *gone = 0;
        aif_mysql_shut(s);
    }
    return err;
}
