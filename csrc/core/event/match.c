/* One node per (pattern, id).  A node with exact namespace and key hangs in
 * the bucket of their digest, or, where its context is exact, too, of all
 * three; all others in the list `scan`.  Each node also hangs in the bucket of
 * its id, for remove.
 *
 * find: the event's two buckets, then scan; each candidate's pattern is
 * compared in full, the ids are sorted and made unique.  So of 100,000 that
 * listen to one key, an event with a context meets those of its own.
 */
#include "event/match.h"

#include "base/hash.h"
#include "base/mem.h"
#include "base/uniq.h"

#include <string.h>

#define BUCKETS_MIN 64 /* a power of two */

typedef struct node {
    struct node *next; /* in its key's bucket, or in scan */
    struct node **prev;
    struct node *id_next; /* in its id's bucket */
    struct node **id_prev;
    uint64_t id;
    uint64_t hash;
    bool exact;
    aif_pattern pattern; /* its strings follow the node */
} node;

struct aif_match {
    node **by_key;
    node **by_id;
    size_t buckets; /* of each table */
    node *scan;
    size_t n;
    uint64_t *found; /* find's answer */
    size_t cap;
};

/* context: NULL, where any is meant. */
static uint64_t
key_hash(aif_str ns, aif_str key, const aif_str *context)
{
    aif_str parts[] = {ns, key, context != NULL ? *context : AIF_STR("")};

    return aif_hash_strs(parts, context != NULL ? 3 : 2).lo;
}

/* Ids are small numbers in a row: Fibonacci hashing spreads them. */
static size_t
match_id_bucket(const aif_match *m, uint64_t id)
{
    return (size_t)((id * 0x9e3779b97f4a7c15u) >> 32) & (m->buckets - 1);
}

static void
node_link_key(node **head, node *x)
{
    x->next = *head;
    x->prev = head;
    if (x->next != NULL) {
        x->next->prev = &x->next;
    }
    *head = x;
}

static void
node_link_id(node **head, node *x)
{
    x->id_next = *head;
    x->id_prev = head;
    if (x->id_next != NULL) {
        x->id_next->id_prev = &x->id_next;
    }
    *head = x;
}

static void
node_unlink(node *x)
{
    *x->prev = x->next;
    if (x->next != NULL) {
        x->next->prev = x->prev;
    }
    *x->id_prev = x->id_next;
    if (x->id_next != NULL) {
        x->id_next->id_prev = x->id_prev;
    }
}

static void
match_link(aif_match *m, node *x)
{
    node **head = &m->scan;

    if (x->exact) {
        head = &m->by_key[x->hash & (m->buckets - 1)];
    }
    node_link_key(head, x);
    node_link_id(&m->by_id[match_id_bucket(m, x->id)], x);
}

aif_err
aif_match_new(aif_match **out, aif_error *e)
{
    aif_match *m;

    *out = NULL;
    m = aif_zalloc(sizeof *m);
    if (m == NULL) {
        return aif_fail(e, AIF_ENOMEM, "making an index");
    }
    m->buckets = BUCKETS_MIN;
    m->by_key = aif_zalloc(m->buckets * sizeof(node *));
    m->by_id = aif_zalloc(m->buckets * sizeof(node *));
    if (m->by_key == NULL || m->by_id == NULL) {
        aif_match_free(m);
        return aif_fail(e, AIF_ENOMEM, "making an index");
    }
    *out = m;
    return AIF_OK;
}

void
aif_match_free(aif_match *m)
{
    if (m == NULL) {
        return;
    }
    for (size_t i = 0; m->by_id != NULL && i < m->buckets; i++) {
        for (node *x = m->by_id[i], *next; x != NULL; x = next) {
            next = x->id_next;
            aif_free(x);
        }
    }
    aif_free(m->by_key);
    aif_free(m->by_id);
    aif_free(m->found);
    aif_free(m);
}

/* Every node is in by_id: take them out of the old tables, into new ones. */
static void
match_rehash(aif_match *m, node **by_key, node **by_id, size_t buckets)
{
    node **old = m->by_id;
    size_t n = m->buckets;

    aif_free(m->by_key);
    m->by_key = by_key;
    m->by_id = by_id;
    m->buckets = buckets;
    m->scan = NULL;
    for (size_t i = 0; i < n; i++) {
        for (node *x = old[i], *next; x != NULL; x = next) {
            next = x->id_next;
            match_link(m, x);
        }
    }
    aif_free(old);
}

