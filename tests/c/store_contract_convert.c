/* A log of version 1, for the stores that there were then. */
#include "cmocka_all.h"

#include "store_contract.h"

static void (*make_version_1)(int first);

static void
version_1_is_converted(void **state)
{
    (void)state;
    make_version_1(1);
    contract_converted(1, 9005);
}

static void
what_version_1_lacks_in_front_was_let_go(void **state)
{
    (void)state;
    make_version_1(3);
    contract_converted(3, 9005);
}

static void
version_1_may_be_empty(void **state)
{
    (void)state;
    make_version_1(6);
    contract_converted(6, 0);
}

#define FRESH(test)                                                           \
    cmocka_unit_test_setup_teardown(test, contract_fresh, contract_close)

int
store_contract_convert(void (*make)(int first))
{
    const struct CMUnitTest tests[] = {
        FRESH(version_1_is_converted),
        FRESH(what_version_1_lacks_in_front_was_let_go),
        FRESH(version_1_may_be_empty),
    };

    make_version_1 = make;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
