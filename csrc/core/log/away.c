#include "log/away.h"

#define AWAY_MS 1000 /* who is there, but refuses, says so sooner */

aif_err
aif_away_check(const aif_away *a, int64_t now, aif_error *e)
{
    if (now >= a->until) {
        return AIF_OK;
    }
    *e = a->why;
    return e->code;
}

void
aif_away_failed(aif_away *a, int64_t since, int64_t now, const aif_error *why)
{
    if (now - since >= AWAY_MS && !why->busy) {
        a->until = now + (now - since);
        a->why = *why;
    }
}
