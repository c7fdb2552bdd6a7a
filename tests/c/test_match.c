#include "cmocka_all.h"

#include "fault.h"
#include "event/match.h"

#include <stdio.h>
#include <stdlib.h>

#define P(n, k, t, s)                                                         \
    ((aif_pattern){AIF_STR(n), AIF_STR(k), AIF_STR(t), AIF_STR(s),            \
                   AIF_STR("*")})

static aif_event
event(const char *ns, const char *key, const char *type, const char *sender)
{
    aif_event ev = {.ns = {ns, strlen(ns)},
                    .key = {key, strlen(key)},
                    .type = {type, strlen(type)},
                    .sender = {sender, strlen(sender)}};
    return ev;
}

static int
setup(void **state)
{
    aif_match *m;
    aif_error e;

    if (aif_match_new(&m, &e) != AIF_OK) {
        return -1;
    }
    *state = m;
    return 0;
}

static int
teardown(void **state)
{
    fault_off();
    aif_match_free(*state);
    return 0;
}

static void
add(aif_match *m, aif_pattern p, uint64_t id)
{
    aif_error e;

    assert_int_equal(aif_match_add(m, &p, id, &e), AIF_OK);
}

static void
assert_found(aif_match *m, aif_event ev, size_t n, const uint64_t *expected)
{
    const uint64_t *ids;
    size_t found;
    aif_error e;

    assert_int_equal(aif_match_find(m, &ev, &ids, &found, &e), AIF_OK);
    assert_int_equal(found, n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(ids[i], expected[i]);
    }
}

