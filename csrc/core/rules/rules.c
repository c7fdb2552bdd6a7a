/* What decides.  aif_rules_feed, in order:
 *
 *   find    which leaves the event touches, and so which rules to look at
 *   room    memory for all that may follow; the last thing that can fail
 *   take    each leaf remembers the event, or forgets a value
 *   settle  each of those rules: is its tree met?  Then it fires: collect the
 *           offsets, and consume the events
 *
 * aif_rules_tick is the same with periods in place of leaves touched.
 */
#include "rules/state.h"

#include "base/mem.h"
#include "base/uniq.h"

#include <assert.h>
#include <string.h>

/* -- a leaf ------------------------------------------------------------- */

static bool
leaf_newest_close_together(const aif_cond *c, const aif_leaf *l)
{
    int64_t min = INT64_MAX, max = INT64_MIN;

    if (c->within_ms == 0) {
        return true;
    }
    for (size_t i = 0; i < l->nseen; i++) {
        min = l->seen[i].time < min ? l->seen[i].time : min;
        max = l->seen[i].time > max ? l->seen[i].time : max;
    }
    return (uint64_t)max - (uint64_t)min <= (uint64_t)c->within_ms;
}

/* Met by events newer than the rule's last firing. */
static bool
leaf_newly_met(const aif_cond *c, const aif_leaf *l, uint64_t fired)
{
    if (c->equals &&
        (l->nholders == 0 || l->holders[l->nholders - 1].offset <= fired)) {
        return false;
    }
    return l->nseen == c->count && l->seen[0].offset > fired &&
           leaf_newest_close_together(c, l);
}

static bool
leaf_met(const aif_cond *c, const aif_leaf *l, uint64_t fired)
{
    if (c->kind == AIF_EVERY) {
        return l->ticked;
    }
    return c->repeated ? l->latched : leaf_newly_met(c, l, fired);
}

static aif_touch
event_touch(const aif_cond *c, const aif_event *ev, bool own_run)
{
    if ((c->own_run && !own_run) || !aif_pattern_matches(&c->pattern, ev)) {
        return AIF_UNTOUCHED;
    }
    if (c->equals && !aif_str_eq(c->value, ev->value)) {
        return AIF_OTHER_VALUE;
    }
    return AIF_TOUCHED;
}

static aif_digest
event_who(const aif_event *ev)
{
    const aif_str parts[] = {ev->ns, ev->type, ev->sender, ev->key};

    return aif_hash_strs(parts, 4);
}

static void
leaf_drop_holder(aif_leaf *l, size_t i)
{
    l->nholders--;
    memmove(&l->holders[i], &l->holders[i + 1],
            (l->nholders - i) * sizeof l->holders[0]);
}

/* A scan: there are mostly a few, and 10,000 take 5 us. */
static void
leaf_forget(aif_leaf *l, aif_digest d)
{
    for (size_t i = l->nholders; i-- > 0;) {
        if (l->holders[i].who.lo == d.lo && l->holders[i].who.hi == d.hi) {
            leaf_drop_holder(l, i);
            return;
        }
    }
}

static void
leaf_hold(aif_leaf *l, aif_digest d, uint64_t offset)
{
    if (l->nholders == AIF_HOLDERS_MAX) {
        leaf_drop_holder(l, 0);
    }
    l->holders[l->nholders++] = (aif_holder){offset, d};
}

static void
leaf_see(const aif_cond *c, aif_leaf *l, const aif_event *ev)
{
    if (l->nseen == c->count) {
        l->nseen--;
        memmove(&l->seen[0], &l->seen[1], l->nseen * sizeof l->seen[0]);
    }
    l->seen[l->nseen++] = (aif_matched){ev->offset, ev->create_time};
}

static void
leaf_take(const aif_cond *c, aif_leaf *l, uint64_t fired, const aif_event *ev)
{
    if (c->equals) {
        aif_digest d = event_who(ev);
        leaf_forget(l, d);
        if (l->touch == AIF_TOUCHED) {
            leaf_hold(l, d, ev->offset);
        }
    }
    if (l->touch == AIF_TOUCHED) {
        leaf_see(c, l, ev);
        l->latched =
            c->repeated && (l->latched || leaf_newly_met(c, l, fired));
    }
    if (c->equals && l->nholders == 0) {
        l->latched = false;
    }
}

/* -- room: before anything changes -------------------------------------- */

static aif_err
leaf_room(const aif_cond *c, aif_leaf *l, aif_error *e)
{
    size_t need = l->nseen < c->count ? l->nseen + 1 : l->nseen;
    aif_matched *seen = aif_grown(l->seen, &l->seen_cap, need, sizeof *seen);
    aif_holder *holders;

    if (seen == NULL) {
        return aif_fail(e, AIF_ENOMEM, "feeding an event");
    }
    l->seen = seen;
    if (c->equals) {
        holders = aif_grown(l->holders, &l->holders_cap, l->nholders + 1,
                            sizeof *holders);
        if (holders == NULL) {
            return aif_fail(e, AIF_ENOMEM, "feeding an event");
        }
        l->holders = holders;
    }
    return AIF_OK;
}

