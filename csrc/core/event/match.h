/* match.h - an index of subscriptions: which of them does an event touch?
 *
 * In:  (pattern, id) pairs, then events.  Out: the ids, each once, ascending.
 * Exact (namespace, key) pairs are found by hash; the rest by a scan.  Pure.
 */
#ifndef AIF_MATCH_H
#define AIF_MATCH_H

#include "base/err.h"
#include "event/event.h"
#include "event/pattern.h"

typedef struct aif_match aif_match;

AIF_MUST_CHECK aif_err aif_match_new(aif_match **out, aif_error *e);
void aif_match_free(aif_match *m);
/* Copies the pattern. The same id may be added with many patterns. */
AIF_MUST_CHECK aif_err aif_match_add(aif_match *m, const aif_pattern *p,
                                     uint64_t id, aif_error *e);
void aif_match_remove(aif_match *m, uint64_t id);
/* *ids is borrowed until the next call on m. */
AIF_MUST_CHECK aif_err aif_match_find(aif_match *m, const aif_event *ev,
                                      const uint64_t **ids, size_t *n,
                                      aif_error *e);

#endif