#define FOUND(m, ev, ...)                                                     \
    assert_found(m, ev, sizeof((uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t), \
                 (uint64_t[]){__VA_ARGS__})

static void
ids_come_ascending_and_once(void **state)
{
    aif_match *m = *state;

    add(m, P("default", "a", "*", "*"), 9);
    add(m, P("default", "*", "*", "*"), 3);
    add(m, P("*", "a", "*", "*"), 9);
    add(m, P("default", "a", "T", "s"), 1);
    add(m, P("default", "a", "*", "*"), 3);
    add(m, P("default", "b", "*", "*"), 2);
    FOUND(m, event("default", "a", "T", "s"), 1, 3, 9);
    FOUND(m, event("default", "b", "T", "s"), 2, 3);
    FOUND(m, event("other", "a", "T", "s"), 9);
    assert_found(m, event("other", "b", "T", "s"), 0, NULL);
}

static void
type_and_sender_are_compared_in_a_bucket_too(void **state)
{
    aif_match *m = *state;

    add(m, P("d", "k", "T", "*"), 1);
    add(m, P("d", "k", "*", "me"), 2);
    add(m, P("d", "k", "*", ""), 3);
    FOUND(m, event("d", "k", "T", ""), 1, 3);
    FOUND(m, event("d", "k", "U", "me"), 2);
    assert_found(m, event("d", "k", "U", "you"), 0, NULL);
}

static void
an_event_with_a_context_meets_those_of_it(void **state)
{
    aif_match *m = *state;
    aif_event ev = event("d", "k", "T", "");
    aif_pattern p = P("d", "k", "*", "*");

    add(m, p, 1); /* any context */
    p.context = AIF_STR("");
    add(m, p, 2); /* none */
    p.context = AIF_STR("x");
    add(m, p, 2); /* or this one */
    add(m, p, 3);
    p.context = AIF_STR("y");
    add(m, p, 4);
    p.context = AIF_STR("x*");
    add(m, p, 5);
    FOUND(m, ev, 1, 2);
    ev.context = AIF_STR("x");
    FOUND(m, ev, 1, 2, 3, 5);
    aif_match_remove(m, 2);
    ev.context = AIF_STR("");
    FOUND(m, ev, 1);
    ev.context = AIF_STR("y");
    FOUND(m, ev, 1, 4);
}

static void
a_prefix_matches_what_begins_with_it(void **state)
{
    aif_match *m = *state;

    add(m, P("d", "model.*", "*", "*"), 1);
    FOUND(m, event("d", "model.a", "T", ""), 1);
    FOUND(m, event("d", "model.", "T", ""), 1);
    assert_found(m, event("d", "model", "T", ""), 0, NULL);
    assert_found(m, event("d", "a.model.", "T", ""), 0, NULL);
}

static void
remove_takes_all_of_an_id_and_nothing_else(void **state)
{
    aif_match *m = *state;

    add(m, P("d", "a", "*", "*"), 1);
    add(m, P("d", "b*", "*", "*"), 1);
    add(m, P("d", "a", "*", "*"), 2);
    add(m, P("d", "b*", "*", "*"), 2);
    aif_match_remove(m, 1);
    aif_match_remove(m, 77);
    FOUND(m, event("d", "a", "T", ""), 2);
    FOUND(m, event("d", "bb", "T", ""), 2);
    add(m, P("d", "a", "*", "*"), 1);
    FOUND(m, event("d", "a", "T", ""), 1, 2);
}

static void
a_bad_pattern_is_refused_and_not_kept(void **state)
{
    aif_match *m = *state;
    aif_pattern p = P("d", "", "*", "*");
    aif_error e;

    assert_int_equal(aif_match_add(m, &p, 1, &e), AIF_EINVAL);
    assert_non_null(strstr(e.text, "key"));
    assert_found(m, event("d", "a", "T", ""), 0, NULL);
}

static void
patterns_are_copied(void **state)
{
    aif_match *m = *state;
    char key[] = "a";
    aif_pattern p = P("d", "", "*", "*");
    aif_error e;

    p.key = (aif_str){key, 1};
    assert_int_equal(aif_match_add(m, &p, 1, &e), AIF_OK);
    key[0] = 'z';
    FOUND(m, event("d", "a", "T", ""), 1);
}

/* Enough of them that both tables grow several times. */
static void
many_patterns_are_all_found(void **state)
{
    aif_match *m = *state;
    char key[32];

    for (uint64_t id = 1; id <= 5000; id++) {
        aif_pattern p = P("d", "", "*", "*");
        aif_error e;
        int n = snprintf(key, sizeof key, "key-%d", (int)id);
        p.key = (aif_str){key, (size_t)n};
        assert_int_equal(aif_match_add(m, &p, id, &e), AIF_OK);
    }
    for (uint64_t id = 1; id <= 5000; id += 2) {
        aif_match_remove(m, id);
    }
    for (uint64_t id = 1; id <= 5000; id++) {
        (void)snprintf(key, sizeof key, "key-%d", (int)id);
        assert_found(m, event("d", key, "T", ""), id % 2 == 0, &id);
    }
}

enum { LISTED = 200, IDS = 40 };

typedef struct {
    aif_pattern p[LISTED];
    uint64_t id[LISTED];
    size_t n;
} plain_list;

static void
list_remove(plain_list *list, uint64_t id)
{
    size_t kept = 0;

    for (size_t i = 0; i < list->n; i++) {
        if (list->id[i] != id) {
            list->p[kept] = list->p[i];
            list->id[kept++] = list->id[i];
        }
    }
    list->n = kept;
}

static size_t
list_find(const plain_list *list, const aif_event *ev, uint64_t *ids)
{
    bool hit[IDS] = {false};
    size_t n = 0;

    for (size_t i = 0; i < list->n; i++) {
        hit[list->id[i]] |= aif_pattern_matches(&list->p[i], ev);
    }
    for (uint64_t id = 0; id < IDS; id++) {
        if (hit[id]) {
            ids[n++] = id;
        }
    }
    return n;
}

static aif_str
random_text(void)
{
    static const char *const texts[] = {"a", "b", "ab", "a*", "b*", "*"};
    const char *s = texts[rand() % 6];

    return (aif_str){s, strlen(s)};
}

/* Against a list that is compared pattern by pattern. */
static void
it_finds_what_a_plain_list_finds(void **state)
{
    const char *env = getenv("AIF_SEED");
    unsigned seed = env != NULL ? (unsigned)atoi(env) : 1;
    plain_list list = {.n = 0};
    uint64_t expected[IDS];

    print_message("AIF_SEED=%u\n", seed);
    srand(seed);
    for (int turn = 0; turn < 20000; turn++) {
        aif_pattern p = {random_text(), random_text(), random_text(),
                         random_text(), random_text()};
        aif_event ev = {.ns = p.ns,
                        .key = p.key,
                        .type = p.type,
                        .sender = p.sender,
                        .context = p.context};
        uint64_t id = (uint64_t)rand() % IDS;
        if (list.n < LISTED && rand() % 4 == 0) {
            add(*state, p, id);
            list.p[list.n] = p;
            list.id[list.n++] = id;
        } else if (rand() % 10 == 0) {
            aif_match_remove(*state, id);
            list_remove(&list, id);
        } else {
            assert_found(*state, ev, list_find(&list, &ev, expected),
                         expected);
        }
    }
}

static void
every_failed_allocation_leaves_it_as_it_was(void **state)
{
    aif_match *m = *state;
    aif_pattern p = P("d", "k", "*", "*");
    aif_event ev = event("d", "k", "T", "");
    const uint64_t *ids;
    size_t n, added = 0, refused = 0;
    aif_error e;
    aif_err err;

    for (uint64_t id = 0; id < 300; id++) {
        int nth = 0;
        do {
            fault_alloc_after(nth++);
            err = aif_match_add(m, &p, id, &e);
            fault_off();
            assert_true(err == AIF_OK || err == AIF_ENOMEM);
            refused += err != AIF_OK;
        } while (err != AIF_OK);
        added++;
        nth = 0;
        do {
            fault_alloc_after(nth++);
            err = aif_match_find(m, &ev, &ids, &n, &e);
            fault_off();
            assert_true(err == AIF_OK || err == AIF_ENOMEM);
            refused += err != AIF_OK;
        } while (err != AIF_OK);
        assert_int_equal(n, added);
    }
    assert_true(refused > 300);
}

static void
making_one_survives_every_failed_allocation(void **state)
{
    aif_match *m;
    aif_error e;
    aif_err err;
    int nth = 0;

    (void)state;
    do {
        fault_alloc_after(nth++);
        err = aif_match_new(&m, &e);
        fault_off();
        assert_true((err == AIF_OK) == (m != NULL));
    } while (err == AIF_ENOMEM);
    assert_int_equal(err, AIF_OK);
    assert_true(nth > 3);
    aif_match_free(m);
    aif_match_free(NULL);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(ids_come_ascending_and_once),
        TEST(type_and_sender_are_compared_in_a_bucket_too),
        TEST(an_event_with_a_context_meets_those_of_it),
        TEST(a_prefix_matches_what_begins_with_it),
        TEST(remove_takes_all_of_an_id_and_nothing_else),
        TEST(a_bad_pattern_is_refused_and_not_kept),
        TEST(patterns_are_copied),
        TEST(many_patterns_are_all_found),
        TEST(it_finds_what_a_plain_list_finds),
        TEST(every_failed_allocation_leaves_it_as_it_was),
        TEST(making_one_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
