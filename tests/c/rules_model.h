/* rules_model.h - what rules mean, said plainly: every event is kept, and all
 * of them are looked at each time.
 *
 * In:  what rules.h takes.  Out: what it should answer.
 */
#ifndef RULES_MODEL_H
#define RULES_MODEL_H

#include "rules/rules.h"

#define MODEL_RULES 3
#define MODEL_CONDS 10
#define MODEL_TURNS 48 /* events of one set of rules */
#define MODEL_OFFSETS 256

typedef struct {
    aif_cond c[MODEL_CONDS];
    size_t n;
    uint64_t fired;
    bool latched[MODEL_CONDS];
    bool ticked[MODEL_CONDS];
    int64_t due[MODEL_CONDS];
} model_rule;

typedef struct {
    model_rule rules[MODEL_RULES];
    size_t n;
    aif_event events[MODEL_TURNS];
    bool own_run[MODEL_TURNS];
    size_t nevents;
    uint64_t last;
} model;

/* out->fired has room for MODEL_RULES, each with MODEL_OFFSETS offsets. */
void model_feed(model *m, const aif_event *ev, bool own_run, aif_firings *out);
void model_tick(model *m, int64_t now, aif_firings *out);
int64_t model_due(const model *m);

#endif
