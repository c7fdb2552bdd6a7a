/* whole.h - a broker's parts in one struct.
 *
 * broker.c includes it, which composes them, and tests that look inside a
 * broker that does not run.  No other file of broker/ does: each is given the
 * parts that it needs when it is initialized (tests/py/test_walls.py looks).
 */
#ifndef AIF_WHOLE_H
#define AIF_WHOLE_H

#include "base/guard.h"
#include "broker/ask.h"
#include "broker/gate.h"
#include "broker/head.h"
#include "broker/out.h"
#include "broker/seats.h"
#include "broker/status.h"
#include "broker/subs_in.h"
#include "broker/turn.h"
#include "net/listen.h"

struct aif_broker {
    aif_guard guard; /* of aif_broker_run: one thread */
    int stop;        /* eventfd: may be written in a signal handler */
    void *ctx;
    aif_listen listen;
    bool look_failed; /* the last time */
    int64_t look;     /* when to look whether its files are still there */
    aif_status status;
    aif_out out;
    aif_seats seats;
    aif_gate gate;
    aif_head_watch head;
    aif_subs subs;
    aif_turn turn;
    aif_questions ask;
};

#endif
