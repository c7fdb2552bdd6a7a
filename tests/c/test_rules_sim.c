/* Random rules, events, ticks, replays, restarts and failing memory, against a
 * model that keeps every event and looks at all of them each time.
 *
 * AIF_SEED=n replays; AIF_TURNS=n makes it shorter or longer.
 */
#include "cmocka_all.h"

#include "fault.h"
#include "rules_model.h"

#include <stdio.h>
#include <stdlib.h>

/* -- chance ------------------------------------------------------------- */

static uint64_t seed;

/* splitmix64: https://prng.di.unimi.it/splitmix64.c */
static uint64_t
chance(uint64_t n)
{
    uint64_t z = (seed += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % n;
}

static aif_str
one_of(const char *const *texts, uint64_t n)
{
    const char *s = texts[chance(n)];

    return (aif_str){s, strlen(s)};
}

static const char *const fields[] = {"a", "b", "ab", "a*", "b*", "*"};
static const char *const values[] = {"x", "y", ""};

static aif_cond
random_leaf(void)
{
    aif_cond c = {.kind = AIF_EVENT, .count = 1};

    if (chance(6) == 0) {
        return (aif_cond){.kind = AIF_EVERY,
                          .every_ms = 1 + (int64_t)chance(40)};
    }
    c.pattern.ns = chance(2) ? AIF_STR("*") : AIF_STR("d");
    c.pattern.key = one_of(fields, 6);
    c.pattern.type = chance(3) ? AIF_STR("*") : one_of(fields, 6);
    c.pattern.sender = chance(2) ? AIF_STR("*") : one_of(fields, 6);
    c.own_run = chance(4) == 0;
    c.equals = chance(2);
    c.value = c.equals ? one_of(values, 3) : (aif_str){NULL, 0};
    c.repeated = chance(3) == 0;
    if (chance(3) == 0) {
        c.count = 1 + (uint32_t)chance(4);
        c.within_ms = chance(2) ? 1 + (int64_t)chance(30) : 0;
    }
    return c;
}

/* At most `room` conditions; returns how many. */
static size_t
random_tree(aif_cond *c, size_t room)
{
    size_t n = 1;
    uint32_t wanted = 1 + (uint32_t)chance(3);

    if (room < 2 || chance(2)) {
        c[0] = random_leaf();
        return 1;
    }
    c[0] = (aif_cond){.kind = chance(2) ? AIF_ALL : AIF_ANY};
    while (c[0].children < wanted && n < room) {
        n += random_tree(&c[n], room - n);
        c[0].children++;
    }
    return n;
}

static aif_event
random_event(uint64_t offset, int64_t now)
{
    return (aif_event){
        .offset = offset,
        .create_time = now - (int64_t)chance(10),
        .ns = chance(5) ? AIF_STR("d") : AIF_STR("e"),
        .key = one_of(fields, 3),
        .type = one_of(fields, 2),
        .sender = chance(2) ? AIF_STR("") : one_of(fields, 2),
        .value = one_of(values, 3),
    };
}

/* -- both --------------------------------------------------------------- */

typedef struct {
    model m;
    aif_rules *r;
    aif_rules_state *s;
    int64_t now;
    uint64_t fired, refused; /* so that we see that something happened */
} both;

static void
both_begin(both *b)
{
    aif_error e;
    uint64_t since = chance(3);

    b->now = (int64_t)chance(1000);
    b->m = (model){.n = 1 + chance(MODEL_RULES), .last = since};
    assert_int_equal(aif_rules_new(&b->r, &e), AIF_OK);
    for (size_t k = 0; k < b->m.n; k++) {
        model_rule *r = &b->m.rules[k];
        r->n = random_tree(r->c, 1 + chance(MODEL_CONDS));
        assert_int_equal(aif_rules_add(b->r, AIF_START, r->c, r->n, &e),
                         AIF_OK);
        for (size_t i = 0; i < r->n; i++) {
            r->due[i] = b->now + r->c[i].every_ms;
        }
    }
    assert_int_equal(aif_state_new(b->r, since, b->now, &b->s, &e), AIF_OK);
}

static void
both_end(both *b)
{
    aif_state_free(b->s);
    aif_rules_free(b->r);
}

static aif_buf
state_bytes(const both *b)
{
    aif_buf out = {0};
    aif_error e;

    assert_int_equal(aif_state_encode(b->s, &out, &e), AIF_OK);
    return out;
}

/* The process ends here, and another goes on from the stored state. */
static void
restart(both *b)
{
    aif_buf stored = state_bytes(b);
    aif_reader in = {stored.p, stored.n};
    aif_error e;

    aif_state_free(b->s);
    assert_int_equal(aif_state_decode(b->r, &in, &b->s, &e), AIF_OK);
    aif_buf_fini(&stored);
}

static aif_err
real_turn(both *b, const aif_event *ev, bool own_run, aif_firings *out)
{
    aif_error e;

    return ev == NULL ? aif_rules_tick(b->r, b->s, b->now, out, &e)
                      : aif_rules_feed(b->r, b->s, ev, own_run, out, &e);
}

/* A turn in which memory fails must change nothing; then do it again. */
static void
real_turn_with_fault(both *b, const aif_event *ev, bool own_run,
                     aif_firings *out)
{
    aif_buf before = state_bytes(b), after;
    aif_err err;

    fault_alloc_after((int)chance(6));
    err = real_turn(b, ev, own_run, out);
    fault_off();
    if (err != AIF_OK) {
        assert_int_equal(err, AIF_ENOMEM);
        assert_int_equal(out->n, 0);
        after = state_bytes(b);
        assert_int_equal(before.n, after.n);
        assert_memory_equal(before.p, after.p, after.n);
        aif_buf_fini(&after);
        b->refused++;
        assert_int_equal(real_turn(b, ev, own_run, out), AIF_OK);
    }
    aif_buf_fini(&before);
}

static void
assert_same(const aif_firings *real, const aif_firings *expected)
{
    assert_int_equal(real->n, expected->n);
    for (size_t i = 0; i < real->n; i++) {
        assert_int_equal(real->fired[i].rule, expected->fired[i].rule);
        assert_int_equal(real->fired[i].n, expected->fired[i].n);
        for (size_t k = 0; k < real->fired[i].n; k++) {
            assert_int_equal(real->fired[i].offsets[k],
                             expected->fired[i].offsets[k]);
        }
    }
}

static void
both_turn(both *b)
{
    static uint64_t offsets[MODEL_RULES][MODEL_OFFSETS];
    aif_fired fired[MODEL_RULES];
    aif_firings real = {0}, expected = {.fired = fired};
    bool tick = chance(4) == 0, own_run = chance(2);
    uint64_t offset = b->m.last + chance(4); /* 0: a replay */
    aif_event ev;

    for (size_t i = 0; i < MODEL_RULES; i++) {
        fired[i].offsets = offsets[i];
    }
    b->now += (int64_t)chance(tick ? 100 : 10);
    ev = random_event(offset, b->now);
    if (chance(8) == 0) {
        restart(b);
    }
    if (chance(8) == 0) {
        real_turn_with_fault(b, tick ? NULL : &ev, own_run, &real);
    } else {
        assert_int_equal(real_turn(b, tick ? NULL : &ev, own_run, &real),
                         AIF_OK);
    }
    if (tick) {
        model_tick(&b->m, b->now, &expected);
    } else {
        model_feed(&b->m, &ev, own_run, &expected);
    }
    assert_same(&real, &expected);
    assert_int_equal(aif_rules_due(b->r, b->s), model_due(&b->m));
    b->fired += real.n;
    aif_firings_fini(&real);
}

static uint64_t
number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

static void
a_million_turns_are_as_the_model_says(void **state)
{
    uint64_t turns = number("AIF_TURNS", 1000000), done = 0;
    both b = {.fired = 0};

    (void)state;
    seed = number("AIF_SEED", 1);
    print_message("AIF_SEED=%llu\n", (unsigned long long)seed);
    while (done < turns) {
        both_begin(&b);
        for (int i = 0; i < MODEL_TURNS; i++, done++) {
            both_turn(&b);
        }
        both_end(&b);
    }
    print_message("%llu turns, %llu firings, %llu failed allocations\n",
                  (unsigned long long)done, (unsigned long long)b.fired,
                  (unsigned long long)b.refused);
    assert_true(b.fired > turns / 20 && b.refused > turns / 200);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_million_turns_are_as_the_model_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
