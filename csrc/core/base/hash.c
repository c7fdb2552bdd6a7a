#include "base/hash.h"

#include <assert.h>

/* https://www.aumasson.jp/siphash/siphash.pdf; the reference's test key. */
#define KEY0 0x0706050403020100u
#define KEY1 0x0f0e0d0c0b0a0908u
#define STRS_MAX 8

static uint64_t
rotl(uint64_t x, unsigned b)
{
    return (x << b) | (x >> (64 - b));
}

static void
rounds(uint64_t v[4], int n)
{
    while (n-- > 0) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotl(v[1], 13) ^ v[0];
        v[3] = rotl(v[3], 16) ^ v[2];
        v[0] = rotl(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rotl(v[1], 17) ^ v[2];
        v[3] = rotl(v[3], 21) ^ v[0];
        v[2] = rotl(v[2], 32);
    }
}

static uint64_t
word(const uint8_t *p, size_t n)
{
    uint64_t m = 0;

    for (size_t i = 0; i < n; i++) {
        m |= (uint64_t)p[i] << (8 * i);
    }
    return m;
}

static void
absorb(uint64_t v[4], uint64_t m)
{
    v[3] ^= m;
    rounds(v, 2);
    v[0] ^= m;
}

static uint64_t
folded(const uint64_t v[4])
{
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

aif_digest
aif_hash(const void *p, size_t n)
{
    uint64_t v[4] = {KEY0 ^ 0x736f6d6570736575u, KEY1 ^ 0x646f72616e646f83u,
                     KEY0 ^ 0x6c7967656e657261u, KEY1 ^ 0x7465646279746573u};
    const uint8_t *b = p;
    aif_digest d;
    size_t left = n;

    for (; left >= 8; left -= 8, b += 8) {
        absorb(v, word(b, 8));
    }
    absorb(v, word(b, left) | (uint64_t)n << 56);
    v[2] ^= 0xee;
    rounds(v, 4);
    d.lo = folded(v);
    v[1] ^= 0xdd;
    rounds(v, 4);
    d.hi = folded(v);
    return d;
}

aif_digest
aif_hash_strs(const aif_str *s, size_t n)
{
    aif_digest parts[STRS_MAX];
    uint8_t bytes[sizeof parts];

    assert(n <= STRS_MAX);
    for (size_t i = 0; i < n; i++) {
        parts[i] = aif_hash(s[i].p, s[i].n);
        for (unsigned k = 0; k < 8; k++) {
            bytes[i * 16 + k] = (uint8_t)(parts[i].lo >> (8 * k));
            bytes[i * 16 + 8 + k] = (uint8_t)(parts[i].hi >> (8 * k));
        }
    }
    return aif_hash(bytes, n * 16);
}
