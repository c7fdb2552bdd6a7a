/* listen.c - the happy path of ipc:
 *   1. take PATH.lock, so that no other broker does what follows
 *   2. remove the socket file that a broker which was killed left at PATH
 *   3. bind a socket that has mode 0600 from its first moment
 *   4. hand it to libzmq
 * For tcp libzmq does all of it.  An address that other machines can reach is
 * bound only when the caller says so, because it has CURVE or was told to do
 * without.
 *
 * It fails when another process serves the path or the port, when PATH is too
 * long for a socket, and when the host is not an address of this machine.
 */
#include "net/listen.h"

#include "net/port.h"

#include <arpa/inet.h>
#include <asm/socket.h>
#include <errno.h>
#include <net/if.h>
#include <netdb.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static aif_err
path_in_use(const char *path, int fd, aif_error *e)
{
    struct {
        pid_t pid;
        uid_t uid;
        gid_t gid;
    } who = {0}; /* struct ucred, which is not POSIX's */
    socklen_t n = sizeof who;
    char text[32] = "`ss -xlp` says which";

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) == 0 &&
        who.pid > 0) {
        (void)snprintf(text, sizeof text, "pid %d", (int)who.pid);
    }
    return aif_fail(e, AIF_ECONFLICT,
                    "another program (%s) serves %.120s: end it, or choose "
                    "another path",
                    text, path);
}

/* A broker that was killed leaves its socket file behind, and a connection to
 * that file is refused.  Only such a file is removed.  A server whose backlog
 * is full (EAGAIN) is alive. */
static aif_err
path_remove_stale(const char *path, aif_error *e)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    struct stat st;
    aif_err err = AIF_OK;
    int fd;

    if (lstat(path, &st) != 0) {
        return AIF_OK;
    }
    if (!S_ISSOCK(st.st_mode)) {
        return aif_fail(e, AIF_EINVAL,
                        "%s is there already and is no socket: remove it or "
                        "choose another path",
                        path);
    }
    if (strlen(path) > AIF_IPC_PATH_MAX) { /* a hidden one: nobody binds it */
        (void)unlink(path);
        return AIF_OK;
    }
    memcpy(sa.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return aif_fail(e, aif_err_of_path(errno), "cannot look at %s: %s",
                        path, strerror(errno));
    }
    if (connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0 ||
        (errno != ECONNREFUSED && errno != ENOENT)) {
        err = path_in_use(path, fd, e);
    } else {
        (void)unlink(path); /* when it fails, bind says why */
    }
    (void)close(fd);
    return err;
}

/* On Linux the file gets the socket's own mode, less the umask (net/unix:
 * unix_bind), so fchmod before bind leaves no moment in which others could
 * connect.  umask() would change the mode of files that other threads make,
 * and libzmq's own bind unlinks PATH whoever serves it. */
static aif_err
path_listen(aif_listen *l, const char *path, int *fd, aif_error *e)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    socklen_t n = sizeof l->at;

    memcpy(sa.sun_path, path, strlen(path));
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*fd < 0 || fchmod(*fd, 0600) != 0 ||
        bind(*fd, (struct sockaddr *)&sa, sizeof sa) != 0 ||
        lstat(path, &l->file) != 0 ||
        getsockname(*fd, (struct sockaddr *)&l->at, &n) != 0 ||
        listen(*fd, AIF_BACKLOG) != 0) {
        return aif_fail(e, aif_err_of_path(errno), "cannot serve %s: %s", path,
                        strerror(errno));
    }
    if ((l->file.st_mode & 077) != 0) {
        return aif_fail(e, AIF_EINVAL,
                        "%s would be open to other users (mode %o): choose a "
                        "path on a file system that keeps modes",
                        path, (unsigned)l->file.st_mode & 0777);
    }
    return AIF_OK;
}

static void
listen_serve(aif_listen *l)
{
    l->served.at = &l->at;
    aif_forks_serve(&l->served);
}

