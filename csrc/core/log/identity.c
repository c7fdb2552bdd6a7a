#include "log/identity.h"

#include "base/hash.h"
#include "base/mem.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define PAGE 1000 /* rows read at once */
/* Farther than this from the last, a read of its own, which costs as much as
 * some 40 rows in SQLite, 32 to 50 in PostgreSQL and 170 in MySQL.  So to
 * compare 10,000, wherever they lie, takes 0.2 s, 0.6 to 0.9 s and 2 s. */
#define APART 40

/* --- where an identity is ------------------------------------------------ */

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

/* --- each identity once -------------------------------------------------- */

bool
aif_known_same(const aif_event *a, const aif_event *b)
{
    return aif_str_eq(a->ns, b->ns) && aif_str_eq(a->key, b->key) &&
           aif_str_eq(a->type, b->type) && aif_str_eq(a->value, b->value);
}

void
aif_distinct_fini(aif_distinct *d)
{
    aif_free(d->events);
    aif_free(d->place);
    aif_free(d->offsets);
    aif_ids_fini(&d->ids);
}

static aif_err
distinct_reserve(aif_distinct *d, size_t n, aif_error *e)
{
    d->events = aif_zalloc(n * sizeof *d->events);
    d->place = aif_zalloc(n * sizeof *d->place);
    d->offsets = aif_zalloc(n * sizeof *d->offsets);
    if (d->events == NULL || d->place == NULL || d->offsets == NULL) {
        return aif_fail(e, AIF_ENOMEM, "appending %zu events", n);
    }
    return aif_ids_reserve(&d->ids, d->events, n, e);
}

static size_t
distinct_add(aif_distinct *d, const aif_event *ev, int64_t time)
{
    size_t place = aif_ids_find(&d->ids, d->events, ev);

    if (place == AIF_IDS_NONE) {
        place = d->n++;
        d->events[place] = *ev;
        d->events[place].create_time = time;
        aif_ids_add(&d->ids, d->events, place);
    }
    return place;
}

aif_err
aif_distinct_init(aif_distinct *d, const aif_event *events, size_t n,
                  aif_error *e)
{
    int64_t time = INT64_MIN;
    aif_err err;

    *d = (aif_distinct){0};
    err = distinct_reserve(d, n, e);
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        time = events[i].create_time > time ? events[i].create_time : time;
        d->place[i] = distinct_add(d, &events[i], time);
    }
    return err;
}

void
aif_distinct_offsets(const aif_distinct *d, const aif_event *events, size_t n,
                     uint64_t *offsets, uint64_t before)
{
    size_t seen = 0;

    for (size_t i = 0; i < n; i++) {
        const size_t place = d->place[i];
        const bool first = place == seen;

        seen += first;
        offsets[i] = d->offsets[place];
        if (!first && offsets[i] > before &&
            !aif_known_same(&events[i], &d->events[place])) {
            offsets[i] = 0;
        }
    }
}

/* --- is it the event that the log had ------------------------------------- */

typedef struct {
    uint64_t offset;
    size_t i; /* in the caller's events */
} known;

typedef struct {
    const aif_store_ops *ops;
    void *store;
    const aif_event *events;
    uint64_t *offsets;
} compare;

static int
by_offset(const void *a, const void *b)
{
    const uint64_t x = ((const known *)a)->offset;
    const uint64_t y = ((const known *)b)->offset;

    return (x > y) - (x < y);
}

/* The first of [k, end) beyond row, after comparing those that are row. */
static const known *
compare_row(const compare *c, const known *k, const known *end,
            const aif_event *row)
{
    for (; k < end && k->offset <= row->offset; k++) {
        if (k->offset == row->offset &&
            !aif_known_same(&c->events[k->i], row)) {
            c->offsets[k->i] = 0;
        }
    }
    return k;
}

/* One that was let go meanwhile was known: there is no more to say. */
static aif_err
compare_range(const compare *c, const known *k, const known *end, aif_error *e)
{
    aif_query q = {.after = k->offset - 1, .upto = end[-1].offset};
    aif_err err = AIF_OK;
    size_t n = 1;

    while (err == AIF_OK && n > 0 && k < end) {
        aif_batch rows = {0};

        err = c->ops->read(c->store, &q, PAGE, &rows, e);
        n = rows.n;
        for (size_t i = 0; err == AIF_OK && i < n; i++) {
            k = compare_row(c, k, end, &rows.events[i]);
            q.after = rows.events[i].offset;
        }
        aif_batch_fini(&rows);
    }
    return err;
}

/* What is sent again was sent together, and so lies together. */
static aif_err
compare_all(const compare *c, const known *k, size_t n, aif_error *e)
{
    aif_err err = AIF_OK;
    size_t to;

    for (size_t from = 0; err == AIF_OK && from < n; from = to) {
        to = from + 1;
        while (to < n && k[to].offset - k[to - 1].offset <= APART) {
            to++;
        }
        err = compare_range(c, k + from, k + to, e);
    }
    return err;
}

/* 0 is a conflict within the call. */
static bool
is_known(uint64_t offset, uint64_t before)
{
    return offset > 0 && offset <= before;
}

static size_t
known_count(const uint64_t *offsets, size_t n, uint64_t before)
{
    size_t found = 0;

    for (size_t i = 0; i < n; i++) {
        found += is_known(offsets[i], before);
    }
    return found;
}

aif_err
aif_known_compare(const aif_store_ops *ops, void *store,
                  const aif_event *events, size_t n, uint64_t *offsets,
                  uint64_t before, aif_error *e)
{
    const compare c = {ops, store, events, offsets};
    const size_t found = known_count(offsets, n, before);
    known *all;
    size_t k = 0;
    aif_err err;

    if (found == 0) {
        return AIF_OK;
    }
    all = aif_zalloc(found * sizeof *all);
    if (all == NULL) {
        return aif_fail(e, AIF_ENOMEM, "comparing %zu events", found);
    }
    for (size_t i = 0; i < n; i++) {
        if (is_known(offsets[i], before)) {
            all[k++] = (known){offsets[i], i};
        }
    }
    qsort(all, found, sizeof *all, by_offset);
    err = compare_all(&c, all, found, e);
    aif_free(all);
    return err;
}

/* --- which log is it ------------------------------------------------------ */

aif_err
aif_log_id_draw(uint64_t *id, aif_error *e)
{
    *id = 0;
    while (*id == 0) {
        if (getrandom(id, sizeof *id, 0) != sizeof *id) {
            return aif_fail(e, AIF_ENOMEM, "a random id: %s", strerror(errno));
        }
        *id &= INT64_MAX;
    }
    return AIF_OK;
}
