/* cursors.c - the happy path: the frame's one pattern says of which namespaces
 * the cursor is, its text how it is called; the log does the rest.
 *
 * A MOVE names the log whose offset it is: where the log was replaced since
 * the TAKE, it is refused.
 */
#include "broker/cursors.h"

#include "base/clock.h"

static aif_err
cursor_take_frame(const aif_frame *f, aif_cursor *c, aif_error *e)
{
    aif_reader in = f->tail;
    aif_pattern of = {0};
    size_t n;
    aif_err err = aif_wire_get_patterns(&in, 1, 1, &of, &n, e);

    *c = (aif_cursor){.ns = of.ns,
                      .name = f->text,
                      .offset = f->from,
                      .holder = f->holder,
                      .moved_ms = aif_wall_ms()};
    return err;
}

static aif_err
cursor_take(aif_questions *a, const aif_cursor *c, aif_frame *answer,
            aif_error *e)
{
    answer->kind = AIF_K_TAKEN;
    return aif_log_take(aif_head_log(a->head), c, &answer->to, &answer->from,
                        e);
}

static aif_err
cursor_move(aif_questions *a, const aif_cursor *c, uint64_t log_id,
            aif_frame *answer, aif_error *e)
{
    aif_head now;
    aif_err err = aif_head_look(a->head, &now, e);

    if (err == AIF_OK) {
        err = aif_head_resume(&now, log_id, c->offset, e);
    }
    if (err == AIF_OK) {
        err = aif_log_move(aif_head_log(a->head), c, e);
    }
    answer->kind = AIF_K_TAKEN;
    answer->from = log_id;
    answer->to = c->offset;
    return err;
}

static aif_err
cursor_forget(aif_questions *a, const aif_cursor *c, aif_frame *answer,
              aif_error *e)
{
    aif_cursor whenever = *c;
    bool was;
    aif_err err;

    whenever.moved_ms = INT64_MAX;
    err = aif_log_forget(aif_head_log(a->head), &whenever, &was, e);

    answer->kind = AIF_K_COUNTED;
    answer->to = was;
    return err;
}

/* Of one cursor. */
static aif_err
cursor_answer(aif_questions *a, const aif_route *to, const aif_frame *f,
              aif_error *e)
{
    aif_frame answer = {.id = f->id};
    aif_cursor c;
    aif_err err = cursor_take_frame(f, &c, e);

    if (err == AIF_OK && f->kind == AIF_K_TAKE) {
        err = cursor_take(a, &c, &answer, e);
    } else if (err == AIF_OK && f->kind == AIF_K_MOVE) {
        err = cursor_move(a, &c, f->to, &answer, e);
    } else if (err == AIF_OK) {
        err = cursor_forget(a, &c, &answer, e);
    }
    if (err == AIF_OK) {
        aif_out_answer(a->out, to, &answer);
    }
    return err;
}

/* Add the next of rows to out, where it is of a namespace that q means. */
static aif_err
cursor_pick(aif_reader *rows, const aif_query *q, aif_buf *out, aif_error *e)
{
    const uint8_t *from = rows->p;
    aif_str ns = {0};
    aif_str name;
    uint64_t number;
    bool meant = q->n == 0;
    aif_err err = aif_read_str(rows, rows->n, &ns, e);

    if (err == AIF_OK) {
        err = aif_read_str(rows, rows->n, &name, e);
    }
    for (int i = 0; err == AIF_OK && i < 2; i++) {
        err = aif_read_u64(rows, &number, e);
    }
    for (size_t i = 0; !meant && i < q->n; i++) {
        meant = aif_pattern_covers(q->patterns[i].ns, ns);
    }
    return err != AIF_OK || !meant
               ? err
               : aif_buf_put(out, from, (size_t)(rows->p - from), e);
}

static aif_err
cursors_list(aif_questions *a, const aif_route *to, const aif_frame *f,
             aif_error *e)
{
    const aif_frame answer = {.kind = AIF_K_CURSORED, .id = f->id};
    aif_pattern room[AIF_PATTERNS_MAX];
    aif_query q = {.patterns = room};
    aif_reader in = f->tail;
    aif_buf all = {0};
    aif_buf *tail;
    aif_err err =
        aif_wire_get_patterns(&in, 0, AIF_PATTERNS_MAX, room, &q.n, e);

    if (err == AIF_OK) {
        err = aif_log_cursors(aif_head_log(a->head), &all, e);
    }
    if (err == AIF_OK) {
        err = aif_out_begin(a->out, &answer, &tail, e);
    }
    in = (aif_reader){all.p, all.n};
    while (err == AIF_OK && in.n > 0) {
        err = cursor_pick(&in, &q, tail, e);
    }
    if (err == AIF_OK) {
        (void)aif_out_send(a->out, to);
    }
    aif_buf_fini(&all);
    return err;
}

aif_err
aif_cursors_answer(aif_questions *a, const aif_route *to, const aif_frame *f,
                   aif_error *e)
{
    return f->kind == AIF_K_CURSORS ? cursors_list(a, to, f, e)
                                    : cursor_answer(a, to, f, e);
}
