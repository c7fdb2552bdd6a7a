/* endpoint.c - ipc: take PATH.lock, remove what a dead broker left at PATH,
 * bind a socket that has mode 0600 from its first moment, hand it to zmq.
 * tcp: beyond this machine only when the caller says so: it has CURVE, or was
 * told to do without.
 *
 * It fails when another process serves the path or port, when the path is no
 * path for a socket, and when the address is not one to serve.
 */
#include "net/endpoint.h"

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
#include <zmq.h>

#define PATH_MAX_BYTES (sizeof((struct sockaddr_un *)0)->sun_path - 1)

static const char *
after(const char *uri, const char *scheme)
{
    size_t n = strlen(scheme);

    return strncmp(uri, scheme, n) == 0 ? uri + n : NULL;
}

static aif_err
check_path(const char *path, aif_error *e)
{
    size_t n = strlen(path);

    if (n == 0 || path[0] == '@' || path[0] == '*') {
        return aif_fail(e, AIF_EINVAL,
                        "ipc://%s: a path in the file system belongs there, "
                        "as in ipc:///run/aiflow.sock",
                        path);
    }
    if (n > PATH_MAX_BYTES) {
        return aif_fail(e, AIF_EINVAL,
                        "an ipc path of %zu bytes: a socket's has at most %zu "
                        "(%.80s...)",
                        n, PATH_MAX_BYTES, path);
    }
    return AIF_OK;
}

aif_err
aif_endpoint_check(const char *uri, aif_error *e)
{
    const char *path = after(uri, "ipc://");
    const char *host = after(uri, "tcp://");

    if (path != NULL) {
        return check_path(path, e);
    }
    if (host == NULL || strchr(host, ':') == NULL ||
        strlen(uri) > AIF_URI_MAX) {
        return aif_fail(e, AIF_EINVAL,
                        "%.150s is no address: ipc://PATH or tcp://HOST:PORT "
                        "belongs there",
                        uri);
    }
    return AIF_OK;
}

bool
aif_endpoint_is_tcp(const char *uri)
{
    return after(uri, "tcp://") != NULL;
}

void
aif_endpoint_family(void *socket, const char *uri)
{
    const int v6 = strchr(uri, '[') != NULL;

    (void)zmq_setsockopt(socket, ZMQ_IPV6, &v6, sizeof v6);
}

static aif_err
alive(const char *path, int fd, aif_error *e)
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

/* A broker that was killed leaves its socket file: who connects to it is
 * refused.  Anything else is not ours to remove.  A server whose backlog is
 * full (EAGAIN) lives. */
static aif_err
remove_stale(const char *path, aif_error *e)
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
    if (strlen(path) > PATH_MAX_BYTES) { /* one that was put aside */
        (void)unlink(path);
        return AIF_OK;
    }
    memcpy(sa.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return aif_fail(e, AIF_EINVAL, "cannot look at %s: %s", path,
                        strerror(errno));
    }
    if (connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0 ||
        (errno != ECONNREFUSED && errno != ENOENT)) {
        err = alive(path, fd, e);
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
listen_private(aif_endpoint *ep, const char *path, int *fd, aif_error *e)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    socklen_t n = sizeof ep->at;

    memcpy(sa.sun_path, path, strlen(path));
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*fd < 0 || fchmod(*fd, 0600) != 0 ||
        bind(*fd, (struct sockaddr *)&sa, sizeof sa) != 0 ||
        lstat(path, &ep->file) != 0 ||
        getsockname(*fd, (struct sockaddr *)&ep->at, &n) != 0 ||
        listen(*fd, AIF_BACKLOG) != 0) {
        return aif_fail(e, AIF_EINVAL, "cannot serve %s: %s", path,
                        strerror(errno));
    }
    if ((ep->file.st_mode & 077) != 0) {
        return aif_fail(e, AIF_EINVAL,
                        "%s would be open to other users (mode %o): choose a "
                        "path on a file system that keeps modes",
                        path, (unsigned)ep->file.st_mode & 0777);
    }
    return AIF_OK;
}

