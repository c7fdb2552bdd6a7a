/* dealer.h - a client's connection: one DEALER socket to one broker of
 * several, and a monitor that tells when the connection was made, refused or
 * lost.
 *
 * In:  frames to send.  Out: frames that came.  Nothing here blocks but
 * aif_dealer_wait.
 */
#ifndef AIF_DEALER_H
#define AIF_DEALER_H

#include "base/forks.h"
#include "net/curve.h"
#include "net/address.h"
#include "net/port.h"
#include "net/wire.h"

#include <stdbool.h>

typedef struct {
    aif_addresses uris;
    size_t at; /* which of them; the first is drawn with getrandom(2) */
    bool keys; /* curve is set */
    aif_curve curve;
    void *ctx; /* port.h; NULL before first use */
    void *socket;
    void *monitor;
    int fd;           /* of a connection just made; -1: none, or owned */
    aif_owned owned;  /* the connection */
    bool up;          /* hands were shaken */
    bool failed;      /* or lost since: move on when it is time */
    int64_t due;      /* that time; or, not up, when to think it failed */
    unsigned tries;   /* attempts since it was up */
    unsigned denied;  /* which brokers want other keys: a bit for each */
    uint64_t last_id; /* of requests */
} aif_dealer;

/* Checks the addresses (address.h) and copies curve; opens nothing. */
AIF_MUST_CHECK aif_err aif_dealer_init(aif_dealer *d, const char *uris,
                                       const aif_curve *curve, aif_error *e);
/* What is queued has linger_ms to leave: that long it may block. */
void aif_dealer_fini(aif_dealer *d, int linger_ms);
/* A fresh socket: what was queued in the old one is gone.  EINVAL: none of
 * the addresses can be connected to. */
AIF_MUST_CHECK aif_err aif_dealer_connect(aif_dealer *d, aif_error *e);
/* The same, to the next broker; of one, to the same. */
AIF_MUST_CHECK aif_err aif_dealer_move(aif_dealer *d, aif_error *e);
void aif_dealer_disconnect(aif_dealer *d);
/* Queue a frame; one that finds no room is lost, like one on the way to a
 * broker that dies. */
void aif_dealer_send(aif_dealer *d, const aif_buf *frame);
/* The next frame; *got is false when none is there.  EPROTO: not a frame. */
AIF_MUST_CHECK aif_err aif_dealer_recv(aif_dealer *d, aif_port_msg *msg,
                                       aif_frame *f, bool *got, aif_error *e);

/* True when the broker is gone, silent or not there: then aif_dealer_move, and
 * say everything again.  Also when there is no socket, for lack of memory. */
bool aif_dealer_gone(aif_dealer *d, int64_t now);
/* When that may be so even if nothing happens. */
int64_t aif_dealer_due(const aif_dealer *d);
/* EDENIED when every broker has refused our keys, or that we have none, since
 * the connection was made anew. */
AIF_MUST_CHECK aif_err aif_dealer_denied(const aif_dealer *d, aif_error *e);
/* Until there may be a frame, or news of the connection, or ms passed; false
 * when a signal came. */
bool aif_dealer_wait(aif_dealer *d, int64_t ms);
/* True when there is something that aif_dealer_wait would not wait for. */
bool aif_dealer_ready(aif_dealer *d);
/* To wait with others; readable is a reason to look, once for each change.
 * They are the socket's: other ones after aif_dealer_connect and _move. */
void aif_dealer_fds(aif_dealer *d, int fds[static 2]);

/* What an ERROR frame says, into *e; returns its code. */
aif_err aif_dealer_error(const aif_frame *f, aif_error *e);

#endif
