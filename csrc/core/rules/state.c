/* A state: made fresh, made bytes, made from bytes.
 *
 * Bytes (numbers little-endian):
 *   u8 1 (version) | u64 fingerprint of the rules | u64 last
 *   per rule:  u64 fired
 *   per EVENT: u8 latched | u32 n | n x (u64 offset, u64 time)
 *              u32 n | n x (u64 offset, u64 lo, u64 hi)
 *   per EVERY: u8 ticked | u64 due
 * There is one way to write each state, and decode takes no other: the bytes
 * it accepts are those that encode gives back.
 */
#include "rules/state.h"

#include "base/mem.h"

#define VERSION 1
#define SEEN_BYTES 16
#define HOLDER_BYTES 24

/* -- made fresh --------------------------------------------------------- */

static aif_err
state_alloc(const aif_rules *r, aif_rules_state **out, aif_error *e)
{
    aif_rules_state *s = aif_zalloc(sizeof *s);

    *out = s;
    if (s != NULL) {
        s->fired = aif_zalloc((r->n + 1) * sizeof *s->fired);
        s->leaves = aif_zalloc((r->leaves + 1) * sizeof *s->leaves);
    }
    if (s == NULL || s->fired == NULL || s->leaves == NULL) {
        aif_state_free(s);
        *out = NULL;
        return aif_fail(e, AIF_ENOMEM, "making a state of %zu rules", r->n);
    }
    s->fingerprint = r->fingerprint;
    s->rules = r->n;
    s->n = r->leaves;
    return AIF_OK;
}

/* The conditions of all leaves, in the leaves' order. */
typedef aif_err each_leaf(const aif_cond *c, aif_leaf *l, void *arg,
                          aif_error *e);

static aif_err
state_for_leaves(const aif_rules *r, aif_rules_state *s, each_leaf *f,
                 void *arg, aif_error *e)
{
    aif_err err = AIF_OK;

    for (size_t k = 0; k < r->n; k++) {
        const aif_rule *rule = &r->rules[k];
        for (size_t i = 0; i < rule->n && err == AIF_OK; i++) {
            const aif_cond *c = &rule->nodes[i].c;
            if (c->kind == AIF_EVENT || c->kind == AIF_EVERY) {
                err = f(c, &s->leaves[rule->nodes[i].leaf], arg, e);
            }
        }
    }
    return err;
}

static aif_err
leaf_begin(const aif_cond *c, aif_leaf *l, void *now, aif_error *e)
{
    (void)e;
    l->every = c->kind == AIF_EVERY;
    if (l->every &&
        __builtin_add_overflow(*(int64_t *)now, c->every_ms, &l->due)) {
        l->due = INT64_MAX;
    }
    return AIF_OK;
}

aif_err
aif_state_new(const aif_rules *r, uint64_t since, int64_t now_ms,
              aif_rules_state **out, aif_error *e)
{
    aif_err err = state_alloc(r, out, e);

    if (err == AIF_OK) {
        (*out)->last = since;
        err = state_for_leaves(r, *out, leaf_begin, &now_ms, e);
    }
    return err;
}

void
aif_state_free(aif_rules_state *s)
{
    if (s == NULL) {
        return;
    }
    for (size_t i = 0; i < s->n; i++) {
        aif_free(s->leaves[i].seen);
        aif_free(s->leaves[i].holders);
    }
    aif_free(s->leaves);
    aif_free(s->fired);
    aif_free(s);
}

/* -- made bytes --------------------------------------------------------- */

static aif_err
buf_put_numbers(aif_buf *b, const uint64_t *v, size_t n, aif_error *e)
{
    aif_err err = AIF_OK;

    for (size_t i = 0; i < n && err == AIF_OK; i++) {
        err = aif_buf_u64(b, v[i], e);
    }
    return err;
}

static aif_err
leaf_put_seen(aif_buf *b, const aif_leaf *l, aif_error *e)
{
    aif_err err = aif_buf_u32(b, (uint32_t)l->nseen, e);

    for (size_t i = 0; i < l->nseen && err == AIF_OK; i++) {
        uint64_t v[] = {l->seen[i].offset, (uint64_t)l->seen[i].time};
        err = buf_put_numbers(b, v, 2, e);
    }
    return err;
}

