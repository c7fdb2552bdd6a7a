#include "base/guard.h"

#include "base/clock.h"

#include <unistd.h>

void
aif_guard_init(aif_guard *g)
{
    g->owner = getpid();
    pthread_mutex_init(&g->lock, NULL);
}

bool
aif_guard_forked(const aif_guard *g)
{
    return g->owner != getpid();
}

/* First: the lock may be held for ever. */
static aif_err
guard_check_owner(const aif_guard *g, aif_error *e)
{
    return aif_guard_forked(g)
               ? aif_fail(e, AIF_EFORKED, "opened by process %d, used by %d",
                          (int)g->owner, (int)getpid())
               : AIF_OK;
}

aif_err
aif_guard_enter(aif_guard *g, aif_error *e)
{
    aif_err err = guard_check_owner(g, e);

    if (err == AIF_OK) {
        pthread_mutex_lock(&g->lock);
    }
    return err;
}

/* POSIX has it by the wall clock: a jump of that makes one wait of many longer
 * or shorter. */
aif_err
aif_guard_enter_within(aif_guard *g, int ms, aif_error *e)
{
    const int64_t until = aif_wall_ms() + ms;
    const struct timespec t = {.tv_sec = (time_t)(until / 1000),
                               .tv_nsec = (long)(until % 1000) * 1000000};
    aif_err err = guard_check_owner(g, e);

    if (err == AIF_OK && pthread_mutex_timedlock(&g->lock, &t) != 0) {
        err = aif_fail(e, AIF_ETIMEOUT, "another thread is in a call");
        e->busy = true;
    }
    return err;
}

void
aif_guard_leave(aif_guard *g)
{
    pthread_mutex_unlock(&g->lock);
}
