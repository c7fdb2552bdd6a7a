/* ids.h - which event has this (producer, sequence)?  A hash of places in an
 * array of events that somebody else keeps.
 */
#ifndef AIF_IDS_H
#define AIF_IDS_H

#include "base/err.h"
#include "event/event.h"

#define AIF_IDS_NONE SIZE_MAX

typedef struct {
    size_t *slots; /* place + 1; 0: free */
    size_t cap;    /* a power of two, at most half full */
    size_t n;
} aif_ids;

/* A zeroed aif_ids is an empty one. */
void aif_ids_fini(aif_ids *ids);
/* Room for n in all: that many aif_ids_add cannot fail. */
AIF_MUST_CHECK aif_err aif_ids_reserve(aif_ids *ids, const aif_event *events,
                                       size_t n, aif_error *e);
/* The place of the event with ev's identity, or AIF_IDS_NONE. */
size_t aif_ids_find(const aif_ids *ids, const aif_event *events,
                    const aif_event *ev);
/* events[place] is not in it yet. */
void aif_ids_add(aif_ids *ids, const aif_event *events, size_t place);

#endif
