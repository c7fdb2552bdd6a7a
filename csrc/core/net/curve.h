/* curve.h - CURVE keys (RFC 26): make them, and give them to a zmq socket.
 *
 * In and out: Z85 texts of 40 characters.  No text of an error has a secret.
 */
#ifndef AIF_CURVE_H
#define AIF_CURVE_H

#include "base/err.h"
#include "base/str.h"

#define AIF_CURVE_KEY 40 /* characters, without the NUL */

typedef struct {
    char server[41]; /* the broker's public key */
    char public[41]; /* the client's own */
    char secret[41];
} aif_curve;

/* EINVAL names what it was to be, never what it was. */
AIF_MUST_CHECK aif_err aif_curve_check(const char *what, aif_str key,
                                       aif_error *e);
/* A new pair; EINVAL when libzmq was built without CURVE. */
AIF_MUST_CHECK aif_err aif_curve_pair(char public[static 41],
                                      char secret[static 41], aif_error *e);
AIF_MUST_CHECK aif_err aif_curve_public(const char *secret,
                                        char public[static 41], aif_error *e);

/* Before zmq_connect, and before zmq_bind. */
AIF_MUST_CHECK aif_err aif_curve_client(void *socket, const aif_curve *keys,
                                        aif_error *e);
AIF_MUST_CHECK aif_err aif_curve_server(void *socket, const char *secret,
                                        aif_error *e);

#endif
