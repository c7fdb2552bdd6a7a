/* Wrong rules, stored states, failing memory. */
#include "rules_fixture.h"

#include "fault.h"

#include <stdlib.h>

#define TEST(f) cmocka_unit_test_setup_teardown(f, rules_setup, rules_teardown)

/* -- rules that are refused --------------------------------------------- */

static void
assert_refused(fixture *fx, int action, const aif_cond *c, size_t n,
               const char *why)
{
    aif_error e;
    size_t before = aif_rules_count(fx->r);

    assert_int_equal(aif_rules_add(fx->r, (aif_action)action, c, n, &e),
                     AIF_EINVAL);
    if (strstr(e.text, why) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", e.text, why);
    }
    assert_int_equal(aif_rules_count(fx->r), before);
}

#define REFUSED(fx, why, ...)                                                 \
    assert_refused(fx, AIF_START, (aif_cond[]){__VA_ARGS__},                  \
                   sizeof((aif_cond[]){__VA_ARGS__}) / sizeof(aif_cond), why)

static void
wrong_conditions_are_refused_with_the_reason(void **state)
{
    fixture *fx = *state;
    aif_cond c = on("a");

    REFUSED(fx, "key", on(""));
    REFUSED(fx, "count is 0, must be 1 to 1000", counted(on("a"), 0, 0));
    REFUSED(fx, "count is 1001, must be", counted(on("a"), 1001, 0));
    REFUSED(fx, "within is -1 ms", counted(on("a"), 1, -1));
    REFUSED(fx, "a period is 0 ms, must be positive", every(0));
    REFUSED(fx, "a period is -5 ms", every(-5));
    REFUSED(fx, "a group has no conditions", all(0));
    REFUSED(fx, "value", is("a", "\xff"));
    c.kind = (aif_cond_kind)9;
    REFUSED(fx, "no such kind of condition: 9", c);
    c = on("a");
    assert_refused(fx, 7, &c, 1, "no such action: 7");
    assert_refused(fx, -1, &c, 1, "no such action: -1");
    assert_refused(fx, AIF_NONE, &c, 0, "0 conditions, must be 1 to 256");
}

static void
a_tree_that_does_not_add_up_is_refused(void **state)
{
    fixture *fx = *state;

    REFUSED(fx, "a group of 2 conditions has only 1", all(2), on("a"));
    REFUSED(fx, "a group of 1 conditions has only 0", any(2), on("a"), all(1));
    REFUSED(fx, "1 conditions behind the tree's end", on("a"), on("b"));
    REFUSED(fx, "2 conditions behind", all(1), on("a"), on("b"), on("b"));
    REFUSED(fx, "has only 1", all(UINT32_MAX), on("a"));
}

static void
limits_are_met_exactly(void **state)
{
    fixture *fx = *state;
    aif_cond deep[AIF_DEPTH_MAX + 2], wide[AIF_CONDS_MAX + 1];

    for (int i = 0; i <= AIF_DEPTH_MAX; i++) {
        deep[i] = any(1);
    }
    deep[AIF_DEPTH_MAX + 1] = on("a");
    add_rule(fx, AIF_NONE, deep + 1, AIF_DEPTH_MAX + 1);
    assert_refused(fx, AIF_NONE, deep, AIF_DEPTH_MAX + 2, "more than 16 deep");
    wide[0] = all(AIF_CONDS_MAX - 1);
    for (int i = 1; i <= AIF_CONDS_MAX; i++) {
        wide[i] = counted(on("a"), AIF_COUNT_MAX, 0);
    }
    add_rule(fx, AIF_NONE, wide, AIF_CONDS_MAX);
    wide[0] = all(AIF_CONDS_MAX);
    assert_refused(fx, AIF_NONE, wide, AIF_CONDS_MAX + 1, "257 conditions");
    while (aif_rules_count(fx->r) < AIF_RULES_MAX) {
        RULE(fx, on("a"));
    }
    REFUSED(fx, "more than 64 rules", on("a"));
}

static void
rules_are_copied(void **state)
{
    fixture *fx = *state;
    char key[] = "a", value[] = "x";
    aif_cond c = is(key, value);

    add_rule(fx, AIF_STOP, &c, 1);
    key[0] = value[0] = 'z';
    assert_string_equal(fed(fx, "a", "x"), "0:1");
    assert_string_equal(fed(fx, "z", "z"), "");
}

