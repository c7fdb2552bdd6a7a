/* store_pg.c - the log in a PostgreSQL database.
 *
 * append: one statement, one round trip, one commit: the events go as nine
 *         arrays in binary, the offsets come back (pg.c has the SQL).
 * read:   pages of rows, until there are enough, of rows or of bytes.
 *
 * A statement that fails left nothing behind.  An answer that was lost is
 * ESTORE, and the events may be there: the same append again finds them.
 */
#include "store.h"

#include "pg.h"
#include "point.h"

#include <arpa/inet.h>
#include <stdio.h>

#define PAGE 2000 /* rows asked for at once */
#define TRIES 10  /* each means that another appended the same just now */
#define OID_INT8 20
#define OID_TEXT 25

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
put_be32(aif_buf *b, uint32_t v, aif_error *e)
{
    const uint32_t be = htonl(v);

    return aif_buf_put(b, &be, sizeof be, e);
}

/* An array's head in binary: dimensions, no NULLs, type, size, lower bound. */
static aif_err
put_head(aif_buf *b, uint32_t type, size_t n, aif_error *e)
{
    const uint32_t head[HEAD_BYTES / 4] = {htonl(1), 0, htonl(type),
                                           htonl((uint32_t)n), htonl(1)};

    return aif_buf_put(b, head, sizeof head, e);
}

static aif_err
put_text(aif_buf *b, aif_str s, aif_error *e)
{
    aif_err err = put_be32(b, (uint32_t)s.n, e);

    return err != AIF_OK ? err : aif_buf_put(b, s.p, s.n, e);
}

static aif_err
put_int8(aif_buf *b, uint64_t v, aif_error *e)
{
    const uint32_t be[] = {htonl(8), htonl((uint32_t)(v >> 32)),
                           htonl((uint32_t)v)};

    return aif_buf_put(b, be, sizeof be, e);
}

static aif_err
put_event(arrays *a, const aif_event *ev, aif_error *e)
{
    const aif_str texts[] = {ev->ns,     ev->key,     ev->value,   ev->type,
                             ev->sender, ev->context, ev->producer};
    aif_err err = put_int8(&a->bytes[0], (uint64_t)ev->create_time, e);

    for (int i = 0; err == AIF_OK && i < ARRAYS - 2; i++) {
        err = put_text(&a->bytes[i + 1], texts[i], e);
    }
    return err != AIF_OK ? err
                         : put_int8(&a->bytes[ARRAYS - 1], ev->sequence, e);
}

static aif_err
put_all(arrays *a, const aif_event *events, size_t n, aif_error *e)
{
    aif_err err = AIF_OK;

    for (int i = 0; err == AIF_OK && i < ARRAYS; i++) {
        err = put_head(&a->bytes[i],
                       i == 0 || i == ARRAYS - 1 ? OID_INT8 : OID_TEXT, n, e);
    }
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        err = put_event(a, &events[i], e);
    }
    return err;
}

/* Send the arrays, from their skip-th byte on. */
static PGresult *
execute(aif_pg *s, const char *statement, const arrays *a, size_t skip)
{
    const char *values[ARRAYS];
    int lengths[ARRAYS];
    int formats[ARRAYS];

    for (int i = 0; i < ARRAYS; i++) {
        values[i] = (const char *)a->bytes[i].p + skip;
        lengths[i] = (int)(a->bytes[i].n - skip); /* bounded by BATCH_BYTES */
        formats[i] = 1;
    }
    return PQexecPrepared(s->conn, statement, ARRAYS, values, lengths, formats,
                          1);
}

/* unique_violation: of the identity another was first; of the offset, the
 * head is behind its events. */
static bool
violates(const PGresult *res, const char *constraint)
{
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    const char *name = PQresultErrorField(res, PG_DIAG_CONSTRAINT_NAME);

    return state != NULL && strcmp(state, "23505") == 0 && name != NULL &&
           strcmp(name, constraint) == 0;
}

