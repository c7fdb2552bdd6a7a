/* clock.h - the two clocks, in ms: one for time limits, one for people; and
 * the first in us, for what is measured. */
#ifndef AIF_CLOCK_H
#define AIF_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t
aif_clock_ms(clockid_t clock)
{
    struct timespec t;

    (void)clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Never goes back. */
static inline int64_t
aif_now_ms(void)
{
    return aif_clock_ms(CLOCK_MONOTONIC);
}

static inline uint64_t
aif_now_us(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Since the epoch. */
static inline int64_t
aif_wall_ms(void)
{
    return aif_clock_ms(CLOCK_REALTIME);
}

#endif
