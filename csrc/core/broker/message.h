/* message.h - one message of a peer, as it came from the ROUTER socket.
 *
 * In:  the ROUTER socket.
 * Out: the peer's routing id, the bytes of its frame, and what libzmq knows
 *      of the connection: key, address, descriptor.
 * A message is initialized, then received or taken, then closed.  Everybody may
 * read its route, and `ours`.  The broker's thread only.
 */
#ifndef AIF_MESSAGE_H
#define AIF_MESSAGE_H

#include "base/buf.h"
#include "broker/route.h"
#include "net/port.h"

#include <stdbool.h>

typedef struct {
    aif_route from;
    aif_port_msg frame;
    bool ours; /* it was a routing id and one frame, as the protocol says */
} aif_message;

void aif_message_init(aif_message *m);
void aif_message_close(aif_message *m);
/* Into an initialized m; it does not wait.  False: there is no message.  A
 * message of another form is read to its end, and is not ours. */
bool aif_message_recv(aif_message *m, void *router);
/* Move a message.  `to` need not be initialized; `from` is empty then.  The
 * bytes of a frame that has an event stay where they are, and so pointers into
 * them stay valid. */
void aif_message_take(aif_message *to, aif_message *from);

aif_reader aif_message_bytes(aif_message *m);
/* The public key (Z85) of the connection; NULL: it has no CURVE. */
const char *aif_message_key(const aif_message *m);
/* The address of the connection; "-": libzmq does not know it. */
const char *aif_message_address(const aif_message *m);
/* The descriptor of the connection; negative: libzmq does not know it. */
int aif_message_fd(const aif_message *m);

#endif
