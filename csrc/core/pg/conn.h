/* pg/conn.h - a log's PostgreSQL connection, up and prepared: what the files
 * of pg/ share, and nobody else has.
 */
#ifndef AIF_PG_CONN_H
#define AIF_PG_CONN_H

#include "base/forks.h"
#include "log/away.h"
#include "log/store.h"

#include <libpq-fe.h>
#include <stdbool.h>

/* The statements that are kept: pg/sql.c has them. */
typedef enum {
    AIF_PG_APPEND,
    AIF_PG_APPEND_ONE,
    AIF_PG_APPEND_AGAIN,
    AIF_PG_HEAD,
    AIF_PG_LOCK,
    AIF_PG_SEQUENCE,
    AIF_PG_FIND,
    AIF_PG_PURGED,
    AIF_PG_PURGE,
    /* With a query's offsets as $1 and $2, and its patterns. */
    AIF_PG_READ,
    AIF_PG_COUNT,
    AIF_PG_NEWEST,
    AIF_PG_SENDERS,
    AIF_PG_OLDEST,
    AIF_PG_STMTS
} aif_pg_stmt;

typedef struct {
    PGconn *conn; /* NULL: lost, to be opened again */
    bool pooled;  /* there is a pooler between the server and us */
    aif_owned owned;
    aif_away away;
    bool hurry;
    char uri[];
} aif_pg;

/* aif_store_ops.open, .close and .append */
AIF_MUST_CHECK aif_err aif_pg_open(const char *uri, void **store,
                                   aif_error *e);
void aif_pg_close(void *store);
AIF_MUST_CHECK aif_err aif_pg_hurry(void *store, aif_error *e);
AIF_MUST_CHECK aif_err aif_pg_append(void *store, const aif_event *events,
                                     size_t n, uint64_t *offsets,
                                     aif_head *before, aif_error *e);
/* Every call begins with it: connects again when the connection was lost. */
AIF_MUST_CHECK aif_err aif_pg_ready(aif_pg *s, aif_error *e);

/* What went wrong; frees res, and drops a connection that is of no use. */
aif_err aif_pg_fail(aif_pg *s, PGresult *res, const char *what, aif_error *e);
/* The next aif_pg_ready connects again: what a transaction left undone. */
void aif_pg_drop(aif_pg *s);
/* Begin a transaction that has our settings. */
AIF_MUST_CHECK aif_err aif_pg_begin(aif_pg *s, const char *what, aif_error *e);
/* SQL without parameters, whose rows do not matter. */
AIF_MUST_CHECK aif_err aif_pg_run(aif_pg *s, const char *sql, const char *what,
                                  aif_error *e);
/* One row, one int8 (binary); frees res. */
AIF_MUST_CHECK aif_err aif_pg_number(aif_pg *s, PGresult *res,
                                     const char *what, uint64_t *out,
                                     aif_error *e);
/* An int8, three as a head, and a text of a binary result. */
uint64_t aif_pg_int8(const PGresult *res, int row, int column);
aif_head aif_pg_head(const PGresult *res, int row, int column);
aif_str aif_pg_text(const PGresult *res, int row, int column);

/* Have the server keep it; through a pooler, only see that it is possible. */
AIF_MUST_CHECK aif_err aif_pg_prepare(aif_pg *s, aif_pg_stmt which,
                                      aif_error *e);

/* The parameters of a statement: numbers and texts, then patterns. */
#define AIF_PG_NUMBERS 4
#define AIF_PG_PARAMS (AIF_PG_NUMBERS + 1 + 5 * AIF_QUERY_PATTERNS_MAX)

typedef struct {
    uint32_t numbers[AIF_PG_NUMBERS][2]; /* int8, big-endian */
    int n_numbers;
    const char *values[AIF_PG_PARAMS];
    int lengths[AIF_PG_PARAMS];
    int formats[AIF_PG_PARAMS];
    int n;
} aif_pg_params;

void aif_pg_add_number(aif_pg_params *p, uint64_t v);
void aif_pg_add_text(aif_pg_params *p, aif_str s);
/* As SQL writes it. */
void aif_pg_add_written(aif_pg_params *p, const char *text);
/* SQL with parameters.  Through a pooler it is a transaction of its own, which
 * has our settings, where it is not a part of one. */
PGresult *aif_pg_ask(aif_pg *s, const char *sql, const aif_pg_params *p);
/* A statement, which the server keeps where there is no pooler. */
PGresult *aif_pg_execute(aif_pg *s, aif_pg_stmt which, const aif_pg_params *p);
/* The statement, or one with q's patterns; NULL: no memory. */
PGresult *aif_pg_query(aif_pg *s, aif_pg_stmt which, const aif_query *q,
                       aif_pg_params *p);

#endif
