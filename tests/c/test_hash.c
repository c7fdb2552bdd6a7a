#include "cmocka_all.h"

#include "base/hash.h"

/* The reference's vectors_sip128: key 00..0f, input 00 01 02 ... */
static void
digests_are_the_references(void **state)
{
    static const uint8_t expected[3][16] = {
        {0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72,
         0x14, 0xc7, 0x55, 0x02, 0x93},
        {0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59,
         0x11, 0x9b, 0x22, 0xfc, 0x45},
        {0x81, 0x77, 0x22, 0x8d, 0xa4, 0xa4, 0x5d, 0xc7, 0xfc, 0xa3, 0x8b,
         0xde, 0xf6, 0x0a, 0xff, 0xe4},
    };
    static const uint8_t input[] = {0, 1, 2};

    (void)state;
    for (size_t n = 0; n < 3; n++) {
        aif_digest d = aif_hash(input, n);
        for (unsigned k = 0; k < 8; k++) {
            assert_int_equal((uint8_t)(d.lo >> (8 * k)), expected[n][k]);
            assert_int_equal((uint8_t)(d.hi >> (8 * k)), expected[n][8 + k]);
        }
    }
}

static void
strings_do_not_run_together(void **state)
{
    aif_str a[] = {AIF_STR("ab"), AIF_STR("c")};
    aif_str b[] = {AIF_STR("a"), AIF_STR("bc")};
    aif_digest da = aif_hash_strs(a, 2), db = aif_hash_strs(b, 2);

    (void)state;
    assert_true(da.lo != db.lo && da.hi != db.hi);
    db = aif_hash_strs(a, 2);
    assert_true(da.lo == db.lo && da.hi == db.hi);
}

static void
nothing_has_a_digest_too(void **state)
{
    aif_str none = {NULL, 0};
    aif_str empty = AIF_STR("");
    aif_digest a = aif_hash_strs(&none, 1), b = aif_hash_strs(&empty, 1);

    (void)state;
    assert_true(a.lo == b.lo && a.hi == b.hi);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(digests_are_the_references),
        cmocka_unit_test(strings_do_not_run_together),
        cmocka_unit_test(nothing_has_a_digest_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
