/* zap.h - who is let in: the ZAP server (RFC 27) of a broker's context.
 *
 * In:  libzmq's question about each new CURVE connection, and a table.
 * Out: the answer.  The connection's frames then carry the public key, as
 * Z85, in their property User-Id.  One thread: the broker's.
 */
#ifndef AIF_ZAP_H
#define AIF_ZAP_H

#include "net/access.h"
#include "net/curve.h"

#define AIF_ZAP_USER "User-Id" /* a property of a message */

typedef struct {
    bool allowed;
    char address[64]; /* the peer's; no port */
    char key[AIF_CURVE_KEY + 1];
} aif_zap_peer;

/* Answer one question that came on the socket of aif_port_zap; false when there
 * was none.  While access is NULL the peer may come again. */
bool aif_zap_answer(void *zap, const aif_access *access, aif_zap_peer *peer);

#endif