/* Rows (0, head before) and (i from 1, offset it has) -> offsets. */
static aif_err
set_offsets(const PGresult *res, size_t n, uint64_t *offsets, aif_error *e)
{
    uint64_t head = UINT64_MAX;

    memset(offsets, 0, n * sizeof *offsets);
    for (int row = 0; row < PQntuples(res); row++) {
        uint64_t i = aif_pg_int8(res, row, 0);
        if (i == 0) {
            head = aif_pg_int8(res, row, 1);
        } else if (i <= n) {
            offsets[i - 1] = aif_pg_int8(res, row, 1);
        }
    }
    if (head == UINT64_MAX) {
        return aif_fail(e, AIF_ECORRUPT,
                        "appending: aiflow_log_head has lost its row");
    }
    for (size_t i = 0; i < n; i++) {
        offsets[i] = offsets[i] != 0 ? offsets[i] : ++head;
    }
    return AIF_OK;
}

static aif_err
append(aif_pg *s, const arrays *a, size_t n, uint64_t *offsets, aif_error *e)
{
    aif_err err;
    PGresult *res = n == 1 ? execute(s, AIF_PG_APPEND_ONE, a, HEAD_BYTES + 4)
                           : execute(s, AIF_PG_APPEND, a, 0);

    for (int i = 0; i < TRIES && violates(res, "aiflow_event_identity"); i++) {
        PQclear(res);
        res = execute(s, AIF_PG_APPEND_AGAIN, a, 0);
    }
    if (violates(res, "aiflow_event_pkey")) {
        PQclear(res);
        return aif_fail(e, AIF_ECORRUPT,
                        "appending: aiflow_log_head is behind aiflow_event");
    }
    if (PQresultStatus(res) != PGRES_TUPLES_OK) {
        return aif_pg_fail(s, res, "appending", e);
    }
    err = set_offsets(res, n, offsets, e);
    PQclear(res);
    return err;
}

static aif_err
pg_append(void *store, const aif_event *events, size_t n, uint64_t *offsets,
          aif_error *e)
{
    aif_pg *s = store;
    arrays a = {0};
    aif_err err = aif_pg_ready(s, e);

    AIF_POINT("append.begin");
    if (err == AIF_OK) {
        err = put_all(&a, events, n, e);
    }
    if (err == AIF_OK) {
        AIF_POINT("append.before_commit"); /* the server does both at once */
        err = append(s, &a, n, offsets, e);
        AIF_POINT("append.after_commit");
    }
    arrays_fini(&a);
    return err;
}

/* The parameters of a query: three numbers, then a pattern's texts. */
typedef struct {
    uint32_t numbers[3][2]; /* int8, big-endian */
    const char *values[7];
    int lengths[7];
    int formats[7];
    int n;
} params;

static void
add_number(params *q, uint64_t v)
{
    uint32_t *be = q->numbers[q->n];

    be[0] = htonl((uint32_t)(v >> 32));
    be[1] = htonl((uint32_t)v);
    q->values[q->n] = (const char *)be;
    q->lengths[q->n] = 8;
    q->formats[q->n++] = 1;
}

#define SQL_CAP 1024 /* the longest is under 700 */

/* " AND key = $5", or starts_with for a prefix, or nothing for any. */
static void
add_field(params *q, char *sql, const char *column, aif_str field)
{
    const bool exact = aif_pattern_exact(field);
    const size_t n = strlen(sql);
    const size_t len = exact ? field.n : field.n - 1;

    if (!exact && len == 0) {
        return;
    }
    q->values[q->n] = field.n == 0 ? "" : field.p; /* NULL would be SQL's */
    q->lengths[q->n] = (int)len;
    q->formats[q->n++] = 1;
    (void)snprintf(sql + n, SQL_CAP - n,
                   exact ? " AND %s = $%d::text"
                         : " AND starts_with(%s, $%d::text)",
                   column, q->n);
}

static PGresult *
query(aif_pg *s, params *q, const char *from, const char *to,
      const aif_pattern *p)
{
    char sql[SQL_CAP];

    (void)snprintf(sql, sizeof sql, "%s", from);
    add_field(q, sql, "namespace", p->ns);
    add_field(q, sql, "key", p->key);
    add_field(q, sql, "type", p->type);
    add_field(q, sql, "sender", p->sender);
    strncat(sql, to, sizeof sql - strlen(sql) - 1);
    return PQexecParams(s->conn, sql, q->n, NULL, q->values, q->lengths,
                        q->formats, 1);
}

