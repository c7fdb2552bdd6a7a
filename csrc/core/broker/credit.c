/* credit.c - the happy path: bytes are sent, and the subscriber says that it
 * took them.  Both numbers are totals since SUBSCRIBE, and both ends count the
 * same frames, so the difference is exactly what is under way.
 */
#include "broker/credit.h"

#include <stdatomic.h>

static uint64_t
under_way(const aif_credit *c)
{
    return c->sent - c->taken;
}

void
aif_credit_allow(aif_credit *c, uint32_t window)
{
    c->window = window;
}

void
aif_credit_sent(aif_credit *c, _Atomic uint64_t *flight, uint64_t n)
{
    c->sent += n;
    atomic_fetch_add_explicit(flight, n, memory_order_relaxed);
}

bool
aif_credit_take(aif_credit *c, _Atomic uint64_t *flight, uint64_t taken,
                int64_t now)
{
    if (taken > c->sent) {
        return false;
    }
    if (taken > c->taken) {
        atomic_fetch_sub_explicit(flight, taken - c->taken,
                                  memory_order_relaxed);
        c->taken = taken;
        c->took = now;
    }
    return true;
}

void
aif_credit_end(aif_credit *c, _Atomic uint64_t *flight)
{
    atomic_fetch_sub_explicit(flight, under_way(c), memory_order_relaxed);
    c->taken = c->sent;
}

uint64_t
aif_credit_share(const aif_credit *c, uint64_t flight, int64_t now)
{
    bool taker = c->took > 0 && now - c->took < AIF_TAKER_MS;

    if (flight < AIF_FLIGHT_BYTES) {
        return UINT64_MAX;
    }
    if (flight < 2 * (uint64_t)AIF_FLIGHT_BYTES) {
        return taker ? UINT64_MAX : AIF_SHARE_BYTES;
    }
    return taker ? AIF_SHARE_TAKER_BYTES : 0;
}

bool
aif_credit_may(const aif_credit *c, uint64_t flight, int64_t now)
{
    return aif_credit_left(c) > 0 &&
           under_way(c) < aif_credit_share(c, flight, now);
}

uint64_t
aif_credit_left(const aif_credit *c)
{
    return under_way(c) < c->window ? c->window - under_way(c) : 0;
}
