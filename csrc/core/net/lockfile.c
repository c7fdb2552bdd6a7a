/* lockfile.c - flock(2) belongs to the open file, which a forked child
 * shares: it would hold the lock for as long as it lives, O_CLOEXEC or not
 * (forks.h).  fcntl(2) locks are not inherited, but do not see a second broker
 * of the same process.
 */
#include "net/lockfile.h"

#include "base/forks.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct aif_lockfile {
    int fd;
    aif_owned owned;
};

static aif_err
lock_fail_held(int fd, const char *path, aif_error *e)
{
    char pid[16] = "?";
    ssize_t n = pread(fd, pid, sizeof pid - 1, 0);

    pid[n > 0 ? n : 1] = '\0';
    pid[strcspn(pid, "\n")] = '\0';
    return aif_fail(e, AIF_ECONFLICT, "another process (pid %s) serves %s",
                    pid, path);
}

/* What a broker wrote: a pid and the end of the line, or nothing yet. */
static bool
lock_is_ours(int fd)
{
    char text[16];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);

    text[n > 0 ? n : 0] = '\0';
    return n == 0 || (n > 1 && strspn(text, "0123456789") == (size_t)n - 1 &&
                      text[n - 1] == '\n');
}

/* For held_by_another, and for people. */
static void
lock_write_pid(int fd)
{
    char pid[16];
    int n = snprintf(pid, sizeof pid, "%d\n", (int)getpid());

    if (ftruncate(fd, 0) != 0 || pwrite(fd, pid, (size_t)n, 0) != n) {
        return; /* a full disk: the lock holds all the same */
    }
}

#define NAME_MAX_BYTES 4096

/* False: the path is too long. */
static bool
lock_name(const char *path, char name[static NAME_MAX_BYTES])
{
    int n = snprintf(name, NAME_MAX_BYTES, "%s.lock", path);

    return n >= 0 && n < NAME_MAX_BYTES;
}

static aif_err
lock_open(const char *path, int *fd, aif_error *e)
{
    char name[NAME_MAX_BYTES];

    *fd = -1;
    if (!lock_name(path, name)) {
        return aif_fail(e, AIF_EINVAL, "the path is too long: %.100s...",
                        path);
    }
    *fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (*fd < 0) {
        return aif_fail(e, aif_err_of_path(errno), "cannot open %s: %s", name,
                        strerror(errno));
    }
    if (flock(*fd, LOCK_EX | LOCK_NB) == 0) {
        if (!lock_is_ours(*fd)) {
            return aif_fail(e, AIF_EINVAL,
                            "%s is there already and is no broker's: remove "
                            "it or choose another path",
                            name);
        }
        lock_write_pid(*fd);
        return AIF_OK;
    }
    if (errno == EWOULDBLOCK) {
        return lock_fail_held(*fd, path, e);
    }
    return aif_fail(e, aif_err_of_path(errno), "cannot lock %s: %s", name,
                    strerror(errno));
}

aif_err
aif_lockfile_take(const char *path, aif_lockfile **out, aif_error *e)
{
    aif_lockfile *l = aif_zalloc(sizeof *l);
    aif_err err;

    *out = NULL;
    if (l == NULL) {
        return aif_fail(e, AIF_ENOMEM, "locking %s", path);
    }
    aif_forks_stop(); /* no child between open and add */
    err = lock_open(path, &l->fd, e);
    if (err == AIF_OK) {
        aif_forks_add(&l->owned, l->fd);
        *out = l;
    } else if (l->fd >= 0) {
        (void)close(l->fd);
    }
    aif_forks_go();
    if (err != AIF_OK) {
        aif_free(l);
    }
    return err;
}

aif_err
aif_lockfile_keep(const char *path, aif_lockfile **l, aif_error *e)
{
    const struct stat *ours = &(*l)->owned.what;
    char name[NAME_MAX_BYTES];
    aif_lockfile *again;
    struct stat st;
    aif_err err;

    if (lock_name(path, name) && lstat(name, &st) == 0 &&
        st.st_dev == ours->st_dev && st.st_ino == ours->st_ino) {
        return AIF_OK;
    }
    err = aif_lockfile_take(path, &again, e);
    if (err == AIF_OK) {
        aif_lockfile_free(*l);
        *l = again;
    }
    return err;
}

void
aif_lockfile_free(aif_lockfile *l)
{
    if (l == NULL) {
        return;
    }
    aif_forks_stop();
    aif_forks_remove(&l->owned);
    (void)close(l->fd);
    aif_forks_go();
    aif_free(l);
}
