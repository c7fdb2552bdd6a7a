/* mem.c - the log in memory: the reference back-end, and the tests'. */
#include "log/store.h"

#include "log/identity.h"
#include "base/mem.h"
#include "base/point.h"

#include <stdlib.h>

typedef struct {
    aif_batch log; /* in offset order; a purge leaves holes */
    aif_ids ids;
    aif_head head;
    aif_batch purged;  /* rows: ns, upto in offset, how many in sequence */
    aif_batch cursors; /* rows: ns, name in key, offset, holder in sequence,
                          moved_ms in create_time */
} mem_store;

static aif_err
mem_open(const char *uri, bool hurry, void **store, aif_error *e)
{
    mem_store *s = aif_zalloc(sizeof *s);
    aif_err err;

    (void)uri;
    (void)hurry; /* there is nobody else */
    *store = s;
    if (s == NULL) {
        return aif_fail(e, AIF_ENOMEM, "mem: open");
    }
    err = aif_log_id_draw(&s->head.log_id, e);
    if (err != AIF_OK) {
        aif_free(s);
    }
    return err;
}

static void
mem_close(void *store)
{
    mem_store *s = store;

    aif_batch_fini(&s->log);
    aif_batch_fini(&s->purged);
    aif_batch_fini(&s->cursors);
    aif_ids_fini(&s->ids);
    aif_free(s);
}

/* Where an event is already, or its new place at the end. */
static aif_err
mem_put(mem_store *s, const aif_event *ev, uint64_t *next, uint64_t *offset,
        aif_error *e)
{
    const size_t known = aif_ids_find(&s->ids, s->log.events, ev);
    aif_event own = *ev;

    if (known != AIF_IDS_NONE) {
        *offset = s->log.events[known].offset;
        return AIF_OK;
    }
    if (own.create_time < s->head.create_time) {
        own.create_time = s->head.create_time;
    }
    *offset = own.offset = ++*next;
    return aif_batch_add(&s->log, &own, e);
}

static aif_err
mem_append(void *store, const aif_event *events, size_t n, uint64_t *offsets,
           aif_head *before, aif_error *e)
{
    mem_store *s = store;
    const size_t had = s->log.n;
    const size_t bytes = s->log.bytes;
    uint64_t next = s->head.offset;
    aif_err err;

    AIF_POINT("append.begin");
    *before = s->head;
    err = aif_ids_reserve(&s->ids, s->log.events, had + n, e);
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        err = mem_put(s, &events[i], &next, &offsets[i], e);
    }
    if (err != AIF_OK) { /* what they took of the arena stays unused */
        s->log.n = had;
        s->log.bytes = bytes;
        return err;
    }
    for (size_t i = had; i < s->log.n; i++) { /* the commit */
        aif_ids_add(&s->ids, s->log.events, i);
        s->head.create_time = s->log.events[i].create_time;
    }
    s->head.offset = next;
    return AIF_OK;
}

