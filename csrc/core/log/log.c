/* log.c - append: check every event, leave out those that came earlier in
 * the same call, let the store make the rest durable; then see whether those
 * that it had already are the same.  Read: let the store add rows, then check
 * them, for anybody can write to a database; then look whether some were let
 * go, which is after the read, so that a purge meanwhile is not missed.
 *
 * What fails in the store is returned as it is: the context is known there.
 */
#include "log/log.h"

#include "log/identity.h"
#include "base/guard.h"
#include "base/mem.h"
#include "log/missed.h"

struct aif_log {
    aif_guard guard;
    const aif_store_ops *ops;
    void *store;
    aif_buf answer; /* of the last question; kept for its memory */
    bool hurry;
};

/* The back-end whose scheme starts uri, or NULL. */
static const aif_store_ops *
store_find(const char *uri)
{
    static const aif_store_ops *const stores[] = {
        &aif_store_mem, &aif_store_sqlite, &aif_store_pg, &aif_store_mysql};

    for (size_t i = 0; i < sizeof stores / sizeof *stores; i++) {
        if (strncmp(uri, stores[i]->scheme, strlen(stores[i]->scheme)) == 0) {
            return stores[i];
        }
    }
    return strncmp(uri, "mariadb", strlen("mariadb")) == 0 ? &aif_store_mysql
                                                           : NULL;
}

static aif_err
log_open(const char *uri, bool hurry, aif_log **out, aif_error *e)
{
    aif_err err;
    aif_log *log;

    *out = NULL;
    log = aif_zalloc(sizeof *log);
    if (log == NULL) {
        return aif_fail(e, AIF_ENOMEM, "opening a log");
    }
    aif_guard_init(&log->guard);
    log->hurry = hurry;
    log->ops = store_find(uri);
    if (log->ops == NULL && (uri[0] == '/' || uri[0] == '.') &&
        strchr(uri, '@') == NULL) {
        err = aif_fail(e, AIF_EINVAL, "'%s' is a path: write sqlite:%s", uri,
                       uri);
        goto fail;
    }
    if (log->ops == NULL) { /* only its scheme: the rest may be secret */
        err = aif_fail(e, AIF_EINVAL,
                       "no such kind of log: '%.*s'; there are mem:, "
                       "sqlite:PATH, postgresql://... and mysql://...",
                       (int)strcspn(uri, ":/@"), uri);
        goto fail;
    }
    err = log->ops->open(uri, hurry, &log->store, e);
    if (err != AIF_OK) {
        goto fail;
    }
    *out = log;
    return AIF_OK;
fail:
    aif_free(log);
    return err;
}

aif_err
aif_log_open(const char *uri, aif_log **out, aif_error *e)
{
    return log_open(uri, false, out, e);
}

aif_err
aif_log_open_hurried(const char *uri, aif_log **out, aif_error *e)
{
    return log_open(uri, true, out, e);
}

void
aif_log_free(aif_log *log)
{
    if (log == NULL || aif_guard_forked(&log->guard)) {
        return;
    }
    log->ops->close(log->store);
    aif_buf_fini(&log->answer);
    pthread_mutex_destroy(&log->guard.lock);
    aif_free(log);
}

static aif_err
turn_take(aif_log *log, aif_error *e)
{
    return log->hurry
               ? aif_guard_enter_within(&log->guard, AIF_LOCK_SLICE_MS, e)
               : aif_guard_enter(&log->guard, e);
}

static aif_err
events_check(const aif_event *events, size_t n, aif_error *e)
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

static aif_err
append_distinct(aif_log *log, const aif_event *events, size_t n,
                uint64_t *offsets, aif_head *before, aif_error *e)
{
    aif_distinct d;
    aif_err err = aif_distinct_init(&d, events, n, e);

    if (err == AIF_OK) {
        err =
            log->ops->append(log->store, d.events, d.n, d.offsets, before, e);
    }
    if (err == AIF_OK) {
        aif_distinct_offsets(&d, events, n, offsets, before->offset);
    }
    aif_distinct_fini(&d);
    return err;
}

