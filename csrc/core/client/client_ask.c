/* client_ask.c - questions: one request, one answer, which is a page, a
 * number, counts or a text.  An answer about a part of the log says how far it
 * looked; the caller's query moves on to there.
 */
#include "client/client_in.h"

static aif_err
answer_take_events(aif_reader in, aif_batch *out, aif_error *e)
{
    aif_err err = AIF_OK;
    aif_event ev;

    while (err == AIF_OK && in.n > 0) {
        err = aif_event_decode(&in, &ev, e);
        if (err == AIF_OK) {
            err = aif_batch_add(out, &ev, e);
        }
    }
    return err;
}

/* A page: events to out, and q moves on.  On failure both are as before. */
static aif_err
answer_take_page(const aif_frame *f, aif_query *q, aif_batch *out,
                 aif_error *e)
{
    size_t before = out->n;
    size_t bytes = out->bytes;
    aif_err err;

    if (f->flag && f->to <= q->after) {
        return aif_fail(e, AIF_EPROTO, "LISTED goes back from offset %llu",
                        (unsigned long long)q->after);
    }
    err = answer_take_events(f->tail, out, e);
    if (err != AIF_OK) {
        out->n = before;
        out->bytes = bytes;
        return err;
    }
    q->kept = f->flag;
    q->after = f->to > q->after ? f->to : q->after;
    return AIF_OK;
}

static aif_frame
request_about(aif_kind kind, const aif_query *q)
{
    return (aif_frame){.kind = kind, .from = q->after, .to = q->upto};
}

aif_err
aif_client_list(aif_client *c, aif_query *q, size_t max, aif_batch *out,
                bool *more, int timeout_ms, aif_error *e)
{
    aif_frame request = request_about(AIF_K_LIST, q);
    aif_frame f;
    aif_err err;

    *more = false;
    if (max == 0) {
        return AIF_OK;
    }
    request.flag = q->kept; /* a further page: what was let go is no news */
    request.max = max < AIF_BATCH_MAX ? (uint32_t)max : AIF_BATCH_MAX;
    err = aif_client_enter(c, &request, q, AIF_K_LISTED, &f, timeout_ms, e);
    if (err == AIF_OK) {
        err = answer_take_page(&f, q, out, e);
        *more = err == AIF_OK && f.flag;
        aif_guard_leave(&c->guard);
    }
    return err;
}

/* One whose answer is a number. */
static aif_err
client_ask_number(aif_client *c, aif_frame *request, aif_kind kind,
                  uint64_t *n, int timeout_ms, aif_error *e)
{
    aif_frame f;
    aif_err err = aif_client_enter(c, request, NULL, kind, &f, timeout_ms, e);

    *n = 0;
    if (err == AIF_OK) {
        *n = f.to;
        aif_guard_leave(&c->guard);
    }
    return err;
}

/* There is more beyond the part that was looked at. */
static bool
query_move_on(aif_query *q, const aif_frame *f)
{
    bool more = f->flag && f->from > q->after;

    q->after = more ? f->from : q->after;
    return more;
}

aif_err
aif_client_count(aif_client *c, aif_query *q, uint64_t *n, bool *more,
                 int timeout_ms, aif_error *e)
{
    aif_frame request = request_about(AIF_K_COUNT, q);
    aif_frame f;
    aif_err err =
        aif_client_enter(c, &request, q, AIF_K_COUNTED, &f, timeout_ms, e);

    *n = 0;
    *more = false;
    if (err == AIF_OK) {
        *n = f.to;
        *more = query_move_on(q, &f);
        aif_guard_leave(&c->guard);
    }
    return err;
}

aif_err
aif_client_senders(aif_client *c, aif_query *q, aif_buf *out, bool *more,
                   int timeout_ms, aif_error *e)
{
    aif_frame request = request_about(AIF_K_SENDERS, q);
    aif_frame f;
    aif_err err =
        aif_client_enter(c, &request, q, AIF_K_COUNTS, &f, timeout_ms, e);

    out->n = 0;
    *more = false;
    if (err == AIF_OK) {
        err = aif_buf_put(out, f.tail.p, f.tail.n, e);
        if (err == AIF_OK) {
            *more = query_move_on(q, &f);
        }
        aif_guard_leave(&c->guard);
    }
    return err;
}

/* From the end on: what is left lies before. */
aif_err
aif_client_last(aif_client *c, aif_query *q, uint64_t *offset, bool *more,
                int timeout_ms, aif_error *e)
{
    aif_frame request = request_about(AIF_K_LAST, q);
    aif_frame f;
    aif_err err =
        aif_client_enter(c, &request, q, AIF_K_HEADED, &f, timeout_ms, e);

    *offset = 0;
    *more = false;
    if (err == AIF_OK) {
        *offset = f.to;
        *more = f.flag && f.to == 0 && f.from > q->after;
        q->upto = *more ? f.from : q->upto;
        aif_guard_leave(&c->guard);
    }
    return err;
}