/* Two nodes a bucket at most. */
static aif_err
match_grow(aif_match *m, aif_error *e)
{
    size_t buckets = m->buckets * 2;
    node **by_key;
    node **by_id;

    if (m->n < buckets) {
        return AIF_OK;
    }
    by_key = aif_zalloc(buckets * sizeof(node *));
    by_id = aif_zalloc(buckets * sizeof(node *));
    if (by_key == NULL || by_id == NULL) {
        aif_free(by_key);
        aif_free(by_id);
        return aif_fail(e, AIF_ENOMEM, "an index of %zu patterns", m->n);
    }
    match_rehash(m, by_key, by_id, buckets);
    return AIF_OK;
}

static aif_str
text_copy(char **at, aif_str s)
{
    aif_str out = {*at, s.n};

    if (s.n > 0) {
        memcpy(*at, s.p, s.n);
    }
    *at += s.n;
    return out;
}

static node *
node_new(const aif_pattern *p, uint64_t id)
{
    size_t bytes = p->ns.n + p->key.n + p->type.n + p->sender.n + p->context.n;
    node *x = aif_zalloc(sizeof *x + bytes);
    char *at;

    if (x == NULL) {
        return NULL;
    }
    at = (char *)(x + 1);
    x->id = id;
    x->pattern.ns = text_copy(&at, p->ns);
    x->pattern.key = text_copy(&at, p->key);
    x->pattern.type = text_copy(&at, p->type);
    x->pattern.sender = text_copy(&at, p->sender);
    x->pattern.context = text_copy(&at, p->context);
    x->exact = aif_pattern_exact(p->ns) && aif_pattern_exact(p->key);
    x->hash = key_hash(p->ns, p->key,
                       aif_pattern_exact(p->context) ? &p->context : NULL);
    return x;
}

aif_err
aif_match_add(aif_match *m, const aif_pattern *p, uint64_t id, aif_error *e)
{
    aif_err err;
    node *x;

    err = aif_pattern_check(p, e);
    if (err == AIF_OK) {
        err = match_grow(m, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    x = node_new(p, id);
    if (x == NULL) {
        return aif_fail(e, AIF_ENOMEM, "adding a pattern");
    }
    match_link(m, x);
    m->n++;
    return AIF_OK;
}

void
aif_match_remove(aif_match *m, uint64_t id)
{
    for (node *x = m->by_id[match_id_bucket(m, id)], *next; x != NULL;
         x = next) {
        next = x->id_next;
        if (x->id == id) {
            node_unlink(x);
            aif_free(x);
            m->n--;
        }
    }
}

static aif_err
match_collect(aif_match *m, const node *x, const aif_event *ev, size_t *n,
              aif_error *e)
{
    uint64_t *found;

    for (; x != NULL; x = x->next) {
        if (!aif_pattern_matches(&x->pattern, ev)) {
            continue;
        }
        if (*n == m->cap) {
            found = aif_grown(m->found, &m->cap, *n + 16, sizeof *found);
            if (found == NULL) {
                return aif_fail(e, AIF_ENOMEM, "matching an event");
            }
            m->found = found;
        }
        m->found[(*n)++] = x->id;
    }
    return AIF_OK;
}

aif_err
aif_match_find(aif_match *m, const aif_event *ev, const uint64_t **ids,
               size_t *n, aif_error *e)
{
    const uint64_t any = key_hash(ev->ns, ev->key, NULL) & (m->buckets - 1);
    const uint64_t own =
        key_hash(ev->ns, ev->key, &ev->context) & (m->buckets - 1);
    size_t found = 0;
    aif_err err;

    *ids = NULL;
    *n = 0;
    err = match_collect(m, m->by_key[any], ev, &found, e);
    if (err == AIF_OK && own != any) {
        err = match_collect(m, m->by_key[own], ev, &found, e);
    }
    if (err == AIF_OK) {
        err = match_collect(m, m->scan, ev, &found, e);
    }
    if (err == AIF_OK && found > 0) {
        *n = aif_uniq(m->found, found);
        *ids = m->found;
    }
    return err;
}
