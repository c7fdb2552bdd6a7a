/* Sentences 23 to 43 of docs/rules.md: count, groups, periods, own run, what a
 * firing reports. */
#include "rules_fixture.h"

#define SAYS(got, expected) assert_string_equal(got, expected)

/* -- count -------------------------------------------------------------- */

static void
r23_count_needs_that_many(void **state)
{
    fixture *fx = *state;

    RULE(fx, counted(on("a"), 3, 0));
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "b", ""), "");
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "a", ""), "0:1,3,4");
}

static void
r24_count_begins_anew_after_a_firing(void **state)
{
    fixture *fx = *state;

    RULE(fx, counted(on("a"), 2, 0));
    RULE(fx, any(2), counted(on("a"), 2, 0), on("b"));
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "b", ""), "1:2");
    SAYS(fed(fx, "a", ""), "0:1,3");
    SAYS(fed(fx, "a", ""), "1:3,4");
    SAYS(fed(fx, "a", ""), "0:4,5");
}

static void
r25_other_values_in_between_do_not_reset_the_count(void **state)
{
    fixture *fx = *state;

    RULE(fx, counted(is("a", "x"), 2, 0));
    SAYS(fed(fx, "a", "x"), "");
    SAYS(fed(fx, "a", "y"), "");
    SAYS(fed(fx, "a", "x"), "0:1,3");
}

static void
r26_count_with_a_value_needs_it_to_be_the_last(void **state)
{
    fixture *fx = *state;

    RULE(fx, all(2), counted(is("a", "x"), 2, 0), on("go"));
    SAYS(fed(fx, "a", "x"), "");
    SAYS(fed(fx, "a", "x"), "");
    SAYS(fed(fx, "a", "y"), "");
    SAYS(fed(fx, "go", ""), "");
    SAYS(fed(fx, "a", "x"), "0:2,4,5");
}

static const char *
fed_at(fixture *fx, int64_t time)
{
    fx->next.create_time = time;
    return fed(fx, "a", "");
}

static void
r27_within_is_the_span_of_the_newest_n(void **state)
{
    fixture *fx = *state;

    RULE(fx, counted(on("a"), 3, 1000));
    SAYS(fed_at(fx, 0), "");
    SAYS(fed_at(fx, 900), "");
    SAYS(fed_at(fx, 1001), "");        /* one ms too wide */
    SAYS(fed_at(fx, 1900), "0:2,3,4"); /* exactly as wide as it may be */
    SAYS(fed_at(fx, 1901), "");
}

static void
r28_within_is_event_time_in_any_order(void **state)
{
    fixture *fx = *state;

    RULE(fx, counted(on("a"), 3, 1000));
    SAYS(fed_at(fx, 5000), "");
    SAYS(fed_at(fx, 3999), "");
    SAYS(fed_at(fx, 4500), "");
    SAYS(fed_at(fx, 4999), "0:2,3,4");
    SAYS(fed_at(fx, INT64_MIN), "");
    SAYS(fed_at(fx, INT64_MAX), "");
    SAYS(fed_at(fx, 0), "");
}

/* -- groups ------------------------------------------------------------- */

static void
r29_all_of_needs_all(void **state)
{
    fixture *fx = *state;

    RULE(fx, all(3), on("a"), on("b"), on("c"));
    SAYS(fed(fx, "c", ""), "");
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "b", ""), "0:1,3,4");
}

static void
r30_any_of_needs_one(void **state)
{
    fixture *fx = *state;

    RULE(fx, any(3), on("a"), on("b"), on("c"));
    SAYS(fed(fx, "c", ""), "0:1");
    SAYS(fed(fx, "a", ""), "0:2");
}

static void
r31_groups_are_nested(void **state)
{
    fixture *fx = *state;

    RULE(fx, any(2), all(2), on("a"), any(2), on("b"), on("c"), all(2),
         on("d"), on("e"));
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "d", ""), "");
    SAYS(fed(fx, "c", ""), "0:1,3");
    SAYS(fed(fx, "e", ""), ""); /* d was consumed with the rest */
    SAYS(fed(fx, "d", ""), "0:4,5");
}

/* -- periods ------------------------------------------------------------ */

static void
r32_a_period_fires_at_its_multiples(void **state)
{
    fixture *fx = *state;

    fx->now = 500;
    RULE(fx, every(100));
    SAYS(ticked(fx, 599), "");
    SAYS(ticked(fx, 600), "0:");
    SAYS(ticked(fx, 600), "");
    SAYS(ticked(fx, 699), "");
    SAYS(ticked(fx, 701), "0:");
    SAYS(ticked(fx, 799), "");
    SAYS(ticked(fx, 800), "0:"); /* not 801: being late moves nothing */
}

static void
r33_missed_periods_become_one(void **state)
{
    fixture *fx = *state;

    RULE(fx, every(100));
    SAYS(ticked(fx, 1234), "0:");
    SAYS(ticked(fx, 1299), "");
    SAYS(ticked(fx, 1300), "0:");
}

static void
r34_a_period_in_all_of_is_met_until_the_rule_fires(void **state)
{
    fixture *fx = *state;

    RULE(fx, all(2), every(100), on("a"));
    SAYS(fed(fx, "a", ""), "");
    SAYS(ticked(fx, 100), "0:1");
    SAYS(ticked(fx, 200), "");
    SAYS(ticked(fx, 300), "");
    SAYS(fed(fx, "a", ""), "0:2");
    SAYS(fed(fx, "a", ""), "");
}

