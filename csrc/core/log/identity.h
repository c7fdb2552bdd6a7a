/* identity.h - who is who: an event is known by its (producer, sequence).
 *
 * In:  the events of one append.  Out: each identity once (aif_distinct),
 * where an identity is among events (aif_ids), and whether an event that the
 * log had already is the one that it had (aif_known).  And a log is known by
 * its id (aif_log_id_draw).  For log/ alone.
 */
#ifndef AIF_IDENTITY_H
#define AIF_IDENTITY_H

#include "base/err.h"
#include "event/event.h"
#include "log/store.h"

/* --- a hash of places in an array of events that somebody else keeps ----- */

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

/* --- the events of one call, each identity once -------------------------- */

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

/* --- is a known event the one that the log had? -------------------------- */

/* Same namespace, key, type and value; sender and context may change. */
bool aif_known_same(const aif_event *a, const aif_event *b);

/* Compare those at or below before with what lies there. */
AIF_MUST_CHECK aif_err aif_known_compare(const aif_store_ops *ops, void *store,
                                         const aif_event *events, size_t n,
                                         uint64_t *offsets, uint64_t before,
                                         aif_error *e);

/* --- which log is it? ----------------------------------------------------- */

/* Random, from 1 to INT64_MAX. */
AIF_MUST_CHECK aif_err aif_log_id_draw(uint64_t *id, aif_error *e);

#endif
