#include "log/known.h"

#include "base/mem.h"

#include <stdlib.h>

#define PAGE 1000 /* rows read at once */
#define APART 100 /* farther than this from the last, a read of its own */

typedef struct {
    uint64_t offset;
    size_t i; /* in the caller's events */
} known;

typedef struct {
    const aif_store_ops *ops;
    void *store;
    const aif_event *events;
    uint64_t *offsets;
} compare;

bool
aif_known_same(const aif_event *a, const aif_event *b)
{
    return aif_str_eq(a->ns, b->ns) && aif_str_eq(a->key, b->key) &&
           aif_str_eq(a->type, b->type) && aif_str_eq(a->value, b->value);
}

static int
by_offset(const void *a, const void *b)
{
    const uint64_t x = ((const known *)a)->offset;
    const uint64_t y = ((const known *)b)->offset;

    return (x > y) - (x < y);
}

/* The first of [k, end) beyond row, after comparing those that are row. */
static const known *
compare_row(const compare *c, const known *k, const known *end,
            const aif_event *row)
{
    for (; k < end && k->offset <= row->offset; k++) {
        if (k->offset == row->offset &&
            !aif_known_same(&c->events[k->i], row)) {
            c->offsets[k->i] = 0;
        }
    }
    return k;
}

/* One that was let go meanwhile was known: there is no more to say. */
static aif_err
compare_range(const compare *c, const known *k, const known *end, aif_error *e)
{
    aif_query q = {.after = k->offset - 1, .upto = end[-1].offset};
    aif_err err = AIF_OK;
    size_t n = 1;

    while (err == AIF_OK && n > 0 && k < end) {
        aif_batch rows = {0};

        err = c->ops->read(c->store, &q, PAGE, &rows, e);
        n = rows.n;
        for (size_t i = 0; err == AIF_OK && i < n; i++) {
            k = compare_row(c, k, end, &rows.events[i]);
            q.after = rows.events[i].offset;
        }
        aif_batch_fini(&rows);
    }
    return err;
}

/* What is sent again was sent together, and so lies together. */
static aif_err
compare_all(const compare *c, const known *k, size_t n, aif_error *e)
{
    aif_err err = AIF_OK;
    size_t to;

    for (size_t from = 0; err == AIF_OK && from < n; from = to) {
        to = from + 1;
        while (to < n && k[to].offset - k[to - 1].offset <= APART) {
            to++;
        }
        err = compare_range(c, k + from, k + to, e);
    }
    return err;
}

/* 0 is a conflict within the call. */
static bool
is_known(uint64_t offset, uint64_t before)
{
    return offset > 0 && offset <= before;
}

static size_t
count(const uint64_t *offsets, size_t n, uint64_t before)
{
    size_t found = 0;

    for (size_t i = 0; i < n; i++) {
        found += is_known(offsets[i], before);
    }
    return found;
}

aif_err
aif_known_compare(const aif_store_ops *ops, void *store,
                  const aif_event *events, size_t n, uint64_t *offsets,
                  uint64_t before, aif_error *e)
{
    const compare c = {ops, store, events, offsets};
    const size_t found = count(offsets, n, before);
    known *all;
    size_t k = 0;
    aif_err err;

    if (found == 0) {
        return AIF_OK;
    }
    all = aif_zalloc(found * sizeof *all);
    if (all == NULL) {
        return aif_fail(e, AIF_ENOMEM, "comparing %zu events", found);
    }
    for (size_t i = 0; i < n; i++) {
        if (is_known(offsets[i], before)) {
            all[k++] = (known){offsets[i], i};
        }
    }
    qsort(all, found, sizeof *all, by_offset);
    err = compare_all(&c, all, found, e);
    aif_free(all);
    return err;
}
