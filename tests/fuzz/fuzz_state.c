/* Bytes as a stored rule state: refused as corrupt, or a state that is
 * written back the same and can be fed and ticked. */
#include "rules/rules.h"

#include <stdint.h>
#include <stdlib.h>

static const aif_pattern any_key = {AIF_STR("d"), AIF_STR("*"), AIF_STR("*"),
                                    AIF_STR("*"), AIF_STR("*")};

static void
must(bool ok)
{
    if (!ok) {
        abort();
    }
}

static aif_rules *
rules(void)
{
    const aif_cond first[] = {
        {.kind = AIF_ALL, .children = 3},
        {.kind = AIF_EVENT,
         .pattern = any_key,
         .equals = true,
         .value = AIF_STR("x"),
         .repeated = true,
         .count = 2,
         .within_ms = 10},
        {.kind = AIF_EVENT, .pattern = any_key, .count = 3},
        {.kind = AIF_EVERY, .every_ms = 7},
    };
    const aif_cond second = {.kind = AIF_EVENT,
                             .pattern = any_key,
                             .repeated = true,
                             .equals = true,
                             .value = AIF_STR("y"),
                             .count = 1};
    aif_rules *r;
    aif_error e;

    must(aif_rules_new(&r, &e) == AIF_OK);
    must(aif_rules_add(r, AIF_START, first, 4, &e) == AIF_OK);
    must(aif_rules_add(r, AIF_STOP, &second, 1, &e) == AIF_OK);
    return r;
}

/* The fingerprint is not to be guessed: it is put there. */
static aif_buf
with_fingerprint(const aif_rules *r, const uint8_t *data, size_t n)
{
    aif_buf b = {0};
    aif_rules_state *s;
    aif_error e;

    must(aif_state_new(r, 0, 0, &s, &e) == AIF_OK);
    must(aif_state_encode(s, &b, &e) == AIF_OK);
    aif_state_free(s);
    b.n = 9; /* the version and the fingerprint */
    must(aif_buf_put(&b, data, n, &e) == AIF_OK);
    return b;
}

static void
use(const aif_rules *r, aif_rules_state *s)
{
    static const char values[] = "xyxxyxyyxx";
    aif_firings f = {0};
    aif_error e;

    for (uint64_t i = 0; i < 10; i++) {
        aif_event ev = {.offset = UINT64_MAX - 10 + i,
                        .create_time = (int64_t)i,
                        .ns = AIF_STR("d"),
                        .key = {&values[i], 1},
                        .value = {&values[i], 1}};
        must(aif_rules_feed(r, s, &ev, false, &f, &e) == AIF_OK);
        must(aif_rules_tick(r, s, (int64_t)i * 5, &f, &e) == AIF_OK);
    }
    for (size_t i = 0; i < f.n; i++) {
        for (size_t k = 1; k < f.fired[i].n; k++) {
            must(f.fired[i].offsets[k - 1] < f.fired[i].offsets[k]);
        }
        must(f.fired[i].n == 0 || f.fired[i].offsets[0] > 0);
    }
    must(aif_rules_due(r, s) <= INT64_MAX);
    aif_firings_fini(&f);
}

static void
try_state(const aif_rules *r, const uint8_t *data, size_t n)
{
    aif_reader in = {data, n};
    aif_rules_state *s;
    aif_buf again = {0};
    aif_error e;

    if (aif_state_decode(r, &in, &s, &e) != AIF_OK) {
        must(e.code == AIF_ECORRUPT && s == NULL);
        return;
    }
    must(aif_state_encode(s, &again, &e) == AIF_OK);
    must(again.n == n && memcmp(again.p, data, n) == 0);
    aif_buf_fini(&again);
    use(r, s);
    aif_state_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    aif_rules *r = rules();
    aif_buf b = with_fingerprint(r, data, n);

    try_state(r, data, n);
    try_state(r, b.p, b.n);
    aif_buf_fini(&b);
    aif_rules_free(r);
    return 0;
}
