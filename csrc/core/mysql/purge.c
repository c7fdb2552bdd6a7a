/* mysql/purge.c - aif_store_ops.purge in MySQL.
 *
 * One transaction: lock the head's row, find the last of the oldest, delete
 * up to it, count that, commit.  A failure drops the connection, and so
 * everything is undone.
 */
#include "base/clock.h"
#include "mysql/append.h"
#include "mysql/sql.h"
#include "base/point.h"

#define WHAT "purging"

/* What was let go of ns already need not be looked at again. */
static aif_err
find_after(aif_mysql *s, aif_str ns, uint64_t *after, aif_error *e)
{
    aif_mysql_sql q = {.e = e};

    aif_mysql_put(&q, "SELECT upto FROM aiflow_log_purged WHERE namespace = ");
    aif_mysql_put_text(&q, ns);
    return aif_mysql_ask_number(s, &q, WHAT, after);
}

/* 0: there is none. */
static aif_err
find_last(aif_mysql *s, const aif_query *query, size_t max, uint64_t *last,
          aif_error *e)
{
    aif_mysql_sql q = {.e = e};

    aif_mysql_put(&q, "SELECT MAX(`offset`) FROM (SELECT `offset`");
    aif_mysql_put_query(&q, query);
    aif_mysql_put(&q, " ORDER BY `offset` LIMIT ");
    aif_mysql_put_number(&q, max);
    aif_mysql_put(&q, ") AS oldest");
    return aif_mysql_ask_number(s, &q, WHAT, last);
}

static aif_err
erase(aif_mysql *s, const aif_query *query, uint64_t *gone, aif_error *e)
{
    aif_mysql_sql q = {.e = e};

    aif_mysql_put(&q, "DELETE");
    aif_mysql_put_query(&q, query);
    return aif_mysql_change(s, &q, WHAT, gone);
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
    aif_mysql_put(&q, ") ON DUPLICATE KEY UPDATE upto = ");
    aif_mysql_put_number(&q, upto);
    aif_mysql_put(&q, ", events = events + ");
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
purge_locked(aif_mysql *s, aif_str ns, uint64_t upto, size_t max,
             uint64_t *gone, aif_error *e)
{
    aif_query q = AIF_MYSQL_OF(ns);
    aif_err err = find_after(s, ns, &q.after, e);

    q.upto = upto;
    if (err == AIF_OK) {
        err = find_last(s, &q, max, &q.upto, e);
    }
    if (err == AIF_OK && q.upto > 0) {
        err = erase(s, &q, gone, e);
    }
    if (err == AIF_OK && *gone > 0) {
        err = count_gone(s, ns, q.upto, *gone, e);
    }
    if (err == AIF_OK && *gone > 0) {
        err = raise_head(s, q.upto, e);
    }
    return err;
}

static aif_err
purge(aif_mysql *s, aif_str ns, uint64_t upto, size_t max, uint64_t *gone,
      aif_error *e)
{
    aif_err err = aif_mysql_run(s, "START TRANSACTION", WHAT, e);

    if (err == AIF_OK) {
        err = aif_mysql_head(s, true, WHAT, &s->head, e);
    }
    if (err == AIF_OK) {
        err = purge_locked(s, ns, upto, max, gone, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    AIF_POINT("purge.before_commit");
    return aif_mysql_run(s, "COMMIT", WHAT, e);
}

aif_err
aif_mysql_purge(void *store, aif_str ns, uint64_t upto, size_t max,
                uint64_t *gone, aif_error *e)
{
    aif_mysql *s = store;
    aif_err err = aif_mysql_ready(s, e);

    *gone = 0;
    AIF_POINT("purge.begin");
    if (err == AIF_OK) {
        err = purge(s, ns, upto, max, gone, e);
    }
    if (err != AIF_OK) {
        *gone = 0;
        aif_mysql_shut(s);
        return err;
    }
    AIF_POINT("purge.after_commit");
    return AIF_OK;
}