aif_err
aif_client_head(aif_client *c, uint64_t *offset, int timeout_ms, aif_error *e)
{
    aif_frame request = {.kind = AIF_K_HEAD};

    return client_ask_number(c, &request, AIF_K_HEADED, offset, timeout_ms, e);
}

aif_err
aif_client_at(aif_client *c, uint64_t ms, uint64_t *offset, int timeout_ms,
              aif_error *e)
{
    aif_frame request = {.kind = AIF_K_AT, .to = ms};

    return client_ask_number(c, &request, AIF_K_HEADED, offset, timeout_ms, e);
}

aif_err
aif_client_sequence(aif_client *c, aif_str producer, uint64_t *sequence,
                    int timeout_ms, aif_error *e)
{
    aif_frame request = {.kind = AIF_K_SEQUENCE, .text = producer};

    *sequence = 0;
    if (aif_text_check("producer", producer, 1, AIF_PRODUCER_MAX, e) !=
        AIF_OK) {
        return e->code;
    }
    return client_ask_number(c, &request, AIF_K_COUNTED, sequence, timeout_ms,
                             e);
}

aif_err
aif_client_status(aif_client *c, aif_buf *out, int timeout_ms, aif_error *e)
{
    aif_frame request = {.kind = AIF_K_STATUS};
    aif_frame f;
    aif_err err =
        aif_client_enter(c, &request, NULL, AIF_K_STATUSED, &f, timeout_ms, e);

    out->n = 0;
    if (err == AIF_OK) {
        err = aif_buf_put(out, f.text.p, f.text.n, e);
        aif_guard_leave(&c->guard);
    }
    return err;
}

/* --- cursors ------------------------------------------------------------ */

static aif_pattern
pattern_of(aif_str ns)
{
    const aif_str any = AIF_STR("*");

    return (aif_pattern){ns, any, any, any, any};
}

/* On success the caller leaves the guard. */
static aif_err
cursor_ask(aif_client *c, aif_frame *request, const aif_cursor *cursor,
           aif_kind kind, aif_frame *f, int timeout_ms, aif_error *e)
{
    const aif_pattern of = pattern_of(cursor->ns);
    const aif_query q = {.patterns = &of, .n = 1};
    aif_err err = aif_cursor_check(cursor, e);

    request->text = cursor->name;
    request->holder = cursor->holder;
    return err != AIF_OK
               ? err
               : aif_client_enter(c, request, &q, kind, f, timeout_ms, e);
}

aif_err
aif_client_take(aif_client *c, aif_cursor *cursor, uint64_t *log_id,
                int timeout_ms, aif_error *e)
{
    aif_frame request = {.kind = AIF_K_TAKE, .from = cursor->offset};
    aif_frame f;
    aif_err err =
        cursor_ask(c, &request, cursor, AIF_K_TAKEN, &f, timeout_ms, e);

    if (err == AIF_OK) {
        cursor->offset = f.to;
        *log_id = f.from;
        aif_guard_leave(&c->guard);
    }
    return err;
}

aif_err
aif_client_move(aif_client *c, const aif_cursor *cursor, uint64_t log_id,
                int timeout_ms, aif_error *e)
{
    aif_frame request = {
        .kind = AIF_K_MOVE, .from = cursor->offset, .to = log_id};
    aif_frame f;
    aif_err err =
        cursor_ask(c, &request, cursor, AIF_K_TAKEN, &f, timeout_ms, e);

    if (err == AIF_OK) {
        aif_guard_leave(&c->guard);
    }
    return err;
}

aif_err
aif_client_forget(aif_client *c, const aif_cursor *cursor, uint64_t *n,
                  int timeout_ms, aif_error *e)
{
    aif_frame request = {.kind = AIF_K_FORGET};
    aif_frame f;
    aif_err err =
        cursor_ask(c, &request, cursor, AIF_K_COUNTED, &f, timeout_ms, e);

    *n = 0;
    if (err == AIF_OK) {
        *n = f.to;
        aif_guard_leave(&c->guard);
    }
    return err;
}

aif_err
aif_client_cursors(aif_client *c, aif_str ns, aif_buf *out, int timeout_ms,
                   aif_error *e)
{
    const aif_pattern of = pattern_of(ns);
    const aif_query q = {.patterns = &of, .n = 1};
    aif_frame request = {.kind = AIF_K_CURSORS};
    aif_frame f;
    aif_err err = aif_pattern_check(&of, e);

    out->n = 0;
    if (err == AIF_OK) {
        err = aif_client_enter(c, &request, &q, AIF_K_CURSORED, &f, timeout_ms,
                               e);
    }
    if (err == AIF_OK) {
        err = aif_buf_put(out, f.tail.p, f.tail.n, e);
        aif_guard_leave(&c->guard);
    }
    return err;
}
