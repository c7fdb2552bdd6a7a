/* out.h - sends frames to peers.
 *
 * In:  whom to send to (a routing id), and a frame.
 * Out: the frame on the ROUTER socket; or the news that the peer is gone, or
 *      that its queue of 256 frames is full.
 * It never waits, and it has one buffer: a frame is begun, filled and sent
 * before the next one is begun.  The broker's thread only.
 */
#ifndef AIF_OUT_H
#define AIF_OUT_H

#include "base/buf.h"
#include "broker/route.h"
#include "broker/status.h"
#include "net/port.h"
#include "net/wire.h"

typedef struct {
    void *router; /* for who binds it, waits on it or receives from it */
    aif_buf buf;  /* the frame that is sent next */
    aif_status *status;
} aif_out;

/* Make the ROUTER socket in this context; it is not bound yet. */
AIF_MUST_CHECK aif_err aif_out_open(aif_out *o, void *ctx, aif_status *status,
                                    aif_error *e);
void aif_out_close(aif_out *o);

/* Put f into the buffer.  The caller adds what follows f to *tail. */
AIF_MUST_CHECK aif_err aif_out_begin(aif_out *o, const aif_frame *f,
                                     aif_buf **tail, aif_error *e);
/* Send what is in the buffer. */
aif_sent aif_out_send(aif_out *o, const aif_route *to);
/* Send f alone.  A peer that is gone or full does not get it; that is counted
 * as lost, and the client asks again. */
void aif_out_answer(aif_out *o, const aif_route *to, const aif_frame *f);
/* Answer request `id` with an error. */
void aif_out_refuse(aif_out *o, const aif_route *to, uint64_t id,
                    const aif_error *why);

#endif
