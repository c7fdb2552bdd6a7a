/* out.c - the ROUTER socket, and what is sent on it. */
#include "broker/out.h"

#include "net/listen.h"

#include <string.h>

/* How many frames may wait for each peer, in each direction.  Credit bounds
 * what a subscriber is sent, and a client waits for its answers before it asks
 * more; these two bound what a peer costs that does neither. */
#define SEND_HWM 256
#define RECV_HWM 64
/* libzmq closes a connection that does not finish its handshake in this time. */
#define HANDSHAKE_MS 2000
/* libzmq's own thread sends a heartbeat so often.  It closes a connection
 * whose peer does not answer it in the time-out, and frees what waits for it. */
#define HEARTBEAT_MS 10000
#define HEARTBEAT_TIMEOUT_MS 30000

aif_err
aif_out_open(aif_out *o, void *ctx, aif_status *status, aif_error *e)
{
    const aif_port_limits limits = {.send_hwm = SEND_HWM,
                                    .recv_hwm = RECV_HWM,
                                    .backlog = AIF_BACKLOG,
                                    .handshake_ms = HANDSHAKE_MS,
                                    .heartbeat_ms = HEARTBEAT_MS,
                                    .heartbeat_timeout_ms =
                                        HEARTBEAT_TIMEOUT_MS,
                                    .frame_max = AIF_FRAME_MAX};

    *o = (aif_out){.status = status};
    return aif_route_socket(ctx, &limits, &o->router, e);
}

void
aif_out_close(aif_out *o)
{
    aif_port_close(o->router, NULL, 0);
    aif_buf_fini(&o->buf);
}

aif_err
aif_out_begin(aif_out *o, const aif_frame *f, aif_buf **tail, aif_error *e)
{
    *tail = &o->buf;
    return aif_frame_encode(f, &o->buf, e);
}

aif_sent
aif_out_send(aif_out *o, const aif_route *to)
{
    aif_sent how =
        aif_port_send_to(o->router, (aif_str){(const char *)to->p, to->n},
                         (aif_str){(const char *)o->buf.p, o->buf.n});

    if (how == AIF_SENT) {
        aif_status_count(o->status, AIF_N_BYTES_OUT, o->buf.n);
    }
    return how;
}

void
aif_out_answer(aif_out *o, const aif_route *to, const aif_frame *f)
{
    aif_error e;

    if (aif_frame_encode(f, &o->buf, &e) == AIF_OK &&
        aif_out_send(o, to) != AIF_SENT) {
        aif_status_count(o->status, AIF_N_LOST, 1);
    }
}

void
aif_out_refuse(aif_out *o, const aif_route *to, uint64_t id,
               const aif_error *why)
{
    aif_frame f = {.kind = AIF_K_ERROR, .id = id, .code = why->code};

    f.text = (aif_str){why->text, strlen(why->text)};
    if (why->code == AIF_ESTORE) {
        f.sqlstate = (aif_str){why->sqlstate, strlen(why->sqlstate)};
    }
    aif_out_answer(o, to, &f);
}
