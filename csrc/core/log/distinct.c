#include "log/distinct.h"

#include "log/known.h"
#include "base/mem.h"

void
aif_distinct_fini(aif_distinct *d)
{
    aif_free(d->events);
    aif_free(d->place);
    aif_free(d->offsets);
    aif_ids_fini(&d->ids);
}

static aif_err
reserve(aif_distinct *d, size_t n, aif_error *e)
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
add(aif_distinct *d, const aif_event *ev, int64_t time)
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
    err = reserve(d, n, e);
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        time = events[i].create_time > time ? events[i].create_time : time;
        d->place[i] = add(d, &events[i], time);
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