/* At most so many offsets, once one more event is taken. */
static size_t
rule_offsets_bound(const aif_rule *rule, const aif_rules_state *s)
{
    size_t n = 0;

    for (size_t i = 0; i < rule->n; i++) {
        if (rule->nodes[i].c.kind == AIF_EVENT) {
            n += s->leaves[rule->nodes[i].leaf].nseen + 1;
        }
    }
    return n;
}

/* Put rule i behind out's end, with room for its offsets. */
static aif_err
firings_pend(const aif_rules *r, const aif_rules_state *s, size_t i,
             aif_firings *out, size_t *pending, aif_error *e)
{
    size_t bound = rule_offsets_bound(&r->rules[i], s);
    aif_fired *fired =
        aif_grown(out->fired, &out->cap, out->n + *pending + 1, sizeof *fired);

    if (fired == NULL) {
        return aif_fail(e, AIF_ENOMEM, "feeding an event");
    }
    out->fired = fired;
    fired += out->n + *pending;
    *fired = (aif_fired){.rule = (uint32_t)i, .action = r->rules[i].action};
    if (bound > 0) {
        fired->offsets = aif_realloc(NULL, bound * sizeof(uint64_t));
        if (fired->offsets == NULL) {
            return aif_fail(e, AIF_ENOMEM, "feeding an event");
        }
    }
    ++*pending;
    return AIF_OK;
}

static void
firings_unpend(aif_firings *out, size_t pending)
{
    for (size_t i = 0; i < pending; i++) {
        aif_free(out->fired[out->n + i].offsets);
    }
}

/* -- a rule ------------------------------------------------------------- */

static bool
group_met(const aif_node *nodes, size_t i, const bool *met)
{
    bool all = nodes[i].c.kind == AIF_ALL;
    size_t child = i + 1;

    for (uint32_t k = 0; k < nodes[i].c.children; k++) {
        if (met[child] != all) {
            return !all;
        }
        child += nodes[child].size;
    }
    return all;
}

/* Backwards, so that children are known before their group. */
static void
rule_evaluate(const aif_rule *rule, const aif_rules_state *s, uint64_t fired,
              bool *met)
{
    for (size_t i = rule->n; i-- > 0;) {
        const aif_cond *c = &rule->nodes[i].c;
        if (c->kind == AIF_ALL || c->kind == AIF_ANY) {
            met[i] = group_met(rule->nodes, i, met);
        } else {
            met[i] = leaf_met(c, &s->leaves[rule->nodes[i].leaf], fired);
        }
    }
}

static void
leaf_collect(const aif_cond *c, const aif_leaf *l, aif_fired *f)
{
    if (c->kind != AIF_EVENT) {
        return;
    }
    if (c->equals && c->count == 1) { /* the newest may have lost its value */
        f->offsets[f->n++] = l->holders[l->nholders - 1].offset;
        return;
    }
    for (size_t i = 0; i < l->nseen; i++) {
        f->offsets[f->n++] = l->seen[i].offset;
    }
}

/* The offsets of what is met; an unmet sub-tree is passed over whole. */
static void
rule_collect(const aif_rule *rule, const aif_rules_state *s, const bool *met,
             aif_fired *f)
{
    for (size_t i = 0; i < rule->n; i += met[i] ? 1 : rule->nodes[i].size) {
        if (met[i]) {
            leaf_collect(&rule->nodes[i].c, &s->leaves[rule->nodes[i].leaf],
                         f);
        }
    }
    f->n = aif_uniq(f->offsets, f->n);
}

/* All events so far are now older than the last firing: what can never be
 * newer again is dropped, which keeps a stored state small. */
static void
rule_consume(const aif_rule *rule, aif_rules_state *s)
{
    for (size_t i = 0; i < rule->n; i++) {
        const aif_cond *c = &rule->nodes[i].c;
        aif_leaf *l = &s->leaves[rule->nodes[i].leaf];
        if (c->kind == AIF_EVERY) {
            l->ticked = false;
        } else if (c->kind == AIF_EVENT && !c->repeated) {
            l->nseen = 0;
            l->nholders = 0;
        }
    }
}

/* Does the pending rule fire?  Then it stays in out, else it leaves. */
static bool
rules_settle_one(const aif_rules *r, aif_rules_state *s, aif_fired *f)
{
    bool met[AIF_CONDS_MAX] = {false};
    const aif_rule *rule = &r->rules[f->rule];

    rule_evaluate(rule, s, s->fired[f->rule], met);
    if (!met[0]) {
        aif_free(f->offsets);
        return false;
    }
    rule_collect(rule, s, met, f);
    rule_consume(rule, s);
    s->fired[f->rule] = s->last;
    return true;
}

static void
rules_settle(const aif_rules *r, aif_rules_state *s, aif_firings *out,
             size_t pending)
{
    size_t first = out->n;

    for (size_t i = first; i < first + pending; i++) {
        aif_fired f = out->fired[i];
        if (rules_settle_one(r, s, &f)) {
            out->fired[out->n++] = f;
        }
    }
}

