/* broker/route.c - routing ids, which nobody is to guess.
 *
 * libzmq's ROUTER numbers its peers with a counter of 32 bits.  A peer may
 * name an id of its own in its handshake; when it names the one that the
 * counter gives next, libzmq aborts this process (socket_base.cpp,
 * add_out_pipe).  The counter begins at rand(), which nobody seeds, so it
 * would begin at 0x6b8b4567 in every broker.
 */
#define _DEFAULT_SOURCE /* initstate */
#include "broker/in.h"

#include "base/forks.h"
#include "base/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

/* glibc's rand() and random(3) have one state, which the host may have
 * seeded, and which it finds again as it was.  Nobody forks meanwhile: a child
 * would be left with ours. */
void *
aif_route_socket(aif_broker *b)
{
    static char state[128];
    unsigned seed;
    char *hosts;
    void *router;

    if (getrandom(&seed, sizeof seed, 0) != sizeof seed ||
        getrandom(b->secret, sizeof b->secret, 0) != sizeof b->secret) {
        return NULL;
    }
    aif_forks_stop();
    hosts = initstate(seed, state, sizeof state);
    router = zmq_socket(b->ctx, ZMQ_ROUTER);
    (void)setstate(hosts);
    aif_forks_go();
    return router;
}

/* A digest with a secret of this broker: the same for as long as the peer is
 * connected, and nobody finds the id by it. */
aif_peer
aif_route_text(const aif_broker *b, const aif_route *r)
{
    const aif_str both[] = {{(const char *)b->secret, sizeof b->secret},
                            {(const char *)r->p, r->n}};
    aif_peer peer;

    (void)snprintf(peer.text, sizeof peer.text, "%08lx",
                   (unsigned long)(aif_hash_strs(both, 2).lo & 0xffffffff));
    return peer;
}
