/* port.c - contexts, and descriptors for them.
 *
 * A process has one shared context, as it has one list in forks.c, and under
 * the same lock: no child is forked while it changes. */
#include "net/port.h"

#include "base/forks.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zmq.h>

#define CONTEXT 5 /* eventfds of three mailboxes, two epolls */
#define SPARE 16  /* for what other threads open meanwhile */
/* Three for each client or subscription, so 4,096 of them; libzmq's default
 * is 1,023.  Its table takes 12 bytes a socket. */
#define SOCKETS (3 * 4096)

static struct {
    void *ctx; /* NULL: nobody uses it */
    size_t users;
    pid_t owner;
} shared;

/* Free numbers below the limit are what counts: a new descriptor has the
 * lowest of them.  A look costs 0.1 us for each one that is open, opens
 * nothing, and stops when it has found enough. */
aif_err
aif_port_room(size_t n, aif_error *e)
{
    struct rlimit limit;
    size_t found = 0;

    n += SPARE;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return AIF_OK; /* nobody knows */
    }
    for (rlim_t fd = 0; fd < limit.rlim_cur && found < n; fd++) {
        found += fcntl((int)fd, F_GETFD) < 0;
    }
    if (found == n) {
        return AIF_OK;
    }
    return aif_fail(e, AIF_EMFILE,
                    "%zu file descriptors are needed, and of the %llu that "
                    "this process may have only %zu are free: raise the limit "
                    "(`ulimit -n`; LimitNOFILE= of a systemd unit), or close "
                    "some",
                    n, (unsigned long long)limit.rlim_cur, found);
}

aif_err
aif_port_failed(const char *what, aif_error *e)
{
    return aif_fail(e, zmq_errno() == EMFILE ? AIF_EMFILE : AIF_ENOMEM,
                    "%s: %s", what, zmq_strerror(zmq_errno()));
}

aif_err
aif_port_new(void **ctx, aif_error *e)
{
    aif_err err = aif_port_room(CONTEXT, e);

    *ctx = NULL;
    if (err == AIF_OK) {
        *ctx = zmq_ctx_new();
        err = *ctx == NULL ? aif_port_failed("a context of libzmq", e) : err;
    }
    return err;
}

void
aif_port_end(void *ctx)
{
    while (zmq_ctx_term(ctx) != 0 && zmq_errno() == EINTR) {
    }
}

aif_err
aif_port_get(void **ctx, aif_error *e)
{
    aif_err err = AIF_OK;

    *ctx = NULL;
    aif_forks_stop();
    if (shared.users > 0 && shared.owner != getpid()) {
        shared.users = 0; /* our parent's: it has no threads here */
    }
    if (shared.users == 0) {
        err = aif_port_new(&shared.ctx, e);
        shared.owner = getpid();
        if (err == AIF_OK) {
            (void)zmq_ctx_set(shared.ctx, ZMQ_MAX_SOCKETS, SOCKETS);
        }
    }
    if (err == AIF_OK) {
        shared.users++;
        *ctx = shared.ctx;
    }
    aif_forks_go();
    return err;
}

/* Who comes while the last one ends it makes another. */
void
aif_port_put(void *ctx)
{
    bool last;

    aif_forks_stop();
    last = --shared.users == 0;
    aif_forks_go();
    if (last) {
        aif_port_end(ctx);
    }
}
