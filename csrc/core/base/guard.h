/* guard.h - who may use a handle: the process that opened it, one thread at a
 * time.  See docs/adr/0001-fork.md. */
#ifndef AIF_GUARD_H
#define AIF_GUARD_H

#include "base/err.h"

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

/* For somebody else's lock: in a database, and, in a hurry, a handle's own. */
#define AIF_LOCK_WAIT_MS 5000
#define AIF_LOCK_SLICE_MS 500 /* in a hurry; MySQL takes 1 s */

typedef struct {
    pid_t owner;
    pthread_mutex_t lock;
} aif_guard;

void aif_guard_init(aif_guard *g);
bool aif_guard_forked(const aif_guard *g);

/* Wait for our turn; AIF_EFORKED in any process but the owner. */
AIF_MUST_CHECK aif_err aif_guard_enter(aif_guard *g, aif_error *e);
/* The same, for ms at most: then ETIMEOUT, which is busy. */
AIF_MUST_CHECK aif_err aif_guard_enter_within(aif_guard *g, int ms,
                                              aif_error *e);
void aif_guard_leave(aif_guard *g);

#endif
