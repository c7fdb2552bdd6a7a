/* One test per sentence of docs/rules.md, by its number.  Wrong arguments,
 * stored bytes and failing memory are in test_rules_state.c. */
#include "rules_fixture.h"

#define SAYS(got, expected) assert_string_equal(got, expected)

/* -- evaluation --------------------------------------------------------- */

static void
r1_rules_fire_in_their_order(void **state)
{
    fixture *fx = *state;

    RULE(fx, on("b"));
    RULE(fx, any(2), on("a"), on("b"));
    RULE(fx, on("a"));
    SAYS(fed(fx, "a", ""), "1:1 2:1");
    SAYS(fed(fx, "b", ""), "0:2 1:2");
}

static void
r3_all_that_fire_consume_their_events(void **state)
{
    fixture *fx = *state;

    RULE(fx, on("a"));
    RULE(fx, all(2), on("a"), on("b"));
    RULE(fx, any(2), on("a"), all(2), on("a"), on("b"));
    SAYS(fed(fx, "a", ""), "0:1 2:1");
    SAYS(fed(fx, "b", ""), "1:1,2"); /* 2 has no newer a, 1 has */
}

static void
r4_newer_is_by_offset_not_by_clock(void **state)
{
    fixture *fx = *state;

    RULE(fx, on("a"));
    fx->next.create_time = 1000;
    SAYS(fed(fx, "a", ""), "0:1");
    fx->next.create_time = 1000; /* the same ms */
    SAYS(fed(fx, "a", ""), "0:2");
    fx->next.create_time = 10; /* a clock that went back */
    SAYS(fed(fx, "a", ""), "0:3");
}

static void
r5_other_events_evaluate_nothing(void **state)
{
    fixture *fx = *state;

    RULE(fx, repeated(on("a")));
    RULE(fx, on("other"));
    SAYS(fed(fx, "a", ""), "0:1");
    SAYS(fed(fx, "other", ""), "1:2");
    SAYS(fed(fx, "unknown", ""), "");
    SAYS(ticked(fx, 1000), "");
    SAYS(fed(fx, "a", ""), "0:4");
}

static void
r6_another_value_evaluates_nothing(void **state)
{
    fixture *fx = *state;

    RULE(fx, any(2), repeated(is("a", "x")), is("b", "y"));
    SAYS(fed(fx, "a", "x"), "0:1");
    SAYS(fed(fx, "b", "no"), "");
    SAYS(fed(fx, "b", "y"), "0:1,3");
}

static void
r7_what_was_fed_or_is_before_since_does_nothing(void **state)
{
    fixture *fx = *state;

    RULE(fx, on("a"));
    fx->since = 3;
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "a", ""), "0:4");
    fx->next.offset = 4;
    SAYS(fed(fx, "a", ""), "");
    fx->next.offset = 0;
    SAYS(fed(fx, "a", ""), "");
    fx->next.offset = 9; /* a gap is nothing special */
    SAYS(fed(fx, "a", ""), "0:9");
}

/* -- patterns ----------------------------------------------------------- */

static void
r8_each_field_is_compared(void **state)
{
    fixture *fx = *state;
    aif_cond c = on("a");

    c.pattern.ns = AIF_STR("n");
    c.pattern.type = AIF_STR("T");
    c.pattern.sender = AIF_STR("s");
    RULE(fx, c);
    fx->next.ns = AIF_STR("n");
    fx->next.type = AIF_STR("T");
    SAYS(fed(fx, "a", ""), "");
    fx->next.sender = AIF_STR("s");
    SAYS(fed(fx, "b", ""), "");
    SAYS(fed(fx, "aa", ""), "");
    SAYS(fed(fx, "a", ""), "0:4");
    fx->next.ns = AIF_STR("N");
    SAYS(fed(fx, "a", ""), "");
    fx->next.ns = AIF_STR("n");
    fx->next.type = AIF_STR("TT");
    SAYS(fed(fx, "a", ""), "");
}

static void
r9_a_star_is_anything_and_nothing(void **state)
{
    fixture *fx = *state;

    RULE(fx, on("*"));
    SAYS(fed(fx, "a", ""), "0:1");
    fx->next.sender = AIF_STR("");
    SAYS(fed(fx, "b", ""), "0:2");
    fx->next.sender = AIF_STR("somebody");
    SAYS(fed(fx, "c", ""), "0:3");
    fx->next.ns = AIF_STR("other");
    SAYS(fed(fx, "c", ""), ""); /* its namespace is no star */
}

