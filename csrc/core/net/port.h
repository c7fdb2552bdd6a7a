/* port.h - all that we ask of libzmq.  Nobody else includes zmq.h, so what
 * libzmq may do, and what we do against it, is read in two files: port.c has
 * contexts, and descriptors enough for them; port_socket.c has sockets and
 * messages.
 *
 * In:  the address, limits and keys of a socket; what is to be sent.
 * Out: messages, and the news of connections.
 * Out of descriptors libzmq (4.3.4) ends the process: it asserts where it
 * starts a context's threads (epoll.cpp), and where it accepts a connection
 * over ipc (ipc_listener.cpp).  Everything else that needs a descriptor
 * fails, and says so.  So we look for room before anything is opened, and
 * broker/seats.c keeps descriptors free for what is accepted later.
 * Contexts: any thread.  A socket: one thread at a time.
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

/* zmq_errno as an error: EMFILE or, for all others, ENOMEM. */
aif_err aif_port_failed(const char *what, aif_error *e);

/* A message, or a part of one.  A zeroed one is none: init it first. */
typedef struct {
    void *opaque[8]; /* zmq_msg_t */
} aif_port_msg;
void aif_port_msg_init(aif_port_msg *m);
void aif_port_msg_fini(aif_port_msg *m);
/* to gets what from has, and from is empty then. */
void aif_port_msg_move(aif_port_msg *to, aif_port_msg *from);
aif_str aif_port_msg_bytes(const aif_port_msg *m);
/* Do further parts follow? */
bool aif_port_msg_more(const aif_port_msg *m);
/* What libzmq knows of its connection: a text, NULL when it has none of that
 * name; the descriptor, negative when it is not known. */
const char *aif_port_msg_property(const aif_port_msg *m, const char *name);
int aif_port_msg_fd(const aif_port_msg *m);

/* None of these four waits. */
/* Take a part; false: none is there, or a signal came. */
bool aif_port_part(void *socket, aif_port_msg *m);
/* Take a message; false: none is there.  *whole: it has a single part, which
 * is in m. */
bool aif_port_recv(void *socket, aif_port_msg *m, bool *whole);
/* Queue a part; one that finds no room is lost. */
void aif_port_send(void *socket, aif_str part, bool more);
/* Send to the peer of a ROUTER socket that has this routing id: its queue may
 * be full, or the peer gone. */
typedef enum { AIF_SENT, AIF_FULL, AIF_GONE } aif_sent;
aif_sent aif_port_send_to(void *router, aif_str to, aif_str bytes);

/* What is queued in the socket has linger_ms to leave, then it is dropped.
 * Both may be NULL; a monitor whose socket is closed is a socket. */
void aif_port_close(void *socket, void *monitor, int linger_ms);

typedef struct {
    void *socket; /* NULL: fd */
    int fd;
    bool ready; /* to be read */
} aif_port_item;
#define AIF_PORT_ITEMS 8 /* at most */
/* Wait until one of n items is ready, at most ms (-1: for ever).  *ready: how
 * many are; negative: a signal came.  ECLOSED: libzmq fails. */
AIF_MUST_CHECK aif_err aif_port_poll(aif_port_item *items, size_t n, long ms,
                                     int *ready, aif_error *e);
/* Is there something to receive?  Each look clears the socket's fd. */
bool aif_port_readable(void *socket);
int aif_port_fd(void *socket);

/* What a monitor tells of connections.  The monitor of a ROUTER socket does
 * not tell of those that are up or denied. */
typedef enum {
    AIF_PORT_LISTENING,       /* *fd: the listener's descriptor */
    AIF_PORT_MADE,            /* *fd: the connection's */
    AIF_PORT_UP,              /* hands were shaken */
    AIF_PORT_LOST,            /* *fd: the connection's, if it was made */
    AIF_PORT_UNFINISHED,      /* the peer did not finish its handshake */
    AIF_PORT_OTHER_MECHANISM, /* one of the two has CURVE */
    AIF_PORT_OTHER_KEY,       /* the peer has a wrong key of ours */
    AIF_PORT_OTHER_PROTOCOL,  /* any other failed handshake */
    AIF_PORT_DENIED,          /* the broker does not know our key */
} aif_port_event;
/* The next piece of news; false: there is none. */
bool aif_port_event_next(void *monitor, aif_port_event *event, int *fd);

/* --- a broker's sockets --- */

typedef struct {
    int send_hwm; /* so many messages wait to be sent to a peer */
    int recv_hwm; /* ROUTER: and so many of it to be received */
    int backlog;  /* ROUTER: connections that the kernel holds */
    int handshake_ms;
    int heartbeat_ms;
    int heartbeat_timeout_ms;
    int64_t frame_max;
} aif_port_limits;

/* A ROUTER socket that tells when a peer is gone or full. */
AIF_MUST_CHECK aif_err aif_port_router(void *ctx, const aif_port_limits *l,
                                       void **socket, aif_error *e);
/* fd: it listens there already, and the socket owns it once it is bound; -1:
 * it is made.  ECONFLICT when the address is in use. */
AIF_MUST_CHECK aif_err aif_port_bind(void *socket, const char *uri, int fd,
                                     aif_error *e);
/* Where it was bound last. */
void aif_port_endpoint(void *socket, char *uri, size_t n);

/* Before the ROUTER socket is bound. */
AIF_MUST_CHECK aif_err aif_port_router_monitor(void *ctx, void *router,
                                               void **monitor, aif_error *e);

/* The socket on which libzmq asks zap.c whom the context's sockets let in: made
 * before they are bound, closed after them.  And the domain that it names when
 * it asks for this ROUTER socket. */
AIF_MUST_CHECK aif_err aif_port_zap(void *ctx, void **socket, aif_error *e);
AIF_MUST_CHECK aif_err aif_port_zap_domain(void *router, aif_str domain,
                                           aif_error *e);

/* --- a client's connection --- */

/* A DEALER socket that does not reconnect by itself, and a monitor of it; all
 * or none of it.  hwm: so many messages wait to be sent. */
AIF_MUST_CHECK aif_err aif_port_dealer(void *ctx, int hwm, int64_t frame_max,
                                       void **socket, void **monitor,
                                       aif_error *e);
AIF_MUST_CHECK aif_err aif_port_connect(void *socket, const char *uri,
                                        aif_error *e);

/* --- CURVE: for curve.c and zap.c.  Keys are Z85 texts that were checked;
 * false: this libzmq has no CURVE. --- */

bool aif_port_key_pair(char public[static 41], char secret[static 41]);
bool aif_port_key_public(const char *secret, char public[static 41]);
void aif_port_key_text(const uint8_t key[static 32], char text[static 41]);
bool aif_port_curve_client(void *socket, const char *server,
                           const char *public, const char *secret);
bool aif_port_curve_server(void *socket, const char *secret);

#endif
