/* hist.c - a histogram: 64 steps for each factor of two, from 1 ns. */
#include "bench.h"

#include <stdint.h>
#include <stdio.h>

void
hist_add(hist *h, double seconds)
{
    uint64_t ns = seconds < 0 ? 0 : (uint64_t)(seconds * 1e9);
    unsigned bits = ns < 128 ? 0 : 57 - (unsigned)__builtin_clzll(ns);

    h->counts[bits * 64 + (unsigned)(ns >> bits)]++;
    h->n++;
    h->max = seconds > h->max ? seconds : h->max;
}

void
hist_merge(hist *to, const hist *from)
{
    to->n += from->n;
    to->max = from->max > to->max ? from->max : to->max;
    for (int i = 0; i < BUCKETS; i++) {
        to->counts[i] += from->counts[i];
    }
}

static double
hist_ms(const hist *h, double share)
{
    long rank = (long)((double)h->n * share);

    for (int i = 0; i < BUCKETS; i++) {
        rank -= (long)h->counts[i];
        if (rank < 0) {
            int bits = i < 128 ? 0 : i / 64 - 1;

            return (double)((uint64_t)(i - bits * 64) << bits) / 1e6;
        }
    }
    return h->max * 1e3;
}

void
hist_print(const char *name, const hist *h)
{
    (void)printf(", \"%s\": {\"n\": %ld, \"p50\": %.3f, \"p90\": %.3f, "
                 "\"p99\": %.3f, \"p999\": %.3f, \"max\": %.3f}",
                 name, h->n, hist_ms(h, .5), hist_ms(h, .9), hist_ms(h, .99),
                 hist_ms(h, .999), h->max * 1e3);
}
