/* uris.h - where the brokers are: "ADDRESS[, ADDRESS]...".  Pure.
 *
 * In:  a text.  Out: the addresses, each checked, and how to name them all.
 */
#ifndef AIF_URIS_H
#define AIF_URIS_H

#include "net/endpoint.h"
#include "base/err.h"

#include <stddef.h>

#define AIF_URIS_MAX 16

typedef struct {
    char uri[AIF_URIS_MAX][AIF_URI_MAX + 1];
    size_t n;
    char names[161]; /* all of them, for messages; cut where it is long */
} aif_uris;

/* One address, or several with commas between.  A comma belongs to a path
 * unless another address follows it.  EINVAL: none, too many, or one that is
 * none. */
AIF_MUST_CHECK aif_err aif_uris_parse(const char *text, aif_uris *out,
                                      aif_error *e);

#endif
