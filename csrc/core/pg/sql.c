/* pg/sql.c - the statements of a log in PostgreSQL, kept by the server where
 * it is ours alone, and how they are asked.
 */
#include "pg/conn.h"

#include "log/where.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define COLUMNS                                                               \
    "\"offset\", create_time, namespace, key, value, type, sender, context,"  \
    " producer, sequence"
#define ASKED                                                                 \
    "FROM aiflow_event WHERE \"offset\" > $1::int8 AND \"offset\" <= "        \
    "$2::int8"

/* Row: 0 and the head before. */
#define HEAD "SELECT 0::int8, \"offset\", purged, create_time FROM head"
#define LOCK                                                                  \
    "SELECT \"offset\", purged, create_time FROM aiflow_log_head"             \
    " WHERE id = 1 FOR UPDATE"

/* The head's row is locked to the commit, so that offset order is commit
 * order.  It is locked first: what others wait for and then find is what they
 * go on from, though their snapshot is older.  An event that is known already
 * is a unique_violation, which undoes all of it.
 * unnest in the select list, not in FROM: 9 us an event instead of 12.  COPY
 * (the head locked and moved in the same query, the rows with their offsets
 * in binary) makes a slot for each row that it holds back: 8.1 us of the
 * server's CPU an event instead of 6.4 at batch 1000, 11.0 instead of 9.4 at
 * 100, and only at 10,000 fewer, 5.9 instead of 6.6 (PostgreSQL 15, the least
 * of nine runs of each, in turn; a third of it is the two unique indexes). */
static const char APPEND[] =
    "WITH head AS MATERIALIZED (" LOCK "), moved AS ("
    "  UPDATE aiflow_log_head AS h"
    "  SET \"offset\" = head.\"offset\" + cardinality($1::int8[]),"
    "    create_time = greatest(head.create_time,"
    "      ($1::int8[])[cardinality($1::int8[])])"
    "  FROM head WHERE id = 1"
    "), added AS ("
    "  INSERT INTO aiflow_event (" COLUMNS ")"
    "  SELECT \"offset\" + generate_subscripts($1::int8[], 1),"
    "    greatest(create_time, unnest($1::int8[])),"
    "    unnest($2::text[]), unnest($3::text[]), unnest($4::text[]),"
    "    unnest($5::text[]), unnest($6::text[]), unnest($7::text[]),"
    "    unnest($8::text[]), unnest($9::int8[])"
    "  FROM head"
    ")" HEAD;

/* The same for a single event, which is the usual case: it needs no lock of
 * its own, as the time before, which RETURNING cannot say, is of no interest
 * where the event's own is as great.  64 us of the server's CPU instead of 76;
 * a function in PL/pgSQL: 88. */
static const char APPEND_ONE[] =
    "WITH head AS ("
    "  UPDATE aiflow_log_head SET \"offset\" = \"offset\" + 1,"
    "    create_time = greatest(create_time, $1::int8)"
    "  WHERE id = 1"
    "  RETURNING \"offset\" - 1 AS \"offset\", purged, create_time"
    "), added AS ("
    "  INSERT INTO aiflow_event (" COLUMNS ")"
    "  SELECT \"offset\" + 1, create_time, $2::text, $3::text, $4::text,"
    "    $5::text, $6::text, $7::text, $8::text, $9::int8"
    "  FROM head"
    ")" HEAD;

/* The same for many, where some are known: those keep their offsets.
 * Another's commit of one after our snapshot is a unique_violation again.
 * This alone would do for both, at 20 us an event.  Rows: also (i, offset) of
 * each known one. */
