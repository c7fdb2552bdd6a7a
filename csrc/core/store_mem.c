/* store_mem.c - the log in memory: the reference back-end, and the tests'. */
#include "store.h"

#include "ids.h"
#include "mem.h"
#include "point.h"

typedef struct {
    aif_batch log; /* events[i] has offset i + 1 */
    aif_ids ids;
} mem_store;

static aif_err
mem_open(const char *uri, void **store, aif_error *e)
{
    (void)uri;
    *store = aif_zalloc(sizeof(mem_store));
    return *store != NULL ? AIF_OK : aif_fail(e, AIF_ENOMEM, "mem: open");
}

static void
mem_close(void *store)
{
    mem_store *s = store;

    aif_batch_fini(&s->log);
    aif_ids_fini(&s->ids);
    aif_free(s);
}

/* Where an event is already, or its new place at the end. */
static aif_err
put(mem_store *s, const aif_event *ev, uint64_t *offset, aif_error *e)
{
    size_t known = aif_ids_find(&s->ids, s->log.events, ev);
    aif_event own = *ev;

    if (known != AIF_IDS_NONE) {
        *offset = known + 1;
        return AIF_OK;
    }
    *offset = own.offset = s->log.n + 1;
    return aif_batch_add(&s->log, &own, e);
}

static aif_err
mem_append(void *store, const aif_event *events, size_t n, uint64_t *offsets,
           aif_error *e)
{
    mem_store *s = store;
    const size_t before = s->log.n;
    const size_t bytes = s->log.bytes;
    aif_err err;

    AIF_POINT("append.begin");
    err = aif_ids_reserve(&s->ids, s->log.events, before + n, e);
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        err = put(s, &events[i], &offsets[i], e);
    }
    if (err != AIF_OK) { /* what they took of the arena stays unused */
        s->log.n = before;
        s->log.bytes = bytes;
        return err;
    }
    for (size_t i = before; i < s->log.n; i++) { /* the commit */
        aif_ids_add(&s->ids, s->log.events, i);
    }
    return AIF_OK;
}

static aif_err
mem_read(void *store, const aif_pattern *p, uint64_t after, size_t max,
         aif_batch *out, aif_error *e)
{
    const mem_store *s = store;
    const size_t from = out->n;
    const size_t bytes = out->bytes;
    aif_err err;

    for (uint64_t i = after; i < s->log.n; i++) {
        if (out->n - from == max || out->bytes - bytes >= AIF_READ_BYTES) {
            break;
        }
        if (p == NULL || aif_pattern_matches(p, &s->log.events[i])) {
            err = aif_batch_add(out, &s->log.events[i], e);
            if (err != AIF_OK) {
                return err;
            }
        }
    }
    return AIF_OK;
}

static aif_err
mem_count(void *store, const aif_pattern *p, uint64_t after, uint64_t *n,
          aif_error *e)
{
    const mem_store *s = store;

    (void)e;
    *n = 0;
    for (uint64_t i = after; i < s->log.n; i++) {
        *n += p == NULL || aif_pattern_matches(p, &s->log.events[i]);
    }
    return AIF_OK;
}

static aif_err
mem_head(void *store, uint64_t *offset, aif_error *e)
{
    const mem_store *s = store;

    (void)e;
    *offset = s->log.n;
    return AIF_OK;
}

const aif_store_ops aif_store_mem = {
    .scheme = "mem:",
    .open = mem_open,
    .close = mem_close,
    .append = mem_append,
    .read = mem_read,
    .count = mem_count,
    .head = mem_head,
};
