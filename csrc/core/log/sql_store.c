/* sql_store.c - the log in a database, whichever it is.
 *
 * read:  pages of rows, until there are enough, of rows or of bytes.
 * ask:   one statement; its rows go out as they are.
 * purge: find the oldest: what is rare is looked for in all of a log, and
 *        meanwhile others write.  Then one transaction: lock the head's row,
 *        which takes turns with appends, delete what was found and is still
 *        there, count that, commit.  Where another purge took some of it
 *        meanwhile, look again.
 *
 * A statement that fails leaves nothing behind (aif_db_ops.undo).
 */
#include "log/sql_store.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/point.h"
#include "log/identity.h"

#include <stdio.h>
#include <string.h>

_Static_assert((int)AIF_SQLS <= (int)AIF_DB_PLACES, "a place for each");
_Static_assert((int)AIF_WHERE_TEXTS <= (int)AIF_DB_TEXTS, "room for texts");

#define PAGE_GROWS 10
#define ERASED_AT_ONCE 500 /* of more than 1000 MariaDB makes a table */

/* --- opening ------------------------------------------------------------ */

aif_err
aif_sql_open(const aif_db_ops *ops, const aif_sql_dialect *sql,
             const char *uri, bool hurry, size_t size, void **store,
             aif_error *e)
{
    aif_sql_store *s = aif_zalloc(size);
    aif_err err;

    *store = NULL;
    if (s == NULL) {
        return aif_fail(e, AIF_ENOMEM, "opening a log");
    }
    s->ops = ops;
    s->sql = sql;
    s->hurry = hurry;
    err = ops->open(uri, &sql->needs, hurry, &s->db, e);
    if (err == AIF_OK) {
        err = aif_sql_ready(s, e);
    }
    if (err != AIF_OK) {
        aif_sql_close(s);
        return err;
    }
    *store = s;
    return AIF_OK;
}

void
aif_sql_close(void *store)
{
    aif_sql_store *s = store;

    if (s->db != NULL) {
        s->ops->close(s->db);
    }
    aif_where_fini(&s->where);
    aif_free(s);
}

static aif_err
sql_connect(aif_sql_store *s, aif_error *e)
{
    const int64_t since = aif_now_ms();
    aif_err err = aif_away_check(&s->away, since, e);

    if (err != AIF_OK) {
        return err;
    }
    err = s->ops->connect(s->db, e);
    if (err == AIF_OK) {
        err = aif_sql_schema(s, e);
        if (err != AIF_OK) {
            s->ops->drop(s->db);
        }
    }
    if (err == AIF_EINVAL &&
        s->opened) { /* the server's settings did change */
        err = e->code = AIF_ESTORE;
    }
    if (err != AIF_OK) {
        aif_away_failed(&s->away, since, aif_now_ms(), e);
    }
    return err;
}

aif_err
aif_sql_ready(aif_sql_store *s, aif_error *e)
{
    bool lost;
    aif_err err = s->ops->ready(s->db, &lost, e);

    return err == AIF_OK && lost ? sql_connect(s, e) : err;
}

/* --- statements --------------------------------------------------------- */

/* Ask st: its text is that of the table, with q's patterns in it (q may be
 * NULL), whose texts are then those of st. */
static aif_err
rows_begin(aif_sql_store *s, aif_sql which, aif_statement *st,
           const aif_query *q, const char *what, aif_error *e)
{
    const aif_sql_text *text = &s->sql->texts[which];
    const bool patterns = q != NULL && q->n > 0;
    aif_err err = AIF_OK;

    st->sql = text->from;
    st->place = patterns ? AIF_DB_ONCE : (int)which;
    if (patterns || text->to[0] != '\0') {
        err = aif_where_make(&s->where, &s->sql->where, st->n_numbers,
                             text->from, q, text->to, e);
        st->sql = aif_where_sql(&s->where);
        st->texts = s->where.params;
        st->n_texts = (int)s->where.n;
    }
    return err != AIF_OK ? err : s->ops->ask(s->db, st, what, e);
}

aif_err
aif_sql_change(aif_sql_store *s, aif_sql which, aif_statement *st,
               const char *what, uint64_t *changed, aif_error *e)
{
    aif_statement none = {.n_numbers = 0};

    st = st == NULL ? &none : st;
    st->sql = s->sql->texts[which].from;
    st->place = (int)which;
    return s->ops->change(s->db, st, what, changed, e);
}

