/* dealer.h - a client's connection: one zmq context, one DEALER socket, and a
 * monitor that tells when the connection was lost and made again.
 *
 * In:  frames to send.  Out: frames that came.  Nothing here blocks but
 * aif_dealer_wait.  Each handle has its own context, so that a fork, or a
 * free in a child, touches nobody else's.
 */
#ifndef AIF_DEALER_H
#define AIF_DEALER_H

#include "endpoint.h"
#include "wire.h"

#include <stdbool.h>
#include <zmq.h>

typedef struct {
    char uri[AIF_URI_MAX + 1];
    void *ctx; /* NULL before first use */
    void *socket;
    void *monitor;
    unsigned connects; /* sockets made: a name for each monitor */
    bool lost;         /* and not made again yet */
    uint64_t last_id;  /* of requests */
} aif_dealer;

/* Checks the address; opens nothing. */
AIF_MUST_CHECK aif_err aif_dealer_init(aif_dealer *d, const char *uri,
                                       aif_error *e);
/* What is queued has linger_ms to leave: that long it may block. */
void aif_dealer_fini(aif_dealer *d, int linger_ms);
/* A fresh socket: what was queued in the old one is gone. */
AIF_MUST_CHECK aif_err aif_dealer_connect(aif_dealer *d, aif_error *e);
/* Queue a frame; one that finds no room is lost, like one on the way to a
 * broker that dies. */
void aif_dealer_send(aif_dealer *d, const aif_buf *frame);
/* The next frame; *got is false when none is there.  EPROTO: not a frame. */
AIF_MUST_CHECK aif_err aif_dealer_recv(aif_dealer *d, zmq_msg_t *msg,
                                       aif_frame *f, bool *got, aif_error *e);
/* True once after the connection was lost and made again: what was under way
 * then may be lost, and the broker may be another. */
bool aif_dealer_renewed(aif_dealer *d);
/* Until there may be a frame, or news of the connection, or ms passed; false
 * when a signal came. */
bool aif_dealer_wait(aif_dealer *d, int64_t ms);
/* True when there is something that aif_dealer_wait would not wait for. */
bool aif_dealer_ready(aif_dealer *d);
/* To wait with others; readable is a reason to look, once for each change. */
void aif_dealer_fds(aif_dealer *d, int fds[static 2]);

/* What an ERROR frame says, into *e; returns its code. */
aif_err aif_dealer_error(const aif_frame *f, aif_error *e);

#endif