static void
r35_the_next_due_time_is_known(void **state)
{
    fixture *fx = *state;

    fx->now = 1000;
    RULE(fx, on("a"));
    RULE(fx, any(2), every(300), every(70));
    RULE(fx, every(500));
    start(fx);
    assert_int_equal(aif_rules_due(fx->r, fx->s), 1070);
    SAYS(ticked(fx, 1299), "1:");
    assert_int_equal(aif_rules_due(fx->r, fx->s), 1300);
    SAYS(ticked(fx, 1500), "1: 2:");
    assert_int_equal(aif_rules_due(fx->r, fx->s), 1560);
}

static void
r35_without_a_period_nothing_is_due(void **state)
{
    fixture *fx = *state;

    RULE(fx, on("a"));
    start(fx);
    assert_true(aif_rules_due(fx->r, fx->s) == INT64_MAX);
    SAYS(ticked(fx, INT64_MAX), "");
}

/* Nothing overflows at the ends of time. */
static void
r35_due_times_stay_in_range(void **state)
{
    fixture *fx = *state;

    fx->now = INT64_MIN;
    RULE(fx, every(7));
    RULE(fx, every(INT64_MAX));
    SAYS(ticked(fx, INT64_MAX - 1), "0: 1:");
    assert_true(aif_rules_due(fx->r, fx->s) > INT64_MAX - 8);
    SAYS(ticked(fx, INT64_MAX), "0: 1:");
    assert_true(aif_rules_due(fx->r, fx->s) == INT64_MAX);
}

/* -- own run ------------------------------------------------------------ */

static void
r36_a_status_counts_in_its_own_run_only(void **state)
{
    fixture *fx = *state;

    RULE(fx, of_own_run(is("d.a", "running")));
    RULE(fx, is("d.a", "running"));
    SAYS(fed(fx, "d.a", "running"), "1:1");
    fx->own_run = true;
    SAYS(fed(fx, "d.a", "running"), "0:2 1:2");
}

static void
r36_another_runs_status_unmeets_nothing(void **state)
{
    fixture *fx = *state;

    RULE(fx, all(2), of_own_run(is("d.a", "running")), on("go"));
    fx->own_run = true;
    SAYS(fed(fx, "d.a", "running"), "");
    fx->own_run = false;
    SAYS(fed(fx, "d.a", "failed"), "");
    SAYS(fed(fx, "go", ""), "0:1,3");
}

/* -- what a firing reports ---------------------------------------------- */

static void
r38_the_newest_event_of_each_condition_is_reported(void **state)
{
    fixture *fx = *state;

    RULE(fx, all(2), on("a"), on("b"));
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "b", ""), "0:2,3");
}

static void
r38_with_a_value_the_newest_that_has_it_still(void **state)
{
    fixture *fx = *state;

    RULE(fx, all(2), is("a*", "x"), on("go"));
    SAYS(fed(fx, "a1", "x"), "");
    SAYS(fed(fx, "a2", "x"), "");
    SAYS(fed(fx, "a2", "y"), "");
    SAYS(fed(fx, "go", ""), "0:1,4");
}

static void
r39_with_a_count_the_newest_n(void **state)
{
    fixture *fx = *state;

    RULE(fx, all(2), counted(on("a"), 2, 0), on("b"));
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "b", ""), "0:2,3,4");
}

static void
r40_only_met_branches_are_reported(void **state)
{
    fixture *fx = *state;

    RULE(fx, any(2), on("a"), all(2), on("b"), on("c"));
    SAYS(fed(fx, "b", ""), "");
    SAYS(fed(fx, "a", ""), "0:2"); /* b is met, its all_of is not */
}

static void
r41_offsets_ascend_and_come_once(void **state)
{
    fixture *fx = *state;

    RULE(fx, all(4), on("c"), on("*"), on("a"), on("a*"));
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "b", ""), "");
    SAYS(fed(fx, "c", ""), "0:1,3");
}

static void
r42_repeated_reports_an_old_event_again(void **state)
{
    fixture *fx = *state;

    RULE(fx, all(2), repeated(counted(on("a"), 2, 0)), on("b"));
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "b", ""), "0:1,2,3");
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "b", ""), "0:2,4,5");
}

static void
r43_a_period_alone_reports_nothing(void **state)
{
    fixture *fx = *state;

    RULE(fx, any(2), every(10), on("a"));
    SAYS(ticked(fx, 10), "0:");
    SAYS(fed(fx, "a", ""), "0:1");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, rules_setup, rules_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(r23_count_needs_that_many),
        TEST(r24_count_begins_anew_after_a_firing),
        TEST(r25_other_values_in_between_do_not_reset_the_count),
        TEST(r26_count_with_a_value_needs_it_to_be_the_last),
        TEST(r27_within_is_the_span_of_the_newest_n),
        TEST(r28_within_is_event_time_in_any_order),
        TEST(r29_all_of_needs_all),
        TEST(r30_any_of_needs_one),
        TEST(r31_groups_are_nested),
        TEST(r32_a_period_fires_at_its_multiples),
        TEST(r33_missed_periods_become_one),
        TEST(r34_a_period_in_all_of_is_met_until_the_rule_fires),
        TEST(r35_the_next_due_time_is_known),
        TEST(r35_without_a_period_nothing_is_due),
        TEST(r35_due_times_stay_in_range),
        TEST(r36_a_status_counts_in_its_own_run_only),
        TEST(r36_another_runs_status_unmeets_nothing),
        TEST(r38_the_newest_event_of_each_condition_is_reported),
        TEST(r38_with_a_value_the_newest_that_has_it_still),
        TEST(r39_with_a_count_the_newest_n),
        TEST(r40_only_met_branches_are_reported),
        TEST(r41_offsets_ascend_and_come_once),
        TEST(r42_repeated_reports_an_old_event_again),
        TEST(r43_a_period_alone_reports_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