static void
a_firing_carries_its_rules_action(void **state)
{
    fixture *fx = *state;
    aif_firings f = {0};
    aif_cond c = on("a");
    aif_error e;

    for (int action = AIF_NONE; action <= AIF_STOP; action++) {
        add_rule(fx, (aif_action)action, &c, 1);
    }
    start(fx);
    fx->next.key = AIF_STR("a");
    assert_int_equal(aif_rules_feed(fx->r, fx->s, &fx->next, false, &f, &e),
                     AIF_OK);
    assert_int_equal(f.n, 4);
    for (int action = AIF_NONE; action <= AIF_STOP; action++) {
        assert_int_equal(f.fired[action].action, action);
    }
    aif_firings_fini(&f);
    assert_int_equal(f.n, 0);
    aif_firings_fini(&f);
}

/* -- stored states ------------------------------------------------------ */

/* A state with something of everything in it. */
static void
rich(fixture *fx)
{
    RULE(fx, all(4), repeated(is("a*", "x")), counted(on("b"), 3, 500),
         every(100), any(2), is("c", "y"), repeated(on("d")));
    RULE(fx, any(2), on("a1"), on("never"));
    fed(fx, "a1", "x");
    fed(fx, "a2", "x");
    fed(fx, "b", "");
    fed(fx, "b", "");
    fed(fx, "d", "");
    ticked(fx, 250);
}

static aif_buf
encoded(const fixture *fx)
{
    aif_buf b = {0};
    aif_error e;

    assert_int_equal(aif_state_encode(fx->s, &b, &e), AIF_OK);
    return b;
}

static aif_err
decoded(const aif_rules *r, const uint8_t *p, size_t n, aif_error *e)
{
    aif_reader in = {p, n};
    aif_rules_state *s;
    aif_err err = aif_state_decode(r, &in, &s, e);

    assert_true((err == AIF_OK) == (s != NULL));
    aif_state_free(s);
    return err;
}

static void
r44_a_stored_state_goes_on_where_it_was(void **state)
{
    fixture *fx = *state; /* the fixture stores and loads at each step */

    rich(fx);
    assert_string_equal(fed(fx, "b", ""), "0:2,3,4,5,6");
    assert_string_equal(fed(fx, "a1", "x"), "1:7");
    assert_int_equal(aif_rules_due(fx->r, fx->s), 300);
}

static void
r45_a_state_of_other_rules_is_refused(void **state)
{
    fixture *fx = *state;
    aif_cond changed[] = {on("b"),
                          is("a", ""),
                          is("a", "x"),
                          repeated(on("a")),
                          of_own_run(on("a")),
                          counted(on("a"), 2, 0),
                          counted(on("a"), 1, 1),
                          every(5)};
    aif_cond a = on("a");
    aif_error e;
    aif_buf b;

    RULE(fx, on("a"));
    start(fx);
    b = encoded(fx);
    for (size_t i = 0; i <= sizeof changed / sizeof changed[0]; i++) {
        bool last = i == sizeof changed / sizeof changed[0];
        aif_rules *r;
        assert_int_equal(aif_rules_new(&r, &e), AIF_OK);
        assert_int_equal(aif_rules_add(r, last ? AIF_STOP : AIF_START,
                                       last ? &a : &changed[i], 1, &e),
                         AIF_OK);
        assert_int_equal(decoded(r, b.p, b.n, &e), AIF_ECORRUPT);
        assert_non_null(strstr(e.text, "of other rules"));
        aif_rules_free(r);
    }
    RULE(fx, on("a"));
    assert_int_equal(decoded(fx->r, b.p, b.n, &e), AIF_ECORRUPT);
    aif_buf_fini(&b);
}

static void
a_cut_state_is_corrupt(void **state)
{
    fixture *fx = *state;
    aif_error e;
    aif_buf b;

    rich(fx);
    b = encoded(fx);
    for (size_t n = 0; n < b.n; n++) {
        uint8_t *exact = malloc(n + 1); /* so that a sanitizer sees the end */
        assert_non_null(exact);
        memcpy(exact, b.p, n);
        assert_int_equal(decoded(fx->r, exact, n, &e), AIF_ECORRUPT);
        free(exact);
    }
    assert_int_equal(aif_buf_u8(&b, 0, &e), AIF_OK);
    assert_int_equal(decoded(fx->r, b.p, b.n, &e), AIF_ECORRUPT);
    assert_non_null(strstr(e.text, "bytes behind its end"));
    assert_int_equal(decoded(fx->r, b.p, b.n - 1, &e), AIF_OK);
    b.p[0] = 2;
    assert_int_equal(decoded(fx->r, b.p, b.n - 1, &e), AIF_ECORRUPT);
    assert_non_null(strstr(e.text, "version 2"));
    aif_buf_fini(&b);
}