static void
serve(aif_endpoint *ep)
{
    ep->served.at = &ep->at;
    aif_forks_serve(&ep->served);
}

/* Where the file is while it is hidden. */
static void
hidden_path(const char *path, char out[static PATH_MAX_BYTES + 6])
{
    (void)snprintf(out, PATH_MAX_BYTES + 6, "%s.full", path);
}

static void
remove_ours(const aif_endpoint *ep, const char *path)
{
    struct stat st;

    if (lstat(path, &st) == 0 && st.st_dev == ep->file.st_dev &&
        st.st_ino == ep->file.st_ino) {
        (void)unlink(path);
    }
}

static aif_err
bind_socket(aif_endpoint *ep, void *socket, const char *uri, const char *path,
            aif_error *e)
{
    char aside[PATH_MAX_BYTES + 6];
    int fd = -1;
    aif_err err = remove_stale(path, e);

    hidden_path(path, aside);
    if (err == AIF_OK) {
        err = remove_stale(aside, e); /* it was killed while it was full */
    }
    if (err == AIF_OK) {
        err = listen_private(ep, path, &fd, e);
    }
    if (err == AIF_OK &&
        (zmq_setsockopt(socket, ZMQ_USE_FD, &fd, sizeof fd) != 0 ||
         zmq_bind(socket, uri) != 0)) {
        err = aif_fail(e, AIF_EINVAL, "cannot serve %s: %s", uri,
                       zmq_strerror(zmq_errno()));
    }
    if (err != AIF_OK && fd >= 0) { /* zmq owns it only once it is bound */
        (void)close(fd);
        remove_ours(ep, path);
    }
    return err;
}

static aif_err
bind_ipc(aif_endpoint *ep, void *socket, const char *uri, const char *path,
         aif_error *e)
{
    aif_err err = check_path(path, e);

    if (err == AIF_OK) {
        err = aif_lockfile_take(path, &ep->lock, e);
    }
    if (err == AIF_OK) {
        aif_forks_stop(); /* no child that knows not what we serve */
        err = bind_socket(ep, socket, uri, path, e);
        if (err == AIF_OK) {
            serve(ep);
        }
        aif_forks_go();
    }
    if (err != AIF_OK) {
        aif_lockfile_free(ep->lock);
        *ep = (aif_endpoint){0};
        return err;
    }
    (void)snprintf(ep->uri, sizeof ep->uri, "%s", uri);
    return AIF_OK;
}

/* "HOST:PORT" in two; the port as zmq wants it, "*" for any. */
static bool
split(const char *address, char host[static 64], char port[static 8])
{
    const char *colon = strrchr(address, ':');
    char *end;
    long n;

    if (colon == NULL || (size_t)(colon - address) >= 64 || colon[1] < '0' ||
        colon[1] > '9') {
        return false;
    }
    memcpy(host, address, (size_t)(colon - address));
    host[colon - address] = '\0';
    n = strtol(colon + 1, &end, 10);
    if (*end != '\0' || n > 65535) {
        return false;
    }
    (void)snprintf(port, 8, n == 0 ? "*" : "%ld", n);
    return true;
}

/* The host as zmq wants it, or NULL when others could reach it. */
static const char *
loopback(const char *host)
{
    struct in_addr a;

    if (strcmp(host, "localhost") == 0) {
        return "127.0.0.1";
    }
    if (strcmp(host, "[::1]") == 0) {
        return host;
    }
    if (inet_pton(AF_INET, host, &a) == 1 && ntohl(a.s_addr) >> 24 == 127) {
        return host;
    }
    return NULL;
}

/* A number, `*` or an interface's name.  A host's name has no place here:
 * which of its addresses is meant, and who answers the question? */
