/* pattern.h - which events somebody means: each field exact, `*`, or a
 * prefix `abc*`.  Pure.
 */
#ifndef AIF_PATTERN_H
#define AIF_PATTERN_H

#include "base/err.h"
#include "event/event.h"

#include <stdbool.h>

#define AIF_PATTERNS_MAX 64 /* of one request */

typedef struct {
    aif_str ns;
    aif_str key;
    aif_str type;
    aif_str sender;
    aif_str context;
} aif_pattern;

/* EINVAL: an empty ns, key or type, or a field over its limit.  An empty
 * sender or context means the event has none; "*" means any. */
AIF_MUST_CHECK aif_err aif_pattern_check(const aif_pattern *p, aif_error *e);
bool aif_pattern_field(aif_str pattern, aif_str value);
bool aif_pattern_matches(const aif_pattern *p, const aif_event *ev);
/* True when the field has no trailing `*`: equality will do. */
bool aif_pattern_exact(aif_str field);
/* Do they differ in nothing but an exact key?  A database looks them up as one
 * pattern with a list of keys. */
bool aif_pattern_alike(const aif_pattern *a, const aif_pattern *b);
/* Could one text match both fields? */
bool aif_pattern_overlap(aif_str a, aif_str b);
/* Does grant match whatever asked matches? */
bool aif_pattern_covers(aif_str grant, aif_str asked);

#endif