static PGresult *
query_kept(aif_pg *s, const params *q, const char *name)
{
    return PQexecPrepared(s->conn, name, q->n, q->values, q->lengths,
                          q->formats, 1);
}

static aif_str
text(const PGresult *res, int row, int column)
{
    return (aif_str){PQgetvalue(res, row, column),
                     (size_t)PQgetlength(res, row, column)};
}

static aif_event
event_of(const PGresult *res, int row)
{
    return (aif_event){
        .offset = aif_pg_int8(res, row, 0),
        .create_time = (int64_t)aif_pg_int8(res, row, 1),
        .ns = text(res, row, 2),
        .key = text(res, row, 3),
        .value = text(res, row, 4),
        .type = text(res, row, 5),
        .sender = text(res, row, 6),
        .context = text(res, row, 7),
        .producer = text(res, row, 8),
        .sequence = aif_pg_int8(res, row, 9),
    };
}

/* Add one page to out; *rows is how many there were. */
static aif_err
read_page(aif_pg *s, const aif_pattern *p, uint64_t after, size_t max,
          size_t bytes, aif_batch *out, int *rows, aif_error *e)
{
    params q = {.n = 0};
    aif_err err = AIF_OK;
    PGresult *res;

    add_number(&q, after);
    add_number(&q, max);
    add_number(&q, bytes);
    res = p == NULL ? query_kept(s, &q, AIF_PG_READ)
                    : query(s, &q, AIF_PG_READ_FROM, AIF_PG_READ_TO, p);
    *rows = PQntuples(res);
    if (PQresultStatus(res) != PGRES_TUPLES_OK) {
        return aif_pg_fail(s, res, "reading", e);
    }
    for (int i = 0; err == AIF_OK && i < *rows; i++) {
        aif_event ev = event_of(res, i);
        err = aif_batch_add(out, &ev, e);
    }
    PQclear(res);
    return err;
}

static aif_err
pg_read(void *store, const aif_pattern *p, uint64_t after, size_t max,
        aif_batch *out, aif_error *e)
{
    const size_t full = out->bytes + AIF_READ_BYTES;
    size_t left = max;
    int asked = 0;
    int rows = 0;
    aif_err err = aif_pg_ready(store, e);

    while (err == AIF_OK && rows == asked && left > 0 && out->bytes < full) {
        asked = left < PAGE ? (int)left : PAGE;
        err = read_page(store, p, after, (size_t)asked, full - out->bytes, out,
                        &rows, e);
        if (err == AIF_OK && rows > 0) {
            left -= (size_t)rows;
            after = out->events[out->n - 1].offset;
        }
    }
    return err;
}

static aif_err
pg_count(void *store, const aif_pattern *p, uint64_t after, uint64_t *n,
         aif_error *e)
{
    aif_pg *s = store;
    params q = {.n = 0};
    aif_err err = aif_pg_ready(s, e);

    if (err != AIF_OK) {
        return err;
    }
    add_number(&q, after);
    return aif_pg_number(s,
                         p == NULL ? query_kept(s, &q, AIF_PG_COUNT)
                                   : query(s, &q, AIF_PG_COUNT_FROM, "", p),
                         "counting", n, e);
}

static aif_err
pg_head(void *store, uint64_t *offset, aif_error *e)
{
    const params q = {.n = 0};
    aif_err err = aif_pg_ready(store, e);

    return err != AIF_OK
               ? err
               : aif_pg_number(store, query_kept(store, &q, AIF_PG_HEAD),
                               "reading the head", offset, e);
}

/* Both "postgresql://" and "postgres://"; libpq refuses the rest. */
const aif_store_ops aif_store_pg = {
    .scheme = "postgres",
    .open = aif_pg_open,
    .close = aif_pg_close,
    .append = pg_append,
    .read = pg_read,
    .count = pg_count,
    .head = pg_head,
};