static bool
is_local(const char *host)
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
check_tcp(const char *address, const char *host, bool anywhere, aif_error *e)
{
    if (loopback(host) != NULL) {
        return AIF_OK;
    }
    if (!is_local(host)) {
        return aif_fail(e, AIF_EINVAL,
                        "tcp://%.100s: the broker serves an address, as in "
                        "192.0.2.1 or [2001:db8::1], an interface's, as in "
                        "eth0, or *, which is all",
                        address);
    }
    if (!anywhere) {
        return aif_fail(e, AIF_EINVAL,
                        "tcp://%.80s is open to other machines, and there are "
                        "no keys: make them with `aiflow keys new NAME`, or "
                        "serve tcp://127.0.0.1, or say --insecure",
                        address);
    }
    return AIF_OK;
}

/* Where uri, which zmq_bind made, is. */
static void
find_address(const char *uri, struct sockaddr_storage *at)
{
    const struct addrinfo numbers = {.ai_flags =
                                         AI_NUMERICHOST | AI_NUMERICSERV,
                                     .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    char host[64];
    char port[8];
    char *name = host;

    if (!split(after(uri, "tcp://"), host, port)) {
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
bind_tcp(aif_endpoint *ep, void *socket, const char *address, bool anywhere,
         aif_error *e)
{
    char host[64];
    char port[8];
    char uri[AIF_URI_MAX + 1];
    size_t n = sizeof ep->uri;
    aif_err err;

    if (!split(address, host, port)) {
        return aif_fail(e, AIF_EINVAL,
                        "tcp://%.100s is no address: as in "
                        "tcp://127.0.0.1:50051, port 0 picks one",
                        address);
    }
    err = check_tcp(address, host, anywhere, e);
    if (err != AIF_OK) {
        return err;
    }
    (void)snprintf(uri, sizeof uri, "tcp://%s:%s",
                   loopback(host) != NULL ? loopback(host) : host, port);
    aif_endpoint_family(socket, uri);
    aif_forks_stop();
    if (zmq_bind(socket, uri) != 0) {
        err =
            aif_fail(e, zmq_errno() == EADDRINUSE ? AIF_ECONFLICT : AIF_EINVAL,
                     "cannot serve %s: %s", uri, zmq_strerror(zmq_errno()));
    } else {
        (void)zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, ep->uri, &n);
        find_address(ep->uri, &ep->at);
        serve(ep);
    }
    aif_forks_go();
    return err;
}

aif_err
aif_endpoint_bind(aif_endpoint *ep, void *socket, const char *uri,
                  bool anywhere, aif_error *e)
{
    const char *path = after(uri, "ipc://");
    const char *address = after(uri, "tcp://");

    *ep = (aif_endpoint){0};
    if (path != NULL) {
        return bind_ipc(ep, socket, uri, path, e);
    }
    if (address != NULL) {
        return bind_tcp(ep, socket, address, anywhere, e);
    }
    return aif_fail(e, AIF_EINVAL,
                    "cannot serve %.150s: ipc://PATH or tcp://127.0.0.1:PORT "
                    "belongs there",
                    uri);
}

bool
aif_endpoint_hide(const aif_endpoint *ep, bool hidden)
{
    const char *path = after(ep->uri, "ipc://");
    char aside[PATH_MAX_BYTES + 6];
    struct stat st;

    hidden_path(path, aside);
    return lstat(hidden ? aside : path, &st) != 0 &&
           rename(hidden ? path : aside, hidden ? aside : path) == 0;
}

void
aif_endpoint_fini(aif_endpoint *ep)
{
    const char *path = after(ep->uri, "ipc://");
    char aside[PATH_MAX_BYTES + 6];

    aif_forks_stop();
    aif_forks_unserve(&ep->served);
    aif_forks_go();
    if (ep->lock != NULL) {
        hidden_path(path, aside);
        remove_ours(ep, path);
        remove_ours(ep, aside);
    }
    aif_lockfile_free(ep->lock);
    *ep = (aif_endpoint){0};
}
