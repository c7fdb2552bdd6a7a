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
#include <errno.h>
#include <net/if.h>
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
#define BACKLOG 128

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

/* A broker that was killed leaves its socket file; anything else is not ours
 * to remove. */
static aif_err
remove_stale(const char *path, aif_error *e)
{
    struct stat st;

    if (lstat(path, &st) != 0) {
        return AIF_OK;
    }
    if (!S_ISSOCK(st.st_mode)) {
        return aif_fail(e, AIF_EINVAL,
                        "%s is there already and is no socket: remove it or "
                        "choose another path",
                        path);
    }
    (void)unlink(path); /* when it fails, bind says why */
    return AIF_OK;
}

/* On Linux the file gets the socket's own mode, less the umask (net/unix:
 * unix_bind), so fchmod before bind leaves no moment in which others could
 * connect.  umask() would change the mode of files that other threads make,
 * and libzmq's own bind unlinks PATH whoever serves it. */
static aif_err
listen_private(const char *path, int *fd, aif_error *e)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    struct stat st;

    memcpy(sa.sun_path, path, strlen(path));
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*fd < 0 || fchmod(*fd, 0600) != 0 ||
        bind(*fd, (struct sockaddr *)&sa, sizeof sa) != 0 ||
        listen(*fd, BACKLOG) != 0 || lstat(path, &st) != 0) {
        return aif_fail(e, AIF_EINVAL, "cannot serve %s: %s", path,
                        strerror(errno));
    }
    if ((st.st_mode & 077) != 0) {
        return aif_fail(e, AIF_EINVAL,
                        "%s would be open to other users (mode %o): choose a "
                        "path on a file system that keeps modes",
                        path, (unsigned)st.st_mode & 0777);
    }
    return AIF_OK;
}

static aif_err
bind_socket(void *socket, const char *uri, const char *path, aif_error *e)
{
    int fd = -1;
    aif_err err = remove_stale(path, e);

    if (err == AIF_OK) {
        err = listen_private(path, &fd, e);
    }
    if (err == AIF_OK &&
        (zmq_setsockopt(socket, ZMQ_USE_FD, &fd, sizeof fd) != 0 ||
         zmq_bind(socket, uri) != 0)) {
        err = aif_fail(e, AIF_EINVAL, "cannot serve %s: %s", uri,
                       zmq_strerror(zmq_errno()));
    }
    if (err != AIF_OK && fd >= 0) { /* zmq owns it only once it is bound */
        (void)close(fd);
        (void)unlink(path);
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
        err = bind_socket(socket, uri, path, e);
    }
    if (err != AIF_OK) {
        aif_lockfile_free(ep->lock);
        ep->lock = NULL;
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
    if (zmq_bind(socket, uri) != 0) {
        return aif_fail(e,
                        zmq_errno() == EADDRINUSE ? AIF_ECONFLICT : AIF_EINVAL,
                        "cannot serve %s: %s", uri, zmq_strerror(zmq_errno()));
    }
    (void)zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, ep->uri, &n);
    return AIF_OK;
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

void
aif_endpoint_fini(aif_endpoint *ep)
{
    if (ep->lock != NULL) {
        (void)unlink(after(ep->uri, "ipc://"));
    }
    aif_lockfile_free(ep->lock);
    *ep = (aif_endpoint){0};
}