aif_err
aif_sql_row(aif_sql_store *s, aif_sql which, aif_statement *st,
            const char *what, uint64_t *numbers, int n, bool *there,
            aif_error *e)
{
    aif_err err;

    *there = false;
    memset(numbers, 0, (size_t)n * sizeof *numbers);
    err = rows_begin(s, which, st, NULL, what, e);
    if (err != AIF_OK) {
        return err;
    }
    err = s->ops->next(s->db, there, e);
    for (int i = 0; err == AIF_OK && *there && i < n; i++) {
        numbers[i] = s->ops->number(s->db, i);
    }
    s->ops->done(s->db);
    return err;
}

aif_err
aif_sql_head(aif_sql_store *s, aif_sql which, const char *what, aif_head *out,
             aif_error *e)
{
    aif_statement none = {.n_numbers = 0};
    uint64_t row[4];
    bool there;
    aif_err err = aif_sql_row(s, which, &none, what, row, 4, &there, e);

    *out = (aif_head){row[0], row[1], (int64_t)row[2], row[3]};
    return err != AIF_OK || there
               ? err
               : aif_fail(e, AIF_ECORRUPT,
                          "%s: aiflow_log_head has lost its row", what);
}

static aif_err
row_put(aif_sql_store *s, const char *columns, aif_buf *out, aif_error *e)
{
    aif_err err = AIF_OK;

    for (int i = 0; err == AIF_OK && columns[i] != '\0'; i++) {
        err = columns[i] == 'n' ? aif_buf_u64(out, s->ops->number(s->db, i), e)
                                : aif_buf_str(out, s->ops->text(s->db, i), e);
    }
    return err;
}

/* Ask, and add all rows of the answer to out. */
static aif_err
rows_put(aif_sql_store *s, aif_sql which, aif_statement *st,
         const aif_query *q, const char *what, aif_buf *out, aif_error *e)
{
    bool there = true;
    aif_err err = rows_begin(s, which, st, q, what, e);

    if (err != AIF_OK) {
        return err;
    }
    while (err == AIF_OK && there) {
        err = s->ops->next(s->db, &there, e);
        if (err == AIF_OK && there) {
            err = row_put(s, s->sql->texts[which].columns, out, e);
        }
    }
    s->ops->done(s->db);
    return err;
}

/* --- read --------------------------------------------------------------- */

static aif_event
row_event(const aif_sql_store *s)
{
    const aif_db_ops *ops = s->ops;

    return (aif_event){
        .offset = ops->number(s->db, 0),
        .create_time = (int64_t)ops->number(s->db, 1),
        .ns = ops->text(s->db, 2),
        .key = ops->text(s->db, 3),
        .value = ops->text(s->db, 4),
        .type = ops->text(s->db, 5),
        .sender = ops->text(s->db, 6),
        .context = ops->text(s->db, 7),
        .producer = ops->text(s->db, 8),
        .sequence = ops->number(s->db, 9),
    };
}

/* Add a page of at most `page` rows to out, and stop when out has so many
 * bytes. */
static aif_err
page_read(aif_sql_store *s, const aif_query *q, size_t page, size_t full,
          aif_batch *out, aif_error *e)
{
    aif_statement st = {.numbers = {q->after, q->upto,
                                    page < INT64_MAX ? page : INT64_MAX,
                                    full - out->bytes},
                        .n_numbers = s->sql->read_bytes ? 4 : 3,
                        .streamed = true};
    bool there = true;
    aif_err err = rows_begin(s, AIF_SQL_READ, &st, q, "reading", e);

    if (err != AIF_OK) {
        return err;
    }
    while (err == AIF_OK && there && out->bytes < full) {
        err = s->ops->next(s->db, &there, e);
        if (err == AIF_OK && there) {
            const aif_event ev = row_event(s);
            err = aif_batch_add(out, &ev, e);
        }
    }
    s->ops->done(s->db);
    return err;
}

/* After so many rows of so many bytes, with so many bytes left. */
static size_t
page_next(const aif_sql_dialect *sql, size_t page, size_t rows, size_t bytes,
          size_t left)
{
    const size_t fits = left / (bytes / rows + 1) + 1;

    page = page < sql->page_most / PAGE_GROWS ? page * PAGE_GROWS
                                              : sql->page_most;
    return page < fits ? page : fits;
}

