/* client_in.h - what client.c and client_ask.c share.  Nobody else includes
 * it.
 */
#ifndef AIF_CLIENT_IN_H
#define AIF_CLIENT_IN_H

#include "client/client.h"
#include "client/dealer.h"
#include "base/guard.h"

struct aif_client {
    aif_guard guard;
    aif_dealer dealer;
    aif_buf out;
    aif_buf asked; /* the request that was sent last */
    uint64_t id;   /* its id; 0: it was answered */
    int64_t again; /* when to send it again even so */
    bool hinted;   /* since the last answer: a hint may still be queued */
    aif_port_msg answer; /* what the frame of the last call points into */
};

/* Enter the client, ask one request with the patterns of q (may be NULL), and
 * take the answer of that kind.  On success f points into the client, and the
 * caller leaves its guard; on failure that is done. */
AIF_MUST_CHECK aif_err aif_client_enter(aif_client *c, aif_frame *request,
                                        const aif_query *q, aif_kind kind,
                                        aif_frame *f, int timeout_ms,
                                        aif_error *e);

#endif