static const char APPEND_AGAIN[] =
    "WITH given AS MATERIALIZED ("
    "  SELECT u.*, (SELECT e.\"offset\" FROM aiflow_event e"
    "    WHERE e.producer = u.producer AND e.sequence = u.sequence) AS known"
    "  FROM unnest($1::int8[], $2::text[], $3::text[], $4::text[],"
    "    $5::text[], $6::text[], $7::text[], $8::text[], $9::int8[])"
    "    WITH ORDINALITY AS u (create_time, namespace, key, value, type,"
    "      sender, context, producer, sequence, i)"
    "), fresh AS MATERIALIZED ("
    "  SELECT *, row_number() OVER (ORDER BY i) AS k"
    "  FROM given WHERE known IS NULL"
    "), head AS MATERIALIZED (" LOCK "), moved AS ("
    "  UPDATE aiflow_log_head AS h"
    "  SET \"offset\" = head.\"offset\" + (SELECT count(*) FROM fresh),"
    "    create_time = greatest(head.create_time,"
    "      (SELECT max(create_time) FROM fresh))"
    "  FROM head WHERE id = 1"
    "), added AS ("
    "  INSERT INTO aiflow_event (" COLUMNS ")"
    "  SELECT head.\"offset\" + k,"
    "    greatest(head.create_time, fresh.create_time), namespace, key,"
    "    value, type, sender, context, producer, sequence"
    "  FROM fresh, head"
    ")" HEAD
    " UNION ALL SELECT i, known, 0, 0 FROM given WHERE known IS NOT NULL";

/* What goes: $3: max, $4: the namespaces, which are the pattern as well. */
#define OLDEST_FROM                                                           \
    "SELECT \"offset\" " ASKED                                                \
    " AND \"offset\" > coalesce((SELECT upto FROM aiflow_log_purged"          \
    "   WHERE namespace = $4::text), 0)"
#define OLDEST_TO " ORDER BY \"offset\" LIMIT $3::int8"

/* The transaction has locked the head.  $1: their offsets, $2: now, $3: the
 * namespaces.  Row: how many were still there. */
static const char PURGE[] =
    "WITH gone AS ("
    "  DELETE FROM aiflow_event WHERE \"offset\" = ANY ($1::int8[])"
    "  RETURNING \"offset\""
    "), total AS ("
    "  SELECT count(*) AS n, max(\"offset\") AS upto FROM gone"
    "), counted AS ("
    "  INSERT INTO aiflow_log_purged AS was"
    "  SELECT $3::text, upto, n, $2::int8 FROM total WHERE n > 0"
    "  ON CONFLICT (namespace) DO UPDATE SET"
    "    upto = greatest(was.upto, excluded.upto),"
    "    events = was.events + excluded.events,"
    "    purged_at = excluded.purged_at"
    "), head AS ("
    "  UPDATE aiflow_log_head SET purged = greatest(purged, upto)"
    "  FROM total WHERE id = 1 AND n > 0"
    ")"
    "SELECT n FROM total";

/* Patterns come between from and to.  READ's $3: max, $4: bytes of values
 * (lengths do not need the values: they may be TOASTed); NEWEST's $3: how
 * many to pass over; SENDERS' $3: max. */
static const struct {
    const char *name;
    const char *from;
    const char *to;
} STATEMENTS[AIF_PG_STMTS] = {
    [AIF_PG_APPEND] = {"aiflow_append", APPEND, ""},
    [AIF_PG_APPEND_ONE] = {"aiflow_append_one", APPEND_ONE, ""},
    [AIF_PG_APPEND_AGAIN] = {"aiflow_append_again", APPEND_AGAIN, ""},
    [AIF_PG_HEAD] = {"aiflow_head",
                     "SELECT \"offset\", purged, create_time"
                     " FROM aiflow_log_head WHERE id = 1",
                     ""},
    [AIF_PG_LOCK] = {"aiflow_lock", LOCK, ""},
    [AIF_PG_SEQUENCE] = {"aiflow_sequence",
                         "SELECT coalesce(max(sequence), 0)"
                         " FROM aiflow_event WHERE producer = $1::text",
                         ""},
    [AIF_PG_FIND] = {"aiflow_find",
                     "SELECT coalesce((SELECT \"offset\" FROM aiflow_event"
                     " WHERE sequence = $1::int8 AND producer = $2::text), 0)",
                     ""},
    [AIF_PG_PURGED] = {"aiflow_purged",
                       "SELECT namespace, upto, events"
                       " FROM aiflow_log_purged ORDER BY namespace",
                       ""},
    [AIF_PG_READ] = {"aiflow_read",
                     "SELECT " COLUMNS " FROM ("
                     "  SELECT *, sum(octet_length(value)) OVER"
                     "    (ORDER BY \"offset\" ROWS UNBOUNDED PRECEDING)"
                     "    - octet_length(value) AS bytes_before"
                     "  FROM (SELECT * " ASKED,
                     " ORDER BY \"offset\" LIMIT $3::int8) AS page"
                     ") AS measured WHERE bytes_before < $4::int8"
                     " ORDER BY \"offset\""},
    [AIF_PG_COUNT] = {"aiflow_count", "SELECT count(*) " ASKED, ""},
    [AIF_PG_NEWEST] = {"aiflow_newest",
                       "SELECT coalesce((SELECT \"offset\" " ASKED,
                       " ORDER BY \"offset\" DESC"
                       " LIMIT 1 OFFSET $3::int8), 0)"},
    [AIF_PG_SENDERS] = {"aiflow_senders", "SELECT sender, count(*) " ASKED,
                        " GROUP BY sender ORDER BY sender COLLATE \"C\""
                        " LIMIT $3::int8"},
    [AIF_PG_OLDEST] = {"aiflow_oldest", OLDEST_FROM, OLDEST_TO},
    [AIF_PG_PURGE] = {"aiflow_purge", PURGE, ""},
};

