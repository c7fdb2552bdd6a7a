#include "cmocka_all.h"

#include "event/pattern.h"

#include <stdlib.h>
#include <string.h>

static aif_error e;

static void
a_field_is_exact_any_or_a_prefix(void **state)
{
    (void)state;
    assert_true(aif_pattern_field(AIF_STR("abc"), AIF_STR("abc")));
    assert_false(aif_pattern_field(AIF_STR("abc"), AIF_STR("abcd")));
    assert_false(aif_pattern_field(AIF_STR("abc"), AIF_STR("ab")));
    assert_false(aif_pattern_field(AIF_STR("abc"), AIF_STR("ABC")));
    assert_true(aif_pattern_field(AIF_STR("*"), AIF_STR("abc")));
    assert_true(aif_pattern_field(AIF_STR("*"), AIF_STR("")));
    assert_true(aif_pattern_field(AIF_STR("ab*"), AIF_STR("abc")));
    assert_true(aif_pattern_field(AIF_STR("ab*"), AIF_STR("ab")));
    assert_false(aif_pattern_field(AIF_STR("ab*"), AIF_STR("a")));
    assert_false(aif_pattern_field(AIF_STR("ab*"), AIF_STR("xab")));
    assert_true(aif_pattern_field(AIF_STR(""), AIF_STR("")));
    assert_false(aif_pattern_field(AIF_STR(""), AIF_STR("a")));
    assert_true(aif_pattern_field(AIF_STR("*a"), AIF_STR("*a")));
    assert_false(aif_pattern_field(AIF_STR("*a"), AIF_STR("ba")));
    assert_true(aif_pattern_field(AIF_STR("a**"), AIF_STR("a*b")));
    assert_false(aif_pattern_field(AIF_STR("a**"), AIF_STR("ab")));
}

static void
only_a_trailing_star_is_not_exact(void **state)
{
    (void)state;
    assert_true(aif_pattern_exact(AIF_STR("")));
    assert_true(aif_pattern_exact(AIF_STR("a*b")));
    assert_false(aif_pattern_exact(AIF_STR("*")));
    assert_false(aif_pattern_exact(AIF_STR("a*")));
}

static void
every_field_must_match(void **state)
{
    const aif_event ev = {.ns = AIF_STR("n"),
                          .key = AIF_STR("k"),
                          .type = AIF_STR("t"),
                          .sender = AIF_STR("s"),
                          .context = AIF_STR("c")};
    const aif_str ok[] = {AIF_STR("n"), AIF_STR("k"), AIF_STR("t"),
                          AIF_STR("s"), AIF_STR("c")};

    (void)state;
    for (unsigned wrong = 0; wrong < 32; wrong++) {
        aif_str f[5];

        for (unsigned i = 0; i < 5; i++) {
            f[i] = wrong & 1u << i ? AIF_STR("no") : ok[i];
        }
        assert_int_equal(
            aif_pattern_matches(&(aif_pattern){f[0], f[1], f[2], f[3], f[4]},
                                &ev),
            wrong == 0);
    }
}

static void
a_pattern_has_its_limits(void **state)
{
    static char text[2000];
    const struct {
        size_t at;
        size_t max;
        bool may_be_empty;
    } fields[] = {{offsetof(aif_pattern, ns), AIF_NAME_MAX, false},
                  {offsetof(aif_pattern, key), AIF_KEY_MAX, false},
                  {offsetof(aif_pattern, type), AIF_NAME_MAX, false},
                  {offsetof(aif_pattern, sender), AIF_NAME_MAX, true},
                  {offsetof(aif_pattern, context), AIF_CONTEXT_MAX, true}};

    (void)state;
    for (size_t i = 0; i < 5; i++) {
        for (size_t star = 0; star < 2; star++) {
            for (size_t n = 0; n <= fields[i].max + 2; n++) {
                aif_pattern p = {AIF_STR("*"), AIF_STR("*"), AIF_STR("*"),
                                 AIF_STR("*"), AIF_STR("*")};
                aif_str s = {text, n};
                bool good = n <= fields[i].max + star &&
                            (n > 0 || fields[i].may_be_empty);

                memset(text, 'x', sizeof text);
                text[n == 0 ? 0 : n - 1] = star ? '*' : 'x';
                memcpy((char *)&p + fields[i].at, &s, sizeof s);
                assert_int_equal(aif_pattern_check(&p, &e),
                                 good ? AIF_OK : AIF_EINVAL);
            }
        }
    }
    assert_string_equal(e.text,
                        "pattern's context has 1026 bytes: 1025 are the most");
}

/* Overlap: is there a text that both match?  Covers: does a match all of b's?
 * The oracle tries every text of up to three letters of "ab". */
static void
overlap_and_cover_say_what_texts_say(void **state)
{
    static const char *const fields[] = {"",   "a",  "b",   "ab",  "aba", "*",
                                         "a*", "b*", "ab*", "ba*", "aa*"};
    static const char *const texts[] = {"",    "a",   "b",   "aa",  "ab",
                                        "ba",  "bb",  "aaa", "aab", "aba",
                                        "abb", "baa", "bab", "bba", "bbb"};

    (void)state;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        for (size_t j = 0; j < sizeof fields / sizeof *fields; j++) {
            const aif_str a = {fields[i], strlen(fields[i])};
            const aif_str b = {fields[j], strlen(fields[j])};
            bool both = false;
            bool all = true;

            for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
                const aif_str t = {texts[k], strlen(texts[k])};
                bool in_a = aif_pattern_field(a, t);
                bool in_b = aif_pattern_field(b, t);

                both = both || (in_a && in_b);
                all = all && (in_a || !in_b);
            }
            assert_int_equal(aif_pattern_overlap(a, b), both);
            if (aif_pattern_exact(a) <= aif_pattern_exact(b)) {
                assert_int_equal(aif_pattern_covers(a, b), all);
            } else { /* a prefix means more than three letters */
                assert_false(aif_pattern_covers(a, b));
            }
        }
    }
}

static void
a_pattern_is_utf8(void **state)
{
    aif_pattern p = {AIF_STR("*"), AIF_STR("a\xff*"), AIF_STR("*"),
                     AIF_STR("*"), AIF_STR("*")};

    (void)state;
    assert_int_equal(aif_pattern_check(&p, &e), AIF_EINVAL);
    assert_string_equal(e.text, "pattern's key is not UTF-8 at byte 1");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_field_is_exact_any_or_a_prefix),
        cmocka_unit_test(only_a_trailing_star_is_not_exact),
        cmocka_unit_test(every_field_must_match),
        cmocka_unit_test(a_pattern_has_its_limits),
        cmocka_unit_test(overlap_and_cover_say_what_texts_say),
        cmocka_unit_test(a_pattern_is_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
