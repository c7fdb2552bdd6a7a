#include "base/point.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const char *crash_at; /* NULL: never; the usual case, one load */
static atomic_long passes_left;

void
aif_point_reload(void)
{
    const char *at = getenv("AIF_CRASH_AT");
    const char *after = getenv("AIF_CRASH_AFTER");
    long n = after == NULL ? 1 : strtol(after, NULL, 10);

    crash_at = at == NULL || at[0] == '\0' ? NULL : at;
    atomic_store(&passes_left, n < 1 ? 1 : n);
}

void
aif_point(const char *name)
{
    pthread_once(&once, aif_point_reload);
    if (crash_at == NULL || strcmp(crash_at, name) != 0) {
        return;
    }
    if (atomic_fetch_sub(&passes_left, 1) == 1) {
        (void)raise(SIGKILL);
    }
}
