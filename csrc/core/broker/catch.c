/* catch.c - subscribers that are behind are caught up from the log.
 *
 * The happy path: one bounded read a turn, for each of them in turn.  Others
 * whose cursor is in what was read are sent it too.
 *
 * Where events were let go, what was read has holes.  A subscriber that wanted
 * what was there is told so, and dropped; so is everyone when the log was
 * replaced (head.c).  While the store fails, it is asked again every 200 ms.
 */
#include "broker/subs_in.h"

#include "log/missed.h"

static bool
sub_behind(const aif_subs *s, const aif_subscriber *sub)
{
    return sub->cursor < aif_head_newest(s->head) && aif_push_may(s, sub);
}

/* For whom to read: each in turn, so that one who is far behind does not keep
 * the others waiting. */
static const aif_subscriber *
subs_next_behind(aif_subs *s)
{
    for (size_t i = 0; i < s->n; i++) {
        size_t at = (s->next + i) % s->n;

        if (sub_behind(s, s->list[at])) {
            s->next = at + 1;
            return s->list[at];
        }
    }
    return NULL;
}

/* It reads all events, not only those that the subscriber wants.  So the read
 * is bounded however far apart the wanted ones lie, and others at the same
 * place can be sent what was read. */
static aif_err
span_read(aif_subs *s, uint64_t from, aif_span *span, aif_error *e)
{
    const aif_query q = {.after = from, .kept = true};
    aif_err err =
        aif_log_read(aif_head_log(s->head), &q, AIF_PIECE_EVENTS, &s->read, e);
    size_t n = s->read.n;
    uint64_t last = n == 0 ? from : s->read.events[n - 1].offset;
    bool cut = n == AIF_PIECE_EVENTS || s->read.bytes >= AIF_READ_BYTES;

    if (err == AIF_OK) {
        aif_head_found(s->head, last); /* another process may have appended */
    }
    *span = (aif_span){s->read.events, n, from,
                       cut ? last : aif_head_newest(s->head)};
    return err;
}

static void
sub_refuse_missed(aif_subs *s, size_t i, const aif_error *why)
{
    const aif_subscriber *sub = s->list[i];

    aif_status_count(s->status, AIF_N_RETENTION, 1);
    aif_status_say(s->status, AIF_WARNING,
                   "events were let go peer=%s stream=%llu cursor=%llu "
                   "why=\"%s\"",
                   aif_status_peer(s->status, &sub->to).text,
                   (unsigned long long)sub->id,
                   (unsigned long long)sub->cursor, why->text);
    aif_out_refuse(s->out, &sub->to, sub->id, why);
    aif_subs_drop(s, i);
}

/* ERETENTION: events beyond its cursor that it wants were let go, after it was
 * asked last, or after it began with the oldest event that was kept. */
static aif_err
sub_missed(aif_subscriber *sub, const aif_buf *rows, aif_error *e)
{
    const aif_query q = {
        .patterns = sub->patterns, .n = sub->n, .after = sub->cursor};

    return aif_missed(rows, &q, &sub->gone, e);
}

aif_err
aif_catch_missed(aif_subs *s, aif_subscriber *sub, aif_error *e)
{
    aif_buf rows = {0};
    aif_err err = AIF_OK;

    if (sub->cursor < aif_head_purged(s->head)) {
        err = aif_log_purged(aif_head_log(s->head), &rows, e);
    }
    if (err == AIF_OK) {
        err = sub_missed(sub, &rows, e);
    }
    aif_buf_fini(&rows);
    return err;
}

/* The span has holes: a subscriber that wanted what was there is told, and
 * dropped. */
static aif_err
subs_find_missed(aif_subs *s, const aif_span *span, aif_error *e)
{
    aif_buf rows = {0};
    aif_err err = aif_log_purged(aif_head_log(s->head), &rows, e);

    for (size_t i = s->n; err == AIF_OK && i-- > 0;) {
        aif_subscriber *sub = s->list[i];

        if (sub->cursor >= span->from && sub->cursor < span->to) {
            err = sub_missed(sub, &rows, e);
        }
        if (err == AIF_ERETENTION) {
            sub_refuse_missed(s, i, e);
            err = AIF_OK;
        }
    }
    aif_buf_fini(&rows);
    return err;
}

void
aif_catch_replaced(aif_subs *s)
{
    const aif_error *why;
    const unsigned replaced = aif_head_replaced(s->head, &why);

    for (size_t i = s->n; s->replaced != replaced && i-- > 0;) {
        const aif_subscriber *sub = s->list[i];

        if (sub->replaced != replaced) {
            aif_status_count(s->status, AIF_N_REPLACED, 1);
            aif_out_refuse(s->out, &sub->to, sub->id, why);
            aif_subs_drop(s, i);
        }
    }
    s->replaced = replaced;
}

static void
subs_unblock(aif_subs *s, int64_t now)
{
    if (now < s->full_due) {
        return;
    }
    for (size_t i = 0; i < s->n; i++) {
        s->list[i]->full = false;
    }
    s->full_due = now + AIF_BROKER_FULL_RETRY_MS;
}

/* One read; false when nobody is behind, or the store fails. */
static bool
subs_catch_up_one(aif_subs *s, size_t *events)
{
    const aif_subscriber *sub = subs_next_behind(s);
    aif_span span;
    aif_error e;
    aif_err err;

    if (sub == NULL) {
        return false;
    }
    err = span_read(s, sub->cursor, &span, &e);
    if (err == AIF_OK && span.n < span.to - span.from) {
        err = subs_find_missed(s, &span, &e);
    }
    aif_status_store(s->status, "read", err, &e);
    if (err == AIF_OK) {
        *events += span.n;
        aif_subs_push(s, &span);
    } else {
        aif_status_count(s->status, AIF_N_RETRIES, 1);
        s->store_due = s->now + AIF_BROKER_STORE_RETRY_MS;
    }
    aif_batch_fini(&s->read);
    return err == AIF_OK;
}

/* It reads once, and again until it has read twice as many events as this turn
 * has appended.  Else a subscriber that is behind would stay there for as long
 * as others publish without a pause. */
void
aif_subs_catch_up(aif_subs *s, int64_t now)
{
    const size_t most = 2 * s->appended;
    size_t events = 0;

    s->now = now;
    aif_catch_replaced(s);
    subs_unblock(s, now);
    if (now < s->store_due) {
        return;
    }
    while (subs_catch_up_one(s, &events) && events < most &&
           s->compared < AIF_TURN_COMPARES) {
    }
}

int64_t
aif_subs_due(const aif_subs *s, int64_t now)
{
    int64_t due = s->n == 0 ? INT64_MAX : s->lease_due;

    for (size_t i = 0; i < s->n; i++) {
        const aif_subscriber *sub = s->list[i];

        if (sub->full && s->full_due < due) {
            due = s->full_due;
        }
        if (sub_behind(s, sub) && due > now) {
            due = now < s->store_due ? s->store_due : now;
        }
    }
    return due;
}
