/* str.h - a borrowed string: pointer and length, no NUL needed. */
#ifndef AIF_STR_H
#define AIF_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef struct {
    const char *p; /* borrowed; may be NULL when n is 0 */
    size_t n;
} aif_str;

#define AIF_STR(literal) ((aif_str){(literal), sizeof(literal) - 1})

static inline bool
aif_str_eq(aif_str a, aif_str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

/* By their bytes, as memcmp: less than, equal to or greater than 0. */
static inline int
aif_str_cmp(aif_str a, aif_str b)
{
    const size_t n = a.n < b.n ? a.n : b.n;
    const int order = n == 0 ? 0 : memcmp(a.p, b.p, n);

    return order != 0 ? order : (a.n > b.n) - (a.n < b.n);
}

#endif
