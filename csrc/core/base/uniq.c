#include "base/uniq.h"

#include <stdlib.h>

static int
by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

size_t
aif_uniq(uint64_t *p, size_t n)
{
    size_t kept = 0;

    if (n > 1) {
        qsort(p, n, sizeof *p, by_number);
    }
    for (size_t i = 0; i < n; i++) {
        if (kept == 0 || p[kept - 1] != p[i]) {
            p[kept++] = p[i];
        }
    }
    return kept;
}
