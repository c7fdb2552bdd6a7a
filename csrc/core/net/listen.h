/* listen.h - which addresses a broker may serve, and how it binds them.
 *
 * In:  "ipc://PATH" or "tcp://HOST:PORT".  Out: a zmq socket that is bound.
 * Over ipc only this user can connect to it; over tcp, only this machine, or
 * whoever has a key.
 */
#ifndef AIF_LISTEN_H
#define AIF_LISTEN_H

#include "base/err.h"
#include "base/forks.h"
#include "net/address.h"
#include "net/lockfile.h"

#include <stdbool.h>
#include <sys/socket.h>

#define AIF_BACKLOG 100 /* connections that the kernel holds for us */

typedef struct {
    char uri[AIF_URI_MAX + 1]; /* what clients connect to */
    aif_lockfile *lock;        /* ipc only */
    struct stat file;          /* ipc only: the socket file that we made */
    struct sockaddr_storage at;
    aif_served served; /* what a forked child must not keep */
} aif_listen;

/* Bind a zmq socket: EINVAL (docs/protocol.md, "Addresses") or ECONFLICT.
 * anywhere: beyond this machine too.  On failure *l is zeroed; on success
 * it stays where it is. */
AIF_MUST_CHECK aif_err aif_listen_bind(aif_listen *l, void *socket,
                                       const char *uri, bool anywhere,
                                       aif_error *e);
/* ipc: where the socket file or the lock file was deleted, make it again.
 * *again: nobody found the socket file, and it is there again.  EINVAL or
 * ECONFLICT: that cannot be, another process or another file has its place, or
 * its folder is gone; any other error may pass. */
AIF_MUST_CHECK aif_err aif_listen_keep(aif_listen *l, void *socket,
                                       bool *again, aif_error *e);
/* ipc: while it is hidden nobody finds the socket file, and those who are
 * connected notice nothing.  False when that failed. */
bool aif_listen_hide(const aif_listen *l, bool hidden);
/* After the zmq socket is closed: removes the socket file, then the lock. */
void aif_listen_fini(aif_listen *l);

#endif
