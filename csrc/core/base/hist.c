#include "base/hist.h"

static uint64_t
count_get(_Atomic uint64_t *v)
{
    return atomic_load_explicit(v, memory_order_relaxed);
}

/* One thread writes: no locked instruction is needed. */
static void
count_set(_Atomic uint64_t *v, uint64_t to)
{
    atomic_store_explicit(v, to, memory_order_relaxed);
}

/* 0 for 0, 1 for 1, 2 for 2 and 3, 3 for 4 to 7, ... */
static unsigned
hist_bucket(uint64_t us)
{
    unsigned bits = us == 0 ? 0 : 64 - (unsigned)__builtin_clzll(us);

    return bits < AIF_HIST_BUCKETS ? bits : AIF_HIST_BUCKETS - 1;
}

void
aif_hist_add(aif_hist *h, uint64_t us)
{
    _Atomic uint64_t *b = &h->buckets[hist_bucket(us)];

    count_set(b, count_get(b) + 1);
    count_set(&h->sum, count_get(&h->sum) + us);
    if (us > count_get(&h->max)) {
        count_set(&h->max, us);
    }
}

void
aif_hist_get(aif_hist *h, aif_hist_view *out)
{
    *out =
        (aif_hist_view){.sum = count_get(&h->sum), .max = count_get(&h->max)};
    for (int i = 0; i < AIF_HIST_BUCKETS; i++) {
        out->buckets[i] = count_get(&h->buckets[i]);
        out->n += out->buckets[i];
    }
}

/* As if the values of a bucket lay evenly in it. */
static uint64_t
hist_within(const aif_hist_view *v, int i, uint64_t rank)
{
    uint64_t low = i == 0 ? 0 : (uint64_t)1 << (i - 1);
    uint64_t high = i == AIF_HIST_BUCKETS - 1 ? v->max : (uint64_t)1 << i;
    uint64_t at = low + (high - low) * rank / v->buckets[i];

    return at < v->max ? at : v->max;
}

uint64_t
aif_hist_percentile(const aif_hist_view *v, unsigned percent)
{
    uint64_t rank = (v->n * percent + 99) / 100; /* the rank-th smallest */

    for (int i = 0; i < AIF_HIST_BUCKETS; i++) {
        if (v->buckets[i] > 0 && rank <= v->buckets[i]) {
            return hist_within(v, i, rank);
        }
        rank -= v->buckets[i];
    }
    return v->max;
}
