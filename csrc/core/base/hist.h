/* hist.h - a histogram of latencies: how many were below 1, 2, 4, ... us.
 *
 * In:  microseconds.  Out: percentiles, to a factor of two and better.
 * One thread adds; any thread reads, without a lock: what it sees may be a
 * few values old.
 */
#ifndef AIF_HIST_H
#define AIF_HIST_H

#include <stdatomic.h>
#include <stdint.h>

#define AIF_HIST_BUCKETS 32 /* bucket i: below 2^i us; the last: the rest */

typedef struct {
    _Atomic uint64_t buckets[AIF_HIST_BUCKETS];
    _Atomic uint64_t sum;
    _Atomic uint64_t max;
} aif_hist;

typedef struct {
    uint64_t buckets[AIF_HIST_BUCKETS];
    uint64_t n;
    uint64_t sum;
    uint64_t max;
} aif_hist_view;

void aif_hist_add(aif_hist *h, uint64_t us);
void aif_hist_get(aif_hist *h, aif_hist_view *out);
/* The value that `percent` of them do not exceed; 0 when there are none. */
uint64_t aif_hist_percentile(const aif_hist_view *v, unsigned percent);

#endif
