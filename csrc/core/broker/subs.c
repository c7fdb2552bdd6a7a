/* broker/subs.c - subscribers: who wants what, how far each has got.
 *
 * The happy path: SUBSCRIBE makes one, with a cursor and a credit of bytes;
 * each turn's new events are pushed to those whose cursor is at the head;
 * who is behind is caught up from the log, one bounded read a turn, whoever
 * is at the same place sharing it; CREDIT keeps the lease and says how many
 * bytes were taken.
 *
 * A subscriber without credit, or whose pipe is full, just falls behind.  One
 * that is gone (zmq says so, or its lease ended) is dropped; when it comes
 * back it subscribes again from the cursor that it was told last.
 */
#include "broker/in.h"

#include "base/clock.h"
#include "base/mem.h"

#include <assert.h>
#include <string.h>

static bool
same_route(const aif_route *a, const aif_route *b)
{
    return a->n == b->n && memcmp(a->p, b->p, a->n) == 0;
}

static aif_subscriber *
find(const aif_broker *b, const aif_route *from, uint64_t id)
{
    for (size_t i = 0; i < b->n_subs; i++) {
        if (b->subs[i]->id == id && same_route(&b->subs[i]->to, from)) {
            return b->subs[i];
        }
    }
    return NULL;
}

static void
sub_free(aif_subscriber *s)
{
    if (s != NULL) {
        aif_free(s->bytes);
        aif_free(s);
    }
}

static uint64_t
index_id(const aif_subscriber *s)
{
    return (uint64_t)(uintptr_t)s;
}

static void
forget(aif_broker *b, const aif_subscriber *s)
{
    if (s->indexed) {
        aif_match_remove(b->index, index_id(s));
        b->n_indexed--;
    }
}

/* Who wants certain keys is found by them, however many there are; the others
 * the index would only list, each time, and slower than we do. */
static bool
can_be_indexed(const aif_subscriber *s)
{
    for (size_t i = 0; i < s->n; i++) {
        if (!aif_pattern_exact(s->patterns[i].ns) ||
            !aif_pattern_exact(s->patterns[i].key)) {
            return false;
        }
    }
    return true;
}

/* May its connection have this one, too? */
static aif_err
check_share(const aif_broker *b, const aif_subscriber *s, aif_error *e)
{
    size_t subs = 1;
    size_t compared = can_be_indexed(s) ? 0 : s->n;

    for (size_t i = 0; i < b->n_subs; i++) {
        if (same_route(&b->subs[i]->to, &s->to)) {
            subs++;
            compared += b->subs[i]->indexed ? 0 : b->subs[i]->n;
        }
    }
    if (subs > AIF_SUBSCRIBERS_EACH) {
        return aif_fail(e, AIF_ECONFLICT,
                        "this connection has %d subscriptions: that is its "
                        "limit; end some, or open another connection",
                        AIF_SUBSCRIBERS_EACH);
    }
    if (compared > AIF_COMPARED_EACH) {
        return aif_fail(e, AIF_ECONFLICT,
                        "this connection's subscriptions would have %zu "
                        "patterns in those with a * in a namespace or key: %d "
                        "is its limit; end some, or use fewer patterns",
                        compared, AIF_COMPARED_EACH);
    }
    return AIF_OK;
}

static aif_err
remember(aif_broker *b, aif_subscriber *s, aif_error *e)
{
    aif_err err = AIF_OK;

    if (!can_be_indexed(s)) {
        return AIF_OK;
    }
    for (size_t i = 0; err == AIF_OK && i < s->n; i++) {
        err = aif_match_add(b->index, &s->patterns[i], index_id(s), e);
    }
    if (err != AIF_OK) {
        aif_match_remove(b->index, index_id(s));
        return err;
    }
    s->indexed = true;
    b->n_indexed++;
    return AIF_OK;
}

void
aif_subs_drop(aif_broker *b, size_t i)
{
    aif_credit_end(&b->subs[i]->credit, &b->stats.flight);
    forget(b, b->subs[i]);
    sub_free(b->subs[i]);
    b->subs[i] = b->subs[--b->n_subs];
    atomic_store(&b->stats.subscribers, b->n_subs);
}

void
aif_subs_remove(aif_broker *b, const aif_route *from, uint64_t id)
{
    for (size_t i = b->n_subs; i-- > 0;) {
        if (b->subs[i]->id == id && same_route(&b->subs[i]->to, from)) {
            aif_subs_drop(b, i);
        }
    }
}

static aif_err
reserve(aif_broker *b, aif_error *e)
{
    size_t cap = b->cap_subs == 0 ? 16 : 2 * b->cap_subs;
    aif_subscriber **subs;

    if (b->n_subs == AIF_SUBSCRIBERS_MAX) {
        return aif_fail(e, AIF_ECONFLICT,
                        "the broker has %d subscribers: that is its limit",
                        AIF_SUBSCRIBERS_MAX);
    }
    if (b->n_subs < b->cap_subs) {
        return AIF_OK;
    }
    subs = aif_realloc(b->subs, cap * sizeof *subs);
    if (subs == NULL) {
        return aif_fail(e, AIF_ENOMEM, "%zu subscribers", cap);
    }
    b->subs = subs;
    b->cap_subs = cap;
    return AIF_OK;
}

