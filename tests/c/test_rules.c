/* Sentences 1 to 22 of docs/rules.md: evaluation, patterns, value, life; each
 * test is named after its sentence.  23 to 43 are in test_rules_groups.c,
 * wrong arguments, stored bytes and failing memory in test_rules_state.c. */
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
