/* rules.h - a task's rules: (state, event) -> (state, what fires).
 *
 * In:  an ordered list of rules, each a condition and an action; then events
 *      in offset order, and the time.
 * Out: which rules fired, with the offsets of the events that made them.
 * Pure: no clock, no I/O, no lock.  docs/rules.md says it in words.
 *
 * Read aif_rules_feed first: it is the line that decides.
 */
#ifndef AIF_RULES_H
#define AIF_RULES_H

#include "base/buf.h"
#include "base/err.h"
#include "event/event.h"
#include "event/pattern.h"

#include <stdbool.h>
#include <stdint.h>

#define AIF_RULES_MAX 64   /* rules of one task */
#define AIF_CONDS_MAX 256  /* conditions of one rule, groups included */
#define AIF_DEPTH_MAX 16   /* of nested groups */
#define AIF_COUNT_MAX 1000 /* count= of one condition */
/* Senders, keys... that hold an EQUALS condition's value at once; past that
 * the one whose value is oldest is forgotten. */
#define AIF_HOLDERS_MAX 10000

typedef enum { AIF_NONE, AIF_START, AIF_RESTART, AIF_STOP } aif_action;
typedef enum { AIF_EVENT, AIF_ALL, AIF_ANY, AIF_EVERY } aif_cond_kind;

/* One node of a condition tree, in prefix order: a group is followed by its
 * `children` sub-trees. */
typedef struct {
    aif_cond_kind kind;
    aif_pattern pattern; /* EVENT */
    bool own_run;        /* EVENT: only from the run's own tasks (status()) */
    bool equals;         /* EVENT: the value must be this one; else UPDATED */
    aif_str value;
    bool repeated;  /* EVENT: stays met once met; else ONCE */
    uint32_t count; /* EVENT: this many events since the last firing, >= 1 */
    int64_t within_ms; /* EVENT: and those so close together; 0: any time */
    int64_t every_ms;  /* EVERY: the period, > 0 */
    uint32_t children; /* ALL, ANY: >= 1 */
} aif_cond;

typedef struct aif_rules aif_rules;
typedef struct aif_rules_state aif_rules_state;

/* What one feed or tick made fire: rules[i] with the offsets of the events
 * that made it, ascending; rule order.  The first decides. */
typedef struct {
    uint32_t rule;
    aif_action action;
    uint64_t *offsets;
    size_t n;
} aif_fired;

typedef struct {
    aif_fired *fired;
    size_t n;
    size_t cap;
} aif_firings;

AIF_MUST_CHECK aif_err aif_rules_new(aif_rules **out, aif_error *e);
void aif_rules_free(aif_rules *r);
/* Copies the n conditions, one tree.  EINVAL says what is wrong with it. */
AIF_MUST_CHECK aif_err aif_rules_add(aif_rules *r, aif_action action,
                                     const aif_cond *conds, size_t n,
                                     aif_error *e);
size_t aif_rules_count(const aif_rules *r);

/* A fresh state, that listens beyond offset `since`; periods begin at now. */
AIF_MUST_CHECK aif_err aif_state_new(const aif_rules *r, uint64_t since,
                                     int64_t now_ms, aif_rules_state **out,
                                     aif_error *e);
void aif_state_free(aif_rules_state *s);
AIF_MUST_CHECK aif_err aif_state_encode(const aif_rules_state *s, aif_buf *out,
                                        aif_error *e);
/* All that is left in `in` is the state.  ECORRUPT: it is none, or one of
 * other rules. */
AIF_MUST_CHECK aif_err aif_state_decode(const aif_rules *r, aif_reader *in,
                                        aif_rules_state **out, aif_error *e);
/* The offset up to which the rules have heard that wrote the state in `in`.
 * They need not be these: the file may have been edited.  Only the head of the
 * state is read.  ECORRUPT: it has none. */
AIF_MUST_CHECK aif_err aif_state_heard(aif_reader *in, uint64_t *out,
                                       aif_error *e);

/* Feed one event; own_run: it is a status of the run this state is of.  An
 * offset not beyond the last one fed does nothing.  Adds to out.  On failure
 * the state is as before. */
AIF_MUST_CHECK aif_err aif_rules_feed(const aif_rules *r, aif_rules_state *s,
                                      const aif_event *ev, bool own_run,
                                      aif_firings *out, aif_error *e);
/* The time is now: periods that are due fire once, however many were missed;
 * the next is the first multiple after now. */
AIF_MUST_CHECK aif_err aif_rules_tick(const aif_rules *r, aif_rules_state *s,
                                      int64_t now_ms, aif_firings *out,
                                      aif_error *e);
/* The earliest due time in ms; INT64_MAX when there is no period. */
int64_t aif_rules_due(const aif_rules *r, const aif_rules_state *s);
void aif_firings_fini(aif_firings *f); /* leaves an empty, usable one */

#endif