aif_err
aif_sql_read(void *store, const aif_query *q, size_t max, aif_batch *out,
             aif_error *e)
{
    aif_sql_store *s = store;
    const size_t first = out->n;
    const size_t bytes = out->bytes;
    const size_t full = bytes + AIF_READ_BYTES;
    aif_query rest = *q;
    size_t page = s->sql->page_first;
    aif_err err = aif_sql_ready(s, e);

    while (err == AIF_OK && out->n - first < max && out->bytes < full) {
        const size_t before = out->n;

        page = page < max - (before - first) ? page : max - (before - first);
        err = page_read(s, &rest, page, full, out, e);
        if (out->n - before < page) {
            break;
        }
        rest.after = out->events[out->n - 1].offset;
        page = out->bytes < full
                   ? page_next(s->sql, page, out->n - first,
                               out->bytes - bytes, full - out->bytes)
                   : 0;
    }
    return err;
}

/* --- ask ---------------------------------------------------------------- */

/* The numbers of a statement that is about a query begin with its offsets. */
static aif_statement
query_statement(const aif_query *q, uint64_t third)
{
    return (aif_statement){.numbers = {q->after, q->upto, third},
                           .n_numbers = 3};
}

aif_err
aif_sql_ask(void *store, const aif_ask *ask, aif_buf *out, aif_error *e)
{
    aif_sql_store *s = store;
    const char *what = "asking";
    const aif_query *q = NULL;
    aif_statement st = {.n_numbers = 0};
    aif_sql which = AIF_SQL_HEAD;
    aif_err err = aif_sql_ready(s, e);

    if (err != AIF_OK) {
        return err;
    }
    switch (ask->what) {
    case AIF_ASK_HEAD:
        what = "reading the head";
        break;
    case AIF_ASK_COUNT:
        which = AIF_SQL_COUNT;
        what = "counting";
        q = ask->q;
        st = query_statement(q, 0);
        st.n_numbers = 2;
        break;
    case AIF_ASK_NEWEST:
        which = AIF_SQL_NEWEST;
        q = ask->q;
        st = query_statement(q, ask->n);
        break;
    case AIF_ASK_SENDERS:
        which = AIF_SQL_SENDERS;
        what = "counting";
        q = ask->q;
        st = query_statement(q, AIF_SENDERS_MAX + 1);
        break;
    case AIF_ASK_SEQUENCE:
        which = AIF_SQL_SEQUENCE;
        st.texts = &ask->producer;
        st.n_texts = 1;
        break;
    case AIF_ASK_FIND:
        which = AIF_SQL_FIND;
        st.numbers[st.n_numbers++] = ask->sequence;
        st.texts = &ask->producer;
        st.n_texts = 1;
        break;
    case AIF_ASK_PURGED:
        which = AIF_SQL_PURGED;
        break;
    case AIF_ASK_CURSORS:
        which = AIF_SQL_CURSORS;
        break;
    }
    return rows_put(s, which, &st, q, what, out, e);
}

/* --- purge -------------------------------------------------------------- */

/* Add the offsets of what may go to out, at most max, each as u64.  What was
 * let go of ns already need not be looked at again. */
static aif_err
oldest_find(aif_sql_store *s, aif_str ns, uint64_t upto, size_t max,
            aif_buf *out, aif_error *e)
{
    const aif_str any = AIF_STR("*");
    const aif_pattern of = {ns, any, any, any, any};
    aif_query q = {.patterns = &of, .n = !aif_str_eq(ns, any), .upto = upto};
    aif_statement known = {.texts = &ns, .n_texts = 1};
    aif_statement oldest;
    bool there;
    aif_err err = aif_sql_row(s, AIF_SQL_UPTO, &known, "purging", &q.after, 1,
                              &there, e);

    if (err != AIF_OK) {
        return err;
    }
    oldest = query_statement(&q, max);
    return rows_put(s, AIF_SQL_OLDEST, &oldest, &q, "purging", out, e);
}

