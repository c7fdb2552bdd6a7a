#include "fault.h"

#include "base/mem.h"

#include <stdlib.h>

static int countdown = -1;

static void *
faulty_realloc(void *p, size_t n)
{
    return countdown >= 0 && countdown-- == 0 ? NULL : realloc(p, n);
}

void
fault_alloc_after(int n)
{
    countdown = n;
    aif_realloc = faulty_realloc;
}

void
fault_off(void)
{
    aif_realloc = realloc;
}
