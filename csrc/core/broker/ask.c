/* ask.c - answers questions about the log.
 *
 * The happy path: take the patterns, bound what is looked at, look, answer.
 * However much is asked, one answer looks at AIF_SCAN_EVENTS offsets at most,
 * and at fewer where there are many patterns to compare them with.  So a rare
 * key in a huge log does not keep other clients waiting.  The answer says how
 * far it went, and the client asks for the rest.
 *
 * It fails where the store does, and where the question makes no sense.
 */
#include "broker/ask.h"

#include "base/clock.h"

#define AHEAD_MS 1000 /* a time may be so far in the future */

/* A question: q is the part of it that this answer looks at. */
typedef struct {
    aif_query q;
    uint64_t end;  /* the last offset that it means and that exists */
    uint64_t span; /* offsets that one answer looks at */
    aif_pattern room[AIF_PATTERNS_MAX];
} question;

static uint64_t
ask_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void
aif_ask_init(aif_questions *a, aif_head_watch *head, aif_out *out)
{
    *a = (aif_questions){head, out};
}

/* What f asks, up to the head as it is now. */
static aif_err
question_take(aif_questions *a, const aif_frame *f, question *k, aif_error *e)
{
    aif_reader in = f->tail;
    aif_head head;
    aif_err err;

    k->q = (aif_query){.patterns = k->room, .after = f->from};
    err = aif_wire_get_patterns(&in, 0, AIF_PATTERNS_MAX, k->room, &k->q.n, e);
    if (err == AIF_OK) {
        err = aif_head_look(a->head, &head, e);
    }
    if (err == AIF_OK) {
        err = aif_head_reach(a->head, f->from, e);
    }
    k->end = f->to == 0 ? aif_head_newest(a->head)
                        : ask_min(f->to, aif_head_newest(a->head));
    return err;
}

/* Bound q to the first offsets of the question.  A full span takes a database
 * about the same time, whatever the patterns are, and has the same cost here. */
static void
question_bound(question *k, size_t *cost)
{
    const size_t weight = aif_query_weight(&k->q);
    uint64_t after = k->q.after;
    uint64_t all = k->end > after ? k->end - after : 0;

    k->span = weight <= AIF_SCAN_WEIGHT
                  ? AIF_SCAN_EVENTS
                  : 2 * AIF_SCAN_EVENTS * AIF_SCAN_WEIGHT /
                        (AIF_SCAN_WEIGHT + weight);
    k->q.upto = after + ask_min(all, k->span);
    *cost = AIF_READ_COST +
            (size_t)(ask_min(all, k->span) * AIF_SCAN_EVENTS / k->span / 5);
}

static bool
question_is_empty(const question *k)
{
    return k->end <= k->q.after;
}

static aif_err
ask_answer_listed(aif_questions *a, const aif_route *to, const aif_frame *f,
                  const aif_batch *batch, aif_error *e)
{
    aif_buf *tail;
    aif_err err = aif_out_begin(a->out, f, &tail, e);

    for (size_t i = 0; err == AIF_OK && i < batch->n; i++) {
        err = aif_event_encode(&batch->events[i], tail, e);
    }
    if (err == AIF_OK) {
        (void)aif_out_send(a->out, to);
    }
    return err;
}

static aif_err
ask_list(aif_questions *a, const aif_route *to, const aif_frame *f,
         question *k, aif_error *e)
{
    size_t max = f->max < AIF_BATCH_MAX ? f->max : AIF_BATCH_MAX;
    aif_frame answer = {.kind = AIF_K_LISTED, .id = f->id, .to = f->from};
    aif_batch batch = {0};
    aif_err err = AIF_OK;

    k->q.kept = f->flag;
    if (!question_is_empty(k) && max > 0) {
        err = aif_log_read(aif_head_log(a->head), &k->q, max, &batch, e);
        answer.to = k->q.upto;
    }
    if (batch.n > 0 && (batch.n == max || batch.bytes >= AIF_READ_BYTES)) {
        answer.to = batch.events[batch.n - 1].offset;
    }
    answer.flag = answer.to < k->end;
    if (err == AIF_OK) {
        err = ask_answer_listed(a, to, &answer, &batch, e);
    }
    aif_batch_fini(&batch);
    return err;
}

static aif_err
ask_count(aif_questions *a, const aif_route *to, const aif_frame *f,
          const question *k, aif_error *e)
{
    aif_frame answer = {.kind = AIF_K_COUNTED, .id = f->id, .from = f->from};
    aif_err err = AIF_OK;

    if (!question_is_empty(k)) {
        err = aif_log_count(aif_head_log(a->head), &k->q, &answer.to, e);
        answer.from = k->q.upto;
        answer.flag = k->q.upto < k->end;
    }
    if (err == AIF_OK) {
        aif_out_answer(a->out, to, &answer);
    }
    return err;
}

