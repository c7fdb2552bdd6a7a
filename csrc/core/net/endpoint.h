/* endpoint.h - addresses: which a broker may serve, and how it binds them.
 *
 * In:  "ipc://PATH" or "tcp://HOST:PORT".  Out: a bound zmq socket, private
 * to this user (ipc), to this machine (tcp), or to who has a key.
 */
#ifndef AIF_ENDPOINT_H
#define AIF_ENDPOINT_H

#include "base/err.h"
#include "base/forks.h"
#include "net/lockfile.h"

#include <stdbool.h>
#include <sys/socket.h>

#define AIF_URI_MAX 255
#define AIF_BACKLOG 100 /* connections that the kernel holds for us */

typedef struct {
    char uri[AIF_URI_MAX + 1]; /* what clients connect to */
    aif_lockfile *lock;        /* ipc only, and: */
    struct stat file;          /* the socket file that we made */
    struct sockaddr_storage at;
    aif_served served; /* at it */
} aif_endpoint;

/* May a client connect to it?  EINVAL says what would be right. */
AIF_MUST_CHECK aif_err aif_endpoint_check(const char *uri, aif_error *e);

/* IPv6 for a [HOST] only: else zmq would bind 127.0.0.1 as ::ffff:127.0.0.1,
 * and look for localhost at ::1. */
void aif_endpoint_family(void *socket, const char *uri);

/* Is it one of tcp, where CURVE can be? */
bool aif_endpoint_is_tcp(const char *uri);
/* Bind a zmq socket: EINVAL (docs/protocol.md, "Addresses") or ECONFLICT.
 * anywhere: beyond this machine too.  On failure *ep is zeroed; on success
 * it stays where it is. */
AIF_MUST_CHECK aif_err aif_endpoint_bind(aif_endpoint *ep, void *socket,
                                         const char *uri, bool anywhere,
                                         aif_error *e);
/* ipc: while it is hidden nobody finds the socket file, and those who are
 * connected notice nothing.  False when that failed. */
bool aif_endpoint_hide(const aif_endpoint *ep, bool hidden);
/* After the zmq socket is closed: removes the socket file, then the lock. */
void aif_endpoint_fini(aif_endpoint *ep);

#endif
