/* broker/catch.c - subscribers that are behind are caught up from the log.
 *
 * The happy path: one bounded read a turn, for each of them in turn; whoever
 * is at the same place shares it.
 *
 * Where events were let go the span has holes: who wanted what was there is
 * told, and dropped.  While the store fails, it is asked again each 200 ms.
 */
#include "broker/in.h"

#include "log/missed.h"

static bool
behind(const aif_broker *b, const aif_subscriber *s)
{
    return s->cursor < b->head && aif_push_may(b, s);
}

/* Whom to read for: each in turn, so that one who is far behind does not keep
 * the others waiting. */
static const aif_subscriber *
next_behind(aif_broker *b)
{
    for (size_t i = 0; i < b->n_subs; i++) {
        size_t at = (b->next_sub + i) % b->n_subs;

        if (behind(b, b->subs[at])) {
            b->next_sub = at + 1;
            return b->subs[at];
        }
    }
    return NULL;
}

/* Not the pattern but all: the read is bounded by what is there, not by how
 * far apart the wanted ones lie, and others at the same place share it. */
static aif_err
read_span(aif_broker *b, uint64_t from, aif_span *span, aif_error *e)
{
    const aif_query q = {.after = from, .kept = true};
    aif_err err = aif_log_read(b->log, &q, AIF_PIECE_EVENTS, &b->span, e);
    size_t n = b->span.n;
    uint64_t last = n == 0 ? from : b->span.events[n - 1].offset;
    bool cut = n == AIF_PIECE_EVENTS || b->span.bytes >= AIF_READ_BYTES;

    if (err == AIF_OK && last > b->head) {
        b->head = last; /* another process's */
    }
    *span = (aif_span){b->span.events, n, from, cut ? last : b->head};
    return err;
}

static void
refuse_who_missed(aif_broker *b, size_t i, const aif_error *why)
{
    const aif_subscriber *s = b->subs[i];

    aif_count(&b->stats.retention, 1);
    aif_seen_say(b, AIF_WARNING,
                 "events were let go peer=%s stream=%llu cursor=%llu "
                 "why=\"%s\"",
                 aif_route_text(b, &s->to).text, (unsigned long long)s->id,
                 (unsigned long long)s->cursor, why->text);
    aif_broker_refuse(b, &s->to, s->id, why);
    aif_subs_drop(b, i);
}

/* Nothing that it wants is missing from beyond its cursor?  Only what was let
 * go since we asked last, or since it began with the oldest that was kept. */
static aif_err
missed(aif_subscriber *s, const aif_buf *rows, aif_error *e)
{
    const aif_query q = {
        .patterns = s->patterns, .n = s->n, .after = s->cursor};

    return aif_missed(rows, &q, &s->gone, e);
}

aif_err
aif_catch_missed(aif_broker *b, aif_subscriber *s, aif_error *e)
{
    aif_buf rows = {0};
    aif_err err = AIF_OK;

    if (s->cursor < b->purged) {
        err = aif_log_purged(b->log, &rows, e);
    }
    if (err == AIF_OK) {
        err = missed(s, &rows, e);
    }
    aif_buf_fini(&rows);
    return err;
}

/* The span has holes: who wanted what was there is told, and dropped. */
static aif_err
find_who_missed(aif_broker *b, const aif_span *span, aif_error *e)
{
    aif_buf rows = {0};
    aif_err err = aif_log_purged(b->log, &rows, e);

    for (size_t i = b->n_subs; err == AIF_OK && i-- > 0;) {
        aif_subscriber *s = b->subs[i];

        if (s->cursor >= span->from && s->cursor < span->to) {
            err = missed(s, &rows, e);
        }
        if (err == AIF_ERETENTION) {
            refuse_who_missed(b, i, e);
            err = AIF_OK;
        }
    }
    aif_buf_fini(&rows);
    return err;
}

static void
unblock(aif_broker *b, int64_t now)
{
    if (now < b->full_due) {
        return;
    }
    for (size_t i = 0; i < b->n_subs; i++) {
        b->subs[i]->full = false;
    }
    b->full_due = now + AIF_BROKER_FULL_RETRY_MS;
}

/* One read; false when nobody is behind, or the store fails. */
static bool
catch_up_one(aif_broker *b, size_t *events)
{
    const aif_subscriber *s = next_behind(b);
    aif_span span;
    aif_error e;
    aif_err err;

    if (s == NULL) {
        return false;
    }
    err = read_span(b, s->cursor, &span, &e);
    if (err == AIF_OK && span.n < span.to - span.from) {
        err = find_who_missed(b, &span, &e);
    }
    aif_seen_store(b, "read", err, &e);
    if (err == AIF_OK) {
        *events += span.n;
        aif_subs_push(b, &span);
    } else {
        aif_count(&b->stats.retries, 1);
        b->store_due = b->now + AIF_BROKER_STORE_RETRY_MS;
    }
    aif_batch_fini(&b->span);
    return err == AIF_OK;
}

/* One read; and twice what this turn has appended, lest who is behind stays
 * there for as long as others publish without a pause. */
void
aif_subs_catch_up(aif_broker *b, int64_t now)
{
    const size_t most = 2 * b->appended;
    size_t events = 0;

    b->now = now;
    b->appended = 0;
    unblock(b, now);
    if (now < b->store_due) {
        return;
    }
    while (catch_up_one(b, &events) && events < most &&
           b->compared < AIF_TURN_COMPARES) {
    }
}

int64_t
aif_subs_due(const aif_broker *b, int64_t now)
{
    int64_t due = b->n_subs == 0 ? INT64_MAX : b->lease_due;

    for (size_t i = 0; i < b->n_subs; i++) {
        const aif_subscriber *s = b->subs[i];

        if (s->full && b->full_due < due) {
            due = b->full_due;
        }
        if (behind(b, s) && due > now) {
            due = now < b->store_due ? b->store_due : now;
        }
    }
    return due;
}