static aif_err
turn_leave(aif_log *log, aif_err err)
{
    aif_guard_leave(&log->guard);
    return err;
}

/* Ask the store for a row of up to n numbers; those that are not there are 0.
 * *found: there was a row. */
static aif_err
ask_numbers(aif_log *log, const aif_ask *ask, uint64_t *numbers, size_t n,
            bool *found, aif_error *e)
{
    aif_reader in;
    aif_err err;

    memset(numbers, 0, n * sizeof *numbers);
    log->answer.n = 0;
    err = log->ops->ask(log->store, ask, &log->answer, e);
    in = (aif_reader){log->answer.p, log->answer.n};
    *found = in.n > 0;
    for (size_t i = 0; err == AIF_OK && in.n > 0 && i < n; i++) {
        err = aif_read_u64(&in, &numbers[i], e);
    }
    return err;
}

static aif_err
ask_number(aif_log *log, const aif_ask *ask, uint64_t *number, aif_error *e)
{
    bool found;

    return ask_numbers(log, ask, number, 1, &found, e);
}

static aif_err
ask_head(aif_log *log, aif_head *out, aif_error *e)
{
    uint64_t row[4];
    bool found;
    aif_err err =
        ask_numbers(log, &(aif_ask){.what = AIF_ASK_HEAD}, row, 4, &found, e);

    *out = (aif_head){row[0], row[1], (int64_t)row[2], row[3]};
    if (err == AIF_OK && !found) {
        err = aif_fail(e, AIF_ECORRUPT, "aiflow_log_head has lost its row");
    }
    return err;
}

