#include "log/missed.h"

typedef struct {
    aif_str ns;
    uint64_t upto;
    uint64_t events;
} purged;

static aif_err
purged_next(aif_reader *rows, purged *row, aif_error *e)
{
    aif_err err = aif_read_str(rows, rows->n, &row->ns, e);

    if (err == AIF_OK) {
        err = aif_read_u64(rows, &row->upto, e);
    }
    return err != AIF_OK ? err : aif_read_u64(rows, &row->events, e);
}

static bool
purged_concerns(const aif_query *q, aif_str ns)
{
    for (size_t i = 0; i < q->n; i++) {
        if (aif_pattern_overlap(q->patterns[i].ns, ns)) {
            return true;
        }
    }
    return q->n == 0;
}

static aif_err
missed_fail(const aif_query *q, const purged *worst, aif_error *e)
{
    const int shown = worst->ns.n < 80 ? (int)worst->ns.n : 80;

    return aif_fail(
        e, AIF_ERETENTION,
        "events beyond offset %llu were let go: of namespace '%.*s' up to "
        "offset %llu, %llu in all; begin again from offset %llu, or from 0 "
        "for the oldest that are kept",
        (unsigned long long)q->after, shown, worst->ns.p,
        (unsigned long long)worst->upto, (unsigned long long)worst->events,
        (unsigned long long)worst->upto);
}

aif_err
aif_missed(const aif_buf *rows, const aif_query *q, uint64_t *known,
           aif_error *e)
{
    aif_reader in = {rows->p, rows->n};
    purged worst = {.upto = q->after};
    uint64_t gone = 0;
    purged row;
    aif_err err = AIF_OK;

    while (err == AIF_OK && in.n > 0) {
        err = purged_next(&in, &row, e);
        if (err == AIF_OK && purged_concerns(q, row.ns)) {
            gone += row.events;
            worst = row.upto > worst.upto ? row : worst;
        }
    }
    if (err == AIF_OK && q->after > 0 && gone != *known &&
        worst.upto > q->after) {
        err = missed_fail(q, &worst, e);
    }
    *known = err == AIF_OK ? gone : *known;
    return err;
}
