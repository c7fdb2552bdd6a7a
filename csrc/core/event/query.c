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

static bool
any_matches(const aif_query *q, const aif_event *ev)
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
           any_matches(q, ev);
}