static aif_err
leaf_put_holders(aif_buf *b, const aif_leaf *l, aif_error *e)
{
    aif_err err = aif_buf_u32(b, (uint32_t)l->nholders, e);

    for (size_t i = 0; i < l->nholders && err == AIF_OK; i++) {
        const aif_holder *h = &l->holders[i];
        uint64_t v[] = {h->offset, h->who.lo, h->who.hi};
        err = buf_put_numbers(b, v, 3, e);
    }
    return err;
}

static aif_err
leaf_put(aif_buf *b, const aif_leaf *l, aif_error *e)
{
    aif_err err = aif_buf_u8(b, l->every ? l->ticked : l->latched, e);

    if (err == AIF_OK && l->every) {
        return aif_buf_u64(b, (uint64_t)l->due, e);
    }
    if (err == AIF_OK) {
        err = leaf_put_seen(b, l, e);
    }
    return err != AIF_OK ? err : leaf_put_holders(b, l, e);
}

aif_err
aif_state_encode(const aif_rules_state *s, aif_buf *out, aif_error *e)
{
    const uint64_t head[] = {s->fingerprint, s->last};
    size_t before = out->n;
    aif_err err = aif_buf_u8(out, VERSION, e);

    if (err == AIF_OK) {
        err = buf_put_numbers(out, head, 2, e);
    }
    if (err == AIF_OK) {
        err = buf_put_numbers(out, s->fired, s->rules, e);
    }
    for (size_t i = 0; i < s->n && err == AIF_OK; i++) {
        err = leaf_put(out, &s->leaves[i], e);
    }
    if (err != AIF_OK) {
        out->n = before;
    }
    return err;
}

/* -- made from bytes ---------------------------------------------------- */

typedef struct {
    aif_reader *in;
    uint64_t last;
} source;

static aif_err
state_fail(const char *what, aif_error *e)
{
    return aif_fail(e, AIF_ECORRUPT, "a stored rule state %s", what);
}

static aif_err
reader_get_numbers(aif_reader *in, uint64_t *v, size_t n, aif_error *e)
{
    aif_err err = AIF_OK;

    for (size_t i = 0; i < n && err == AIF_OK; i++) {
        err = aif_read_u64(in, &v[i], e);
    }
    return err == AIF_OK ? AIF_OK : state_fail("is cut", e);
}

static aif_err
reader_get_bool(aif_reader *in, bool *out, aif_error *e)
{
    uint8_t v;

    *out = false;
    if (aif_read_u8(in, &v, e) != AIF_OK) {
        return state_fail("is cut", e);
    }
    *out = v == 1;
    return v <= 1 ? AIF_OK
                  : state_fail("has a flag that is neither 0 nor 1", e);
}

/* How many entries follow: checked before memory is asked for. */
static aif_err
reader_get_length(aif_reader *in, size_t max, size_t each, size_t *out,
                  aif_error *e)
{
    uint32_t n;

    *out = 0;
    if (aif_read_u32(in, &n, e) != AIF_OK) {
        return state_fail("is cut", e);
    }
    if (n > max || n > in->n / each) {
        return state_fail("has a list that is too long", e);
    }
    *out = n;
    return AIF_OK;
}

/* Entry i's offset: beyond the one before, and fed already. */
static aif_err
check_offset(uint64_t offset, uint64_t before, uint64_t last, aif_error *e)
{
    return offset > before && offset <= last
               ? AIF_OK
               : state_fail("has offsets out of order", e);
}

static aif_err
leaf_get_seen(const aif_cond *c, aif_leaf *l, const source *src, aif_error *e)
{
    uint64_t v[2] = {0}, before = 0;
    size_t n;
    aif_err err = reader_get_length(src->in, c->count, SEEN_BYTES, &n, e);

    if (err != AIF_OK || n == 0) {
        return err;
    }
    l->seen = aif_realloc(NULL, n * sizeof *l->seen);
    if (l->seen == NULL) {
        return aif_fail(e, AIF_ENOMEM, "reading a rule state");
    }
    l->seen_cap = n;
    while (l->nseen < n && err == AIF_OK) {
        err = reader_get_numbers(src->in, v, 2, e);
        if (err == AIF_OK) {
            err = check_offset(v[0], before, src->last, e);
        }
        before = v[0];
        l->seen[l->nseen++] = (aif_matched){v[0], (int64_t)v[1]};
    }
    return err;
}

