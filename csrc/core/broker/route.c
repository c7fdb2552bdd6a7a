/* route.c - routing ids that nobody can guess, and names for people.
 *
 * libzmq's ROUTER numbers its peers with a counter of 32 bits.  A peer may
 * name an id of its own in its handshake; when it names the one that the
 * counter gives next, libzmq aborts this process (socket_base.cpp,
 * add_out_pipe).  libzmq takes the counter's first value from rand(), which it
 * does not seed, so that without us it would be 0x6b8b4567 in every broker.
 */
#define _DEFAULT_SOURCE /* initstate */
#include "broker/route.h"

#include "base/forks.h"
#include "base/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

bool
aif_route_same(const aif_route *a, const aif_route *b)
{
    return a->n == b->n && memcmp(a->p, b->p, a->n) == 0;
}

bool
aif_route_is_given(const aif_route *r)
{
    return r->n == 5 && r->p[0] == 0;
}

/* glibc's rand() and random(3) share one state.  The host may have seeded it,
 * so it is put back as it was.  No fork may happen in between: the child would
 * keep our state. */
aif_err
aif_route_socket(void *ctx, const aif_port_limits *l, void **socket,
                 aif_error *e)
{
    static char state[128];
    unsigned seed;
    char *hosts;
    aif_err err;

    if (getrandom(&seed, sizeof seed, 0) != sizeof seed) {
        *socket = NULL;
        return aif_port_failed("a ROUTER socket", e);
    }
    aif_forks_stop();
    hosts = initstate(seed, state, sizeof state);
    err = aif_port_router(ctx, l, socket, e);
    (void)setstate(hosts);
    aif_forks_go();
    return err;
}

bool
aif_route_names_init(aif_route_names *names)
{
    return getrandom(names->secret, sizeof names->secret, 0) ==
           sizeof names->secret;
}

/* A hash of the id and the secret.  Whoever sees the name cannot compute the
 * id from it. */
aif_peer
aif_route_text(const aif_route_names *names, const aif_route *r)
{
    const aif_str both[] = {
        {(const char *)names->secret, sizeof names->secret},
        {(const char *)r->p, r->n}};
    aif_peer peer;

    (void)snprintf(peer.text, sizeof peer.text, "%08lx",
                   (unsigned long)(aif_hash_strs(both, 2).lo & 0xffffffff));
    return peer;
}
