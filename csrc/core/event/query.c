#include "event/query.h"

aif_err
aif_query_check(const aif_query *q, aif_error *e)
{
    aif_err err = AIF_OK;

    if (q->n > AIF_QUERY_PATTERNS_MAX) {
        return aif_fail(e, AIF_EINVAL, "%zu patterns: %d are the most", q->n,
                        AIF_QUERY_PATTERNS_MAX);
    }
    for (size_t i = 0; err == AIF_OK && i < q->n; i++) {
        err = aif_pattern_check(&q->patterns[i], e);
    }
    return err;
}

uint64_t
aif_query_upto(const aif_query *q)
{
    return q->upto == 0 || q->upto > INT64_MAX ? INT64_MAX : q->upto;
}

bool
aif_query_like(const aif_query *q, size_t from, size_t to,
               const aif_pattern *p)
{
    for (size_t i = from; i < to; i++) {
        if (aif_pattern_alike(&q->patterns[i], p)) {
            return true;
        }
    }
    return false;
}

static size_t
field_weight(aif_str field)
{
    return aif_pattern_exact(field) ? 1 : field.n > 1 ? 3 : 0;
}

size_t
aif_query_weight(const aif_query *q)
{
    size_t weight = 0;

    for (size_t i = 0; i < q->n; i++) {
        const aif_pattern *p = &q->patterns[i];
        const bool list = aif_query_like(q, i + 1, q->n, p);

        if (!aif_query_like(q, 0, i, p)) {
            weight += field_weight(p->ns) + (list ? 4 : field_weight(p->key)) +
                      field_weight(p->type) + field_weight(p->sender) +
                      field_weight(p->context);
        }
    }
    return weight;
}

static bool
query_any_matches(const aif_query *q, const aif_event *ev)
{
    for (size_t i = 0; i < q->n; i++) {
        if (aif_pattern_matches(&q->patterns[i], ev)) {
            return true;
        }
    }
    return q->n == 0;
}

bool
aif_query_matches(const aif_query *q, const aif_event *ev)
{
    return ev->offset > q->after && ev->offset <= aif_query_upto(q) &&
           query_any_matches(q, ev);
}
