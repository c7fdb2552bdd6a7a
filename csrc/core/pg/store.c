/* pg/store.c - the log in a PostgreSQL database.
 *
 * append: one statement, one round trip, one commit (pg/append.c).
 * read:   pages of rows, until there are enough, of rows or of bytes.
 * purge:  first the offsets, for what is rare is looked for in all of a log,
 *         and meanwhile others write; then a transaction that locks the head,
 *         as appends do: what another's purge has deleted meanwhile is not
 *         counted again.
 *
 * A statement that fails left nothing behind.  An answer that was lost is
 * ESTORE, and the events may be there: the same append again finds them.
 */
#include "log/store.h"

#include "base/clock.h"
#include "pg/conn.h"
#include "base/point.h"

#include <stdio.h>

#define PAGE 2000 /* rows asked for at once */

static aif_event
event_of(const PGresult *res, int row)
{
    return (aif_event){
        .offset = aif_pg_int8(res, row, 0),
        .create_time = (int64_t)aif_pg_int8(res, row, 1),
        .ns = aif_pg_text(res, row, 2),
        .key = aif_pg_text(res, row, 3),
        .value = aif_pg_text(res, row, 4),
        .type = aif_pg_text(res, row, 5),
        .sender = aif_pg_text(res, row, 6),
        .context = aif_pg_text(res, row, 7),
        .producer = aif_pg_text(res, row, 8),
        .sequence = aif_pg_int8(res, row, 9),
    };
}

/* Its values point into it. */
static void
add_query(aif_pg_params *p, const aif_query *query)
{
    aif_pg_add_number(p, query->after);
    aif_pg_add_number(p, query->upto);
}

/* Add one page to out; *rows is how many there were. */
static aif_err
read_page(aif_pg *s, const aif_query *query, size_t max, size_t bytes,
          aif_batch *out, int *rows, aif_error *e)
{
    aif_pg_params p = {.n = 0};
    aif_err err = AIF_OK;
    PGresult *res;

    add_query(&p, query);
    aif_pg_add_number(&p, max);
    aif_pg_add_number(&p, bytes);
    res = aif_pg_query(s, AIF_PG_READ, query, &p);
    *rows = PQntuples(res);
    if (PQresultStatus(res) != PGRES_TUPLES_OK) {
        return aif_pg_fail(s, res, "reading", e);
    }
    for (int i = 0; err == AIF_OK && i < *rows; i++) {
        aif_event ev = event_of(res, i);
        err = aif_batch_add(out, &ev, e);
    }
    PQclear(res);
    return err;
}

static aif_err
pg_read(void *store, const aif_query *query, size_t max, aif_batch *out,
        aif_error *e)
{
    const size_t full = out->bytes + AIF_READ_BYTES;
    aif_query rest = *query;
    size_t left = max;
    int asked = 0;
    int rows = 0;
    aif_err err = aif_pg_ready(store, e);

    while (err == AIF_OK && rows == asked && left > 0 && out->bytes < full) {
        asked = left < PAGE ? (int)left : PAGE;
        err = read_page(store, &rest, (size_t)asked, full - out->bytes, out,
                        &rows, e);
        if (err == AIF_OK && rows > 0) {
            left -= (size_t)rows;
            rest.after = out->events[out->n - 1].offset;
        }
    }
    return err;
}

static aif_err
pg_count(void *store, const aif_query *query, uint64_t *n, aif_error *e)
{
    aif_pg_params p = {.n = 0};
    aif_err err = aif_pg_ready(store, e);

    if (err != AIF_OK) {
        return err;
    }
    add_query(&p, query);
    return aif_pg_number(store, aif_pg_query(store, AIF_PG_COUNT, query, &p),
                         "counting", n, e);
}

/* A statement without parameters that gives the head's row. */
static aif_err
read_head(aif_pg *s, aif_pg_stmt which, aif_head *out, aif_error *e)
{
    const aif_pg_params p = {.n = 0};
    PGresult *res = aif_pg_execute(s, which, &p);
    aif_err err = AIF_OK;

    if (PQresultStatus(res) != PGRES_TUPLES_OK) {
        return aif_pg_fail(s, res, "reading the head", e);
    }
    if (PQntuples(res) == 1) {
        *out = aif_pg_head(res, 0, 0);
    } else {
        err = aif_fail(e, AIF_ECORRUPT, "aiflow_log_head has lost its row");
    }
    PQclear(res);
    return err;
}

