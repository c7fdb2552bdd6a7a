#include "rules_fixture.h"

#include <stdlib.h>

static aif_str
str(const char *s)
{
    return (aif_str){s, strlen(s)};
}

int
rules_setup(void **state)
{
    fixture *fx = calloc(1, sizeof *fx);
    aif_error e;

    if (fx == NULL || aif_rules_new(&fx->r, &e) != AIF_OK) {
        return -1;
    }
    fx->next = (aif_event){.offset = 1,
                           .ns = AIF_STR("default"),
                           .type = AIF_STR("UNDEFINED"),
                           .producer = AIF_STR("p")};
    *state = fx;
    return 0;
}

int
rules_teardown(void **state)
{
    fixture *fx = *state;

    aif_state_free(fx->s);
    aif_rules_free(fx->r);
    free(fx);
    return 0;
}

aif_cond
on(const char *key)
{
    return (aif_cond){.kind = AIF_EVENT,
                      .pattern = {AIF_STR("default"), str(key), AIF_STR("*"),
                                  AIF_STR("*"), AIF_STR("*")},
                      .count = 1};
}

aif_cond
is(const char *key, const char *value)
{
    aif_cond c = on(key);

    c.equals = true;
    c.value = str(value);
    return c;
}

aif_cond
every(int64_t ms)
{
    return (aif_cond){.kind = AIF_EVERY, .every_ms = ms};
}

aif_cond
all(uint32_t n)
{
    return (aif_cond){.kind = AIF_ALL, .children = n};
}

aif_cond
any(uint32_t n)
{
    return (aif_cond){.kind = AIF_ANY, .children = n};
}

aif_cond
repeated(aif_cond c)
{
    c.repeated = true;
    return c;
}

aif_cond
counted(aif_cond c, uint32_t n, int64_t within_ms)
{
    c.count = n;
    c.within_ms = within_ms;
    return c;
}

aif_cond
of_own_run(aif_cond c)
{
    c.own_run = true;
    return c;
}

void
add_rule(fixture *fx, aif_action action, const aif_cond *c, size_t n)
{
    aif_error e;

    assert_int_equal(aif_rules_add(fx->r, action, c, n, &e), AIF_OK);
}

void
start(fixture *fx)
{
    aif_error e;

    assert_null(fx->s);
    assert_int_equal(aif_state_new(fx->r, fx->since, fx->now, &fx->s, &e),
                     AIF_OK);
}

static void
through_bytes(fixture *fx)
{
    aif_buf a = {0}, b = {0};
    aif_rules_state *s;
    aif_reader in;
    aif_error e;

    assert_int_equal(aif_state_encode(fx->s, &a, &e), AIF_OK);
    in = (aif_reader){a.p, a.n};
    assert_int_equal(aif_state_decode(fx->r, &in, &s, &e), AIF_OK);
    assert_int_equal(aif_state_encode(s, &b, &e), AIF_OK);
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.p, b.p, a.n);
    aif_state_free(fx->s);
    fx->s = s;
    aif_buf_fini(&a);
    aif_buf_fini(&b);
}

static const char *
in_words(fixture *fx, aif_firings *f)
{
    size_t at = 0, cap = sizeof fx->text;

    fx->text[0] = '\0';
    for (size_t i = 0; i < f->n; i++) {
        at += (size_t)snprintf(fx->text + at, cap - at,
                               "%s%u:", i > 0 ? " " : "", f->fired[i].rule);
        for (size_t k = 0; k < f->fired[i].n && at < cap; k++) {
            at += (size_t)snprintf(fx->text + at, cap - at, "%s%llu",
                                   k > 0 ? "," : "",
                                   (unsigned long long)f->fired[i].offsets[k]);
        }
        assert_true(at < cap);
    }
    aif_firings_fini(f);
    through_bytes(fx);
    return fx->text;
}

const char *
fed(fixture *fx, const char *key, const char *value)
{
    aif_firings f = {0};
    aif_error e;

    if (fx->s == NULL) {
        start(fx);
    }
    fx->next.key = str(key);
    fx->next.value = str(value);
    assert_int_equal(
        aif_rules_feed(fx->r, fx->s, &fx->next, fx->own_run, &f, &e), AIF_OK);
    fx->next.offset++;
    return in_words(fx, &f);
}

const char *
ticked(fixture *fx, int64_t now_ms)
{
    aif_firings f = {0};
    aif_error e;

    if (fx->s == NULL) {
        start(fx);
    }
    assert_int_equal(aif_rules_tick(fx->r, fx->s, now_ms, &f, &e), AIF_OK);
    return in_words(fx, &f);
}
