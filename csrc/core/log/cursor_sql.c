/* cursor_sql.c - cursors in a database, whichever it is.
 *
 * take: one transaction under the lock of the head's row: nothing is appended
 *       between the look at the head and the commit, so a new cursor misses
 *       nothing that is published from then on.
 * move: one statement, which names the holder.  Where it changed no row, a
 *       look tells why: the cursor is there already, or another's, or gone.
 */
#include "log/sql_store.h"

#define WHAT "a cursor"

/* n: how many numbers the statement has. */
static aif_err
cursor_change(aif_sql_store *s, aif_sql which, int n, const aif_cursor *c,
              uint64_t offset, uint64_t *changed, aif_error *e)
{
    const aif_str texts[] = {c->ns, c->name};
    aif_statement st = {
        .numbers = {(uint64_t)c->moved_ms, c->holder, offset},
        .n_numbers = n,
        .texts = texts,
        .n_texts = 2,
    };

    return aif_sql_change(s, which, &st, WHAT, changed, e);
}

/* row: offset, holder. */
static aif_err
cursor_find(aif_sql_store *s, const aif_cursor *c, uint64_t row[2],
            bool *there, aif_error *e)
{
    const aif_str texts[] = {c->ns, c->name};
    aif_statement st = {.texts = texts, .n_texts = 2};

    return aif_sql_row(s, AIF_SQL_CURSOR_FIND, &st, WHAT, row, 2, there, e);
}

static aif_err
cursors_count(aif_sql_store *s, uint64_t *n, aif_error *e)
{
    aif_statement none = {.n_numbers = 0};
    bool there;

    return aif_sql_row(s, AIF_SQL_CURSOR_COUNT, &none, WHAT, n, 1, &there, e);
}

/* Within the transaction.  It is taken before it is looked at: then who had it
 * moves it no more. */
static aif_err
cursor_take(aif_sql_store *s, const aif_cursor *c, uint64_t *offset,
            aif_head *head, aif_error *e)
{
    uint64_t row[2] = {0};
    uint64_t others = 0;
    bool there = false;
    aif_err err = aif_sql_head(s, AIF_SQL_LOCK, WHAT, head, e);

    if (err == AIF_OK) {
        err = cursor_change(s, AIF_SQL_CURSOR_TAKE, 2, c, 0, NULL, e);
    }
    if (err == AIF_OK) {
        err = cursor_find(s, c, row, &there, e);
    }
    if (err == AIF_OK && !there) {
        err = cursors_count(s, &others, e);
    }
    if (err == AIF_OK) {
        err = aif_cursor_begin(c, there, row[0], others, head->offset, offset,
                               e);
    }
    return err != AIF_OK || there
               ? err
               : cursor_change(s, AIF_SQL_CURSOR_NEW, 3, c, *offset, NULL, e);
}

aif_err
aif_sql_take(void *store, const aif_cursor *c, uint64_t *offset,
             aif_head *head, aif_error *e)
{
    aif_sql_store *s = store;
    aif_err err = aif_sql_ready(s, e);

    if (err == AIF_OK) {
        err = s->ops->begin(s->db, WHAT, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    err = cursor_take(s, c, offset, head, e);
    if (err == AIF_OK) {
        err = s->ops->commit(s->db, WHAT, e);
    }
    if (err != AIF_OK) {
        s->ops->undo(s->db);
    }
    return err;
}

aif_err
aif_sql_move(void *store, const aif_cursor *c, uint64_t *holder, aif_error *e)
{
    aif_sql_store *s = store;
    uint64_t row[2] = {0};
    uint64_t changed = 0;
    bool there;
    aif_err err = aif_sql_ready(s, e);

    if (err == AIF_OK) {
        err = cursor_change(s, AIF_SQL_CURSOR_MOVE, 3, c, c->offset, &changed,
                            e);
    }
    if (err == AIF_OK && changed == 0) {
        err = cursor_find(s, c, row, &there, e);
    }
    *holder = changed > 0 ? c->holder : row[1];
    return err;
}

aif_err
aif_sql_forget(void *store, const aif_cursor *c, bool *was, aif_error *e)
{
    aif_sql_store *s = store;
    uint64_t changed = 0;
    aif_err err = aif_sql_ready(s, e);

    if (err == AIF_OK) {
        err = cursor_change(s, AIF_SQL_CURSOR_FORGET, 1, c, 0, &changed, e);
    }
    *was = changed > 0;
    return err;
}
