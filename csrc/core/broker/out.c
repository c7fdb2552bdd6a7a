/* out.c - the ROUTER socket, and what is sent on it. */
#include "broker/out.h"

#include "net/port.h"

#include <string.h>
#include <zmq.h>

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
    const int64_t max = AIF_FRAME_MAX;
    void *s = aif_route_socket(ctx);

    *o = (aif_out){.router = s, .status = status};
    if (s == NULL || !aif_port_set(s, ZMQ_LINGER, 0) ||
        !aif_port_set(s, ZMQ_ROUTER_MANDATORY, 1) ||
        !aif_port_set(s, ZMQ_SNDHWM, SEND_HWM) ||
        !aif_port_set(s, ZMQ_RCVHWM, RECV_HWM) ||
        !aif_port_set(s, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) ||
        !aif_port_set(s, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS) ||
        !aif_port_set(s, ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS) ||
        zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &max, sizeof max) != 0) {
        return aif_port_failed("a ROUTER socket", e);
    }
    return AIF_OK;
}

void
aif_out_close(aif_out *o)
{
    if (o->router != NULL) {
        (void)zmq_close(o->router);
    }
    aif_buf_fini(&o->buf);
}

void *
aif_out_socket(const aif_out *o)
{
    return o->router;
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
    aif_sent how = AIF_SENT;
    zmq_msg_t frame;

    if (zmq_msg_init_size(&frame, o->buf.n) != 0) {
        return AIF_FULL; /* nothing was sent yet, not even the route */
    }
    memcpy(zmq_msg_data(&frame), o->buf.p, o->buf.n);
    if (zmq_send(o->router, to->p, to->n, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) {
        how = zmq_errno() == EHOSTUNREACH ? AIF_GONE : AIF_FULL;
    } else if (zmq_msg_send(&frame, o->router, ZMQ_DONTWAIT) < 0) {
        how = AIF_FULL; /* cannot happen: there was room for the route */
    }
    if (how == AIF_SENT) {
        aif_status_count(o->status, AIF_N_BYTES_OUT, o->buf.n);
    } else {
        (void)zmq_msg_close(&frame);
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
