/* message.c - takes messages from the ROUTER socket. */
#include "broker/message.h"

#include "net/zap.h"

#include <string.h>

void
aif_message_init(aif_message *m)
{
    *m = (aif_message){0};
    (void)zmq_msg_init(&m->frame);
}

void
aif_message_close(aif_message *m)
{
    (void)zmq_msg_close(&m->frame);
}

/* One part of a message; false when there is none, or a signal came. */
static bool
message_part(aif_message *m, void *router)
{
    return zmq_msg_recv(&m->frame, router, ZMQ_DONTWAIT) >= 0;
}

bool
aif_message_recv(aif_message *m, void *router)
{
    size_t n;

    if (!message_part(m, router)) {
        return false;
    }
    n = zmq_msg_size(&m->frame);
    m->ours = n <= AIF_ROUTE_MAX && zmq_msg_more(&m->frame);
    if (m->ours) {
        m->from.n = (uint8_t)n;
        memcpy(m->from.p, zmq_msg_data(&m->frame), n);
        m->ours = message_part(m, router) && !zmq_msg_more(&m->frame);
    }
    while (!m->ours && zmq_msg_more(&m->frame) && message_part(m, router)) {
    }
    return true;
}

/* libzmq 4.3 keeps a frame of up to 33 bytes inside zmq_msg_t itself, and there
 * a move changes the place of its bytes.  A PUBLISH with an event is longer. */
void
aif_message_take(aif_message *to, aif_message *from)
{
    aif_message_init(to);
    to->from = from->from;
    to->ours = from->ours;
    (void)zmq_msg_move(&to->frame, &from->frame);
}

aif_reader
aif_message_bytes(aif_message *m)
{
    return (aif_reader){zmq_msg_data(&m->frame), zmq_msg_size(&m->frame)};
}

const char *
aif_message_key(const aif_message *m)
{
    return zmq_msg_gets(&m->frame, AIF_ZAP_USER);
}

const char *
aif_message_address(const aif_message *m)
{
    const char *address = zmq_msg_gets(&m->frame, "Peer-Address");

    return address == NULL || *address == '\0' ? "-" : address;
}

int
aif_message_fd(const aif_message *m)
{
    return zmq_msg_get(&m->frame, ZMQ_SRCFD);
}
