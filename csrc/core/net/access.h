/* access.h - who may do what: a key, and the namespaces that it may publish
 * to and read.  Pure, and never changed once made.
 *
 * In:  a list of keys with patterns: exact, a prefix `abc*`, `*`.
 * Out: the grant of a key, and what that allows.
 */
#ifndef AIF_ACCESS_H
#define AIF_ACCESS_H

#include "base/err.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>

#define AIF_ACCESS_KEYS_MAX 10000
#define AIF_ACCESS_PATTERNS_MAX 256 /* of one key, to publish or to read */
#define AIF_ACCESS_NAME_MAX 64      /* bytes of a key's name */

typedef struct {
    aif_str public; /* Z85, 40 characters */
    aif_str name;
    const aif_str *publish; /* patterns of namespaces */
    size_t n_publish;
    const aif_str *read;
    size_t n_read;
} aif_access_key;

typedef struct aif_access aif_access;
typedef struct aif_grant aif_grant;

/* Copies all.  EINVAL: a bad name or pattern, a key that is listed twice, too
 * many. */
AIF_MUST_CHECK aif_err aif_access_new(const aif_access_key *keys, size_t n,
                                      aif_access **out, aif_error *e);
void aif_access_free(aif_access *a);
/* What the key may do; NULL: it is not in the table, or there is no table. */
const aif_grant *aif_access_find(const aif_access *a, aif_str public);

aif_str aif_grant_name(const aif_grant *g);
/* May it publish events of this namespace? */
bool aif_grant_publish(const aif_grant *g, aif_str ns);
/* May it publish at all? */
bool aif_grant_publishes(const aif_grant *g);
/* May it read all that this pattern of namespaces matches? */
bool aif_grant_read(const aif_grant *g, aif_str pattern);

#endif
