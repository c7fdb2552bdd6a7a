/* mysql/conn.h - a log's MySQL connection, up and prepared: what the files of
 * mysql/ share, and nobody else has.
 */
#ifndef AIF_MYSQL_CONN_H
#define AIF_MYSQL_CONN_H

#include "base/buf.h"
#include "base/err.h"
#include "base/forks.h"
#include "log/away.h"
#include "log/store.h"
#include "mysql/load.h"
#include "mysql/uri.h"

#include <stdbool.h>
#include <stdint.h>

#define AIF_MYSQL_COLUMNS                                                     \
    "`offset`, create_time, namespace, `key`, value, type, sender, context,"  \
    " producer, sequence"
enum { AIF_MYSQL_COLUMN_COUNT = 10 };

/* A statement for each number of rows: an append takes the greatest that
 * fits, and takes again.  It costs the server 9 us a row, where SQL text
 * costs 17; an array bound to a statement of one row costs 8, but only
 * MariaDB takes that. */
enum { AIF_MYSQL_INSERTS = 3, AIF_MYSQL_ROWS_MAX = 100 };

/* What is bound to them. */
typedef struct {
    MYSQL_BIND binds[AIF_MYSQL_ROWS_MAX * AIF_MYSQL_COLUMN_COUNT];
    int64_t offsets[AIF_MYSQL_ROWS_MAX];
    int64_t times[AIF_MYSQL_ROWS_MAX];
    int64_t sequences[AIF_MYSQL_ROWS_MAX];
} aif_mysql_rows;

typedef struct {
    MYSQL *conn; /* NULL: lost, to be opened again */
    aif_owned owned;
    aif_away away;
    bool hurry;
    MYSQL_STMT *take; /* the head, if it is what we think */
    MYSQL_STMT *inserts[AIF_MYSQL_INSERTS];
    uint64_t packet; /* bytes of the longest statement */
    aif_head head;   /* as we saw it last */
    aif_mysql_uri at;
    aif_mysql_rows rows;
    char uri[]; /* taken apart */
} aif_mysql;

extern const size_t aif_mysql_insert_rows[AIF_MYSQL_INSERTS];

/* aif_store_ops.open and .close */
AIF_MUST_CHECK aif_err aif_mysql_open(const char *uri, void **store,
                                      aif_error *e);
void aif_mysql_close(void *store);
AIF_MUST_CHECK aif_err aif_mysql_hurry(void *store, aif_error *e);
/* Every call begins with it: connects again when the connection was lost. */
AIF_MUST_CHECK aif_err aif_mysql_ready(aif_mysql *s, aif_error *e);
/* Drop the connection: the server rolls back what is not committed. */
void aif_mysql_shut(aif_mysql *s);

/* What went wrong with the connection, or with stmt; drops the connection:
 * no state of it outlives a failure. */
aif_err aif_mysql_fail(aif_mysql *s, const char *what, aif_error *e);
aif_err aif_mysql_fail_stmt(aif_mysql *s, MYSQL_STMT *stmt, const char *what,
                            aif_error *e);

/* A statement without an answer. */
AIF_MUST_CHECK aif_err aif_mysql_run(aif_mysql *s, const char *sql,
                                     const char *what, aif_error *e);
/* The whole numbers of the first row (NULL: 0); *found: there was one. */
AIF_MUST_CHECK aif_err aif_mysql_numbers(aif_mysql *s, const char *sql,
                                         const char *what, uint64_t *out,
                                         unsigned n, bool *found,
                                         aif_error *e);
/* The only row of aiflow_log_head, or ECORRUPT; to: what stands behind. */
AIF_MUST_CHECK aif_err aif_mysql_head(aif_mysql *s, bool for_update,
                                      const char *what, aif_head *out,
                                      aif_error *e);
/* A column of a row as it was fetched. */
uint64_t aif_mysql_number(const char *text);

/* mysql/schema.c: make the tables where they are missing, and check them. */
AIF_MUST_CHECK aif_err aif_mysql_schema(aif_mysql *s, aif_error *e);

#endif
