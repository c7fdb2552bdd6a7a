#include "log/where.h"

#include <stdio.h>

#define KEY 1         /* of a pattern's fields */
#define FIELD_CAP 128 /* the longest of a dialect is under 80 */

static aif_err
where_put(aif_where *w, const char *sql, aif_error *e)
{
    return aif_buf_put(&w->sql, sql, strlen(sql), e);
}

/* A field that may be anything says nothing. */
static aif_err
where_put_field(aif_where *w, const aif_dialect *d, const char *column,
                aif_str field, aif_error *e)
{
    const bool exact = aif_pattern_exact(field);
    char sql[FIELD_CAP];
    aif_err err;

    if (!exact && field.n == 1) {
        return AIF_OK;
    }
    (void)snprintf(sql, sizeof sql, exact ? d->exact : d->prefix, column,
                   w->numbers + 1 + (int)w->n);
    w->params[w->n++] = (aif_str){field.p, exact ? field.n : field.n - 1};
    err = where_put(w, " AND ", e);
    return err != AIF_OK ? err : where_put(w, sql, e);
}

/* The keys of those that are like the pattern at i. */
static aif_err
where_put_list(aif_where *w, const aif_dialect *d, const aif_query *q,
               size_t i, aif_error *e)
{
    char sql[FIELD_CAP];
    const char *between = "";
    aif_err err = AIF_OK;

    for (size_t k = i; err == AIF_OK && k < q->n; k++) {
        if (aif_pattern_alike(&q->patterns[i], &q->patterns[k])) {
            (void)snprintf(sql, sizeof sql, d->one_of,
                           w->numbers + 1 + (int)w->n);
            w->params[w->n++] = q->patterns[k].key;
            err = where_put(w, between, e);
            between = ", ";
            if (err == AIF_OK) {
                err = where_put(w, sql, e);
            }
        }
    }
    return err;
}

static aif_err
where_put_keys(aif_where *w, const aif_dialect *d, const aif_query *q,
               size_t i, aif_error *e)
{
    aif_err err = AIF_OK;

    for (const char *const *in = d->in; err == AIF_OK && *in != NULL; in++) {
        err = where_put(w, *in, e);
        if (err == AIF_OK) {
            err = where_put_list(w, d, q, i, e);
        }
        if (err == AIF_OK) {
            err = where_put(w, d->in_end, e);
        }
    }
    return err;
}

/* The pattern at i, with those that are like it. */
static aif_err
where_put_pattern(aif_where *w, const aif_dialect *d, const aif_query *q,
                  size_t i, aif_error *e)
{
    const aif_pattern *p = &q->patterns[i];
    const bool list = aif_query_like(q, i + 1, q->n, p);
    const struct {
        const char *column;
        aif_str field;
    } fields[5] = {{"namespace", p->ns},
                   {"key", p->key},
                   {"type", p->type},
                   {"sender", p->sender},
                   {"context", p->context}};
    aif_err err = where_put(w, "(1 = 1", e);

    for (size_t k = 0; err == AIF_OK && k < 5; k++) {
        err = k == KEY && list ? where_put_keys(w, d, q, i, e)
                               : where_put_field(w, d, fields[k].column,
                                                 fields[k].field, e);
    }
    return err != AIF_OK ? err : where_put(w, ")", e);
}

static aif_err
where_put_patterns(aif_where *w, const aif_dialect *d, const aif_query *q,
                   aif_error *e)
{
    aif_err err = AIF_OK;

    for (size_t i = 0; err == AIF_OK && i < q->n; i++) {
        if (aif_query_like(q, 0, i, &q->patterns[i])) {
            continue;
        }
        err = where_put(w, i == 0 ? " AND (" : " OR ", e);
        if (err == AIF_OK) {
            err = where_put_pattern(w, d, q, i, e);
        }
    }
    return err != AIF_OK || q->n == 0 ? err : where_put(w, ")", e);
}

aif_err
aif_where_make(aif_where *w, const aif_dialect *d, int numbers,
               const char *from, const aif_query *q, const char *to,
               aif_error *e)
{
    aif_err err;

    w->sql.n = 0;
    w->n = 0;
    w->numbers = numbers;
    err = where_put(w, from, e);
    if (err == AIF_OK && q != NULL) {
        err = where_put_patterns(w, d, q, e);
    }
    if (err == AIF_OK) {
        err = where_put(w, to, e);
    }
    return err != AIF_OK ? err : aif_buf_u8(&w->sql, 0, e);
}

void
aif_where_fini(aif_where *w)
{
    aif_buf_fini(&w->sql);
}

const char *
aif_where_sql(const aif_where *w)
{
    return (const char *)w->sql.p;
}
