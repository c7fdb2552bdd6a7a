#include "store_contract.h"

static void
fresh(void)
{
}

int
main(void)
{
    static store_case c = {.uri = "mem:", .fresh = fresh};

    return store_contract(&c);
}
