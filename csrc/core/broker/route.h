/* route.h - which peer a message came from, and what people may call it.
 *
 * In:  the routing id that libzmq's ROUTER socket puts before each message.
 * Out: the same id, to address an answer to that peer; and a name of 8
 *      hexadecimal digits for log lines and STATUS, which does not give the
 *      id away.
 * Every file of broker/ uses it.  The names do not change once they are made,
 * so any thread may ask for one.
 */
#ifndef AIF_ROUTE_H
#define AIF_ROUTE_H

#include "net/port.h"

#include <stdbool.h>
#include <stdint.h>

/* The ids that libzmq gives have 5 bytes.  A peer that sets a longer one than
 * this for itself is refused. */
#define AIF_ROUTE_MAX 32

typedef struct {
    uint8_t n;
    uint8_t p[AIF_ROUTE_MAX];
} aif_route;

typedef struct {
    uint8_t secret[16]; /* random; each broker has its own */
} aif_route_names;

typedef struct {
    char text[9];
} aif_peer;

bool aif_route_same(const aif_route *a, const aif_route *b);
/* Did libzmq choose the id?  Its ids have 5 bytes, of which the first is 0. */
bool aif_route_is_given(const aif_route *r);
/* A ROUTER socket whose routing ids nobody can guess. */
AIF_MUST_CHECK aif_err aif_route_socket(void *ctx, const aif_port_limits *l,
                                        void **socket, aif_error *e);

/* False: errno says why there are no names. */
bool aif_route_names_init(aif_route_names *names);
/* The name is the same for as long as the peer is connected. */
aif_peer aif_route_text(const aif_route_names *names, const aif_route *r);

#endif