/* Of whichever rules it is: an edited rule begins where the old one was. */
static void
a_state_says_how_far_its_rules_have_heard(void **state)
{
    fixture *fx = *state;
    uint64_t heard = 0;
    aif_reader in;
    aif_error e;
    aif_buf b;

    rich(fx);
    b = encoded(fx);
    in = (aif_reader){b.p, b.n};
    assert_int_equal(aif_state_heard(&in, &heard, &e), AIF_OK);
    assert_int_equal(heard, 5);       /* rich() has fed five */
    for (size_t n = 0; n < 17; n++) { /* the version and two numbers */
        in = (aif_reader){b.p, n};
        assert_int_equal(aif_state_heard(&in, &heard, &e), AIF_ECORRUPT);
    }
    b.p[0] = 2;
    in = (aif_reader){b.p, b.n};
    assert_int_equal(aif_state_heard(&in, &heard, &e), AIF_ECORRUPT);
    assert_non_null(strstr(e.text, "version 2"));
    aif_buf_fini(&b);
}

/* Whatever byte is changed: refused, or a state that is written the same. */
static void
a_changed_byte_is_corrupt_or_kept(void **state)
{
    fixture *fx = *state;
    int refused = 0;
    aif_error e;
    aif_buf b, again = {0};

    rich(fx);
    b = encoded(fx);
    for (size_t i = 0; i < b.n; i++) {
        for (int v = 0; v < 256; v++) {
            uint8_t was = b.p[i];
            aif_reader in = {b.p, b.n};
            aif_rules_state *s;
            b.p[i] = (uint8_t)v;
            if (aif_state_decode(fx->r, &in, &s, &e) == AIF_OK) {
                again.n = 0;
                assert_int_equal(aif_state_encode(s, &again, &e), AIF_OK);
                assert_int_equal(again.n, b.n);
                assert_memory_equal(again.p, b.p, b.n);
                aif_state_free(s);
            } else {
                assert_int_equal(e.code, AIF_ECORRUPT);
                refused++;
            }
            b.p[i] = was;
        }
    }
    assert_true(refused > 10000);
    aif_buf_fini(&b);
    aif_buf_fini(&again);
}

/* -- memory that fails -------------------------------------------------- */

static void
adding_a_rule_survives_every_failed_allocation(void **state)
{
    fixture *fx = *state;
    aif_cond c[] = {all(2), is("a", "x"), on("b")};
    aif_error e;
    aif_err err;
    int nth = 0;

    do {
        fault_alloc_after(nth++);
        err = aif_rules_add(fx->r, AIF_START, c, 3, &e);
        fault_off();
        assert_true(err == AIF_OK || err == AIF_ENOMEM);
        assert_int_equal(aif_rules_count(fx->r), err == AIF_OK);
    } while (err != AIF_OK);
    assert_true(nth > 4);
    assert_string_equal(fed(fx, "a", "x"), "");
    assert_string_equal(fed(fx, "b", ""), "0:1,2");
}

static void
making_rules_and_states_survives_it(void **state)
{
    fixture *fx = *state;
    aif_rules *r;
    aif_rules_state *s;
    aif_error e;
    int nth = 0;

    RULE(fx, on("a"));
    do {
        fault_alloc_after(nth++);
        if (aif_rules_new(&r, &e) == AIF_OK) {
            aif_rules_free(r);
        } else {
            assert_null(r);
        }
        if (aif_state_new(fx->r, 0, 0, &s, &e) == AIF_OK) {
            aif_state_free(s);
        } else {
            assert_null(s);
        }
        fault_off();
    } while (nth < 6);
    aif_rules_free(NULL);
    aif_state_free(NULL);
}

