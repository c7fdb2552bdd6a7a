/* sqlite_fork.c - a forked child may use SQLite, for other files than ours.
 *
 * SQLite has a few locks for the whole process: one of them is taken for each
 * piece of memory.  A child that is forked while a thread has one of them
 * would wait for it for ever, with any file, also in Python's sqlite3 (seen:
 * 1 of 12 children of a process with three threads that append).  So fork(2)
 * takes all of them first.  Each is held for microseconds: nobody waits for a
 * database with one of them.
 */
#include "db/sqlite.h"

#include <pthread.h>
#include <sqlite3.h>

/* In the order in which SQLite takes one while it has another: a temporary
 * file's name (VFS1, when SQLite opens one) needs a random number (PRNG), whose
 * first one asks for the VFS (MAIN); memory (MEM) is asked for under each. */
static const int STATIC[] = {
    SQLITE_MUTEX_STATIC_OPEN, SQLITE_MUTEX_STATIC_VFS1,
    SQLITE_MUTEX_STATIC_PRNG, SQLITE_MUTEX_STATIC_MAIN,
    SQLITE_MUTEX_STATIC_LRU,  SQLITE_MUTEX_STATIC_PMEM,
    SQLITE_MUTEX_STATIC_MEM,
};
enum { STATICS = sizeof STATIC / sizeof *STATIC };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static sqlite3_mutex *mutexes[STATICS]; /* NULL is none, and no error */

static void
before_fork(void)
{
    for (int i = 0; i < STATICS; i++) {
        sqlite3_mutex_enter(mutexes[i]);
    }
}

static void
after_fork(void)
{
    for (int i = STATICS; i-- > 0;) {
        sqlite3_mutex_leave(mutexes[i]);
    }
}

static void
watch_forks(void)
{
    for (int i = 0; i < STATICS; i++) {
        mutexes[i] = sqlite3_mutex_alloc(STATIC[i]);
    }
    (void)pthread_atfork(before_fork, after_fork, after_fork);
}

aif_err
aif_sqlite_open(const char *path, int flags, sqlite3 **db, aif_owned *file,
                int *rc, aif_error *e)
{
    aif_err err = aif_forks_claim(file, path, e);

    *db = NULL;
    if (err == AIF_OK) {
        (void)pthread_once(&once, watch_forks);
        *rc = sqlite3_open_v2(path, db, flags, NULL);
    }
    return err;
}

void
aif_sqlite_close(sqlite3 *db, aif_owned *file)
{
    (void)sqlite3_close(db);
    aif_forks_disown(file);
}
