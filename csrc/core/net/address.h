/* address.h - what the address of a broker is, and lists of them.  Pure.
 *
 * In:  "ipc://PATH" or "tcp://HOST:PORT"; a list: "ADDRESS[, ADDRESS]...".
 * Out: whether it is one, and its parts; the addresses of a list.
 */
#ifndef AIF_ADDRESS_H
#define AIF_ADDRESS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/un.h>

#define AIF_URI_MAX 255
#define AIF_ADDRESSES_MAX 16
#define AIF_IPC_PATH_MAX (sizeof((struct sockaddr_un *)0)->sun_path - 1)

/* May a client connect to it?  EINVAL says what would be right. */
AIF_MUST_CHECK aif_err aif_address_check(const char *uri, aif_error *e);
/* The path of an ipc address, in uri; NULL when it is none. */
const char *aif_address_path(const char *uri);
/* Is it one of tcp, where CURVE can be? */
bool aif_address_is_tcp(const char *uri);
/* Only a host in [] is IPv6.  Were it allowed for others, libzmq would bind
 * 127.0.0.1 as ::ffff:127.0.0.1, and look for localhost at ::1. */
bool aif_address_is_v6(const char *uri);
/* The host and the port of a tcp address, as libzmq wants them: the port 0,
 * which means any, is "*" there.  False when it has no such parts. */
bool aif_address_split(const char *uri, char host[static 64],
                       char port[static 8]);
/* The host as libzmq wants it; NULL when other machines could reach it. */
const char *aif_address_loopback(const char *host);

typedef struct {
    char uri[AIF_ADDRESSES_MAX][AIF_URI_MAX + 1];
    size_t n;
    char names[161]; /* all of them, for messages; cut where it is long */
} aif_addresses;

/* One address, or several with commas between them.  A comma belongs to a
 * path unless another address follows it.  EINVAL: there is no address, there
 * are too many, or one of them is none. */
AIF_MUST_CHECK aif_err aif_addresses_parse(const char *text,
                                           aif_addresses *out, aif_error *e);

#endif
