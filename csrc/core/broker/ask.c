/* broker/ask.c - questions about the log, answered at once.
 *
 * The happy path: take the patterns, bound what is looked at, look, answer.
 * However much is asked, one frame looks at AIF_SCAN_EVENTS offsets at most,
 * and at fewer where there are many patterns to compare them with, so that a
 * rare key in a huge log holds nobody up; the answer says how far that was,
 * and the client asks for the rest.
 *
 * It fails where the store does, and where the question makes no sense.
 */
#include "broker/in.h"

#include "base/clock.h"

#define AHEAD_MS 1000 /* a time may be so far in the future */

/* A question: q is the part of it that this answer looks at. */
typedef struct {
    aif_query q;
    uint64_t end;  /* the last offset it means, that there is */
    uint64_t span; /* offsets that one answer looks at */
    aif_pattern room[AIF_PATTERNS_MAX];
} question;

static uint64_t
min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

aif_err
aif_broker_look(aif_broker *b, aif_head *head, aif_error *e)
{
    aif_err err = aif_log_head(b->log, head, e);

    if (err == AIF_OK) {
        aif_broker_moved(b, head);
    }
    return err;
}

/* Another broker may have appended: look before it is refused. */
aif_err
aif_broker_reach(aif_broker *b, uint64_t from, aif_error *e)
{
    aif_head head;
    aif_err err = AIF_OK;

    if (from > b->head) {
        err = aif_broker_look(b, &head, e);
    }
    if (err == AIF_OK && from > b->head) {
        err = aif_fail(e, AIF_EINVAL,
                       "offset %llu is beyond the newest one, %llu",
                       (unsigned long long)from, (unsigned long long)b->head);
    }
    return err;
}

/* What f asks, up to the head as it is now. */
static aif_err
take_question(aif_broker *b, const aif_frame *f, question *k, aif_error *e)
{
    aif_reader in = f->tail;
    aif_head head;
    aif_err err;

    k->q = (aif_query){.patterns = k->room, .after = f->from};
    err = aif_wire_get_patterns(&in, 0, AIF_PATTERNS_MAX, k->room, &k->q.n, e);
    if (err == AIF_OK) {
        err = aif_broker_look(b, &head, e);
    }
    if (err == AIF_OK) {
        err = aif_broker_reach(b, f->from, e);
    }
    k->end = f->to == 0 ? b->head : min(f->to, b->head);
    return err;
}

/* The first of it.  A full span takes a database about as long, whatever the
 * patterns are, and costs the same here. */
static void
bound(question *k, size_t *cost)
{
    const size_t weight = aif_query_weight(&k->q);
    uint64_t after = k->q.after;
    uint64_t all = k->end > after ? k->end - after : 0;

    k->span = weight <= AIF_SCAN_WEIGHT
                  ? AIF_SCAN_EVENTS
                  : 2 * AIF_SCAN_EVENTS * AIF_SCAN_WEIGHT /
                        (AIF_SCAN_WEIGHT + weight);
    k->q.upto = after + min(all, k->span);
    *cost = AIF_READ_COST +
            (size_t)(min(all, k->span) * AIF_SCAN_EVENTS / k->span / 5);
}

static bool
nothing(const question *k)
{
    return k->end <= k->q.after;
}

static aif_err
answer_listed(aif_broker *b, const aif_route *to, const aif_frame *f,
              const aif_batch *batch, aif_error *e)
{
    aif_err err = aif_frame_encode(f, &b->out, e);

    for (size_t i = 0; err == AIF_OK && i < batch->n; i++) {
        err = aif_event_encode(&batch->events[i], &b->out, e);
    }
    if (err == AIF_OK) {
        (void)aif_broker_send(b, to);
    }
    return err;
}

static aif_err
list(aif_broker *b, const aif_route *to, const aif_frame *f, question *k,
     aif_error *e)
{
    size_t max = f->max < AIF_BATCH_MAX ? f->max : AIF_BATCH_MAX;
    aif_frame answer = {.kind = AIF_K_LISTED, .id = f->id, .to = f->from};
    aif_batch batch = {0};
    aif_err err = AIF_OK;

    k->q.kept = f->flag;
    if (!nothing(k) && max > 0) {
        err = aif_log_read(b->log, &k->q, max, &batch, e);
        answer.to = k->q.upto;
    }
    if (batch.n > 0 && (batch.n == max || batch.bytes >= AIF_READ_BYTES)) {
        answer.to = batch.events[batch.n - 1].offset;
    }
    answer.flag = answer.to < k->end;
    if (err == AIF_OK) {
        err = answer_listed(b, to, &answer, &batch, e);
    }
    aif_batch_fini(&batch);
    return err;
}

