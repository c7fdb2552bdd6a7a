/* subs.c - the list of subscribers, and the frames of their clients.
 *
 * The happy path: SUBSCRIBE makes a subscriber, with a cursor and a credit of
 * bytes.  Each turn's new events are pushed to those whose cursor is at the
 * head (push.c).  Those that are behind are caught up from the log (catch.c).
 * CREDIT says how many bytes were taken, and renews the lease of 10 seconds.
 *
 * A subscriber without credit, or whose queue in libzmq is full, falls behind,
 * and nothing else happens.  One that is gone (libzmq says so, or its lease
 * ended) is dropped.  Its client subscribes again, from the cursor that it was
 * told last.
 */
#include "broker/subs_in.h"

#include "base/clock.h"
#include "base/mem.h"

#include <string.h>

aif_err
aif_subs_init(aif_subs *s, aif_out *out, aif_head_watch *head,
              const aif_gate *gate, aif_status *status, aif_error *e)
{
    *s = (aif_subs){.out = out, .head = head, .gate = gate, .status = status};
    s->flight = &status->numbers[AIF_N_FLIGHT];
    return aif_match_new(&s->index, e);
}

void
aif_subs_fini(aif_subs *s)
{
    while (s->n > 0) {
        aif_subs_drop(s, s->n - 1);
    }
    aif_free(s->list);
    aif_match_free(s->index);
    aif_batch_fini(&s->read);
}

static aif_subscriber *
sub_find(const aif_subs *s, const aif_route *from, uint64_t id)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->list[i]->id == id && aif_route_same(&s->list[i]->to, from)) {
            return s->list[i];
        }
    }
    return NULL;
}

static void
sub_free(aif_subscriber *sub)
{
    if (sub != NULL) {
        aif_free(sub->bytes);
        aif_free(sub);
    }
}

static uint64_t
sub_index_id(const aif_subscriber *sub)
{
    return (uint64_t)(uintptr_t)sub;
}

static void
sub_unindex(aif_subs *s, const aif_subscriber *sub)
{
    if (sub->indexed) {
        aif_match_remove(s->index, sub_index_id(sub));
        s->n_indexed--;
    }
}

/* A subscriber that wants only exact namespaces and keys is found by them,
 * however many subscribers there are.  All others the index would list for
 * every event, and slower than a comparison of their patterns is. */
static bool
sub_can_be_indexed(const aif_subscriber *sub)
{
    for (size_t i = 0; i < sub->n; i++) {
        if (!aif_pattern_exact(sub->patterns[i].ns) ||
            !aif_pattern_exact(sub->patterns[i].key)) {
            return false;
        }
    }
    return true;
}

