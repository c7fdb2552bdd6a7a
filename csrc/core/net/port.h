/* port.h - how we use libzmq: its contexts, options, news of connections, and
 * whether there are descriptors enough for it.
 *
 * Out of descriptors libzmq (4.3.4) ends the process: it asserts where it
 * starts a context's threads (epoll.cpp), and where it accepts a connection
 * over ipc (ipc_listener.cpp).  Everything else that needs a descriptor
 * fails, and says so.  So we look for room before anything is opened, and
 * broker/seats.c keeps descriptors free for what is accepted later.
 * Any thread.
 */
#ifndef AIF_PORT_H
#define AIF_PORT_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Descriptors: a socket for each end of a monitor, the one that it watches,
 * and its connection. */
#define AIF_PORT_CLIENT 4
/* Those, another for ZAP, and the broker's own: a context, a lock, the
 * listener, two eventfds; six for the log. */
#define AIF_PORT_BROKER 20

/* EMFILE unless n descriptors are free, and some for other threads. */
AIF_MUST_CHECK aif_err aif_port_room(size_t n, aif_error *e);

/* The context that all clients and subscriptions of this process share.  Each
 * get has one put; the last put ends it, which gives its five descriptors and
 * two threads back, and waits until what lingers has left.  A forked child
 * makes a new one and leaves the inherited one alone. */
AIF_MUST_CHECK aif_err aif_port_get(void **ctx, aif_error *e);
void aif_port_put(void *ctx);
/* One of the caller's own; end it after its sockets are closed. */
AIF_MUST_CHECK aif_err aif_port_new(void **ctx, aif_error *e);
void aif_port_end(void *ctx);

/* zmq_setsockopt of an int; false: zmq_errno says why. */
bool aif_port_set(void *socket, int option, int value);
/* A socket that has the news of another one, which is not bound or connected
 * yet; NULL: zmq_errno says why. */
void *aif_port_monitor(void *ctx, void *socket, int events);
/* The next of them: what happened, and its descriptor or error. */
bool aif_port_news(void *monitor, uint16_t *event, uint32_t *value);
/* zmq_errno as an error: EMFILE or, for all others, ENOMEM. */
aif_err aif_port_failed(const char *what, aif_error *e);

#endif