/* A copy of the frame's patterns and their strings. */
static aif_err
copy_patterns(const aif_frame *f, aif_subscriber **out, aif_error *e)
{
    aif_pattern patterns[AIF_PATTERNS_MAX];
    aif_reader in = f->tail;
    aif_subscriber *s;
    size_t n;
    aif_err err;

    *out = NULL;
    err = aif_wire_get_patterns(&in, 1, AIF_PATTERNS_MAX, patterns, &n, e);
    if (err != AIF_OK) {
        return err;
    }
    s = aif_zalloc(sizeof *s + n * sizeof *patterns);
    if (s != NULL) {
        s->bytes = aif_realloc(NULL, f->tail.n);
    }
    if (s == NULL || s->bytes == NULL) {
        sub_free(s);
        return aif_fail(e, AIF_ENOMEM, "a subscriber");
    }
    memcpy(s->bytes, f->tail.p, f->tail.n);
    in = (aif_reader){s->bytes, f->tail.n};
    *out = s; /* the same bytes again, so this cannot fail */
    return aif_wire_get_patterns(&in, n, n, s->patterns, &s->n, e);
}

static aif_err
first_cursor(aif_broker *b, const aif_frame *f, uint64_t *cursor, aif_error *e)
{
    aif_head head;
    aif_err err;

    *cursor = f->from;
    if (f->from > 0 && f->from != AIF_AFTER_NOW) {
        return aif_broker_reach(b, f->from, e);
    }
    err = aif_broker_look(b, &head, e);
    *cursor = f->from == 0 ? 0 : head.offset;
    return err;
}

static aif_err
make(aif_broker *b, const aif_route *from, const aif_frame *f,
     aif_subscriber **out, aif_error *e)
{
    uint64_t cursor;
    aif_err err = reserve(b, e);

    *out = NULL;
    if (err == AIF_OK) {
        err = first_cursor(b, f, &cursor, e);
    }
    if (err == AIF_OK) {
        err = copy_patterns(f, out, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    (*out)->to = *from;
    (*out)->id = f->id;
    (*out)->start = (*out)->cursor = (*out)->told = cursor;
    (*out)->hints = f->flag;
    memcpy((*out)->key, b->gate.key, sizeof b->gate.key);
    err = check_share(b, *out, e);
    if (err == AIF_OK) {
        err = aif_catch_missed(b, *out, e);
    }
    if (err == AIF_OK) {
        err = remember(b, *out, e);
    }
    if (err != AIF_OK) {
        sub_free(*out);
        return err;
    }
    b->subs[b->n_subs++] = *out;
    atomic_store(&b->stats.subscribers, b->n_subs);
    return AIF_OK;
}

aif_err
aif_subs_add(aif_broker *b, const aif_route *from, const aif_frame *f,
             aif_error *e)
{
    aif_subscriber *s = find(b, from, f->id);
    aif_err err = AIF_OK;

    if (s == NULL) { /* else it asks again: the answer was slow or lost */
        err = make(b, from, f, &s, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    s->credit.window = f->max;
    s->heard = aif_now_ms();
    aif_broker_answer(
        b, from,
        &(aif_frame){.kind = AIF_K_SUBSCRIBED, .id = f->id, .to = s->start});
    return AIF_OK;
}

/* Note what was taken and what may be under way, renew the lease, and say how
 * far everything was looked at: a client that wants few events can then begin
 * again from there. */
aif_err
aif_subs_credit(aif_broker *b, const aif_route *from, const aif_frame *f,
                aif_error *e)
{
    aif_subscriber *s = find(b, from, f->id);
    int64_t now = aif_now_ms();

    if (s == NULL) {
        return aif_fail(e, AIF_ECLOSED, "no subscription %llu here",
                        (unsigned long long)f->id);
    }
    if (!aif_credit_take(&s->credit, &b->stats.flight, f->from, now)) {
        return aif_fail(e, AIF_ECLOSED,
                        "no subscription %llu here that was sent %llu bytes: "
                        "this one was sent %llu",
                        (unsigned long long)f->id, (unsigned long long)f->from,
                        (unsigned long long)s->credit.sent);
    }
    s->credit.window = f->max;
    s->heard = now;
    if (!aif_push_cursor(b, s)) {
        aif_subs_remove(b, from, f->id);
    }
    return AIF_OK;
}

void
aif_subs_hint(aif_broker *b, aif_str text)
{
    for (size_t i = 0; i < b->n_subs; i++) {
        if (b->subs[i]->hints) {
            aif_broker_answer(b, &b->subs[i]->to,
                              &(aif_frame){.kind = AIF_K_HINTED,
                                           .id = b->subs[i]->id,
                                           .text = text});
        }
    }
}

void
aif_subs_expire(aif_broker *b, int64_t now)
{
    if (now < b->lease_due) {
        return;
    }
    for (size_t i = b->n_subs; i-- > 0;) {
        const aif_subscriber *s = b->subs[i];

        if (now - s->heard > AIF_BROKER_LEASE_MS) {
            aif_count(&b->stats.expired, 1);
            aif_seen_say(
                b, AIF_WARNING,
                "subscriber expired peer=%s stream=%llu cursor=%llu "
                "silent_ms=%lld",
                aif_route_text(b, &s->to).text, (unsigned long long)s->id,
                (unsigned long long)s->cursor, (long long)(now - s->heard));
            aif_subs_drop(b, i);
        }
    }
    b->lease_due = now + AIF_BROKER_LEASE_MS / 10;
}

void
aif_subs_recheck(aif_broker *b)
{
    aif_error e = {.sqlstate = ""};

    for (size_t i = b->n_subs; i-- > 0;) {
        const aif_subscriber *s = b->subs[i];

        if (aif_gate_keeps(&b->gate, s, &e) != AIF_OK) {
            aif_broker_refuse(b, &s->to, s->id, &e);
            aif_count(&b->stats.denied, 1);
            aif_subs_drop(b, i);
        }
    }
}

void
aif_subs_fini(aif_broker *b)
{
    while (b->n_subs > 0) {
        aif_subs_drop(b, b->n_subs - 1);
    }
    aif_free(b->subs);
    aif_match_free(b->index);
    aif_batch_fini(&b->span);
}
