/* log.c - append: check every event, leave out those that came earlier in
 * the same call, let the store make the rest durable.  Read: let the store
 * add rows, then check them, for anybody can write to a database.
 *
 * What fails in the store is returned as it is: the context is known there.
 */
#include "log.h"

#include "guard.h"
#include "ids.h"
#include "mem.h"
#include "store.h"

struct aif_log {
    aif_guard guard;
    const aif_store_ops *ops;
    void *store;
};

aif_err
aif_log_open(const char *uri, aif_log **out, aif_error *e)
{
    aif_err err;
    aif_log *log;

    *out = NULL;
    log = aif_zalloc(sizeof *log);
    if (log == NULL) {
        return aif_fail(e, AIF_ENOMEM, "opening a log");
    }
    aif_guard_init(&log->guard);
    log->ops = aif_store_find(uri);
    if (log->ops == NULL) { /* only its scheme: the rest may be secret */
        err = aif_fail(e, AIF_EINVAL,
                       "no such kind of log: '%.*s'; there are mem:, "
                       "sqlite:PATH and postgresql://...",
                       (int)strcspn(uri, ":/@"), uri);
        goto fail;
    }
    err = log->ops->open(uri, &log->store, e);
    if (err != AIF_OK) {
        goto fail;
    }
    *out = log;
    return AIF_OK;
fail:
    aif_free(log);
    return err;
}

void
aif_log_free(aif_log *log)
{
    if (log == NULL || aif_guard_forked(&log->guard)) {
        return;
    }
    log->ops->close(log->store);
    pthread_mutex_destroy(&log->guard.lock);
    aif_free(log);
}

static aif_err
check_all(const aif_event *events, size_t n, aif_error *e)
{
    size_t bytes = 0;
    aif_err err;

    if (n > AIF_BATCH_MAX) {
        return aif_fail(e, AIF_EINVAL, "%zu events at once: %d are the most",
                        n, AIF_BATCH_MAX);
    }
    for (size_t i = 0; i < n; i++) {
        err = aif_event_check(&events[i], e);
        if (err != AIF_OK) {
            return err;
        }
        bytes += aif_event_bytes(&events[i]);
    }
    if (bytes > AIF_BATCH_BYTES) {
        return aif_fail(e, AIF_EINVAL, "%zu bytes at once: %u are the most",
                        bytes, AIF_BATCH_BYTES);
    }
    return AIF_OK;
}

/* The events of one call, each identity once. */
typedef struct {
    aif_event *events;
    size_t n;
    size_t *place; /* of the caller's i-th event in events */
    uint64_t *offsets;
    aif_ids ids;
} distinct;

static void
distinct_fini(distinct *d)
{
    aif_free(d->events);
    aif_free(d->place);
    aif_free(d->offsets);
    aif_ids_fini(&d->ids);
}

static aif_err
distinct_alloc(distinct *d, size_t n, aif_error *e)
{
    d->events = aif_zalloc(n * sizeof *d->events);
    d->place = aif_zalloc(n * sizeof *d->place);
    d->offsets = aif_zalloc(n * sizeof *d->offsets);
    if (d->events == NULL || d->place == NULL || d->offsets == NULL) {
        return aif_fail(e, AIF_ENOMEM, "appending %zu events", n);
    }
    return aif_ids_reserve(&d->ids, d->events, n, e);
}

static void
distinct_add(distinct *d, const aif_event *ev, size_t *place)
{
    *place = aif_ids_find(&d->ids, d->events, ev);
    if (*place == AIF_IDS_NONE) {
        *place = d->n++;
        d->events[*place] = *ev;
        aif_ids_add(&d->ids, d->events, *place);
    }
}

static aif_err
append_distinct(aif_log *log, const aif_event *events, size_t n,
                uint64_t *offsets, aif_error *e)
{
    distinct d = {0};
    aif_err err = distinct_alloc(&d, n, e);

    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        distinct_add(&d, &events[i], &d.place[i]);
    }
    if (err == AIF_OK) {
        err = log->ops->append(log->store, d.events, d.n, d.offsets, e);
    }
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        offsets[i] = d.offsets[d.place[i]];
    }
    distinct_fini(&d);
    return err;
}

aif_err
aif_log_append(aif_log *log, const aif_event *events, size_t n,
               uint64_t *offsets, aif_error *e)
{
    aif_err err = check_all(events, n, e);

    if (err == AIF_OK) {
        err = aif_guard_enter(&log->guard, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    if (n == 1) {
        err = log->ops->append(log->store, events, n, offsets, e);
    } else if (n > 1) {
        err = append_distinct(log, events, n, offsets, e);
    }
    aif_guard_leave(&log->guard);
    return err;
}

/* A row is somebody else's bytes.  Without a pattern there is no gap. */
static aif_err
check_row(const aif_event *ev, uint64_t last, bool gaps, aif_error *e)
{
    unsigned long long offset = ev->offset;

    if (ev->offset <= last || (!gaps && last > 0 && ev->offset != last + 1)) {
        return aif_fail(e, AIF_ECORRUPT, "offset %llu follows %llu", offset,
                        (unsigned long long)last);
    }
    if (aif_event_check(ev, e) != AIF_OK) {
        char why[sizeof e->text];

        memcpy(why, e->text, sizeof why);
        return aif_fail(e, AIF_ECORRUPT, "event %llu: %.200s", offset, why);
    }
    return AIF_OK;
}

static aif_err
check_rows(const aif_batch *out, size_t from, uint64_t after, bool gaps,
           aif_error *e)
{
    uint64_t last = after;
    aif_err err = AIF_OK;

    for (size_t i = from; err == AIF_OK && i < out->n; i++) {
        err = check_row(&out->events[i], last, gaps, e);
        last = out->events[i].offset;
    }
    return err;
}

/* An offset is an SQL bigint; beyond the greatest there is nothing. */
static uint64_t
bigint(uint64_t offset)
{
    return offset > INT64_MAX ? INT64_MAX : offset;
}

static aif_err
enter(aif_log *log, const aif_pattern *p, aif_error *e)
{
    aif_err err = p == NULL ? AIF_OK : aif_pattern_check(p, e);

    return err != AIF_OK ? err : aif_guard_enter(&log->guard, e);
}

aif_err
aif_log_read(aif_log *log, const aif_pattern *p, uint64_t after, size_t max,
             aif_batch *out, aif_error *e)
{
    const size_t n = out->n;
    const size_t bytes = out->bytes;
    aif_err err = enter(log, p, e);

    if (err != AIF_OK) {
        return err;
    }
    if (max > 0) {
        err = log->ops->read(log->store, p, bigint(after), max, out, e);
    }
    if (err == AIF_OK) {
        err = check_rows(out, n, after, p != NULL, e);
    }
    if (err != AIF_OK) {
        out->n = n;
        out->bytes = bytes;
    }
    aif_guard_leave(&log->guard);
    return err;
}

aif_err
aif_log_count(aif_log *log, const aif_pattern *p, uint64_t after, uint64_t *n,
              aif_error *e)
{
    aif_err err;

    *n = 0;
    err = enter(log, p, e);
    if (err != AIF_OK) {
        return err;
    }
    err = log->ops->count(log->store, p, bigint(after), n, e);
    aif_guard_leave(&log->guard);
    return err;
}

aif_err
aif_log_head(aif_log *log, uint64_t *offset, aif_error *e)
{
    aif_err err;

    *offset = 0;
    err = enter(log, NULL, e);
    if (err != AIF_OK) {
        return err;
    }
    err = log->ops->head(log->store, offset, e);
    aif_guard_leave(&log->guard);
    return err;
}
