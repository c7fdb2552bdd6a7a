#include "base/mem.h"

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