static aif_err
leaf_get_holders(const aif_cond *c, aif_leaf *l, const source *src,
                 aif_error *e)
{
    uint64_t v[3] = {0}, before = 0;
    size_t n, max = c->equals ? AIF_HOLDERS_MAX : 0;
    aif_err err = reader_get_length(src->in, max, HOLDER_BYTES, &n, e);

    if (err != AIF_OK || n == 0) {
        return err;
    }
    l->holders = aif_realloc(NULL, n * sizeof *l->holders);
    if (l->holders == NULL) {
        return aif_fail(e, AIF_ENOMEM, "reading a rule state");
    }
    l->holders_cap = n;
    while (l->nholders < n && err == AIF_OK) {
        err = reader_get_numbers(src->in, v, 3, e);
        if (err == AIF_OK) {
            err = check_offset(v[0], before, src->last, e);
        }
        before = v[0];
        l->holders[l->nholders++] = (aif_holder){v[0], {v[1], v[2]}};
    }
    return err;
}

static aif_err
leaf_get_every(aif_leaf *l, aif_reader *in, aif_error *e)
{
    uint64_t due;
    aif_err err = reader_get_bool(in, &l->ticked, e);

    l->every = true;
    if (err == AIF_OK) {
        err = reader_get_numbers(in, &due, 1, e);
    }
    if (err == AIF_OK) {
        l->due = (int64_t)due;
    }
    return err;
}

/* What is latched was met, so its events are there: collect relies on it. */
static aif_err
leaf_check_latch(const aif_cond *c, const aif_leaf *l, aif_error *e)
{
    bool can =
        c->repeated && l->nseen == c->count && (!c->equals || l->nholders > 0);

    return can || !l->latched ? AIF_OK
                              : state_fail("says met without the events", e);
}

static aif_err
leaf_get(const aif_cond *c, aif_leaf *l, void *arg, aif_error *e)
{
    const source *src = arg;
    aif_err err;

    if (c->kind == AIF_EVERY) {
        return leaf_get_every(l, src->in, e);
    }
    err = reader_get_bool(src->in, &l->latched, e);
    if (err == AIF_OK) {
        err = leaf_get_seen(c, l, src, e);
    }
    if (err == AIF_OK) {
        err = leaf_get_holders(c, l, src, e);
    }
    return err != AIF_OK ? err : leaf_check_latch(c, l, e);
}

/* The fingerprint of the rules, and the offset up to which they have heard. */
static aif_err
reader_get_head(aif_reader *in, uint64_t head[2], aif_error *e)
{
    uint8_t version;

    if (aif_read_u8(in, &version, e) != AIF_OK) {
        return state_fail("is empty", e);
    }
    if (version != VERSION) {
        return aif_fail(e, AIF_ECORRUPT,
                        "a stored rule state of version %d, this is %d",
                        version, VERSION);
    }
    return reader_get_numbers(in, head, 2, e);
}

static aif_err
state_get_head(const aif_rules *r, aif_rules_state *s, aif_reader *in,
               aif_error *e)
{
    uint64_t head[2];
    aif_err err = reader_get_head(in, head, e);

    if (err != AIF_OK) {
        return err;
    }
    if (head[0] != r->fingerprint) {
        return state_fail("is of other rules", e);
    }
    s->last = head[1];
    return reader_get_numbers(in, s->fired, s->rules, e);
}

static aif_err
state_get(const aif_rules *r, aif_rules_state *s, aif_reader *in, aif_error *e)
{
    source src = {in, 0};
    aif_err err = state_get_head(r, s, in, e);

    for (size_t i = 0; i < s->rules && err == AIF_OK; i++) {
        if (s->fired[i] > s->last) {
            err = state_fail("has offsets out of order", e);
        }
    }
    if (err != AIF_OK) {
        return err;
    }
    src.last = s->last;
    err = state_for_leaves(r, s, leaf_get, &src, e);
    if (err == AIF_OK && in->n > 0) {
        err = state_fail("has bytes behind its end", e);
    }
    return err;
}

aif_err
aif_state_decode(const aif_rules *r, aif_reader *in, aif_rules_state **out,
                 aif_error *e)
{
    aif_rules_state *s;
    aif_err err = state_alloc(r, &s, e);

    *out = NULL;
    if (err != AIF_OK) {
        return err;
    }
    err = state_get(r, s, in, e);
    if (err != AIF_OK) {
        aif_state_free(s);
        return err;
    }
    *out = s;
    return AIF_OK;
}

aif_err
aif_state_heard(aif_reader *in, uint64_t *out, aif_error *e)
{
    uint64_t head[2] = {0};
    aif_err err = reader_get_head(in, head, e);

    *out = err == AIF_OK ? head[1] : 0;
    return err;
}
