#include "log/ids.h"

#include "base/hash.h"
#include "base/mem.h"

#include <assert.h>

void
aif_ids_fini(aif_ids *ids)
{
    aif_free(ids->slots);
    *ids = (aif_ids){0};
}

/* The slot of ev's identity, or the free one where it belongs.  (Fibonacci
 * hashing: whatever a producer counts by.) */
static size_t
slot_of(const aif_ids *ids, const aif_event *events, const aif_event *ev)
{
    uint64_t hash = aif_hash(ev->producer.p, ev->producer.n).lo;
    uint64_t mixed = (hash + ev->sequence) * 0x9e3779b97f4a7c15u;
    size_t i = (size_t)(mixed >> 32) & (ids->cap - 1);
    const aif_event *other;

    while (ids->slots[i] != 0) {
        other = &events[ids->slots[i] - 1];
        if (other->sequence == ev->sequence &&
            aif_str_eq(other->producer, ev->producer)) {
            break;
        }
        i = (i + 1) & (ids->cap - 1);
    }
    return i;
}

size_t
aif_ids_find(const aif_ids *ids, const aif_event *events, const aif_event *ev)
{
    if (ids->n == 0) {
        return AIF_IDS_NONE;
    }
    return ids->slots[slot_of(ids, events, ev)] - 1; /* 0 - 1 is NONE */
}

void
aif_ids_add(aif_ids *ids, const aif_event *events, size_t place)
{
    size_t i = slot_of(ids, events, &events[place]);

    assert(ids->slots[i] == 0 && ids->n < ids->cap / 2);
    ids->slots[i] = place + 1;
    ids->n++;
}

aif_err
aif_ids_reserve(aif_ids *ids, const aif_event *events, size_t n, aif_error *e)
{
    aif_ids grown = {.cap = ids->cap == 0 ? 16 : ids->cap};

    if (n <= ids->cap / 2) {
        return AIF_OK;
    }
    while (grown.cap / 2 < n && grown.cap < SIZE_MAX / 4 / sizeof(size_t)) {
        grown.cap *= 2;
    }
    grown.slots = aif_zalloc(grown.cap * sizeof *grown.slots);
    if (grown.slots == NULL || grown.cap / 2 < n) {
        aif_free(grown.slots);
        return aif_fail(e, AIF_ENOMEM, "an index of %zu events", n);
    }
    for (size_t i = 0; i < ids->cap; i++) {
        if (ids->slots[i] != 0) {
            aif_ids_add(&grown, events, ids->slots[i] - 1);
        }
    }
    aif_ids_fini(ids);
    *ids = grown;
    return AIF_OK;
}
