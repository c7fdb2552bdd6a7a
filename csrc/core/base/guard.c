#include "base/guard.h"

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

aif_err
aif_guard_enter(aif_guard *g, aif_error *e)
{
    if (aif_guard_forked(g)) { /* first: the lock may be held for ever */
        return aif_fail(e, AIF_EFORKED, "opened by process %d, used by %d",
                        (int)g->owner, (int)getpid());
    }
    pthread_mutex_lock(&g->lock);
    return AIF_OK;
}

void
aif_guard_leave(aif_guard *g)
{
    pthread_mutex_unlock(&g->lock);
}
