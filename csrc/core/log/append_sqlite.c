/* append_sqlite.c - append to a log in a file of SQLite.
 *
 * BEGIN IMMEDIATE (one writer at a time), read the head, insert each event at
 * the next offset unless its identity is there already, move the head, commit.
 */
#include "base/point.h"
#include "db/sqlite.h"
#include "log/sql_store.h"

#define SCHEME "sqlite:"
#define WHAT "appending to"

static aif_err
known_find(aif_sql_store *s, const aif_event *ev, uint64_t *offset,
           aif_error *e)
{
    aif_statement st = {.numbers = {ev->sequence},
                        .n_numbers = 1,
                        .texts = &ev->producer,
                        .n_texts = 1};
    bool there;

    return aif_sql_row(s, AIF_SQL_FIND, &st, WHAT, offset, 1, &there, e);
}

/* Insert them after *head, which moves on. */
static aif_err
events_insert(aif_sql_store *s, const aif_event *events, size_t n,
              aif_head *head, uint64_t *offsets, aif_error *e)
{
    aif_str texts[7];
    aif_statement st = {.n_numbers = 3, .texts = texts, .n_texts = 7};
    aif_err err = AIF_OK;

    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        const aif_event *ev = &events[i];
        const int64_t time = ev->create_time > head->create_time
                                 ? ev->create_time
                                 : head->create_time;
        uint64_t inserted;

        st.numbers[0] = head->offset + 1;
        st.numbers[1] = (uint64_t)time;
        st.numbers[2] = ev->sequence;
        texts[0] = ev->ns;
        texts[1] = ev->key;
        texts[2] = ev->value;
        texts[3] = ev->type;
        texts[4] = ev->sender;
        texts[5] = ev->context;
        texts[6] = ev->producer;
        err = aif_sql_change(s, AIF_SQL_APPEND_ONE, &st, WHAT, &inserted, e);
        if (err == AIF_OK && inserted == 1) {
            offsets[i] = ++head->offset;
            head->create_time = time;
        } else if (err == AIF_OK) {
            err = known_find(s, ev, &offsets[i], e);
        }
    }
    return err;
}

static aif_err
append_locked(aif_sql_store *s, const aif_event *events, size_t n,
              uint64_t *offsets, aif_head *before, aif_error *e)
{
    aif_head head;
    aif_err err = aif_sql_head(s, AIF_SQL_HEAD, WHAT, before, e);

    if (err != AIF_OK) {
        return err;
    }
    head = *before;
    err = events_insert(s, events, n, &head, offsets, e);
    if (err == AIF_OK && head.offset > before->offset) {
        aif_statement st = {
            .numbers = {head.offset, (uint64_t)head.create_time},
            .n_numbers = 2};

        err = aif_sql_change(s, AIF_SQL_MOVE, &st, WHAT, NULL, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    AIF_POINT("append.before_commit");
    return s->ops->commit(s->db, "committing to", e);
}

static aif_err
sqlite_append(void *store, const aif_event *events, size_t n,
              uint64_t *offsets, aif_head *before, aif_error *e)
{
    aif_sql_store *s = store;
    aif_err err = aif_sql_ready(s, e);

    AIF_POINT("append.begin");
    if (err == AIF_OK) {
        err = s->ops->begin(s->db, "locking", e);
    }
    if (err != AIF_OK) {
        return err;
    }
    err = append_locked(s, events, n, offsets, before, e);
    if (err != AIF_OK) {
        s->ops->undo(s->db);
        return err;
    }
    AIF_POINT("append.after_commit");
    return AIF_OK;
}

static aif_err
sqlite_open(const char *uri, bool hurry, void **store, aif_error *e)
{
    const char path = uri[sizeof SCHEME - 1];

    *store = NULL;
    if (path == '\0' || path == ':') {
        return aif_fail(e, AIF_EINVAL,
                        "'%s' names no file: write sqlite:PATH, or mem: for "
                        "a log in memory",
                        uri);
    }
    return aif_sql_open(&aif_sqlite, &aif_sql_sqlite, uri, hurry,
                        sizeof(aif_sql_store), store, e);
}

const aif_store_ops aif_store_sqlite = {
    .scheme = SCHEME,
    .open = sqlite_open,
    .close = aif_sql_close,
    .append = sqlite_append,
    .read = aif_sql_read,
    .ask = aif_sql_ask,
    .purge = aif_sql_purge,
    .take = aif_sql_take,
    .move = aif_sql_move,
    .forget = aif_sql_forget,
    .renew = aif_sql_renew,
};
