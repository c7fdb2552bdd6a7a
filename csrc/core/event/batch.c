#include "event/batch.h"

#include "base/mem.h"

#define CHUNK_MIN ((size_t)4 << 10) /* one event: one small chunk */
#define CHUNK_MAX ((size_t)256 << 10)

struct aif_chunk {
    aif_chunk *next;
    size_t cap;
    size_t used;
    char bytes[];
};

void
aif_batch_fini(aif_batch *b)
{
    aif_chunk *next;

    for (aif_chunk *c = b->chunks; c != NULL; c = next) {
        next = c->next;
        aif_free(c);
    }
    aif_free(b->events);
    *b = (aif_batch){0};
}

static aif_err
batch_grow(aif_batch *b, aif_error *e)
{
    aif_event *events;

    if (b->n < b->cap) {
        return AIF_OK;
    }
    events = aif_grown(b->events, &b->cap, b->n + 8, sizeof *events);
    if (events == NULL) {
        return aif_fail(e, AIF_ENOMEM, "a batch of %zu events", b->n + 8);
    }
    b->events = events;
    return AIF_OK;
}

/* A chunk with room for n; each new one is twice the last, to CHUNK_MAX. */
static aif_chunk *
batch_room(aif_batch *b, size_t n)
{
    aif_chunk *c = b->chunks;
    size_t cap;

    if (c != NULL && n <= c->cap - c->used) {
        return c;
    }
    cap = c == NULL ? CHUNK_MIN : 2 * c->cap;
    cap = cap > CHUNK_MAX ? CHUNK_MAX : cap;
    cap = cap < n ? n : cap;
    if (cap > SIZE_MAX / 2) {
        return NULL;
    }
    c = aif_realloc(NULL, sizeof *c + cap);
    if (c == NULL) {
        return NULL;
    }
    *c = (aif_chunk){.next = b->chunks, .cap = cap};
    b->chunks = c;
    return c;
}

static aif_str
chunk_copy(aif_chunk *c, aif_str s)
{
    char *p = c->bytes + c->used;

    if (s.n > 0) {
        memcpy(p, s.p, s.n);
        c->used += s.n;
    }
    return (aif_str){p, s.n};
}

aif_err
aif_batch_add(aif_batch *b, const aif_event *ev, aif_error *e)
{
    size_t n = aif_event_bytes(ev);
    aif_event own = *ev;
    aif_chunk *c;
    aif_err err = batch_grow(b, e);

    if (err != AIF_OK) {
        return err;
    }
    c = batch_room(b, n);
    if (c == NULL) {
        return aif_fail(e, AIF_ENOMEM, "an event of %zu bytes", n);
    }
    own.ns = chunk_copy(c, ev->ns);
    own.key = chunk_copy(c, ev->key);
    own.value = chunk_copy(c, ev->value);
    own.type = chunk_copy(c, ev->type);
    own.sender = chunk_copy(c, ev->sender);
    own.context = chunk_copy(c, ev->context);
    own.producer = chunk_copy(c, ev->producer);
    b->events[b->n++] = own;
    b->bytes += n;
    return AIF_OK;
}
