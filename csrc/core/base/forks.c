/* The lists are global, because fork(2) is. */
#define _GNU_SOURCE /* dirent64, syscall */
#include "base/forks.h"

#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TRIES 5

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static aif_owned *owned;
static aif_served *served;
static unsigned forks;
static aif_owned *inherited; /* files of SQLite's, which stay open here */

static void
forks_before(void)
{
    (void)pthread_mutex_lock(&mutex);
}

static void
forks_after(void)
{
    forks++;
    (void)pthread_mutex_unlock(&mutex);
}

/* Who serves all addresses of this machine has accepted at one of them. */
static bool
served_has_address(const aif_served *s, const struct sockaddr_storage *at)
{
    const struct sockaddr_in *in = (const struct sockaddr_in *)s->at;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)s->at;

    if (memcmp(s->at, at, sizeof *at) == 0) {
        return true;
    }
    if (s->at->ss_family != at->ss_family) {
        return false;
    }
    if (at->ss_family == AF_INET) {
        return in->sin_addr.s_addr == INADDR_ANY &&
               in->sin_port == ((const struct sockaddr_in *)at)->sin_port;
    }
    return at->ss_family == AF_INET6 &&
           IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr) &&
           in6->sin6_port == ((const struct sockaddr_in6 *)at)->sin6_port;
}

static bool
fd_is_served(int fd)
{
    struct sockaddr_storage at = {0};
    socklen_t n = sizeof at;
    int type = 0;
    socklen_t size = sizeof type;

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 ||
        type != SOCK_STREAM ||
        getsockname(fd, (struct sockaddr *)&at, &n) != 0) {
        return false;
    }
    for (const aif_served *s = served; s != NULL; s = s->next) {
        if (served_has_address(s, &at)) {
            return true;
        }
    }
    return false;
}

/* A directory of /proc lists what is open when it is read.  opendir(3) would
 * call malloc, and another thread may have held an allocator's lock when we
 * were forked: glibc's own sees to that, others do not. */
static void
forks_close_served(void)
{
    _Alignas(struct dirent64) char found[2048];
    int all = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    long n;

    while ((n = syscall(SYS_getdents64, all, found, sizeof found)) > 0) {
        for (long at = 0; at < n;) {
            const struct dirent64 *d = (const void *)&found[at];
            int fd = atoi(d->d_name);

            at += d->d_reclen;
            if (d->d_name[0] != '.' && fd_is_served(fd)) {
                (void)close(fd);
            }
        }
    }
    if (all >= 0) {
        (void)close(all);
    }
}

static bool
file_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static void
forks_in_child(void)
{
    struct stat now;

    for (aif_owned *next, *o = owned; o != NULL; o = next) {
        next = o->next;
        if (o->fd < 0) { /* its handle is never freed here */
            o->next = inherited;
            inherited = o;
        } else if (fstat(o->fd, &now) == 0 && file_same(&now, &o->what)) {
            (void)close(o->fd);
        }
    }
    owned = NULL;
    if (served != NULL) {
        forks_close_served();
        served = NULL;
    }
    (void)pthread_mutex_unlock(&mutex);
}

static void
forks_watch(void)
{
    (void)pthread_atfork(forks_before, forks_after, forks_in_child);
}

void
aif_forks_stop(void)
{
    (void)pthread_once(&once, forks_watch);
    (void)pthread_mutex_lock(&mutex);
}

void
aif_forks_go(void)
{
    (void)pthread_mutex_unlock(&mutex);
}

unsigned
aif_forks_count(void)
{
    unsigned n;

    aif_forks_stop();
    n = forks;
    aif_forks_go();
    return n;
}

bool
aif_forks_again(unsigned *count, int *tries)
{
    const unsigned before = *count;

    *count = aif_forks_count();
    return *count != before && ++*tries < TRIES;
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

void
aif_forks_own(aif_owned *o, int fd)
{
    aif_forks_stop();
    aif_forks_add(o, fd);
    aif_forks_go();
}

void
aif_forks_disown(aif_owned *o)
{
    aif_forks_stop();
    aif_forks_remove(o);
    aif_forks_go();
}

void
aif_forks_serve(aif_served *s)
{
    s->next = served;
    served = s;
}

void
aif_forks_unserve(aif_served *s)
{
    for (aif_served **at = &served; *at != NULL; at = &(*at)->next) {
        if (*at == s) {
            *at = s->next;
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
    for (has = inherited; has != NULL && !file_same(&has->what, &o->what);
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