/* The path that the socket file has while it is hidden. */
static void
path_hidden(const char *path, char out[static AIF_IPC_PATH_MAX + 6])
{
    (void)snprintf(out, AIF_IPC_PATH_MAX + 6, "%s.full", path);
}

static bool
path_is_ours(const aif_listen *l, const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0 && st.st_dev == l->file.st_dev &&
           st.st_ino == l->file.st_ino;
}

static void
path_remove(const aif_listen *l, const char *path)
{
    if (path_is_ours(l, path)) {
        (void)unlink(path);
    }
}

static aif_err
ipc_bind_at(aif_listen *l, void *socket, const char *uri, const char *path,
            aif_error *e)
{
    char aside[AIF_IPC_PATH_MAX + 6];
    int fd = -1;
    aif_err err = path_remove_stale(path, e);

    path_hidden(path, aside);
    if (err == AIF_OK) {
        /* the broker before us may have been killed while it was full */
        err = path_remove_stale(aside, e);
    }
    if (err == AIF_OK) {
        err = path_listen(l, path, &fd, e);
    }
    if (err == AIF_OK) {
        err = aif_port_bind(socket, uri, fd, e);
    }
    if (err != AIF_OK && fd >= 0) { /* zmq owns it only once it is bound */
        (void)close(fd);
        path_remove(l, path);
    }
    return err;
}

static aif_err
ipc_bind(aif_listen *l, void *socket, const char *uri, const char *path,
         aif_error *e)
{
    aif_err err = aif_address_check(uri, e);

    if (err == AIF_OK) {
        err = aif_lockfile_take(path, &l->lock, e);
    }
    if (err == AIF_OK) {
        aif_forks_stop(); /* a child made now would keep the socket */
        err = ipc_bind_at(l, socket, uri, path, e);
        if (err == AIF_OK) {
            listen_serve(l);
        }
        aif_forks_go();
    }
    if (err != AIF_OK) {
        aif_lockfile_free(l->lock);
        *l = (aif_listen){0};
        return err;
    }
    (void)snprintf(l->uri, sizeof l->uri, "%s", uri);
    return AIF_OK;
}

/* An address in numbers, `*`, or the name of an interface.  The name of a host
 * is refused: it may have several addresses, and a name server, which may be
 * slow or gone, would have to be asked for them. */
static bool
host_is_local(const char *host)
{
    char v6[64];
    unsigned char a[sizeof(struct in6_addr)];
    size_t n = strlen(host);

    if (host[0] == '[' && host[n - 1] == ']') {
        (void)snprintf(v6, sizeof v6, "%.*s", (int)n - 2, host + 1);
        v6[strcspn(v6, "%")] = '\0'; /* [fe80::1%eth0] */
        return inet_pton(AF_INET6, v6, a) == 1;
    }
    return strcmp(host, "*") == 0 || inet_pton(AF_INET, host, a) == 1 ||
           if_nametoindex(host) != 0;
}

static aif_err
tcp_check(const char *uri, const char *host, bool anywhere, aif_error *e)
{
    if (aif_address_loopback(host) != NULL) {
        return AIF_OK;
    }
    if (!host_is_local(host)) {
        return aif_fail(e, AIF_EINVAL,
                        "%.106s: the broker serves an address, as in "
                        "192.0.2.1 or [2001:db8::1], an interface's, as in "
                        "eth0, or *, which is all",
                        uri);
    }
    if (!anywhere) {
        return aif_fail(e, AIF_EINVAL,
                        "%.86s is open to other machines, and there are "
                        "no keys: make them with `aiflow keys new NAME`, or "
                        "serve tcp://127.0.0.1, or say --insecure",
                        uri);
    }
    return AIF_OK;
}