static void
storing_and_loading_survive_it(void **state)
{
    fixture *fx = *state;
    aif_buf b = {0}, whole;
    aif_error e;
    aif_err err;
    int nth = 0;

    rich(fx);
    whole = encoded(fx);
    do {
        fault_alloc_after(nth++);
        err = aif_state_encode(fx->s, &b, &e);
        fault_off();
        assert_int_equal(b.n, err == AIF_OK ? whole.n : 0);
    } while (err == AIF_ENOMEM);
    assert_int_equal(err, AIF_OK);
    nth = 0;
    do {
        fault_alloc_after(nth++);
        err = decoded(fx->r, whole.p, whole.n, &e);
        fault_off();
    } while (err == AIF_ENOMEM);
    assert_int_equal(err, AIF_OK);
    assert_true(nth > 5);
    aif_buf_fini(&b);
    aif_buf_fini(&whole);
}

/* Feed (tick when key is NULL) until nothing fails; each failure must leave
 * the state and the firings as they were. */
static void
step_with_faults(fixture *fx, const char *key, const char *value,
                 aif_firings *f)
{
    aif_buf before = encoded(fx), after;
    size_t n = f->n;
    aif_error e;
    aif_err err;
    int nth = 0;

    fx->next.key = (aif_str){key, key != NULL ? strlen(key) : 0};
    fx->next.value = (aif_str){value, strlen(value)};
    for (;;) {
        fault_alloc_after(nth++);
        err = key == NULL
                  ? aif_rules_tick(fx->r, fx->s, 1000000, f, &e)
                  : aif_rules_feed(fx->r, fx->s, &fx->next, false, f, &e);
        fault_off();
        if (err == AIF_OK) {
            break;
        }
        assert_int_equal(err, AIF_ENOMEM);
        after = encoded(fx);
        assert_int_equal(f->n, n);
        assert_int_equal(before.n, after.n);
        assert_memory_equal(before.p, after.p, after.n);
        aif_buf_fini(&after);
    }
    fx->next.offset++;
    aif_buf_fini(&before);
}

static void
r46_a_failure_leaves_the_state_as_it_was(void **state)
{
    fixture *fx = *state;
    aif_firings f = {0};

    RULE(fx, any(2), on("a"), is("b*", "x"));
    RULE(fx, all(3), counted(on("a"), 3, 0), repeated(is("b*", "x")),
         every(10));
    RULE(fx, every(10));
    start(fx);
    step_with_faults(fx, "a", "", &f);
    step_with_faults(fx, "b1", "x", &f);
    step_with_faults(fx, "b2", "x", &f);
    step_with_faults(fx, "a", "", &f);
    step_with_faults(fx, "a", "", &f);
    assert_int_equal(f.n, 5);
    step_with_faults(fx, NULL, "", &f);
    assert_int_equal(f.n, 7);
    assert_int_equal(f.fired[5].rule, 1);
    assert_int_equal(f.fired[5].n, 4);
    assert_int_equal(f.fired[6].rule, 2);
    aif_firings_fini(&f);
}

static void
r47_a_state_stays_small(void **state)
{
    fixture *fx = *state;
    aif_buf b;

    RULE(fx, repeated(counted(on("a"), AIF_COUNT_MAX, 0)));
    RULE(fx, all(2), counted(on("a"), AIF_COUNT_MAX, 0), on("never"));
    for (int i = 0; i < 3 * AIF_COUNT_MAX; i++) {
        fed(fx, "a", "");
    }
    b = encoded(fx);
    assert_true(b.n < 2 * AIF_COUNT_MAX * 16 + 100);
    aif_buf_fini(&b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(wrong_conditions_are_refused_with_the_reason),
        TEST(a_tree_that_does_not_add_up_is_refused),
        TEST(limits_are_met_exactly),
        TEST(rules_are_copied),
        TEST(a_firing_carries_its_rules_action),
        TEST(r44_a_stored_state_goes_on_where_it_was),
        TEST(r45_a_state_of_other_rules_is_refused),
        TEST(a_cut_state_is_corrupt),
        TEST(a_state_says_how_far_its_rules_have_heard),
        TEST(a_changed_byte_is_corrupt_or_kept),
        TEST(adding_a_rule_survives_every_failed_allocation),
        TEST(making_rules_and_states_survives_it),
        TEST(storing_and_loading_survive_it),
        TEST(r46_a_failure_leaves_the_state_as_it_was),
        TEST(r47_a_state_stays_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
