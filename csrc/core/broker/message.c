/* message.c - takes messages from the ROUTER socket. */
#include "broker/message.h"

#include "net/zap.h"

#include <string.h>

void
aif_message_init(aif_message *m)
{
    *m = (aif_message){0};
    aif_port_msg_init(&m->frame);
}

void
aif_message_close(aif_message *m)
{
    aif_port_msg_fini(&m->frame);
}

bool
aif_message_recv(aif_message *m, void *router)
{
    aif_str id;

    if (!aif_port_part(router, &m->frame)) {
        return false;
    }
    id = aif_port_msg_bytes(&m->frame);
    m->ours = id.n <= AIF_ROUTE_MAX && aif_port_msg_more(&m->frame);
    if (m->ours) {
        m->from.n = (uint8_t)id.n;
        memcpy(m->from.p, id.p, id.n);
        m->ours =
            aif_port_part(router, &m->frame) && !aif_port_msg_more(&m->frame);
    }
    while (!m->ours && aif_port_msg_more(&m->frame) &&
           aif_port_part(router, &m->frame)) {
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
    aif_port_msg_move(&to->frame, &from->frame);
}

aif_reader
aif_message_bytes(aif_message *m)
{
    aif_str bytes = aif_port_msg_bytes(&m->frame);

    return (aif_reader){(const uint8_t *)bytes.p, bytes.n};
}

const char *
aif_message_key(const aif_message *m)
{
    return aif_port_msg_property(&m->frame, AIF_ZAP_USER);
}

const char *
aif_message_address(const aif_message *m)
{
    const char *address = aif_port_msg_property(&m->frame, "Peer-Address");

    return address == NULL || *address == '\0' ? "-" : address;
}

int
aif_message_fd(const aif_message *m)
{
    return aif_port_msg_fd(&m->frame);
}