static aif_err
ask_senders(aif_questions *a, const aif_route *to, const aif_frame *f,
            const question *k, aif_error *e)
{
    aif_frame answer = {.kind = AIF_K_COUNTS, .id = f->id, .from = f->from};
    aif_buf counts = {0};
    aif_buf *tail;
    aif_err err = AIF_OK;

    if (!question_is_empty(k)) {
        err = aif_log_senders(aif_head_log(a->head), &k->q, &counts, e);
        answer.from = k->q.upto;
        answer.flag = k->q.upto < k->end;
    }
    if (err == AIF_OK) {
        err = aif_out_begin(a->out, &answer, &tail, e);
    }
    if (err == AIF_OK) {
        err = aif_buf_put(tail, counts.p, counts.n, e);
    }
    if (err == AIF_OK) {
        (void)aif_out_send(a->out, to);
    }
    aif_buf_fini(&counts);
    return err;
}

/* This looks from the end backwards: the newest event is more likely there. */
static aif_err
ask_last(aif_questions *a, const aif_route *to, const aif_frame *f,
         question *k, aif_error *e)
{
    aif_frame answer = {.kind = AIF_K_HEADED, .id = f->id, .from = f->from};
    aif_err err = AIF_OK;

    if (!question_is_empty(k)) {
        k->q.upto = k->end;
        k->q.after = k->end - ask_min(k->end - f->from, k->span);
        err = aif_log_last(aif_head_log(a->head), &k->q, &answer.to, e);
        answer.from = k->q.after;
        answer.flag = answer.to == 0 && k->q.after > f->from;
    }
    if (err == AIF_OK) {
        aif_out_answer(a->out, to, &answer);
    }
    return err;
}

static aif_err
ask_head(aif_questions *a, const aif_route *to, const aif_frame *f,
         aif_error *e)
{
    aif_frame answer = {.kind = AIF_K_HEADED, .id = f->id};
    aif_head now;
    aif_err err = aif_head_look(a->head, &now, e);

    if (err == AIF_OK) {
        answer.from = now.purged;
        answer.to = now.offset;
        aif_out_answer(a->out, to, &answer);
    }
    return err;
}

/* A time in the future is refused, because the answer would be another one
 * later; but for a second, because the clocks of two machines differ. */
static aif_err
ask_at(aif_questions *a, const aif_route *to, const aif_frame *f, aif_error *e)
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
    err = aif_log_at(aif_head_log(a->head), (int64_t)f->to, &answer.to, e);
    if (err == AIF_OK) {
        aif_out_answer(a->out, to, &answer);
    }
    return err;
}

static aif_err
ask_sequence(aif_questions *a, const aif_route *to, const aif_frame *f,
             aif_error *e)
{
    aif_frame answer = {.kind = AIF_K_COUNTED, .id = f->id};
    aif_err err =
        aif_log_sequence(aif_head_log(a->head), f->text, &answer.to, e);

    if (err == AIF_OK) {
        aif_out_answer(a->out, to, &answer);
    }
    return err;
}

/* The questions that have patterns. */
static aif_err
ask_query(aif_questions *a, const aif_route *to, const aif_frame *f,
          size_t *cost, aif_error *e)
{
    question k;
    aif_err err = question_take(a, f, &k, e);

    *cost = AIF_READ_COST;
    if (err != AIF_OK) {
        return err;
    }
    question_bound(&k, cost);
    switch (f->kind) {
    case AIF_K_LIST:
        return ask_list(a, to, f, &k, e);
    case AIF_K_COUNT:
        return ask_count(a, to, f, &k, e);
    case AIF_K_SENDERS:
        return ask_senders(a, to, f, &k, e);
    default:
        return ask_last(a, to, f, &k, e);
    }
}

aif_err
aif_ask_answer(aif_questions *a, const aif_route *to, const aif_frame *f,
               size_t *cost, aif_error *e)
{
    *cost = AIF_LOOK_COST;
    switch (f->kind) {
    case AIF_K_HEAD:
        return ask_head(a, to, f, e);
    case AIF_K_AT:
        return ask_at(a, to, f, e);
    case AIF_K_SEQUENCE:
        return ask_sequence(a, to, f, e);
    default:
        return ask_query(a, to, f, cost, e);
    }
}