/* The place of the first event beyond offset. */
static size_t
mem_beyond(const mem_store *s, uint64_t offset)
{
    size_t low = 0;
    size_t high = s->log.n;

    while (low < high) {
        const size_t mid = low + (high - low) / 2;

        if (s->log.events[mid].offset <= offset) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

static aif_err
mem_read(void *store, const aif_query *q, size_t max, aif_batch *out,
         aif_error *e)
{
    const mem_store *s = store;
    const size_t from = out->n;
    const size_t bytes = out->bytes;
    aif_err err;

    for (size_t i = mem_beyond(s, q->after); i < s->log.n; i++) {
        if (out->n - from == max || out->bytes - bytes >= AIF_READ_BYTES) {
            break;
        }
        if (aif_query_matches(q, &s->log.events[i])) {
            err = aif_batch_add(out, &s->log.events[i], e);
            if (err != AIF_OK) {
                return err;
            }
        }
    }
    return AIF_OK;
}

static uint64_t
mem_count(const mem_store *s, const aif_query *q)
{
    uint64_t n = 0;

    for (size_t i = mem_beyond(s, q->after); i < s->log.n; i++) {
        n += aif_query_matches(q, &s->log.events[i]);
    }
    return n;
}

/* The newest that q means after passing over n of them; 0: none. */
static uint64_t
mem_newest(const mem_store *s, const aif_query *q, uint64_t n)
{
    for (size_t i = s->log.n; i-- > 0;) {
        if (aif_query_matches(q, &s->log.events[i]) && n-- == 0) {
            return s->log.events[i].offset;
        }
    }
    return 0;
}

static int
str_by_bytes(const void *a, const void *b)
{
    return aif_str_cmp(*(const aif_str *)a, *(const aif_str *)b);
}

static aif_err
senders_put(aif_str *all, size_t n, aif_buf *out, aif_error *e)
{
    aif_err err = AIF_OK;
    size_t senders = 0;
    size_t next;

    qsort(all, n, sizeof *all, str_by_bytes);
    for (size_t i = 0; i < n && senders <= AIF_SENDERS_MAX; i = next) {
        for (next = i + 1; next < n && aif_str_eq(all[next], all[i]); next++) {
        }
        err = aif_buf_u64(out, next - i, e);
        if (err == AIF_OK) {
            err = aif_buf_str(out, all[i], e);
        }
        if (err != AIF_OK) {
            return err;
        }
        senders++;
    }
    return AIF_OK;
}

static aif_err
mem_put_senders(const mem_store *s, const aif_query *q, aif_buf *out,
                aif_error *e)
{
    aif_str *all = aif_zalloc((s->log.n + 1) * sizeof *all);
    size_t n = 0;
    aif_err err;

    if (all == NULL) {
        return aif_fail(e, AIF_ENOMEM, "the senders of %zu events", s->log.n);
    }
    for (size_t i = mem_beyond(s, q->after); i < s->log.n; i++) {
        if (aif_query_matches(q, &s->log.events[i])) {
            all[n++] = s->log.events[i].sender;
        }
    }
    err = senders_put(all, n, out, e);
    aif_free(all);
    return err;
}

static uint64_t
mem_sequence(const mem_store *s, aif_str producer)
{
    uint64_t sequence = 0;

    for (size_t i = 0; i < s->log.n; i++) {
        const aif_event *ev = &s->log.events[i];

        if (ev->sequence > sequence && aif_str_eq(ev->producer, producer)) {
            sequence = ev->sequence;
        }
    }
    return sequence;
}

static uint64_t
mem_find(const mem_store *s, aif_str producer, uint64_t sequence)
{
    const aif_event ev = {.producer = producer, .sequence = sequence};
    const size_t place = aif_ids_find(&s->ids, s->log.events, &ev);

    return place == AIF_IDS_NONE ? 0 : s->log.events[place].offset;
}

/* The log as it will be, with an index. */
typedef struct {
    aif_batch log;
    aif_ids ids;
    uint64_t gone;
    uint64_t upto; /* the last that goes */
} kept;

static void
kept_fini(kept *k)
{
    aif_batch_fini(&k->log);
    aif_ids_fini(&k->ids);
}

static aif_err
kept_make(const mem_store *s, aif_str ns, uint64_t upto, size_t max, kept *k,
          aif_error *e)
{
    aif_err err = aif_ids_reserve(&k->ids, NULL, s->log.n, e);

    for (size_t i = 0; err == AIF_OK && i < s->log.n; i++) {
        const aif_event *ev = &s->log.events[i];

        if (k->gone < max && ev->offset <= upto &&
            aif_pattern_field(ns, ev->ns)) {
            k->gone++;
            k->upto = ev->offset;
            continue;
        }
        err = aif_batch_add(&k->log, ev, e);
        if (err == AIF_OK) {
            aif_ids_add(&k->ids, k->log.events, k->log.n - 1);
        }
    }
    return err;
}

static int
purged_by_ns(const void *a, const void *b)
{
    return aif_str_cmp(((const aif_event *)a)->ns, ((const aif_event *)b)->ns);
}

static aif_err
purged_count(mem_store *s, aif_str ns, const kept *k, aif_error *e)
{
    const aif_event row = {.ns = ns, .offset = k->upto, .sequence = k->gone};
    aif_err err;

    for (size_t i = 0; i < s->purged.n; i++) {
        if (aif_str_eq(s->purged.events[i].ns, ns)) {
            s->purged.events[i].offset = k->upto;
            s->purged.events[i].sequence += k->gone;
            return AIF_OK;
        }
    }
    err = aif_batch_add(&s->purged, &row, e);
    if (err == AIF_OK) {
        qsort(s->purged.events, s->purged.n, sizeof row, purged_by_ns);
    }
    return err;
}

static aif_err
mem_purge(void *store, aif_str ns, uint64_t upto, size_t max, uint64_t *gone,
          aif_error *e)
{
    mem_store *s = store;
    kept k = {.gone = 0};
    aif_err err;

    AIF_POINT("purge.begin");
    err = kept_make(s, ns, upto, max, &k, e);
    if (err == AIF_OK && k.gone > 0) {
        err = purged_count(s, ns, &k, e);
    }
    if (err == AIF_OK && k.gone > 0) { /* the commit */
        const mem_store old = *s;

        s->log = k.log;
        s->ids = k.ids;
        k.log = old.log;
        k.ids = old.ids;
        s->head.purged = k.upto > old.head.purged ? k.upto : old.head.purged;
    }
    *gone = err == AIF_OK ? k.gone : 0;
    kept_fini(&k);
    return err;
}

static aif_err
mem_put_purged(const mem_store *s, aif_buf *out, aif_error *e)
{
    aif_err err = AIF_OK;

    for (size_t i = 0; err == AIF_OK && i < s->purged.n; i++) {
        const aif_event *row = &s->purged.events[i];

        err = aif_buf_str(out, row->ns, e);
        if (err == AIF_OK) {
            err = aif_buf_u64(out, row->offset, e);
        }
        if (err == AIF_OK) {
            err = aif_buf_u64(out, row->sequence, e);
        }
    }
    return err;
}

static int
cursor_by_name(const void *a, const void *b)
{
    const aif_event *one = a;
    const aif_event *other = b;
    const int order = aif_str_cmp(one->ns, other->ns);

    return order != 0 ? order : aif_str_cmp(one->key, other->key);
}

/* NULL: there is none. */
static aif_event *
cursor_find(const mem_store *s, const aif_cursor *c)
{
    for (size_t i = 0; i < s->cursors.n; i++) {
        aif_event *row = &s->cursors.events[i];

        if (aif_str_eq(row->ns, c->ns) && aif_str_eq(row->key, c->name)) {
            return row;
        }
    }
    return NULL;
}

static aif_err
mem_take(void *store, const aif_cursor *c, uint64_t *offset, aif_head *head,
         aif_error *e)
{
    mem_store *s = store;
    aif_event *was = cursor_find(s, c);
    aif_event row = {.ns = c->ns,
                     .key = c->name,
                     .sequence = c->holder,
                     .create_time = c->moved_ms};
    aif_err err;

    *head = s->head;
    err = aif_cursor_begin(c, was != NULL, was == NULL ? 0 : was->offset,
                           s->cursors.n, head->offset, offset, e);
    row.offset = *offset;
    if (err == AIF_OK && was != NULL) {
        was->offset = row.offset;
        was->sequence = row.sequence;
        was->create_time = row.create_time;
    } else if (err == AIF_OK) {
        err = aif_batch_add(&s->cursors, &row, e);
        if (err == AIF_OK) {
            qsort(s->cursors.events, s->cursors.n, sizeof row, cursor_by_name);
        }
    }
    return err;
}

static aif_err
mem_move(void *store, const aif_cursor *c, uint64_t *holder, aif_error *e)
{
    aif_event *was = cursor_find(store, c);

    (void)e;
    *holder = was == NULL ? 0 : was->sequence;
    if (*holder == c->holder && was != NULL && was->offset <= c->offset) {
        was->offset = c->offset;
        was->create_time = c->moved_ms;
    }
    return AIF_OK;
}

static aif_err
mem_forget(void *store, const aif_cursor *c, bool *was, aif_error *e)
{
    mem_store *s = store;
    aif_event *row = cursor_find(s, c);

    (void)e;
    *was = row != NULL && row->create_time <= c->moved_ms;
    if (*was) {
        s->cursors.n--;
        memmove(row, row + 1,
                (size_t)(s->cursors.events + s->cursors.n - row) *
                    sizeof *row);
    }
    return AIF_OK;
}

static aif_err
mem_put_cursors(const mem_store *s, aif_buf *out, aif_error *e)
{
    aif_err err = AIF_OK;

    for (size_t i = 0; err == AIF_OK && i < s->cursors.n; i++) {
        const aif_event *row = &s->cursors.events[i];

        err = aif_buf_str(out, row->ns, e);
        if (err == AIF_OK) {
            err = aif_buf_str(out, row->key, e);
        }
        if (err == AIF_OK) {
            err = aif_buf_u64(out, row->offset, e);
        }
        if (err == AIF_OK) {
            err = aif_buf_u64(out, (uint64_t)row->create_time, e);
        }
    }
    return err;
}

static aif_err
head_put(const aif_head *head, aif_buf *out, aif_error *e)
{
    aif_err err = aif_buf_u64(out, head->offset, e);

    if (err == AIF_OK) {
        err = aif_buf_u64(out, head->purged, e);
    }
    if (err == AIF_OK) {
        err = aif_buf_u64(out, (uint64_t)head->create_time, e);
    }
    return err != AIF_OK ? err : aif_buf_u64(out, head->log_id, e);
}

static aif_err
mem_ask(void *store, const aif_ask *ask, aif_buf *out, aif_error *e)
{
    const mem_store *s = store;
    uint64_t number = 0;

    switch (ask->what) {
    case AIF_ASK_HEAD:
        return head_put(&s->head, out, e);
    case AIF_ASK_SENDERS:
        return mem_put_senders(s, ask->q, out, e);
    case AIF_ASK_PURGED:
        return mem_put_purged(s, out, e);
    case AIF_ASK_CURSORS:
        return mem_put_cursors(s, out, e);
    case AIF_ASK_COUNT:
        number = mem_count(s, ask->q);
        break;
    case AIF_ASK_NEWEST:
        number = mem_newest(s, ask->q, ask->n);
        break;
    case AIF_ASK_SEQUENCE:
        number = mem_sequence(s, ask->producer);
        break;
    case AIF_ASK_FIND:
        number = mem_find(s, ask->producer, ask->sequence);
        break;
    }
    return aif_buf_u64(out, number, e);
}

static aif_err
mem_renew(void *store, uint64_t was, aif_error *e)
{
    mem_store *s = store;

    return s->head.log_id == was ? aif_log_id_draw(&s->head.log_id, e)
                                 : AIF_OK;
}

const aif_store_ops aif_store_mem = {
    .scheme = "mem:",
    .open = mem_open,
    .close = mem_close,
    .append = mem_append,
    .read = mem_read,
    .ask = mem_ask,
    .purge = mem_purge,
    .take = mem_take,
    .move = mem_move,
    .forget = mem_forget,
    .renew = mem_renew,
};