#define SQL_MAX 4096

/* Without patterns. */
static const char *
write_sql(aif_pg_stmt which, char sql[static SQL_MAX])
{
    (void)snprintf(sql, SQL_MAX, "%s%s", STATEMENTS[which].from,
                   STATEMENTS[which].to);
    return sql;
}

aif_err
aif_pg_prepare(aif_pg *s, aif_pg_stmt which, aif_error *e)
{
    char sql[SQL_MAX];
    PGresult *res;

    (void)write_sql(which, sql);
    res = PQprepare(s->conn, s->pooled ? "" : STATEMENTS[which].name, sql, 0,
                    NULL);
    if (PQresultStatus(res) != PGRES_COMMAND_OK) {
        return aif_pg_fail(s, res, "opening the log", e);
    }
    PQclear(res);
    return AIF_OK;
}

void
aif_pg_add_number(aif_pg_params *p, uint64_t v)
{
    uint32_t *be = p->numbers[p->n_numbers++];

    be[0] = htonl((uint32_t)(v >> 32));
    be[1] = htonl((uint32_t)v);
    p->values[p->n] = (const char *)be;
    p->lengths[p->n] = 8;
    p->formats[p->n++] = 1;
}

void
aif_pg_add_text(aif_pg_params *p, aif_str s)
{
    p->values[p->n] = s.n == 0 ? "" : s.p; /* NULL would be SQL's */
    p->lengths[p->n] = (int)s.n;
    p->formats[p->n++] = 1;
}

void
aif_pg_add_written(aif_pg_params *p, const char *text)
{
    p->values[p->n] = text;
    p->lengths[p->n] = 0;
    p->formats[p->n++] = 0;
}

PGresult *
aif_pg_execute(aif_pg *s, aif_pg_stmt which, const aif_pg_params *p)
{
    char sql[SQL_MAX];

    if (s->pooled) {
        return aif_pg_ask(s, write_sql(which, sql), p);
    }
    return PQexecPrepared(s->conn, STATEMENTS[which].name, p->n, p->values,
                          p->lengths, p->formats, 1);
}

/* VALUES, and IS TRUE, so that the server makes a hash table of the keys: it
 * compares a list of parameters one by one, and would make a join of VALUES
 * alone, which it does one by one as well. */
PGresult *
aif_pg_query(aif_pg *s, aif_pg_stmt which, const aif_query *q,
             aif_pg_params *p)
{
    const aif_dialect dialect = {.exact = "%s = $%d::text",
                                 .prefix = "starts_with(%s, $%d::text)",
                                 .in = {" AND (key IN (VALUES "},
                                 .in_end = ")) IS TRUE",
                                 .one_of = "($%d::text)",
                                 .first = p->n + 1};
    aif_where w;
    PGresult *res;
    aif_error e;

    if (q->n == 0) {
        return aif_pg_execute(s, which, p);
    }
    if (aif_where_init(&w, &dialect, STATEMENTS[which].from, q,
                       STATEMENTS[which].to, &e) != AIF_OK) {
        return NULL;
    }
    for (size_t i = 0; i < w.n; i++) {
        aif_pg_add_text(p, w.params[i]);
    }
    res = aif_pg_ask(s, aif_where_sql(&w), p);
    aif_where_fini(&w);
    return res;
}
