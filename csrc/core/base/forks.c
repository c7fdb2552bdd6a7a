/* The list is the one thing of ours that is global, because fork(2) is. */
#include "base/forks.h"

#include <pthread.h>
#include <stddef.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static aif_owned *owned;

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

static void
in_child(void)
{
    struct stat now;

    for (const aif_owned *o = owned; o != NULL; o = o->next) {
        if (fstat(o->fd, &now) == 0 && now.st_dev == o->what.st_dev &&
            now.st_ino == o->what.st_ino) {
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
