/* gate.h - who may do what (docs/access.md).
 *
 * In:  the table of keys, from any thread; each new connection's key, from
 *      libzmq; each frame, before it is acted upon.
 * Out: yes, or EDENIED with what exactly is not allowed.
 * A broker without a CURVE secret has no keys, and then everything is allowed.
 * aif_gate_set may be called from any thread, the others from the broker's.
 */
#ifndef AIF_GATE_H
#define AIF_GATE_H

#include "broker/message.h"
#include "event/query.h"
#include "net/access.h"
#include "net/curve.h"
#include "net/wire.h"

#include <pthread.h>
#include <stdatomic.h>

struct aif_seats;

typedef struct {
    void *zap;            /* a zmq socket; NULL: there is no CURVE */
    int wake;             /* eventfd: there is a new table */
    pthread_mutex_t lock; /* of next */
    aif_access *next;
    atomic_bool fresh; /* next is to be taken */
    aif_access *now;
    const aif_grant *who;        /* what the sender of the frame that is looked
                                    at may do; NULL: its key is not known */
    char key[AIF_CURVE_KEY + 1]; /* of that sender; "": it has none */
} aif_gate;

void aif_gate_init(aif_gate *g);
/* Before the router is bound.  secret: the broker's CURVE key; NULL: no CURVE.
 * Nobody may do anything then until there is a table. */
AIF_MUST_CHECK aif_err aif_gate_open(aif_gate *g, void *ctx, void *router,
                                     const char *secret, aif_error *e);
/* After the router is closed. */
void aif_gate_close(aif_gate *g);

/* The table that is to be in force; the gate frees it.  Any thread. */
void aif_gate_set(aif_gate *g, aif_access *access);
/* Put the newest table in force.  True: it was not in force before, and who
 * was allowed something may not be any more. */
bool aif_gate_take(aif_gate *g);
/* The same, where the eventfd says that there is one: once a turn. */
bool aif_gate_tend(aif_gate *g);
/* Answer libzmq's questions about new connections.  Those that it refuses are
 * told to seats. */
void aif_gate_let_in(aif_gate *g, struct aif_seats *seats);

/* May who sent m do what its frame f asks for?  That sender is then the one
 * that `key` and aif_gate_publish mean, until the next check. */
AIF_MUST_CHECK aif_err aif_gate_check(aif_gate *g, const aif_message *m,
                                      const aif_frame *f, aif_error *e);
AIF_MUST_CHECK aif_err aif_gate_publish(const aif_gate *g, const aif_event *ev,
                                        aif_error *e);
/* May the owner of key still subscribe to q's patterns, and to hints? */
AIF_MUST_CHECK aif_err aif_gate_keeps(const aif_gate *g, const char *key,
                                      const aif_query *q, bool hints,
                                      aif_error *e);

#endif
