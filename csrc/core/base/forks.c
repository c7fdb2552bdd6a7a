/* The list is the one thing of ours that is global, because fork(2) is. */
#include "base/forks.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static aif_owned *owned;
static aif_owned *inherited; /* files of SQLite's, which stay open here */

static void
before_fork(void)
{
    (void)pthread_mutex_lock(&mutex);
}

static void
after_fork(void)
{
    (void)pthread_mutex_unlock(&mutex);
}

static bool
same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static void
in_child(void)
{
    struct stat now;

    for (aif_owned *next, *o = owned; o != NULL; o = next) {
        next = o->next;
        if (o->fd < 0) { /* its handle is never freed here */
            o->next = inherited;
            inherited = o;
        } else if (fstat(o->fd, &now) == 0 && same(&now, &o->what)) {
            (void)close(o->fd);
        }
    }
    owned = NULL;
    (void)pthread_mutex_unlock(&mutex);
}

static void
watch_forks(void)
{
    (void)pthread_atfork(before_fork, after_fork, in_child);
}

void
aif_forks_stop(void)
{
    (void)pthread_once(&once, watch_forks);
    (void)pthread_mutex_lock(&mutex);
}

void
aif_forks_go(void)
{
    (void)pthread_mutex_unlock(&mutex);
}

void
aif_forks_add(aif_owned *o, int fd)
{
    if (fstat(fd, &o->what) == 0) {
        o->fd = fd;
        o->next = owned;
        owned = o;
    }
}

void
aif_forks_remove(aif_owned *o)
{
    for (aif_owned **at = &owned; *at != NULL; at = &(*at)->next) {
        if (*at == o) {
            *at = o->next;
            return;
        }
    }
}

aif_err
aif_forks_claim(aif_owned *o, const char *path, aif_error *e)
{
    const aif_owned *has = NULL;

    if (stat(path, &o->what) != 0) {
        return AIF_OK;
    }
    aif_forks_stop();
    for (has = inherited; has != NULL && !same(&has->what, &o->what);
         has = has->next) {
    }
    if (has == NULL) {
        o->fd = -1;
        o->next = owned;
        owned = o;
    }
    aif_forks_go();
    return has == NULL
               ? AIF_OK
               : aif_fail(e, AIF_EFORKED,
                          "this process was forked from one that had the file "
                          "open, and SQLite's locks do not cross a fork: open "
                          "it in a program of its own (exec), or use an "
                          "EventClient: %s",
                          path);
}

void
aif_forks_release(aif_owned *o)
{
    aif_forks_stop();
    aif_forks_remove(o);
    aif_forks_go();
}