static aif_err
pg_head(void *store, aif_head *out, aif_error *e)
{
    aif_err err = aif_pg_ready(store, e);

    return err != AIF_OK ? err : read_head(store, AIF_PG_HEAD, out, e);
}

/* The newest of query after passing over n of them. */
static aif_err
newest(aif_pg *s, const aif_query *query, uint64_t n, uint64_t *offset,
       aif_error *e)
{
    aif_pg_params p = {.n = 0};
    aif_err err = aif_pg_ready(s, e);

    if (err != AIF_OK) {
        return err;
    }
    add_query(&p, query);
    aif_pg_add_number(&p, n);
    return aif_pg_number(s, aif_pg_query(s, AIF_PG_NEWEST, query, &p),
                         "asking", offset, e);
}

static aif_err
pg_last(void *store, const aif_query *query, uint64_t *offset, aif_error *e)
{
    return newest(store, query, 0, offset, e);
}

/* (sender, how many) as (u64, str). */
static aif_err
pg_senders(void *store, const aif_query *query, aif_buf *out, aif_error *e)
{
    aif_pg_params p = {.n = 0};
    aif_err err = aif_pg_ready(store, e);
    PGresult *res;

    if (err != AIF_OK) {
        return err;
    }
    add_query(&p, query);
    aif_pg_add_number(&p, AIF_SENDERS_MAX + 1);
    res = aif_pg_query(store, AIF_PG_SENDERS, query, &p);
    if (PQresultStatus(res) != PGRES_TUPLES_OK) {
        return aif_pg_fail(store, res, "counting", e);
    }
    for (int i = 0; err == AIF_OK && i < PQntuples(res); i++) {
        err = aif_buf_u64(out, aif_pg_int8(res, i, 1), e);
        if (err == AIF_OK) {
            err = aif_buf_str(out, aif_pg_text(res, i, 0), e);
        }
    }
    PQclear(res);
    return err;
}

static aif_err
pg_sequence(void *store, aif_str producer, uint64_t *sequence, aif_error *e)
{
    aif_pg_params p = {.n = 0};
    aif_err err = aif_pg_ready(store, e);

    if (err != AIF_OK) {
        return err;
    }
    aif_pg_add_text(&p, producer);
    return aif_pg_number(store, aif_pg_execute(store, AIF_PG_SEQUENCE, &p),
                         "asking", sequence, e);
}

static aif_err
pg_find(void *store, aif_str producer, uint64_t sequence, uint64_t *offset,
        aif_error *e)
{
    aif_pg_params p = {.n = 0};
    aif_err err = aif_pg_ready(store, e);

    if (err != AIF_OK) {
        return err;
    }
    aif_pg_add_number(&p, sequence);
    aif_pg_add_text(&p, producer);
    return aif_pg_number(store, aif_pg_execute(store, AIF_PG_FIND, &p),
                         "asking", offset, e);
}

static aif_err
pg_purged(void *store, aif_buf *out, aif_error *e)
{
    const aif_pg_params p = {.n = 0};
    aif_err err = aif_pg_ready(store, e);
    PGresult *res;

    if (err != AIF_OK) {
        return err;
    }
    res = aif_pg_execute(store, AIF_PG_PURGED, &p);
    if (PQresultStatus(res) != PGRES_TUPLES_OK) {
        return aif_pg_fail(store, res, "asking", e);
    }
    for (int i = 0; err == AIF_OK && i < PQntuples(res); i++) {
        err = aif_buf_str(out, aif_pg_text(res, i, 0), e);
        for (int k = 1; err == AIF_OK && k <= 2; k++) {
            err = aif_buf_u64(out, aif_pg_int8(res, i, k), e);
        }
    }
    PQclear(res);
    return err;
}

static aif_err
pg_keep(void *store, aif_str ns, uint64_t n, uint64_t *upto, aif_error *e)
{
    const aif_str any = AIF_STR("*");
    const aif_pattern of = {ns, any, any, any, any};
    const aif_query q = {.patterns = &of, .n = 1, .upto = INT64_MAX};

    return newest(store, &q, n, upto, e);
}

