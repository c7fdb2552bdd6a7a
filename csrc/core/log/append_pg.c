/* append_pg.c - append to a log in PostgreSQL: one statement, one round trip,
 * one commit: the events go as nine arrays in binary, the offsets come back.
 *
 * A statement that fails left nothing behind.  An answer that was lost is
 * ESTORE, and the events may be there: the same append again finds them.
 */
#include "base/buf.h"
#include "base/point.h"
#include "db/pg.h"
#include "log/sql_store.h"

#include <arpa/inet.h>
#include <string.h>

#define TRIES 10 /* each means that another appended the same just now */

enum { ARRAYS = 9 };
#define HEAD_BYTES 20 /* of an array; each element begins with its length */

typedef struct {
    aif_buf bytes[ARRAYS];
} arrays;

static void
arrays_fini(arrays *a)
{
    for (int i = 0; i < ARRAYS; i++) {
        aif_buf_fini(&a->bytes[i]);
    }
}

static aif_err
array_put_u32(aif_buf *b, uint32_t v, aif_error *e)
{
    const uint32_t be = htonl(v);

    return aif_buf_put(b, &be, sizeof be, e);
}

/* An array's head in binary: dimensions, no NULLs, type, size, lower bound. */
static aif_err
array_begin(aif_buf *b, uint32_t type, size_t n, aif_error *e)
{
    const uint32_t head[HEAD_BYTES / 4] = {htonl(1), 0, htonl(type),
                                           htonl((uint32_t)n), htonl(1)};

    return aif_buf_put(b, head, sizeof head, e);
}

static aif_err
array_put_text(aif_buf *b, aif_str s, aif_error *e)
{
    aif_err err = array_put_u32(b, (uint32_t)s.n, e);

    return err != AIF_OK ? err : aif_buf_put(b, s.p, s.n, e);
}

static aif_err
array_put_int8(aif_buf *b, uint64_t v, aif_error *e)
{
    const uint32_t be[] = {htonl(8), htonl((uint32_t)(v >> 32)),
                           htonl((uint32_t)v)};

    return aif_buf_put(b, be, sizeof be, e);
}

static aif_err
arrays_put_event(arrays *a, const aif_event *ev, aif_error *e)
{
    const aif_str texts[] = {ev->ns,     ev->key,     ev->value,   ev->type,
                             ev->sender, ev->context, ev->producer};
    aif_err err = array_put_int8(&a->bytes[0], (uint64_t)ev->create_time, e);

    for (int i = 0; err == AIF_OK && i < ARRAYS - 2; i++) {
        err = array_put_text(&a->bytes[i + 1], texts[i], e);
    }
    return err != AIF_OK
               ? err
               : array_put_int8(&a->bytes[ARRAYS - 1], ev->sequence, e);
}

static aif_err
arrays_make(arrays *a, const aif_event *events, size_t n, aif_error *e)
{
    aif_err err = AIF_OK;

    for (int i = 0; err == AIF_OK && i < ARRAYS; i++) {
        err = array_begin(
            &a->bytes[i],
            i == 0 || i == ARRAYS - 1 ? AIF_PG_INT8 : AIF_PG_TEXT, n, e);
    }
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        err = arrays_put_event(a, &events[i], e);
    }
    return err;
}

/* Send the arrays, or the one element that each of them has. */
static PGresult *
arrays_send(aif_sql_store *s, aif_sql which, const arrays *a)
{
    const bool one = which == AIF_SQL_APPEND_ONE;
    const size_t skip = one ? HEAD_BYTES + 4 : 0;
    const char *values[ARRAYS];
    int lengths[ARRAYS];
    Oid types[ARRAYS];

    for (int i = 0; i < ARRAYS; i++) {
        const bool number = i == 0 || i == ARRAYS - 1;

        values[i] = (const char *)a->bytes[i].p + skip;
        lengths[i] = (int)(a->bytes[i].n - skip); /* bounded by BATCH_BYTES */
        types[i] = one ? (number ? AIF_PG_INT8 : AIF_PG_TEXT)
                       : (number ? AIF_PG_INT8S : AIF_PG_TEXTS);
    }
    return aif_pg_execute(s->db, s->sql->texts[which].from, (int)which, ARRAYS,
                          types, values, lengths);
}