/* Delete those that are still there; *last: the greatest of the offsets. */
static aif_err
oldest_erase(aif_sql_store *s, const aif_buf *oldest, uint64_t *last,
             uint64_t *gone, aif_error *e)
{
    static const char sql[] = "DELETE FROM aiflow_event WHERE ";
    aif_reader in = {oldest->p, oldest->n};
    aif_buf text = {0};
    aif_err err = AIF_OK;

    while (err == AIF_OK && in.n > 0) {
        aif_statement st = {.place = AIF_DB_ONCE};
        uint64_t changed = 0;
        char number[32];

        text.n = 0;
        err = aif_buf_put(&text, sql, sizeof sql - 1, e);
        if (err == AIF_OK) {
            err =
                aif_buf_put(&text, s->sql->offset, strlen(s->sql->offset), e);
        }
        for (int i = 0; err == AIF_OK && i < ERASED_AT_ONCE && in.n > 0; i++) {
            err = aif_read_u64(&in, last, e);
            if (err == AIF_OK) {
                const int n = snprintf(number, sizeof number, "%s%llu",
                                       i == 0 ? " IN (" : ",",
                                       (unsigned long long)*last);

                err = aif_buf_put(&text, number, (size_t)n, e);
            }
        }
        if (err == AIF_OK) {
            err = aif_buf_put(&text, ")", 2, e);
        }
        if (err == AIF_OK) {
            st.sql = (const char *)text.p;
            err = s->ops->change(s->db, &st, "purging", &changed, e);
        }
        *gone += changed;
    }
    aif_buf_fini(&text);
    return err;
}

/* Within the transaction. */
static aif_err
purge_locked(aif_sql_store *s, aif_str ns, const aif_buf *oldest,
             uint64_t *gone, aif_error *e)
{
    uint64_t last = 0;
    aif_head head; /* it must be there */
    aif_err err = aif_sql_head(s, AIF_SQL_LOCK, "purging", &head, e);

    if (err == AIF_OK) {
        err = oldest_erase(s, oldest, &last, gone, e);
    }
    if (err == AIF_OK && *gone > 0) {
        aif_statement counted = {
            .numbers = {last, *gone, (uint64_t)aif_wall_ms()},
            .n_numbers = 3,
            .texts = &ns,
            .n_texts = 1};
        aif_statement raised = {.numbers = {last}, .n_numbers = 1};

        err = aif_sql_change(s, AIF_SQL_COUNT_GONE, &counted, "purging", NULL,
                             e);
        if (err == AIF_OK) {
            err =
                aif_sql_change(s, AIF_SQL_RAISE, &raised, "purging", NULL, e);
        }
    }
    return err;
}

static aif_err
purge_found(aif_sql_store *s, aif_str ns, const aif_buf *oldest,
            uint64_t *gone, aif_error *e)
{
    aif_err err = s->ops->begin(s->db, "purging", e);

    if (err == AIF_OK) {
        err = purge_locked(s, ns, oldest, gone, e);
        AIF_POINT("purge.before_commit");
        if (err == AIF_OK) {
            err = s->ops->commit(s->db, "purging", e);
        }
        if (err != AIF_OK) {
            s->ops->undo(s->db);
        }
        AIF_POINT("purge.after_commit");
    }
    return err;
}

aif_err
aif_sql_purge(void *store, aif_str ns, uint64_t upto, size_t max,
              uint64_t *gone, aif_error *e)
{
    aif_sql_store *s = store;
    bool again = true;
    aif_err err = aif_sql_ready(s, e);

    *gone = 0;
    AIF_POINT("purge.begin");
    while (err == AIF_OK && again) {
        aif_buf oldest = {0};
        uint64_t some = 0;

        err = oldest_find(s, ns, upto, max - *gone, &oldest, e);
        if (err == AIF_OK && oldest.n > 0) {
            err = purge_found(s, ns, &oldest, &some, e);
        }
        again = some != oldest.n / sizeof some;
        *gone += some;
        aif_buf_fini(&oldest);
    }
    if (err == AIF_ESTORE && e->busy && *gone > 0) {
        return AIF_OK; /* a part is done: whoever asks again finds the rest */
    }
    *gone = err == AIF_OK ? *gone : 0;
    return err;
}

/* --- renew -------------------------------------------------------------- */

aif_err
aif_sql_renew(void *store, uint64_t was, aif_error *e)
{
    aif_sql_store *s = store;
    aif_statement st = {.numbers = {0, was}, .n_numbers = 2};
    aif_err err = aif_sql_ready(s, e);

    if (err == AIF_OK) {
        err = aif_log_id_draw(&st.numbers[0], e);
    }
    return err != AIF_OK ? err
                         : aif_sql_change(s, AIF_SQL_RENEW, &st,
                                          "renewing the id", NULL, e);
}
