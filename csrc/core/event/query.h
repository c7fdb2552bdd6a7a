/* query.h - which part of the log somebody means: patterns, and offsets.
 * Pure; the patterns are borrowed.
 */
#ifndef AIF_QUERY_H
#define AIF_QUERY_H

#include "event/pattern.h"

typedef struct {
    const aif_pattern *patterns; /* any of them matches */
    size_t n;                    /* 0: every event */
    uint64_t after;              /* beyond this offset */
    uint64_t upto;               /* and none beyond this one; 0: to the end */
    bool kept; /* only what is kept: no ERETENTION for what was let go */
} aif_query;

#define AIF_QUERY_PATTERNS_MAX 64
#define AIF_AFTER_NOW UINT64_MAX /* a subscriber's: what is yet to come */

/* An offset, and of which log: in another log it is another event. */
typedef struct {
    uint64_t offset;
    uint64_t log_id; /* 0: not known */
} aif_place;

/* All events beyond an offset. */
#define AIF_BEYOND(offset) (&(const aif_query){.after = (offset)})

/* EINVAL: too many patterns, or one that is none. */
AIF_MUST_CHECK aif_err aif_query_check(const aif_query *q, aif_error *e);
/* The last offset that q means, as an SQL bigint. */
uint64_t aif_query_upto(const aif_query *q);
/* Is one of q's patterns, from the one at from to the one before to, like p? */
bool aif_query_like(const aif_query *q, size_t from, size_t to,
                    const aif_pattern *p);
/* What it costs a database to compare one event with all of q's patterns.  1
 * is an exact field, about 0.09 us; a prefix is 3, a list of keys 4, and to
 * come to the event at all would be 4. */
size_t aif_query_weight(const aif_query *q);
bool aif_query_matches(const aif_query *q, const aif_event *ev);

#endif
