#include "cmocka_all.h"

#include "base/hist.h"

static void
nothing_is_nothing(void **state)
{
    aif_hist h = {0};
    aif_hist_view v;

    (void)state;
    aif_hist_get(&h, &v);
    assert_int_equal(v.n, 0);
    assert_int_equal(aif_hist_percentile(&v, 50), 0);
    assert_int_equal(aif_hist_percentile(&v, 100), 0);
}

static void
a_value_is_below_its_buckets_end(void **state)
{
    aif_hist h = {0};
    aif_hist_view v;

    (void)state;
    aif_hist_add(&h, 0);
    aif_hist_add(&h, 1);
    aif_hist_add(&h, 2);
    aif_hist_add(&h, 3);
    aif_hist_add(&h, 4);
    aif_hist_add(&h, 1023);
    aif_hist_add(&h, 1024);
    aif_hist_add(&h, UINT64_MAX / 2);
    aif_hist_get(&h, &v);
    assert_int_equal(v.n, 8);
    assert_int_equal(v.buckets[0], 1);
    assert_int_equal(v.buckets[1], 1);
    assert_int_equal(v.buckets[2], 2);
    assert_int_equal(v.buckets[3], 1);
    assert_int_equal(v.buckets[10], 1);
    assert_int_equal(v.buckets[11], 1);
    assert_int_equal(v.buckets[AIF_HIST_BUCKETS - 1], 1);
    assert_int_equal(v.max, UINT64_MAX / 2);
    assert_int_equal(aif_hist_percentile(&v, 100), UINT64_MAX / 2);
}

/* Against all values sorted: off by less than a factor of two. */
static void
percentiles_are_near(void **state)
{
    static const unsigned percents[] = {1, 50, 90, 99, 100};
    aif_hist h = {0};
    aif_hist_view v;

    (void)state;
    for (uint64_t us = 1; us <= 100000; us++) {
        aif_hist_add(&h, us);
    }
    aif_hist_get(&h, &v);
    assert_int_equal(v.sum, (uint64_t)100000 * 100001 / 2);
    for (size_t i = 0; i < sizeof percents / sizeof *percents; i++) {
        uint64_t real = percents[i] * 1000;
        uint64_t told = aif_hist_percentile(&v, percents[i]);

        assert_in_range(told, real / 2, real * 2);
    }
    assert_int_equal(aif_hist_percentile(&v, 100), 100000);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_nothing),
        cmocka_unit_test(a_value_is_below_its_buckets_end),
        cmocka_unit_test(percentiles_are_near),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
