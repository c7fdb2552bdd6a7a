/* port.h - how we use libzmq: its contexts, options, news of connections, all
 * of a client's connection, and whether there are descriptors enough for it.
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
#include "base/str.h"

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

/* What a client does; nobody but port.c looks into a message.  A zeroed one
 * is none: init it first. */
typedef struct {
    void *opaque[8]; /* zmq_msg_t */
} aif_port_msg;
void aif_port_msg_init(aif_port_msg *m);
void aif_port_msg_fini(aif_port_msg *m);
/* to gets what from has, and from is empty then. */
void aif_port_msg_move(aif_port_msg *to, aif_port_msg *from);
aif_str aif_port_msg_bytes(const aif_port_msg *m);

/* What a monitor tells of a client's connection. */
typedef enum {
    AIF_PORT_MADE,   /* *fd: its descriptor */
    AIF_PORT_UP,     /* hands were shaken */
    AIF_PORT_LOST,   /* or refused, or never made */
    AIF_PORT_DENIED, /* the two do not speak the same security, or the broker
                        does not know the key */
} aif_port_event;

/* A DEALER socket that does not reconnect by itself, and a monitor of it; all
 * or none of it.  hwm: so many messages wait to be sent. */
AIF_MUST_CHECK aif_err aif_port_dealer(void *ctx, int hwm, int64_t frame_max,
                                       void **socket, void **monitor,
                                       aif_error *e);
AIF_MUST_CHECK aif_err aif_port_connect(void *socket, const char *uri,
                                        aif_error *e);
/* What is queued in the socket has linger_ms to leave, then it is dropped.
 * Both may be NULL. */
void aif_port_close(void *socket, void *monitor, int linger_ms);
/* Queue a message; one that finds no room is lost. */
void aif_port_send(void *socket, const void *p, size_t n);
/* Take a message; false: none is there.  *whole: it has a single part, which
 * is in m. */
bool aif_port_recv(void *socket, aif_port_msg *m, bool *whole);
/* The next piece of news; false: there is none. */
bool aif_port_event_next(void *monitor, aif_port_event *event, int *fd);
/* Wait until one of two sockets is readable, at most ms; NULL is none.  False
 * when a signal came. */
bool aif_port_wait(void *socket, void *monitor, int64_t ms);
/* Is there something to receive?  Each look clears the socket's fd. */
bool aif_port_readable(void *socket);
int aif_port_fd(void *socket);

#endif
