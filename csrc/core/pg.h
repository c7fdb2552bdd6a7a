/* pg.h - a log's PostgreSQL connection, up and prepared: what store_pg.c and
 * pg.c share, and nobody else.
 */
#ifndef AIF_PG_H
#define AIF_PG_H

#include "err.h"

#include <libpq-fe.h>
#include <stdint.h>

/* The statements that are kept, by name. */
#define AIF_PG_APPEND "aiflow_append"
#define AIF_PG_APPEND_ONE "aiflow_append_one"
#define AIF_PG_APPEND_AGAIN "aiflow_append_again"
#define AIF_PG_READ "aiflow_read"
#define AIF_PG_COUNT "aiflow_count"
#define AIF_PG_HEAD "aiflow_head"

#define AIF_PG_COLUMNS                                                        \
    "\"offset\", create_time, namespace, key, value, type, sender, context,"  \
    " producer, sequence"

/* $1: after, $2: max, $3: bytes of values; a pattern adds its own to the
 * middle, from $4 on.  Lengths do not need the values: they may be TOASTed. */
#define AIF_PG_READ_FROM                                                      \
    "SELECT " AIF_PG_COLUMNS " FROM ("                                        \
    "  SELECT *, sum(octet_length(value)) OVER (ORDER BY \"offset\""          \
    "    ROWS UNBOUNDED PRECEDING) - octet_length(value) AS bytes_before"     \
    "  FROM (SELECT * FROM aiflow_event WHERE \"offset\" > $1::int8"
#define AIF_PG_READ_TO                                                        \
    " ORDER BY \"offset\" LIMIT $2::int8) AS page"                            \
    ") AS measured WHERE bytes_before < $3::int8 ORDER BY \"offset\""
#define AIF_PG_COUNT_FROM                                                     \
    "SELECT count(*) FROM aiflow_event WHERE \"offset\" > $1::int8"

typedef struct {
    PGconn *conn; /* NULL: lost, to be opened again */
    char uri[];
} aif_pg;

/* aif_store_ops.open and .close */
AIF_MUST_CHECK aif_err aif_pg_open(const char *uri, void **store,
                                   aif_error *e);
void aif_pg_close(void *store);
/* Every call begins with it: connects again when the connection was lost. */
AIF_MUST_CHECK aif_err aif_pg_ready(aif_pg *s, aif_error *e);

/* What went wrong; frees res, and drops a connection that is of no use. */
aif_err aif_pg_fail(aif_pg *s, PGresult *res, const char *what, aif_error *e);
/* One row, one int8 (binary); frees res. */
AIF_MUST_CHECK aif_err aif_pg_number(aif_pg *s, PGresult *res,
                                     const char *what, uint64_t *out,
                                     aif_error *e);
/* An int8 of a binary result. */
uint64_t aif_pg_int8(const PGresult *res, int row, int column);

#endif