aif_err
aif_log_append(aif_log *log, const aif_event *events, size_t n,
               uint64_t *offsets, aif_head *before, aif_error *e)
{
    aif_head found = {0};
    aif_err err = events_check(events, n, e);

    if (err == AIF_OK) {
        err = turn_take(log, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    if (n == 1) {
        err = log->ops->append(log->store, events, n, offsets, &found, e);
    } else if (n > 1) {
        err = append_distinct(log, events, n, offsets, &found, e);
    }
    if (err == AIF_OK) {
        err = aif_known_compare(log->ops, log->store, events, n, offsets,
                                found.offset, e);
    }
    if (err == AIF_OK && before != NULL) {
        *before = found;
    }
    return turn_leave(log, err);
}

aif_err
aif_log_conflict(aif_log *log, const aif_event *ev, aif_error *e)
{
    uint64_t offset = 0;
    aif_err err = turn_take(log, e);

    if (err == AIF_OK) {
        const aif_ask ask = {.what = AIF_ASK_FIND,
                             .producer = ev->producer,
                             .sequence = ev->sequence};

        err = turn_leave(log, ask_number(log, &ask, &offset, e));
    }
    return err != AIF_OK
               ? err
               : aif_fail(e, AIF_ECONFLICT,
                          "sequence %llu of producer %.*s is in the log "
                          "already, as another event (offset %llu)",
                          (unsigned long long)ev->sequence,
                          (int)ev->producer.n, ev->producer.p,
                          (unsigned long long)offset);
}

/* A row is somebody else's bytes. */
static aif_err
row_check(const aif_event *ev, uint64_t last, aif_error *e)
{
    if (ev->offset <= last) {
        return aif_fail(e, AIF_ECORRUPT, "offset %llu follows %llu",
                        (unsigned long long)ev->offset,
                        (unsigned long long)last);
    }
    if (aif_event_check(ev, e) != AIF_OK) {
        char why[sizeof e->text];

        memcpy(why, e->text, sizeof why);
        return aif_fail(e, AIF_ECORRUPT, "event %llu: %.200s",
                        (unsigned long long)ev->offset, why);
    }
    return AIF_OK;
}

/* The last two neighbours with something between them; 0, 0: none. */
typedef struct {
    uint64_t last;
    uint64_t next;
} gap;

static aif_err
rows_check(const aif_batch *out, size_t from, uint64_t after, gap *found,
           aif_error *e)
{
    uint64_t last = after;
    aif_err err = AIF_OK;

    *found = (gap){0};
    for (size_t i = from; err == AIF_OK && i < out->n; i++) {
        err = row_check(&out->events[i], last, e);
        if (out->events[i].offset != last + 1) {
            *found = (gap){last, out->events[i].offset};
        }
        last = out->events[i].offset;
    }
    return err;
}

/* Of a query for all events: a gap is a hole that a purge left. */
static aif_err
gap_check(const gap *found, const aif_head *head, aif_error *e)
{
    return found->next <= head->purged + 1
               ? AIF_OK
               : aif_fail(e, AIF_ECORRUPT, "offset %llu follows %llu",
                          (unsigned long long)found->next,
                          (unsigned long long)found->last);
}

/* An offset is an SQL bigint; beyond the greatest there is nothing. */
static aif_query
query_bigint(const aif_query *q)
{
    aif_query own = *q;

    own.after = q->after > INT64_MAX ? INT64_MAX : q->after;
    own.upto = aif_query_upto(q);
    return own;
}

static aif_err
query_enter(aif_log *log, const aif_query *q, aif_error *e)
{
    aif_err err = aif_query_check(q, e);

    return err != AIF_OK ? err : turn_take(log, e);
}

static aif_err
missed_check(aif_log *log, const aif_query *q, const aif_head *head,
             aif_error *e)
{
    aif_buf rows = {0};
    uint64_t known = 0;
    aif_err err = AIF_OK;

    if (q->after < head->purged) {
        err = log->ops->ask(log->store, &(aif_ask){.what = AIF_ASK_PURGED},
                            &rows, e);
    }
    if (err == AIF_OK) {
        err = aif_missed(&rows, q, &known, e);
    }
    aif_buf_fini(&rows);
    return err;
}

/* full: all that was asked for, or as much as a read gives.  Then, of all
 * events and each next to the last, nothing is missing: the usual case needs
 * no look at the head. */
static aif_err
read_check(aif_log *log, const aif_query *q, const aif_batch *out, size_t from,
           bool full, aif_error *e)
{
    const bool all = q->n == 0;
    bool look = !q->kept && q->after > 0;
    aif_head head;
    gap found;
    aif_err err = rows_check(out, from, q->after, &found, e);

    look = look && (!all || !full || found.next != 0);
    if (err != AIF_OK || (!look && (!all || found.next == 0))) {
        return err;
    }
    err = ask_head(log, &head, e);
    if (err == AIF_OK && all) {
        err = gap_check(&found, &head, e);
    }
    return err != AIF_OK || !look ? err : missed_check(log, q, &head, e);
}

aif_err
aif_log_read(aif_log *log, const aif_query *q, size_t max, aif_batch *out,
             aif_error *e)
{
    const aif_query own = query_bigint(q);
    const size_t n = out->n;
    const size_t bytes = out->bytes;
    bool full;
    aif_err err = query_enter(log, q, e);

    if (err != AIF_OK) {
        return err;
    }
    if (max > 0) {
        err = log->ops->read(log->store, &own, max, out, e);
    }
    if (err == AIF_OK && max > 0) {
        full = out->n - n == max || out->bytes - bytes >= AIF_READ_BYTES ||
               (out->n > n && out->events[out->n - 1].offset == own.upto);
        err = read_check(log, &own, out, n, full, e);
    }
    if (err != AIF_OK) {
        out->n = n;
        out->bytes = bytes;
    }
    return turn_leave(log, err);
}

/* A number about what q means, after n of them were passed over. */
static aif_err
query_number(aif_log *log, aif_ask_what what, const aif_query *q, uint64_t n,
             uint64_t *number, aif_error *e)
{
    const aif_query own = query_bigint(q);
    const aif_ask ask = {
        .what = what, .q = &own, .n = n > INT64_MAX ? INT64_MAX : n};
    aif_err err = query_enter(log, q, e);

    *number = 0;
    return err != AIF_OK ? err
                         : turn_leave(log, ask_number(log, &ask, number, e));
}

aif_err
aif_log_count(aif_log *log, const aif_query *q, uint64_t *n, aif_error *e)
{
    return query_number(log, AIF_ASK_COUNT, q, 0, n, e);
}

aif_err
aif_log_head(aif_log *log, aif_head *out, aif_error *e)
{
    aif_err err;

    *out = (aif_head){0};
    err = turn_take(log, e);
    return err != AIF_OK ? err : turn_leave(log, ask_head(log, out, e));
}

aif_err
aif_log_renew(aif_log *log, uint64_t was, uint64_t *id, aif_error *e)
{
    aif_head head = {0};
    aif_err err = turn_take(log, e);

    *id = was;
    if (err != AIF_OK) {
        return err;
    }
    err = log->ops->renew(log->store, was, e);
    if (err == AIF_OK) {
        err = ask_head(log, &head, e);
    }
    *id = err == AIF_OK ? head.log_id : was;
    return turn_leave(log, err);
}

aif_err
aif_log_last(aif_log *log, const aif_query *q, uint64_t *offset, aif_error *e)
{
    return query_number(log, AIF_ASK_NEWEST, q, 0, offset, e);
}

static aif_err
senders_check(const aif_buf *out, size_t from, aif_error *e)
{
    aif_reader in = {out->p + from, out->n - from};
    aif_str sender;
    uint64_t n;
    size_t senders = 0;
    aif_err err = AIF_OK;

    while (err == AIF_OK && in.n > 0) {
        senders++;
        err = aif_read_u64(&in, &n, e);
        if (err == AIF_OK) {
            err = aif_read_str(&in, in.n, &sender, e);
        }
    }
    return err != AIF_OK || senders <= AIF_SENDERS_MAX
               ? err
               : aif_fail(e, AIF_EINVAL,
                          "more than %d senders: ask for fewer events",
                          AIF_SENDERS_MAX);
}

aif_err
aif_log_senders(aif_log *log, const aif_query *q, aif_buf *out, aif_error *e)
{
    const aif_query own = query_bigint(q);
    const size_t n = out->n;
    aif_err err = query_enter(log, q, e);

    if (err == AIF_OK) {
        const aif_ask ask = {.what = AIF_ASK_SENDERS, .q = &own};

        err = turn_leave(log, log->ops->ask(log->store, &ask, out, e));
    }
    if (err == AIF_OK && out->n > n) {
        err = senders_check(out, n, e);
    }
    out->n = err == AIF_OK ? out->n : n;
    return err;
}

aif_err
aif_log_sequence(aif_log *log, aif_str producer, uint64_t *sequence,
                 aif_error *e)
{
    const aif_ask ask = {.what = AIF_ASK_SEQUENCE, .producer = producer};
    aif_err err = aif_text_check("producer", producer, 1, AIF_PRODUCER_MAX, e);

    *sequence = 0;
    if (err == AIF_OK) {
        err = turn_take(log, e);
    }
    return err != AIF_OK ? err
                         : turn_leave(log, ask_number(log, &ask, sequence, e));
}

/* low: the first event beyond after, where it was created before ms; else
 * high comes down. */
static aif_err
time_bisect(aif_log *log, uint64_t after, int64_t ms, uint64_t *low,
            uint64_t *high, aif_error *e)
{
    const aif_query q = {.after = after, .upto = INT64_MAX};
    aif_batch found = {0};
    aif_err err = log->ops->read(log->store, &q, 1, &found, e);

    if (err == AIF_OK && found.n > 0 && found.events[0].create_time < ms) {
        *low = found.events[0].offset;
    } else {
        *high = after;
    }
    aif_batch_fini(&found);
    return err;
}

aif_err
aif_log_at(aif_log *log, int64_t ms, uint64_t *offset, aif_error *e)
{
    aif_head head;
    uint64_t low = 0;
    aif_err err = turn_take(log, e);

    *offset = 0;
    if (err != AIF_OK) {
        return err;
    }
    err = ask_head(log, &head, e);
    while (err == AIF_OK && low < head.offset) {
        err = time_bisect(log, low + (head.offset - low) / 2, ms, &low,
                          &head.offset, e);
    }
    *offset = err == AIF_OK ? low : 0;
    return turn_leave(log, err);
}

/* Everything in a namespace, exact or by a prefix. */
static aif_pattern
pattern_of(aif_str ns)
{
    const aif_str any = AIF_STR("*");

    return (aif_pattern){ns, any, any, any, any};
}

aif_err
aif_log_purge(aif_log *log, aif_str ns, uint64_t upto, size_t max,
              uint64_t *gone, aif_error *e)
{
    const aif_pattern of = pattern_of(ns);
    aif_err err = query_enter(log, &(aif_query){.patterns = &of, .n = 1}, e);

    *gone = 0;
    if (err != AIF_OK) {
        return err;
    }
    upto = upto > INT64_MAX ? INT64_MAX : upto;
    max = max > INT64_MAX ? INT64_MAX : max;
    return turn_leave(log,
                      log->ops->purge(log->store, ns, upto, max, gone, e));
}

/* All rows of a table of ours. */
static aif_err
rows_ask(aif_log *log, aif_ask_what what, aif_buf *out, aif_error *e)
{
    const aif_ask ask = {.what = what};
    const size_t n = out->n;
    aif_err err = turn_take(log, e);

    if (err == AIF_OK) {
        err = turn_leave(log, log->ops->ask(log->store, &ask, out, e));
    }
    out->n = err == AIF_OK ? out->n : n;
    return err;
}

aif_err
aif_log_purged(aif_log *log, aif_buf *out, aif_error *e)
{
    return rows_ask(log, AIF_ASK_PURGED, out, e);
}

aif_err
aif_log_keep(aif_log *log, aif_str ns, uint64_t n, uint64_t *upto,
             aif_error *e)
{
    const aif_pattern of = pattern_of(ns);
    const aif_query q = {.patterns = &of, .n = 1};

    return query_number(log, AIF_ASK_NEWEST, &q, n, upto, e);
}

static aif_err
cursor_enter(aif_log *log, const aif_cursor *c, aif_error *e)
{
    aif_err err = aif_cursor_check(c, e);

    return err != AIF_OK ? err : turn_take(log, e);
}

aif_err
aif_log_take(aif_log *log, const aif_cursor *c, uint64_t *offset,
             uint64_t *log_id, aif_error *e)
{
    aif_head head = {0};
    aif_err err = cursor_enter(log, c, e);

    if (err == AIF_OK) {
        err = turn_leave(log, log->ops->take(log->store, c, offset, &head, e));
    }
    *log_id = head.log_id;
    return err;
}

aif_err
aif_log_move(aif_log *log, const aif_cursor *c, aif_error *e)
{
    uint64_t holder = 0;
    aif_err err = cursor_enter(log, c, e);

    if (err == AIF_OK) {
        err = turn_leave(log, log->ops->move(log->store, c, &holder, e));
    }
    return err != AIF_OK ? err : aif_cursor_held(c, holder, e);
}

aif_err
aif_log_forget(aif_log *log, const aif_cursor *c, bool *was, aif_error *e)
{
    aif_err err = cursor_enter(log, c, e);

    *was = false;
    return err != AIF_OK
               ? err
               : turn_leave(log, log->ops->forget(log->store, c, was, e));
}

aif_err
aif_log_cursors(aif_log *log, aif_buf *out, aif_error *e)
{
    return rows_ask(log, AIF_ASK_CURSORS, out, e);
}
