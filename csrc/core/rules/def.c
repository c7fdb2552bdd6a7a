/* Taking the rules in: check the tree, copy it, extend the fingerprint. */
#include "rules/state.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

aif_err
aif_rules_new(aif_rules **out, aif_error *e)
{
    *out = aif_zalloc(sizeof **out);
    return *out != NULL ? AIF_OK : aif_fail(e, AIF_ENOMEM, "making rules");
}

static void
rule_fini(aif_rule *rule)
{
    aif_free(rule->nodes);
    aif_free(rule->strings);
}

void
aif_rules_free(aif_rules *r)
{
    if (r == NULL) {
        return;
    }
    for (size_t i = 0; i < r->n; i++) {
        rule_fini(&r->rules[i]);
    }
    aif_free(r->rules);
    aif_free(r);
}

size_t
aif_rules_count(const aif_rules *r)
{
    return r->n;
}

static aif_err
cond_check_event(const aif_cond *c, aif_error *e)
{
    aif_err err = aif_pattern_check(&c->pattern, e);

    if (err == AIF_OK && c->equals) {
        err =
            aif_text_check("condition's value", c->value, 0, AIF_VALUE_MAX, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    if (c->count < 1 || c->count > AIF_COUNT_MAX) {
        return aif_fail(e, AIF_EINVAL, "count is %lu, must be 1 to %d",
                        (unsigned long)c->count, AIF_COUNT_MAX);
    }
    if (c->within_ms < 0) {
        return aif_fail(e, AIF_EINVAL,
                        "within is %lld ms, must not be negative",
                        (long long)c->within_ms);
    }
    return AIF_OK;
}

static aif_err
cond_check(const aif_cond *c, aif_error *e)
{
    switch (c->kind) {
    case AIF_EVENT:
        return cond_check_event(c, e);
    case AIF_EVERY:
        return c->every_ms > 0
                   ? AIF_OK
                   : aif_fail(e, AIF_EINVAL,
                              "a period is %lld ms, must be positive",
                              (long long)c->every_ms);
    case AIF_ALL:
    case AIF_ANY:
        return c->children > 0
                   ? AIF_OK
                   : aif_fail(e, AIF_EINVAL, "a group has no conditions");
    }
    return aif_fail(e, AIF_EINVAL, "no such kind of condition: %d",
                    (int)c->kind);
}

/* The sub-tree at i, those behind it being done: its size, how deep it is. */
static aif_err
node_measure(aif_node *nodes, size_t i, size_t n, unsigned char *depth,
             aif_error *e)
{
    size_t child = i + 1;
    bool group = nodes[i].c.kind == AIF_ALL || nodes[i].c.kind == AIF_ANY;

    depth[i] = 0;
    for (uint32_t k = 0; group && k < nodes[i].c.children; k++) {
        if (child >= n) {
            return aif_fail(
                e, AIF_EINVAL, "a group of %lu conditions has only %lu",
                (unsigned long)nodes[i].c.children, (unsigned long)k);
        }
        if (depth[child] >= depth[i]) {
            depth[i] = (unsigned char)(depth[child] + 1);
        }
        child += nodes[child].size;
    }
    nodes[i].size = child - i;
    if (depth[i] > AIF_DEPTH_MAX) {
        return aif_fail(e, AIF_EINVAL, "groups are nested more than %d deep",
                        AIF_DEPTH_MAX);
    }
    return AIF_OK;
}

/* Backwards, so that children are measured before their group. */
static aif_err
node_measure_all(aif_node *nodes, size_t n, aif_error *e)
{
    unsigned char depth[AIF_CONDS_MAX];
    aif_err err = AIF_OK;

    for (size_t i = n; i-- > 0 && err == AIF_OK;) {
        err = node_measure(nodes, i, n, depth, e);
    }
    if (err == AIF_OK && nodes[0].size != n) {
        err = aif_fail(e, AIF_EINVAL,
                       "%zu conditions behind the tree's end: join them in "
                       "one group",
                       n - nodes[0].size);
    }
    return err;
}

static void
text_own(char **at, aif_str *s)
{
    if (s->n > 0) {
        memcpy(*at, s->p, s->n);
    }
    s->p = *at;
    *at += s->n;
}

static aif_err
rule_copy_strings(aif_rule *rule, aif_error *e)
{
    size_t bytes = 1; /* never malloc(0) */
    char *at;

    for (size_t i = 0; i < rule->n; i++) {
        const aif_pattern *p = &rule->nodes[i].c.pattern;
        bytes += p->ns.n + p->key.n + p->type.n + p->sender.n;
        bytes += rule->nodes[i].c.value.n;
    }
    rule->strings = at = aif_realloc(NULL, bytes);
    if (at == NULL) {
        return aif_fail(e, AIF_ENOMEM, "adding a rule");
    }
    for (size_t i = 0; i < rule->n; i++) {
        aif_cond *c = &rule->nodes[i].c;
        text_own(&at, &c->pattern.ns);
        text_own(&at, &c->pattern.key);
        text_own(&at, &c->pattern.type);
        text_own(&at, &c->pattern.sender);
        c->pattern.context = AIF_STR("*"); /* whose run it is, is not ours */
        text_own(&at, &c->value);
    }
    return AIF_OK;
}

/* Only the fields that the kind has: the rest is the caller's garbage. */
static aif_cond
cond_cleaned(const aif_cond *c)
{
    aif_cond out = {.kind = c->kind};

    if (c->kind == AIF_EVENT) {
        out = *c;
        out.every_ms = 0;
        out.children = 0;
        if (!c->equals) {
            out.value = (aif_str){NULL, 0};
        }
    } else if (c->kind == AIF_EVERY) {
        out.every_ms = c->every_ms;
    } else {
        out.children = c->children;
    }
    return out;
}

static aif_err
rule_init(aif_rule *rule, aif_action action, const aif_cond *conds, size_t n,
          aif_error *e)
{
    aif_err err;

    *rule = (aif_rule){.action = action, .n = n};
    rule->nodes = aif_zalloc(n * sizeof *rule->nodes);
    if (rule->nodes == NULL) {
        return aif_fail(e, AIF_ENOMEM, "adding a rule");
    }
    for (size_t i = 0; i < n; i++) {
        rule->nodes[i].c = cond_cleaned(&conds[i]);
    }
    err = node_measure_all(rule->nodes, n, e);
    if (err == AIF_OK) {
        err = rule_copy_strings(rule, e);
    }
    if (err != AIF_OK) {
        rule_fini(rule);
    }
    return err;
}

static aif_err
cond_put_strings(aif_buf *b, const aif_cond *c, aif_error *e)
{
    const aif_str s[] = {c->pattern.ns, c->pattern.key, c->pattern.type,
                         c->pattern.sender, c->value};
    aif_err err = AIF_OK;

    for (size_t i = 0; i < sizeof s / sizeof s[0] && err == AIF_OK; i++) {
        err = aif_buf_str(b, s[i], e);
    }
    return err;
}

static aif_err
cond_put(aif_buf *b, const aif_cond *c, aif_error *e)
{
    const uint64_t numbers[] = {(uint64_t)c->kind,
                                c->own_run,
                                c->equals,
                                c->repeated,
                                c->count,
                                c->children,
                                (uint64_t)c->within_ms,
                                (uint64_t)c->every_ms};
    aif_err err = AIF_OK;

    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (err == AIF_OK) {
            err = aif_buf_u64(b, numbers[i], e);
        }
    }
    return err != AIF_OK ? err : cond_put_strings(b, c, e);
}

/* A digest of the digest so far and this rule. */
static aif_err
rule_fingerprint(const aif_rule *rule, uint64_t *inout, aif_error *e)
{
    aif_buf b = {0};
    aif_err err = aif_buf_u64(&b, *inout, e);

    if (err == AIF_OK) {
        err = aif_buf_u8(&b, (uint8_t)rule->action, e);
    }
    for (size_t i = 0; i < rule->n && err == AIF_OK; i++) {
        err = cond_put(&b, &rule->nodes[i].c, e);
    }
    if (err == AIF_OK) {
        *inout = aif_hash(b.p, b.n).lo;
    }
    aif_buf_fini(&b);
    return err;
}

static aif_err
rules_check(const aif_rules *r, aif_action action, const aif_cond *conds,
            size_t n, aif_error *e)
{
    aif_err err = AIF_OK;

    if (r->n == AIF_RULES_MAX) {
        return aif_fail(e, AIF_EINVAL, "more than %d rules", AIF_RULES_MAX);
    }
    if ((int)action < AIF_NONE || action > AIF_STOP) {
        return aif_fail(e, AIF_EINVAL, "no such action: %d", (int)action);
    }
    if (n < 1 || n > AIF_CONDS_MAX) {
        return aif_fail(e, AIF_EINVAL,
                        "a rule of %zu conditions, must be 1 to %d", n,
                        AIF_CONDS_MAX);
    }
    for (size_t i = 0; i < n && err == AIF_OK; i++) {
        err = cond_check(&conds[i], e);
    }
    return err;
}

static aif_err
rules_append(aif_rules *r, aif_rule *rule, aif_error *e)
{
    aif_rule *rules;
    uint64_t mark = r->fingerprint;
    aif_err err = rule_fingerprint(rule, &mark, e);

    if (err != AIF_OK) {
        return err;
    }
    rules = aif_realloc(r->rules, (r->n + 1) * sizeof *rules);
    if (rules == NULL) {
        return aif_fail(e, AIF_ENOMEM, "adding a rule");
    }
    r->rules = rules;
    r->fingerprint = mark;
    for (size_t i = 0; i < rule->n; i++) {
        aif_cond_kind kind = rule->nodes[i].c.kind;
        if (kind == AIF_EVENT || kind == AIF_EVERY) {
            rule->nodes[i].leaf = r->leaves++;
        }
    }
    r->rules[r->n++] = *rule;
    return AIF_OK;
}

aif_err
aif_rules_add(aif_rules *r, aif_action action, const aif_cond *conds, size_t n,
              aif_error *e)
{
    aif_rule rule;
    aif_err err = rules_check(r, action, conds, n, e);

    if (err == AIF_OK) {
        err = rule_init(&rule, action, conds, n, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    err = rules_append(r, &rule, e);
    if (err != AIF_OK) {
        rule_fini(&rule);
    }
    return err;
}
