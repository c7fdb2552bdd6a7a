/* rules/state.h - what the rules are and what a state remembers.
 *
 * In:  nothing.  Out: the structs that rules.c (decides), def.c (takes
 * the rules in) and state.c (makes and stores a state) share; nobody
 * else includes it.
 */
#ifndef AIF_RULES_STATE_H
#define AIF_RULES_STATE_H

#include "base/hash.h"
#include "rules/rules.h"

typedef struct {
    aif_cond c;  /* its strings are the rule's */
    size_t size; /* of this sub-tree, itself included */
    size_t leaf; /* EVENT, EVERY: which leaf of the state it is */
} aif_node;

typedef struct {
    aif_action action;
    aif_node *nodes;
    size_t n;
    char *strings;
} aif_rule;

struct aif_rules {
    aif_rule *rules;
    size_t n;
    size_t leaves;
    uint64_t fingerprint;
};

/* Both lists below are in offset order, newest last. */

/* A matching event (EQUALS: with the value), one of the newest `count`. */
typedef struct {
    uint64_t offset;
    int64_t time;
} aif_matched;

/* EQUALS: a (namespace, type, sender, key) whose last value is the one. */
typedef struct {
    uint64_t offset; /* of the event that gave it the value */
    aif_digest who;
} aif_holder;

typedef enum { AIF_UNTOUCHED, AIF_OTHER_VALUE, AIF_TOUCHED } aif_touch;

typedef struct {
    aif_touch touch; /* EVENT: by the event being fed; not stored */
    bool latched;    /* EVENT, REPEATED: was met, and stays */
    aif_matched *seen;
    size_t nseen, seen_cap;
    aif_holder *holders;
    size_t nholders, holders_cap;
    bool every;  /* EVERY: the two below, and nothing above */
    bool ticked; /* since its rule's last firing */
    int64_t due;
} aif_leaf;

struct aif_rules_state {
    uint64_t fingerprint;
    uint64_t last;   /* offset fed last, or since */
    uint64_t *fired; /* by rule: `last` at its last firing, or 0 */
    size_t rules;
    aif_leaf *leaves;
    size_t n;
};

#endif
