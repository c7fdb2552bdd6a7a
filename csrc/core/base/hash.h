/* hash.h - a digest of strings: SipHash-2-4 with 128 bits and a fixed key.
 *
 * In:  bytes.  Out: the same digest on every machine, so it may be stored.
 * Not a secret: whoever can publish can aim at a bucket, not at our memory.
 */
#ifndef AIF_HASH_H
#define AIF_HASH_H

#include "base/str.h"

#include <stdint.h>

typedef struct {
    uint64_t lo;
    uint64_t hi;
} aif_digest;

aif_digest aif_hash(const void *p, size_t n);
/* Of n strings, at most 8, told apart also where their bytes run together. */
aif_digest aif_hash_strs(const aif_str *s, size_t n);

#endif