/* -- events ------------------------------------------------------------- */

static aif_err
rule_find_and_room(const aif_rule *rule, aif_rules_state *s,
                   const aif_event *ev, bool own_run, bool *touched,
                   aif_error *e)
{
    *touched = false;
    for (size_t i = 0; i < rule->n; i++) {
        const aif_cond *c = &rule->nodes[i].c;
        aif_leaf *l = &s->leaves[rule->nodes[i].leaf];
        if (c->kind != AIF_EVENT) {
            continue;
        }
        l->touch = event_touch(c, ev, own_run);
        if (l->touch == AIF_TOUCHED) {
            aif_err err = leaf_room(c, l, e);
            if (err != AIF_OK) {
                return err;
            }
            *touched = true;
        }
    }
    return AIF_OK;
}

static void
rules_take_all(const aif_rules *r, aif_rules_state *s, const aif_event *ev)
{
    for (size_t k = 0; k < r->n; k++) {
        const aif_rule *rule = &r->rules[k];
        for (size_t i = 0; i < rule->n; i++) {
            aif_leaf *l = &s->leaves[rule->nodes[i].leaf];
            if (rule->nodes[i].c.kind == AIF_EVENT &&
                l->touch != AIF_UNTOUCHED) {
                leaf_take(&rule->nodes[i].c, l, s->fired[k], ev);
            }
        }
    }
}

aif_err
aif_rules_feed(const aif_rules *r, aif_rules_state *s, const aif_event *ev,
               bool own_run, aif_firings *out, aif_error *e)
{
    size_t pending = 0;
    bool touched;

    assert(s->fingerprint == r->fingerprint);
    if (ev->offset <= s->last) {
        return AIF_OK;
    }
    for (size_t i = 0; i < r->n; i++) {
        aif_err err =
            rule_find_and_room(&r->rules[i], s, ev, own_run, &touched, e);
        if (err == AIF_OK && touched) {
            err = firings_pend(r, s, i, out, &pending, e);
        }
        if (err != AIF_OK) {
            firings_unpend(out, pending);
            return err;
        }
    }
    s->last = ev->offset;
    rules_take_all(r, s, ev);
    rules_settle(r, s, out, pending);
    return AIF_OK;
}

/* -- time --------------------------------------------------------------- */

/* The first due + k * every beyond now. */
static int64_t
leaf_next_due(int64_t due, int64_t every, int64_t now)
{
    uint64_t late = ((uint64_t)now - (uint64_t)due) % (uint64_t)every;
    int64_t next;

    if (__builtin_add_overflow(now, every - (int64_t)late, &next)) {
        return INT64_MAX;
    }
    return next;
}

static bool
rule_is_due(const aif_rule *rule, const aif_rules_state *s, int64_t now)
{
    for (size_t i = 0; i < rule->n; i++) {
        if (rule->nodes[i].c.kind == AIF_EVERY &&
            s->leaves[rule->nodes[i].leaf].due <= now) {
            return true;
        }
    }
    return false;
}

static void
rule_tick_leaves(const aif_rule *rule, aif_rules_state *s, int64_t now)
{
    for (size_t i = 0; i < rule->n; i++) {
        const aif_cond *c = &rule->nodes[i].c;
        aif_leaf *l = &s->leaves[rule->nodes[i].leaf];
        if (c->kind == AIF_EVERY && l->due <= now) {
            l->ticked = true;
            l->due = leaf_next_due(l->due, c->every_ms, now);
        }
    }
}

aif_err
aif_rules_tick(const aif_rules *r, aif_rules_state *s, int64_t now_ms,
               aif_firings *out, aif_error *e)
{
    size_t pending = 0;

    assert(s->fingerprint == r->fingerprint);
    for (size_t i = 0; i < r->n; i++) {
        if (rule_is_due(&r->rules[i], s, now_ms)) {
            aif_err err = firings_pend(r, s, i, out, &pending, e);
            if (err != AIF_OK) {
                firings_unpend(out, pending);
                return err;
            }
        }
    }
    for (size_t i = 0; i < pending; i++) {
        rule_tick_leaves(&r->rules[out->fired[out->n + i].rule], s, now_ms);
    }
    rules_settle(r, s, out, pending);
    return AIF_OK;
}

int64_t
aif_rules_due(const aif_rules *r, const aif_rules_state *s)
{
    int64_t due = INT64_MAX;

    assert(s->fingerprint == r->fingerprint);
    for (size_t i = 0; i < s->n; i++) {
        if (s->leaves[i].every && s->leaves[i].due < due) {
            due = s->leaves[i].due;
        }
    }
    return due;
}

void
aif_firings_fini(aif_firings *f)
{
    for (size_t i = 0; i < f->n; i++) {
        aif_free(f->fired[i].offsets);
    }
    aif_free(f->fired);
    *f = (aif_firings){0};
}
