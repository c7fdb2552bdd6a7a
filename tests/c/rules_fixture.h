/* rules_fixture.h - rules in a few words, and what they do as text.
 *
 * In:  conditions, then events by key and value; offsets count up from 1.
 * Out: "0:1,3 2:3": rule 0 fired for the events 1 and 3, rule 2 for 3.
 * The state goes through its bytes and back after each step.
 */
#ifndef RULES_FIXTURE_H
#define RULES_FIXTURE_H

#include "cmocka_all.h"

#include "rules/rules.h"

#include <stdio.h>

typedef struct {
    aif_rules *r;
    aif_rules_state *s;
    aif_event next; /* the offset to come; sender, type... as set */
    bool own_run;
    uint64_t since;
    int64_t now;
    char text[16384];
} fixture;

int rules_setup(void **state);
int rules_teardown(void **state);

aif_cond on(const char *key);                    /* UPDATED, ONCE */
aif_cond is(const char *key, const char *value); /* EQUALS, ONCE */
aif_cond every(int64_t ms);
aif_cond all(uint32_t n);
aif_cond any(uint32_t n);
aif_cond repeated(aif_cond c);
aif_cond counted(aif_cond c, uint32_t n, int64_t within_ms);
aif_cond of_own_run(aif_cond c);

void add_rule(fixture *fx, aif_action action, const aif_cond *c, size_t n);
#define RULE(fx, ...)                                                         \
    add_rule(fx, AIF_START, (aif_cond[]){__VA_ARGS__},                        \
             sizeof((aif_cond[]){__VA_ARGS__}) / sizeof(aif_cond))

/* The first step makes the state, beyond fx->since, at fx->now. */
const char *fed(fixture *fx, const char *key, const char *value);
const char *ticked(fixture *fx, int64_t now_ms);
void start(fixture *fx);

#endif