/* May its connection have this one, too? */
static aif_err
sub_check_share(const aif_subs *s, const aif_subscriber *sub, aif_error *e)
{
    size_t subs = 1;
    size_t compared = sub_can_be_indexed(sub) ? 0 : sub->n;

    for (size_t i = 0; i < s->n; i++) {
        if (aif_route_same(&s->list[i]->to, &sub->to)) {
            subs++;
            compared += s->list[i]->indexed ? 0 : s->list[i]->n;
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
sub_index(aif_subs *s, aif_subscriber *sub, aif_error *e)
{
    aif_err err = AIF_OK;

    if (!sub_can_be_indexed(sub)) {
        return AIF_OK;
    }
    for (size_t i = 0; err == AIF_OK && i < sub->n; i++) {
        err = aif_match_add(s->index, &sub->patterns[i], sub_index_id(sub), e);
    }
    if (err != AIF_OK) {
        aif_match_remove(s->index, sub_index_id(sub));
        return err;
    }
    sub->indexed = true;
    s->n_indexed++;
    return AIF_OK;
}

void
aif_subs_drop(aif_subs *s, size_t i)
{
    aif_credit_end(&s->list[i]->credit, s->flight);
    sub_unindex(s, s->list[i]);
    sub_free(s->list[i]);
    s->list[i] = s->list[--s->n];
    aif_status_set(s->status, AIF_N_SUBSCRIBERS, s->n);
}

void
aif_subs_remove(aif_subs *s, const aif_route *from, uint64_t id)
{
    for (size_t i = s->n; i-- > 0;) {
        if (s->list[i]->id == id && aif_route_same(&s->list[i]->to, from)) {
            aif_subs_drop(s, i);
        }
    }
}

static aif_err
subs_reserve(aif_subs *s, aif_error *e)
{
    aif_subscriber **list;

    if (s->n == AIF_SUBSCRIBERS_MAX) {
        return aif_fail(e, AIF_ECONFLICT,
                        "the broker has %d subscribers: that is its limit",
                        AIF_SUBSCRIBERS_MAX);
    }
    list = aif_grown(s->list, &s->cap, s->n + 16, sizeof *list);
    if (list == NULL) {
        return aif_fail(e, AIF_ENOMEM, "%zu subscribers", s->n + 1);
    }
    s->list = list;
    return AIF_OK;
}

/* A copy of the frame's patterns and their strings. */
static aif_err
sub_copy_patterns(const aif_frame *f, aif_subscriber **out, aif_error *e)
{
    aif_pattern patterns[AIF_PATTERNS_MAX];
    aif_reader in = f->tail;
    aif_subscriber *sub;
    size_t n;
    aif_err err;

    *out = NULL;
    err = aif_wire_get_patterns(&in, 1, AIF_PATTERNS_MAX, patterns, &n, e);
    if (err != AIF_OK) {
        return err;
    }
    sub = aif_zalloc(sizeof *sub + n * sizeof *patterns);
    if (sub != NULL) {
        sub->bytes = aif_realloc(NULL, f->tail.n);
    }
    if (sub == NULL || sub->bytes == NULL) {
        sub_free(sub);
        return aif_fail(e, AIF_ENOMEM, "a subscriber");
    }
    memcpy(sub->bytes, f->tail.p, f->tail.n);
    in = (aif_reader){sub->bytes, f->tail.n};
    *out = sub; /* the same bytes were read above, so this cannot fail */
    return aif_wire_get_patterns(&in, n, n, sub->patterns, &sub->n, e);
}

static aif_err
sub_first_cursor(aif_subs *s, const aif_frame *f, uint64_t *cursor,
                 aif_error *e)
{
    aif_head head;
    aif_err err = aif_head_look(s->head, &head, e);

    head.log_id = aif_head_log_id(s->head); /* the look may have renewed it */
    *cursor = f->from == AIF_AFTER_NOW ? head.offset : f->from;
    if (err == AIF_OK && *cursor > 0 && f->to != 0) { /* it was here before */
        err = aif_head_resume(&head, f->to, *cursor, e);
    }
    return err != AIF_OK ? err : aif_head_reach(s->head, *cursor, e);
}

static aif_err
sub_make(aif_subs *s, const aif_route *from, const aif_frame *f,
         aif_subscriber **out, aif_error *e)
{
    const char *key = s->gate->key;
    uint64_t cursor;
    const aif_error *why;
    aif_err err = subs_reserve(s, e);

    *out = NULL;
    if (err == AIF_OK) {
        err = sub_first_cursor(s, f, &cursor, e);
    }
    if (err == AIF_OK) {
        err = sub_copy_patterns(f, out, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    (*out)->to = *from;
    (*out)->id = f->id;
    (*out)->start = (*out)->cursor = (*out)->told = cursor;
    (*out)->hints = f->flag;
    (*out)->replaced = aif_head_replaced(s->head, &why);
    memcpy((*out)->key, key, strlen(key) + 1);
    err = sub_check_share(s, *out, e);
    if (err == AIF_OK) {
        err = aif_catch_missed(s, *out, e);
    }
    if (err == AIF_OK) {
        err = sub_index(s, *out, e);
    }
    if (err != AIF_OK) {
        sub_free(*out);
        return err;
    }
    s->list[s->n++] = *out;
    aif_status_set(s->status, AIF_N_SUBSCRIBERS, s->n);
    return AIF_OK;
}

aif_err
aif_subs_add(aif_subs *s, const aif_route *from, const aif_frame *f,
             aif_error *e)
{
    aif_subscriber *sub = sub_find(s, from, f->id);
    aif_err err = AIF_OK;

    if (sub == NULL) { /* else it asks again: the answer was late or lost */
        err = sub_make(s, from, f, &sub, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    aif_credit_allow(&sub->credit, f->max);
    sub->heard = aif_now_ms();
    aif_out_answer(s->out, from,
                   &(aif_frame){.kind = AIF_K_SUBSCRIBED,
                                .id = f->id,
                                .from = aif_head_log_id(s->head),
                                .to = sub->start});
    return AIF_OK;
}

/* Note how many bytes were taken and how many may be under way, renew the
 * lease, and tell the cursor: a client that wants few events can then begin
 * again from there, and not from its last event. */
aif_err
aif_subs_credit(aif_subs *s, const aif_route *from, const aif_frame *f,
                aif_error *e)
{
    aif_subscriber *sub = sub_find(s, from, f->id);
    int64_t now = aif_now_ms();

    if (sub == NULL) {
        return aif_fail(e, AIF_ECLOSED, "no subscription %llu here",
                        (unsigned long long)f->id);
    }
    if (!aif_credit_take(&sub->credit, s->flight, f->from, now)) {
        return aif_fail(e, AIF_ECLOSED,
                        "no subscription %llu here that was sent %llu bytes: "
                        "this one was sent %llu",
                        (unsigned long long)f->id, (unsigned long long)f->from,
                        (unsigned long long)sub->credit.sent);
    }
    aif_credit_allow(&sub->credit, f->max);
    sub->heard = now;
    if (!aif_push_cursor(s, sub)) {
        aif_subs_remove(s, from, f->id);
    }
    return AIF_OK;
}

void
aif_subs_hint(aif_subs *s, aif_str text)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->list[i]->hints) {
            aif_out_answer(s->out, &s->list[i]->to,
                           &(aif_frame){.kind = AIF_K_HINTED,
                                        .id = s->list[i]->id,
                                        .text = text});
        }
    }
}

void
aif_subs_expire(aif_subs *s, int64_t now)
{
    if (now < s->lease_due) {
        return;
    }
    for (size_t i = s->n; i-- > 0;) {
        const aif_subscriber *sub = s->list[i];

        if (now - sub->heard > AIF_BROKER_LEASE_MS) {
            aif_status_count(s->status, AIF_N_EXPIRED, 1);
            aif_status_say(
                s->status, AIF_WARNING,
                "subscriber expired peer=%s stream=%llu cursor=%llu "
                "silent_ms=%lld",
                aif_status_peer(s->status, &sub->to).text,
                (unsigned long long)sub->id, (unsigned long long)sub->cursor,
                (long long)(now - sub->heard));
            aif_subs_drop(s, i);
        }
    }
    s->lease_due = now + AIF_BROKER_LEASE_MS / 10;
}

void
aif_subs_recheck(aif_subs *s)
{
    aif_error e = {.sqlstate = ""};

    for (size_t i = s->n; i-- > 0;) {
        const aif_subscriber *sub = s->list[i];
        const aif_query q = {.patterns = sub->patterns, .n = sub->n};

        if (aif_gate_keeps(s->gate, sub->key, &q, sub->hints, &e) != AIF_OK) {
            aif_out_refuse(s->out, &sub->to, sub->id, &e);
            aif_status_count(s->status, AIF_N_DENIED, 1);
            aif_subs_drop(s, i);
        }
    }
}

/* --- for STATUS --------------------------------------------------------- */

#define SHOW_MS 1000 /* between two looks at all subscribers */

static aif_status_sub
sub_shown(const aif_subs *s, const aif_subscriber *sub)
{
    uint64_t newest = aif_head_newest(s->head);

    return (aif_status_sub){
        .to = sub->to,
        .id = sub->id,
        .cursor = sub->cursor,
        .lag = newest > sub->cursor ? newest - sub->cursor : 0,
        .credit = aif_credit_left(&sub->credit),
        .heard = sub->heard,
    };
}

/* Into shown[0, n), the greatest lag first; where there is no room the least
 * falls out. */
static size_t
shown_insert(aif_status_sub *shown, size_t n, const aif_status_sub *one)
{
    size_t at = n;

    while (at > 0 && shown[at - 1].lag < one->lag) {
        at--;
    }
    if (at == AIF_STATUS_SUBS) {
        return n;
    }
    n += n < AIF_STATUS_SUBS;
    memmove(shown + at + 1, shown + at, (n - at - 1) * sizeof *shown);
    shown[at] = *one;
    return n;
}

void
aif_subs_show(aif_subs *s, bool must)
{
    aif_status_sub shown[AIF_STATUS_SUBS];
    size_t n = 0;
    int64_t now = aif_now_ms();

    if (!must && now - s->shown < SHOW_MS) {
        return;
    }
    s->shown = now;
    for (size_t i = 0; i < s->n; i++) {
        aif_status_sub one = sub_shown(s, s->list[i]);

        n = shown_insert(shown, n, &one);
    }
    aif_status_subs(s->status, shown, n);
}
