#include "event/pattern.h"

bool
aif_pattern_exact(aif_str field)
{
    return field.n == 0 || field.p[field.n - 1] != '*';
}

bool
aif_pattern_alike(const aif_pattern *a, const aif_pattern *b)
{
    return aif_pattern_exact(a->key) && aif_pattern_exact(b->key) &&
           aif_str_eq(a->ns, b->ns) && aif_str_eq(a->type, b->type) &&
           aif_str_eq(a->sender, b->sender) &&
           aif_str_eq(a->context, b->context);
}

bool
aif_pattern_field(aif_str pattern, aif_str value)
{
    size_t n = pattern.n;

    if (aif_pattern_exact(pattern)) {
        return aif_str_eq(pattern, value);
    }
    n--; /* the star */
    return value.n >= n && (n == 0 || memcmp(pattern.p, value.p, n) == 0);
}

/* Two prefixes overlap when one begins with the other. */
bool
aif_pattern_overlap(aif_str a, aif_str b)
{
    if (aif_pattern_exact(a)) {
        return aif_pattern_field(b, a);
    }
    if (aif_pattern_exact(b)) {
        return aif_pattern_field(a, b);
    }
    return aif_pattern_field(a, (aif_str){b.p, b.n - 1}) ||
           aif_pattern_field(b, (aif_str){a.p, a.n - 1});
}

bool
aif_pattern_covers(aif_str grant, aif_str asked)
{
    if (aif_pattern_exact(asked)) {
        return aif_pattern_field(grant, asked);
    }
    return !aif_pattern_exact(grant) &&
           aif_pattern_field(grant, (aif_str){asked.p, asked.n - 1});
}

bool
aif_pattern_matches(const aif_pattern *p, const aif_event *ev)
{
    return aif_pattern_field(p->key, ev->key) &&
           aif_pattern_field(p->type, ev->type) &&
           aif_pattern_field(p->ns, ev->ns) &&
           aif_pattern_field(p->sender, ev->sender) &&
           aif_pattern_field(p->context, ev->context);
}

/* A prefix may be as long as the longest value, and the star comes on top. */
static aif_err
field_check(const char *what, aif_str s, size_t min, size_t max, aif_error *e)
{
    return aif_text_check(what, s, min, max + !aif_pattern_exact(s), e);
}

aif_err
aif_pattern_check(const aif_pattern *p, aif_error *e)
{
    aif_err err =
        field_check("pattern's namespace", p->ns, 1, AIF_NAME_MAX, e);

    if (err == AIF_OK) {
        err = field_check("pattern's key", p->key, 1, AIF_KEY_MAX, e);
    }
    if (err == AIF_OK) {
        err = field_check("pattern's type", p->type, 1, AIF_NAME_MAX, e);
    }
    if (err == AIF_OK) {
        err = field_check("pattern's sender", p->sender, 0, AIF_NAME_MAX, e);
    }
    if (err == AIF_OK) {
        err = field_check("pattern's context", p->context, 0, AIF_CONTEXT_MAX,
                          e);
    }
    return err;
}
