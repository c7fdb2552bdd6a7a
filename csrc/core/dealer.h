/* dealer.h - a client's connection: one zmq context, one DEALER socket.
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

/* How long to wait for an answer before connecting anew and asking again:
 * at first this long, then twice as long each time, up to the most. */
#define AIF_ASK_AGAIN_MS 250
#define AIF_ASK_AGAIN_MOST_MS 1000

typedef struct {
    char uri[AIF_URI_MAX + 1];
    void *ctx; /* NULL before first use */
    void *socket;
    uint64_t last_id; /* of requests */
} aif_dealer;

/* Checks the address; opens nothing. */
AIF_MUST_CHECK aif_err aif_dealer_init(aif_dealer *d, const char *uri,
                                       aif_error *e);
/* What is queued has linger_ms to leave: that long it may block. */
void aif_dealer_fini(aif_dealer *d, int linger_ms);
/* A fresh connection: what was queued for the old one is gone. */
AIF_MUST_CHECK aif_err aif_dealer_connect(aif_dealer *d, aif_error *e);
/* Queue a frame; one that finds no room is lost, like one on the way to a
 * broker that dies. */
void aif_dealer_send(aif_dealer *d, const aif_buf *frame);
/* The next frame; *got is false when none is there.  EPROTO: not a frame. */
AIF_MUST_CHECK aif_err aif_dealer_recv(aif_dealer *d, zmq_msg_t *msg,
                                       aif_frame *f, bool *got, aif_error *e);
/* Until a frame may be there or ms passed; false when a signal came. */
bool aif_dealer_wait(aif_dealer *d, int64_t ms);
/* True when aif_dealer_recv would get one. */
bool aif_dealer_ready(aif_dealer *d);
int aif_dealer_fd(aif_dealer *d);

/* What an ERROR frame says, into *e; returns its code. */
aif_err aif_dealer_error(const aif_frame *f, aif_error *e);

#endif