/* unique_violation: of the identity another was first; of the offset, the
 * head is behind its events. */
static bool
is_violation(const PGresult *res, const char *constraint)
{
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    const char *name = PQresultErrorField(res, PG_DIAG_CONSTRAINT_NAME);

    return state != NULL && strcmp(state, "23505") == 0 && name != NULL &&
           strcmp(name, constraint) == 0;
}

/* Rows (0, head before) and (i from 1, offset it has) -> offsets. */
static aif_err
offsets_read(const PGresult *res, size_t n, uint64_t *offsets,
             aif_head *before, aif_error *e)
{
    bool found = false;
    uint64_t next;

    memset(offsets, 0, n * sizeof *offsets);
    for (int row = 0; row < PQntuples(res); row++) {
        const uint64_t i = aif_pg_int8(res, row, 0);

        if (i == 0) {
            *before = (aif_head){
                aif_pg_int8(res, row, 1), aif_pg_int8(res, row, 2),
                (int64_t)aif_pg_int8(res, row, 3), aif_pg_int8(res, row, 4)};
            found = true;
        } else if (i <= n) {
            offsets[i - 1] = aif_pg_int8(res, row, 1);
        }
    }
    if (!found) {
        return aif_fail(e, AIF_ECORRUPT,
                        "appending: aiflow_log_head has lost its row");
    }
    next = before->offset;
    for (size_t i = 0; i < n; i++) {
        offsets[i] = offsets[i] != 0 ? offsets[i] : ++next;
    }
    return AIF_OK;
}

static aif_err
arrays_append(aif_sql_store *s, const arrays *a, size_t n, uint64_t *offsets,
              aif_head *before, aif_error *e)
{
    PGresult *res = n == 1 ? arrays_send(s, AIF_SQL_APPEND_ONE, a)
                           : arrays_send(s, AIF_SQL_APPEND, a);
    aif_err err;

    for (int i = 0; i < TRIES && is_violation(res, "aiflow_event_identity");
         i++) {
        PQclear(res);
        res = arrays_send(s, AIF_SQL_APPEND_AGAIN, a);
    }
    if (is_violation(res, "aiflow_event_pkey")) {
        PQclear(res);
        return aif_fail(e, AIF_ECORRUPT,
                        "appending: aiflow_log_head is behind aiflow_event");
    }
    if (PQresultStatus(res) != PGRES_TUPLES_OK) {
        return aif_pg_fail(s->db, res, "appending", e);
    }
    err = offsets_read(res, n, offsets, before, e);
    PQclear(res);
    return err;
}

static aif_err
pg_append(void *store, const aif_event *events, size_t n, uint64_t *offsets,
          aif_head *before, aif_error *e)
{
    aif_sql_store *s = store;
    arrays a = {0};
    aif_err err = aif_sql_ready(s, e);

    AIF_POINT("append.begin");
    if (err == AIF_OK) {
        err = arrays_make(&a, events, n, e);
    }
    if (err == AIF_OK) {
        AIF_POINT("append.before_commit"); /* the server does both at once */
        err = arrays_append(s, &a, n, offsets, before, e);
        AIF_POINT("append.after_commit");
    }
    arrays_fini(&a);
    return err;
}

static aif_err
pg_open(const char *uri, bool hurry, void **store, aif_error *e)
{
    return aif_sql_open(&aif_pg, &aif_sql_pg, uri, hurry,
                        sizeof(aif_sql_store), store, e);
}

/* Both "postgresql://" and "postgres://"; libpq refuses the rest. */
const aif_store_ops aif_store_pg = {
    .scheme = "postgres",
    .open = pg_open,
    .close = aif_sql_close,
    .append = pg_append,
    .read = aif_sql_read,
    .ask = aif_sql_ask,
    .purge = aif_sql_purge,
    .take = aif_sql_take,
    .move = aif_sql_move,
    .forget = aif_sql_forget,
    .renew = aif_sql_renew,
};