static aif_err
count(aif_broker *b, const aif_route *to, const aif_frame *f,
      const question *k, aif_error *e)
{
    aif_frame answer = {.kind = AIF_K_COUNTED, .id = f->id, .from = f->from};
    aif_err err = AIF_OK;

    if (!nothing(k)) {
        err = aif_log_count(b->log, &k->q, &answer.to, e);
        answer.from = k->q.upto;
        answer.flag = k->q.upto < k->end;
    }
    if (err == AIF_OK) {
        aif_broker_answer(b, to, &answer);
    }
    return err;
}

static aif_err
senders(aif_broker *b, const aif_route *to, const aif_frame *f,
        const question *k, aif_error *e)
{
    aif_frame answer = {.kind = AIF_K_COUNTS, .id = f->id, .from = f->from};
    aif_buf counts = {0};
    aif_err err = AIF_OK;

    if (!nothing(k)) {
        err = aif_log_senders(b->log, &k->q, &counts, e);
        answer.from = k->q.upto;
        answer.flag = k->q.upto < k->end;
    }
    if (err == AIF_OK) {
        err = aif_frame_encode(&answer, &b->out, e);
    }
    if (err == AIF_OK) {
        err = aif_buf_put(&b->out, counts.p, counts.n, e);
    }
    if (err == AIF_OK) {
        (void)aif_broker_send(b, to);
    }
    aif_buf_fini(&counts);
    return err;
}

/* From the end on: what is asked for is more likely there. */
static aif_err
last(aif_broker *b, const aif_route *to, const aif_frame *f, question *k,
     aif_error *e)
{
    aif_frame answer = {.kind = AIF_K_HEADED, .id = f->id, .from = f->from};
    aif_err err = AIF_OK;

    if (!nothing(k)) {
        k->q.upto = k->end;
        k->q.after = k->end - min(k->end - f->from, k->span);
        err = aif_log_last(b->log, &k->q, &answer.to, e);
        answer.from = k->q.after;
        answer.flag = answer.to == 0 && k->q.after > f->from;
    }
    if (err == AIF_OK) {
        aif_broker_answer(b, to, &answer);
    }
    return err;
}

static aif_err
head(aif_broker *b, const aif_route *to, const aif_frame *f, aif_error *e)
{
    aif_frame answer = {.kind = AIF_K_HEADED, .id = f->id};
    aif_head now;
    aif_err err = aif_broker_look(b, &now, e);

    if (err == AIF_OK) {
        answer.from = now.purged;
        answer.to = now.offset;
        aif_broker_answer(b, to, &answer);
    }
    return err;
}

/* Clocks of two machines differ a little; who asks for what is to come would
 * get another answer later. */
static aif_err
at(aif_broker *b, const aif_route *to, const aif_frame *f, aif_error *e)
{
    aif_frame answer = {.kind = AIF_K_HEADED, .id = f->id};
    int64_t now = aif_wall_ms();
    aif_err err;

    if (f->to > (uint64_t)now + AHEAD_MS) {
        return aif_fail(e, AIF_EINVAL,
                        "time %llu is in the future: here it is %lld ms since "
                        "the epoch",
                        (unsigned long long)f->to, (long long)now);
    }
    err = aif_log_at(b->log, (int64_t)f->to, &answer.to, e);
    if (err == AIF_OK) {
        aif_broker_answer(b, to, &answer);
    }
    return err;
}

static aif_err
sequence(aif_broker *b, const aif_route *to, const aif_frame *f, aif_error *e)
{
    aif_frame answer = {.kind = AIF_K_COUNTED, .id = f->id};
    aif_err err = aif_log_sequence(b->log, f->text, &answer.to, e);

    if (err == AIF_OK) {
        aif_broker_answer(b, to, &answer);
    }
    return err;
}

/* Those that have patterns. */
static aif_err
ask_query(aif_broker *b, const aif_route *to, const aif_frame *f, size_t *cost,
          aif_error *e)
{
    question k;
    aif_err err = take_question(b, f, &k, e);

    *cost = AIF_READ_COST;
    if (err != AIF_OK) {
        return err;
    }
    bound(&k, cost);
    switch (f->kind) {
    case AIF_K_LIST:
        return list(b, to, f, &k, e);
    case AIF_K_COUNT:
        return count(b, to, f, &k, e);
    case AIF_K_SENDERS:
        return senders(b, to, f, &k, e);
    default:
        return last(b, to, f, &k, e);
    }
}

aif_err
aif_broker_ask(aif_broker *b, const aif_route *to, const aif_frame *f,
               size_t *cost, aif_error *e)
{
    *cost = AIF_LOOK_COST;
    switch (f->kind) {
    case AIF_K_HEAD:
        return head(b, to, f, e);
    case AIF_K_AT:
        return at(b, to, f, e);
    case AIF_K_SEQUENCE:
        return sequence(b, to, f, e);
    default:
        return ask_query(b, to, f, cost, e);
    }
}