static void
r10_a_star_at_the_end_is_a_prefix_elsewhere_a_letter(void **state)
{
    fixture *fx = *state;

    RULE(fx, on("abc*"));
    RULE(fx, on("a*c"));
    SAYS(fed(fx, "abcd", ""), "0:1");
    SAYS(fed(fx, "abc", ""), "0:2");
    SAYS(fed(fx, "ab", ""), "");
    SAYS(fed(fx, "xabc", ""), "");
    SAYS(fed(fx, "a*c", ""), "1:5");
}

static void
r11_an_empty_sender_is_no_sender(void **state)
{
    fixture *fx = *state;
    aif_cond c = on("a");

    c.pattern.sender = AIF_STR("");
    RULE(fx, c);
    SAYS(fed(fx, "a", ""), "0:1");
    fx->next.sender = AIF_STR("s");
    SAYS(fed(fx, "a", ""), "");
}

/* -- value -------------------------------------------------------------- */

static void
r13_without_a_value_any_will_do(void **state)
{
    fixture *fx = *state;

    RULE(fx, on("a"));
    SAYS(fed(fx, "a", ""), "0:1");
    SAYS(fed(fx, "a", "x"), "0:2");
}

static void
r14_with_a_value_the_last_one_must_be_it(void **state)
{
    fixture *fx = *state;

    RULE(fx, all(2), is("a", "x"), on("go"));
    SAYS(fed(fx, "a", "x"), "");
    SAYS(fed(fx, "a", "xx"), "");
    SAYS(fed(fx, "go", ""), "");
    SAYS(fed(fx, "a", "x"), "0:3,4");
}

static void
r15_another_value_of_the_same_source_unmeets(void **state)
{
    fixture *fx = *state;

    RULE(fx, all(2), is("a", "x"), on("go"));
    SAYS(fed(fx, "a", "x"), "");
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "go", ""), "");
}

/* Each of the four fields makes another source. */
static void
r16_another_value_of_another_source_does_not(void **state)
{
    fixture *fx = *state;
    aif_cond c = is("a*", "x");

    c.pattern.ns = AIF_STR("*");
    RULE(fx, all(2), c, on("go"));
    SAYS(fed(fx, "a", "x"), "");
    SAYS(fed(fx, "ab", "y"), "");
    fx->next.sender = AIF_STR("s");
    SAYS(fed(fx, "a", "y"), "");
    fx->next.sender = AIF_STR("");
    fx->next.type = AIF_STR("T");
    SAYS(fed(fx, "a", "y"), "");
    fx->next.type = AIF_STR("UNDEFINED");
    fx->next.ns = AIF_STR("n");
    SAYS(fed(fx, "a", "y"), "");
    fx->next.ns = AIF_STR("default");
    SAYS(fed(fx, "go", ""), "0:1,6");
}

static void
feed_numbered_keys(fixture *fx, int first, int last, const char *value)
{
    aif_firings f = {0};
    char key[16];
    aif_error e;

    for (int i = first; i <= last; i++) {
        int n = snprintf(key, sizeof key, "k%d", i);
        fx->next.key = (aif_str){key, (size_t)n};
        fx->next.value = (aif_str){value, strlen(value)};
        assert_int_equal(
            aif_rules_feed(fx->r, fx->s, &fx->next, false, &f, &e), AIF_OK);
        fx->next.offset++;
    }
    assert_int_equal(f.n, 0);
    aif_firings_fini(&f);
}

static void
r17_the_oldest_of_too_many_sources_is_forgotten(void **state)
{
    fixture *fx = *state;

    RULE(fx, all(2), is("k*", "x"), on("go"));
    start(fx);
    feed_numbered_keys(fx, 0, AIF_HOLDERS_MAX, "x"); /* one too many: k0 */
    feed_numbered_keys(fx, 2, AIF_HOLDERS_MAX, "y");
    SAYS(fed(fx, "k1", "y"), "");
    SAYS(fed(fx, "go", ""), ""); /* k0 still holds x, but is forgotten */
}

static void
r17_up_to_the_limit_all_are_kept(void **state)
{
    fixture *fx = *state;

    RULE(fx, all(2), is("k*", "x"), on("go"));
    start(fx);
    feed_numbered_keys(fx, 0, AIF_HOLDERS_MAX - 1, "x");
    feed_numbered_keys(fx, 1, AIF_HOLDERS_MAX - 1, "y");
    SAYS(fed(fx, "go", ""), "0:1,20000");
}