static aif_err
find_oldest(aif_pg *s, aif_str ns, uint64_t upto, size_t max, PGresult **out,
            aif_error *e)
{
    const aif_str any = AIF_STR("*");
    const aif_pattern of = {ns, any, any, any, any};
    const aif_query q = {
        .patterns = &of, .n = !aif_str_eq(ns, any), .upto = upto};
    aif_pg_params p = {.n = 0};

    add_query(&p, &q);
    aif_pg_add_number(&p, max);
    aif_pg_add_text(&p, ns);
    *out = aif_pg_query(s, AIF_PG_OLDEST, &q, &p);
    if (PQresultStatus(*out) == PGRES_TUPLES_OK) {
        return AIF_OK;
    }
    (void)aif_pg_fail(s, *out, "purging", e);
    *out = NULL;
    return e->code;
}

/* "{1,2,5}" */
static aif_err
write_offsets(const PGresult *oldest, aif_buf *out, aif_error *e)
{
    char text[24];
    aif_err err = AIF_OK;

    for (int i = 0; err == AIF_OK && i < PQntuples(oldest); i++) {
        const int n = snprintf(text, sizeof text, "%c%llu", i == 0 ? '{' : ',',
                               (unsigned long long)aif_pg_int8(oldest, i, 0));

        err = aif_buf_put(out, text, (size_t)n, e);
    }
    return err != AIF_OK ? err : aif_buf_put(out, "}", 2, e);
}

/* Within a transaction. */
static aif_err
purge_locked(aif_pg *s, aif_str ns, const char *offsets, uint64_t *gone,
             aif_error *e)
{
    aif_pg_params p = {.n = 0};
    aif_head head;
    aif_err err = read_head(s, AIF_PG_LOCK, &head, e);

    if (err != AIF_OK) {
        return err;
    }
    aif_pg_add_written(&p, offsets);
    aif_pg_add_number(&p, (uint64_t)aif_wall_ms());
    aif_pg_add_text(&p, ns);
    return aif_pg_number(s, aif_pg_execute(s, AIF_PG_PURGE, &p), "purging",
                         gone, e);
}

static aif_err
purge_found(aif_pg *s, aif_str ns, const char *offsets, uint64_t *gone,
            aif_error *e)
{
    aif_err err = aif_pg_begin(s, "purging", e);

    if (err == AIF_OK) {
        err = purge_locked(s, ns, offsets, gone, e);
    }
    AIF_POINT("purge.before_commit");
    if (err == AIF_OK) {
        err = aif_pg_run(s, "COMMIT", "purging", e);
    }
    AIF_POINT("purge.after_commit");
    return err;
}

/* *all: none that was found was let go by another meanwhile. */
static aif_err
purge_some(aif_pg *s, aif_str ns, uint64_t upto, size_t max, uint64_t *gone,
           bool *all, aif_error *e)
{
    aif_buf offsets = {0};
    uint64_t some = 0;
    PGresult *oldest;
    aif_err err = find_oldest(s, ns, upto, max, &oldest, e);
    const uint64_t found = (uint64_t)PQntuples(oldest);

    if (found > 0) {
        err = write_offsets(oldest, &offsets, e);
    }
    PQclear(oldest);
    if (err == AIF_OK && found > 0) {
        err = purge_found(s, ns, (const char *)offsets.p, &some, e);
    }
    aif_buf_fini(&offsets);
    *all = some == found;
    *gone += some;
    return err;
}

static aif_err
pg_purge(void *store, aif_str ns, uint64_t upto, size_t max, uint64_t *gone,
         aif_error *e)
{
    aif_pg *s = store;
    bool all = false;
    aif_err err = aif_pg_ready(s, e);

    *gone = 0;
    AIF_POINT("purge.begin");
    while (err == AIF_OK && !all) {
        err = purge_some(s, ns, upto, max - *gone, gone, &all, e);
    }
    if (err != AIF_OK) {
        *gone = 0;
        aif_pg_drop(s);
    }
    return err;
}

/* Both "postgresql://" and "postgres://"; libpq refuses the rest. */
const aif_store_ops aif_store_pg = {
    .scheme = "postgres",
    .open = aif_pg_open,
    .close = aif_pg_close,
    .hurry = aif_pg_hurry,
    .append = aif_pg_append,
    .read = pg_read,
    .count = pg_count,
    .head = pg_head,
    .last = pg_last,
    .senders = pg_senders,
    .sequence = pg_sequence,
    .find = pg_find,
    .purge = pg_purge,
    .purged = pg_purged,
    .keep = pg_keep,
};
