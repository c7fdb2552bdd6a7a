#include "log/missed.h"

typedef struct {
    aif_str ns;
    uint64_t upto;
    uint64_t events;
} purged;

static aif_err
next_row(aif_reader *rows, purged *row, aif_error *e)
{
    aif_err err = aif_read_str(rows, rows->n, &row->ns, e);

    if (err == AIF_OK) {
        err = aif_read_u64(rows, &row->upto, e);
    }
    return err != AIF_OK ? err : aif_read_u64(rows, &row->events, e);
}

static bool
concerns(const aif_query *q, aif_str ns)
{
    for (size_t i = 0; i < q->n; i++) {
        if (aif_pattern_overlap(q->patterns[i].ns, ns)) {
            return true;
        }
    }
    return q->n == 0;
}

static aif_err
say(const aif_query *q, const purged *worst, aif_error *e)
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
aif_missed(const aif_store_ops *ops, void *store, const aif_query *q,
           const aif_head *head, aif_error *e)
{
    aif_buf bytes = {0};
    aif_reader rows;
    purged worst = {.upto = q->after};
    purged row;
    aif_err err = AIF_OK;

    if (q->after == 0 || q->after >= head->purged) {
        return AIF_OK;
    }
    err = ops->purged(store, &bytes, e);
    rows = (aif_reader){bytes.p, bytes.n};
    while (err == AIF_OK && rows.n > 0) {
        err = next_row(&rows, &row, e);
        if (err == AIF_OK && row.upto > worst.upto && concerns(q, row.ns)) {
            worst = row;
        }
    }
    if (err == AIF_OK && worst.upto > q->after) {
        err = say(q, &worst, e);
    }
    aif_buf_fini(&bytes);
    return err;
}
