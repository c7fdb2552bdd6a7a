#include "base/mem.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void *(*aif_realloc)(void *, size_t) = realloc;
void (*aif_free)(void *) = free;

void *
aif_zalloc(size_t n)
{
    void *p = aif_realloc(NULL, n);
    return p == NULL ? NULL : memset(p, 0, n);
}

void *
aif_grown(void *p, size_t *cap, size_t need, size_t size)
{
    size_t more = *cap == 0 ? 1 : *cap;

    if (need <= *cap) {
        return p;
    }
    if (need > SIZE_MAX / 2 / size) {
        return NULL;
    }
    while (more < need) {
        more *= 2;
    }
    p = aif_realloc(p, more * size);
    if (p != NULL) {
        *cap = more;
    }
    return p;
}
