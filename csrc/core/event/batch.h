/* batch.h - events that own their bytes: one arena, freed at once. */
#ifndef AIF_BATCH_H
#define AIF_BATCH_H

#include "base/err.h"
#include "event/event.h"

typedef struct aif_chunk aif_chunk;

typedef struct {
    aif_event *events;
    size_t n;
    size_t cap;
    size_t bytes;      /* of all strings in it */
    aif_chunk *chunks; /* the arena; strings never move */
} aif_batch;

/* A zeroed batch is an empty one. */
void aif_batch_fini(aif_batch *b); /* leaves an empty, usable batch */
/* Copy ev, strings included. On failure the batch is as before. */
AIF_MUST_CHECK aif_err aif_batch_add(aif_batch *b, const aif_event *ev,
                                     aif_error *e);

#endif