/* -- life --------------------------------------------------------------- */

static void
r18_once_needs_a_newer_event_each_time(void **state)
{
    fixture *fx = *state;

    RULE(fx, all(2), on("a"), on("b"));
    SAYS(fed(fx, "a", ""), "");
    SAYS(fed(fx, "b", ""), "0:1,2");
    SAYS(fed(fx, "b", ""), "");
    SAYS(fed(fx, "a", ""), "0:3,4");
}

static void
r19_once_with_a_value_needs_it_given_anew(void **state)
{
    fixture *fx = *state;

    RULE(fx, any(2), is("a", "x"), on("b"));
    RULE(fx, all(2), is("a", "x"), on("b"));
    SAYS(fed(fx, "a", "x"), "0:1");
    SAYS(fed(fx, "b", ""), "0:2 1:1,2"); /* rule 0 does not report 1 again */
    SAYS(fed(fx, "b", ""), "0:3");       /* a is x still, but not newly */
    SAYS(fed(fx, "a", "x"), "0:4 1:3,4");
}

static void
r20_repeated_stays_met(void **state)
{
    fixture *fx = *state;

    RULE(fx, all(2), repeated(on("a")), on("b"));
    SAYS(fed(fx, "b", ""), "");
    SAYS(fed(fx, "a", ""), "0:1,2");
    SAYS(fed(fx, "b", ""), "0:2,3");
    SAYS(fed(fx, "b", ""), "0:2,4");
    SAYS(fed(fx, "a", ""), "");
}

static void
r21_repeated_with_a_value_while_it_lasts(void **state)
{
    fixture *fx = *state;

    RULE(fx, all(2), repeated(is("a", "x")), on("b"));
    SAYS(fed(fx, "a", "x"), "");
    SAYS(fed(fx, "b", ""), "0:1,2");
    SAYS(fed(fx, "b", ""), "0:1,3");
    SAYS(fed(fx, "a", "y"), "");
    SAYS(fed(fx, "b", ""), "");
    SAYS(fed(fx, "a", "x"), "0:5,6");
    fx->next.sender = AIF_STR("another source holds x too");
    SAYS(fed(fx, "a", "x"), "");
    fx->next.sender = AIF_STR("");
    SAYS(fed(fx, "a", "y"), "");
    SAYS(fed(fx, "b", ""), "0:7,9");
}

static void
r22_repeated_is_first_met_as_once_is(void **state)
{
    fixture *fx = *state;

    RULE(fx, any(2), repeated(counted(is("a", "x"), 2, 0)), on("b"));
    SAYS(fed(fx, "a", "x"), "");
    SAYS(fed(fx, "b", ""), "0:2");    /* consumes event 1 */
    SAYS(fed(fx, "a", "x"), "");      /* one since then */
    SAYS(fed(fx, "a", "x"), "0:3,4"); /* two */
    SAYS(fed(fx, "b", ""), "0:3,4,5");
    SAYS(fed(fx, "a", "y"), "");
    SAYS(fed(fx, "b", ""), "0:7");
    SAYS(fed(fx, "a", "x"), ""); /* to be met anew takes two again */
    SAYS(fed(fx, "a", "x"), "0:8,9");
}

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
        TEST(r1_rules_fire_in_their_order),
        TEST(r3_all_that_fire_consume_their_events),
        TEST(r4_newer_is_by_offset_not_by_clock),
        TEST(r5_other_events_evaluate_nothing),
        TEST(r6_another_value_evaluates_nothing),
        TEST(r7_what_was_fed_or_is_before_since_does_nothing),
        TEST(r8_each_field_is_compared),
        TEST(r9_a_star_is_anything_and_nothing),
        TEST(r10_a_star_at_the_end_is_a_prefix_elsewhere_a_letter),
        TEST(r11_an_empty_sender_is_no_sender),
        TEST(r13_without_a_value_any_will_do),
        TEST(r14_with_a_value_the_last_one_must_be_it),
        TEST(r15_another_value_of_the_same_source_unmeets),
        TEST(r16_another_value_of_another_source_does_not),
        TEST(r17_the_oldest_of_too_many_sources_is_forgotten),
        TEST(r17_up_to_the_limit_all_are_kept),
        TEST(r18_once_needs_a_newer_event_each_time),
        TEST(r19_once_with_a_value_needs_it_given_anew),
        TEST(r20_repeated_stays_met),
        TEST(r21_repeated_with_a_value_while_it_lasts),
        TEST(r22_repeated_is_first_met_as_once_is),
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