/* The socket address of uri, which was bound. */
static void
tcp_find(const char *uri, struct sockaddr_storage *at)
{
    const struct addrinfo numbers = {.ai_flags =
                                         AI_NUMERICHOST | AI_NUMERICSERV,
                                     .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    char host[64];
    char port[8];
    char *name = host;

    if (!aif_address_split(uri, host, port)) {
        return;
    }
    if (host[0] == '[') {
        name++;
        host[strlen(host) - 1] = '\0';
    }
    if (getaddrinfo(name, port, &numbers, &found) == 0) {
        memcpy(at, found->ai_addr, found->ai_addrlen);
        freeaddrinfo(found);
    }
}

static aif_err
tcp_bind(aif_listen *l, void *socket, const char *asked, bool anywhere,
         aif_error *e)
{
    char host[64];
    char port[8];
    char uri[AIF_URI_MAX + 1];
    const char *here;
    aif_err err;

    if (!aif_address_split(asked, host, port)) {
        return aif_fail(e, AIF_EINVAL,
                        "%.106s is no address: as in "
                        "tcp://127.0.0.1:50051, port 0 picks one",
                        asked);
    }
    err = tcp_check(asked, host, anywhere, e);
    if (err != AIF_OK) {
        return err;
    }
    here = aif_address_loopback(host);
    (void)snprintf(uri, sizeof uri, "tcp://%s:%s", here != NULL ? here : host,
                   port);
    aif_forks_stop();
    err = aif_port_bind(socket, uri, -1, e);
    if (err == AIF_OK) {
        aif_port_endpoint(socket, l->uri, sizeof l->uri);
        tcp_find(l->uri, &l->at);
        listen_serve(l);
    }
    aif_forks_go();
    return err;
}

aif_err
aif_listen_bind(aif_listen *l, void *socket, const char *uri, bool anywhere,
                aif_error *e)
{
    const char *path = aif_address_path(uri);

    *l = (aif_listen){0};
    if (path != NULL) {
        return ipc_bind(l, socket, uri, path, e);
    }
    if (aif_address_is_tcp(uri)) {
        return tcp_bind(l, socket, uri, anywhere, e);
    }
    return aif_fail(e, AIF_EINVAL,
                    "cannot serve %.150s: ipc://PATH or tcp://127.0.0.1:PORT "
                    "belongs there",
                    uri);
}

aif_err
aif_listen_keep(aif_listen *l, void *socket, bool *again, aif_error *e)
{
    const char *path = aif_address_path(l->uri);
    char aside[AIF_IPC_PATH_MAX + 6];
    aif_err err;

    *again = false;
    if (l->lock == NULL) {
        return AIF_OK;
    }
    path_hidden(path, aside);
    err = aif_lockfile_keep(path, &l->lock, e);
    if (err != AIF_OK || path_is_ours(l, path) || path_is_ours(l, aside)) {
        return err;
    }
    /* The old listener stays, an idle descriptor: to unbind it would end every
     * connection that came by it. */
    aif_forks_stop();
    err = ipc_bind_at(l, socket, l->uri, path, e);
    aif_forks_go();
    *again = err == AIF_OK;
    return err;
}

bool
aif_listen_hide(const aif_listen *l, bool hidden)
{
    const char *path = aif_address_path(l->uri);
    char aside[AIF_IPC_PATH_MAX + 6];
    struct stat st;

    path_hidden(path, aside);
    return lstat(hidden ? aside : path, &st) != 0 &&
           rename(hidden ? path : aside, hidden ? aside : path) == 0;
}

void
aif_listen_fini(aif_listen *l)
{
    const char *path = aif_address_path(l->uri);
    char aside[AIF_IPC_PATH_MAX + 6];

    aif_forks_stop();
    aif_forks_unserve(&l->served);
    aif_forks_go();
    if (l->lock != NULL) {
        path_hidden(path, aside);
        path_remove(l, path);
        path_remove(l, aside);
    }
    aif_lockfile_free(l->lock);
    *l = (aif_listen){0};
}
