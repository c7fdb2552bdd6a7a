#include "rules_model.h"

#include <string.h>

static bool
means(aif_str pattern, aif_str s)
{
    bool prefix = pattern.n > 0 && pattern.p[pattern.n - 1] == '*';
    size_t n = prefix ? pattern.n - 1 : s.n;

    return (prefix || pattern.n == s.n) && n <= s.n &&
           (n == 0 || memcmp(pattern.p, s.p, n) == 0);
}

static bool
hears(const aif_cond *c, const aif_event *ev, bool own_run)
{
    return means(c->pattern.ns, ev->ns) && means(c->pattern.key, ev->key) &&
           means(c->pattern.type, ev->type) &&
           means(c->pattern.sender, ev->sender) && (own_run || !c->own_run);
}

static bool
has_value(const aif_cond *c, const aif_event *ev)
{
    return !c->equals || aif_str_eq(c->value, ev->value);
}

static bool
same_source(const aif_event *a, const aif_event *b)
{
    return aif_str_eq(a->ns, b->ns) && aif_str_eq(a->type, b->type) &&
           aif_str_eq(a->sender, b->sender) && aif_str_eq(a->key, b->key);
}

/* The newest event that gave the value to a source which has it still. */
static uint64_t
newest_holder(const model *m, const aif_cond *c)
{
    for (size_t i = m->nevents; i-- > 0;) {
        bool last = true;
        if (!hears(c, &m->events[i], m->own_run[i]) ||
            !has_value(c, &m->events[i])) {
            continue;
        }
        for (size_t k = i + 1; k < m->nevents; k++) {
            last = last && !(hears(c, &m->events[k], m->own_run[k]) &&
                             same_source(&m->events[i], &m->events[k]));
        }
        if (last) {
            return m->events[i].offset;
        }
    }
    return 0;
}

/* The newest `count` events for c, newest first; how many there are. */
static size_t
newest_events(const model *m, const aif_cond *c, const aif_event **out)
{
    size_t n = 0;

    for (size_t i = m->nevents; i-- > 0 && n < c->count;) {
        if (hears(c, &m->events[i], m->own_run[i]) &&
            has_value(c, &m->events[i])) {
            out[n++] = &m->events[i];
        }
    }
    return n;
}

static bool
newly_met(const model *m, const aif_cond *c, uint64_t fired)
{
    const aif_event *found[MODEL_TURNS];
    size_t n = newest_events(m, c, found);

    if (n < c->count || found[n - 1]->offset <= fired ||
        (c->equals && newest_holder(m, c) <= fired)) {
        return false;
    }
    for (size_t i = 0; i < n && c->within_ms > 0; i++) {
        for (size_t k = 0; k < n; k++) {
            if (found[i]->create_time - found[k]->create_time > c->within_ms) {
                return false;
            }
        }
    }
    return true;
}

static void
report(const model *m, const aif_cond *c, bool *offsets)
{
    const aif_event *found[MODEL_TURNS];
    size_t n;

    if (c->equals && c->count == 1) {
        offsets[newest_holder(m, c)] = true;
        return;
    }
    n = newest_events(m, c, found);
    for (size_t i = 0; i < n; i++) {
        offsets[found[i]->offset] = true;
    }
}

/* The sub-tree at *i, which is moved behind it; its offsets where met. */
static bool
tree_met(const model *m, const model_rule *r, size_t *i, bool *offsets)
{
    const aif_cond *c = &r->c[*i];
    bool mine[MODEL_OFFSETS] = {false}, met;
    uint32_t n = 0;
    size_t at = (*i)++;

    if (c->kind == AIF_EVERY) {
        return r->ticked[at];
    }
    if (c->kind == AIF_EVENT) {
        met = c->repeated ? r->latched[at] : newly_met(m, c, r->fired);
        if (met) {
            report(m, c, offsets);
        }
        return met;
    }
    for (uint32_t k = 0; k < c->children; k++) {
        n += tree_met(m, r, i, mine);
    }
    met = c->kind == AIF_ALL ? n == c->children : n > 0;
    for (size_t k = 0; met && k < MODEL_OFFSETS; k++) {
        offsets[k] = offsets[k] || mine[k];
    }
    return met;
}

/* -- the model's turns -------------------------------------------------- */

static void
model_add_firing(model *m, size_t rule, aif_firings *out)
{
    bool offsets[MODEL_OFFSETS] = {false};
    model_rule *r = &m->rules[rule];
    aif_fired *f = &out->fired[out->n];
    size_t i = 0;

    if (!tree_met(m, r, &i, offsets)) {
        return;
    }
    f->rule = (uint32_t)rule;
    f->n = 0;
    for (uint64_t k = 0; k < MODEL_OFFSETS; k++) {
        if (offsets[k]) {
            f->offsets[f->n++] = k;
        }
    }
    out->n++;
    r->fired = m->last;
    memset(r->ticked, 0, sizeof r->ticked);
}

void
model_feed(model *m, const aif_event *ev, bool own_run, aif_firings *out)
{
    if (ev->offset <= m->last) {
        return;
    }
    m->last = ev->offset;
    m->events[m->nevents] = *ev;
    m->own_run[m->nevents++] = own_run;
    for (size_t k = 0; k < m->n; k++) {
        model_rule *r = &m->rules[k];
        bool touched = false;
        for (size_t i = 0; i < r->n; i++) {
            const aif_cond *c = &r->c[i];
            bool mine = c->kind == AIF_EVENT && hears(c, ev, own_run) &&
                        has_value(c, ev);
            touched = touched || mine;
            if (mine && newly_met(m, c, r->fired)) {
                r->latched[i] = true;
            }
            if (c->kind == AIF_EVENT && c->equals &&
                newest_holder(m, c) == 0) {
                r->latched[i] = false;
            }
        }
        if (touched) {
            model_add_firing(m, k, out);
        }
    }
}

void
model_tick(model *m, int64_t now, aif_firings *out)
{
    for (size_t k = 0; k < m->n; k++) {
        bool due = false;
        for (size_t i = 0; i < m->rules[k].n; i++) {
            while (m->rules[k].c[i].kind == AIF_EVERY &&
                   m->rules[k].due[i] <= now) {
                m->rules[k].due[i] += m->rules[k].c[i].every_ms;
                m->rules[k].ticked[i] = due = true;
            }
        }
        if (due) {
            model_add_firing(m, k, out);
        }
    }
}

int64_t
model_due(const model *m)
{
    int64_t due = INT64_MAX;

    for (size_t k = 0; k < m->n; k++) {
        for (size_t i = 0; i < m->rules[k].n; i++) {
            if (m->rules[k].c[i].kind == AIF_EVERY &&
                m->rules[k].due[i] < due) {
                due = m->rules[k].due[i];
            }
        }
    }
    return due;
}
