#include "log/where.h"

#include <stdio.h>

#define FIELD_CAP 128 /* the longest of a dialect is under 80 */

static aif_err
put(aif_where *w, const char *sql, aif_error *e)
{
    return aif_buf_put(&w->sql, sql, strlen(sql), e);
}

/* A field that may be anything says nothing. */
static aif_err
put_field(aif_where *w, const aif_dialect *d, const char *column,
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
    err = put(w, " AND ", e);
    return err != AIF_OK ? err : put(w, sql, e);
}

static aif_err
put_pattern(aif_where *w, const aif_dialect *d, const aif_pattern *p,
            aif_error *e)
{
    const struct {
        const char *column;
        aif_str field;
    } fields[] = {{"namespace", p->ns},
                  {"key", p->key},
                  {"type", p->type},
                  {"sender", p->sender},
                  {"context", p->context}};
    aif_err err = put(w, "(1 = 1", e);

    for (size_t i = 0; err == AIF_OK && i < 5; i++) {
        err = put_field(w, d, fields[i].column, fields[i].field, e);
    }
    return err != AIF_OK ? err : put(w, ")", e);
}

static aif_err
put_patterns(aif_where *w, const aif_dialect *d, const aif_query *q,
             aif_error *e)
{
    aif_err err = AIF_OK;

    for (size_t i = 0; err == AIF_OK && i < q->n; i++) {
        err = put(w, i == 0 ? " AND (" : " OR ", e);
        if (err == AIF_OK) {
            err = put_pattern(w, d, &q->patterns[i], e);
        }
    }
    return err != AIF_OK || q->n == 0 ? err : put(w, ")", e);
}

aif_err
aif_where_make(aif_where *w, const aif_dialect *d, int numbers,
               const aif_str *own, const char *from, const aif_query *q,
               const char *to, aif_error *e)
{
    aif_err err;

    w->sql.n = 0;
    w->n = 0;
    w->numbers = numbers;
    if (own != NULL) {
        w->params[w->n++] = *own;
    }
    err = put(w, from, e);
    if (err == AIF_OK && q != NULL) {
        err = put_patterns(w, d, q, e);
    }
    if (err == AIF_OK) {
        err = put(w, to, e);
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
