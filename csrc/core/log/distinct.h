/* distinct.h - the events of one call, each identity once.  For log.c alone.
 */
#ifndef AIF_DISTINCT_H
#define AIF_DISTINCT_H

#include "log/ids.h"

typedef struct {
    aif_event *events; /* none is created before the one in front of it */
    size_t n;
    uint64_t *offsets; /* of events; for the store to fill in */
    size_t *place;     /* of the caller's i-th event in events */
    aif_ids ids;
} aif_distinct;

AIF_MUST_CHECK aif_err aif_distinct_init(aif_distinct *d,
                                         const aif_event *events, size_t n,
                                         aif_error *e);
void aif_distinct_fini(aif_distinct *d);
/* Those of the caller's n events; 0 where it has another by the same identity
 * in front, which is new: beyond before. */
void aif_distinct_offsets(const aif_distinct *d, const aif_event *events,
                          size_t n, uint64_t *offsets, uint64_t before);

#endif
