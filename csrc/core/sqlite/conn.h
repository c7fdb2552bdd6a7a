/* sqlite/conn.h - a log's SQLite file, open and prepared: what the files of
 * sqlite/ share, and nobody else has.
 */
#ifndef AIF_SQLITE_CONN_H
#define AIF_SQLITE_CONN_H

#include "event/query.h"

#include <sqlite3.h>
#include <stdint.h>

#define AIF_SQLITE_SCHEME "sqlite:"

/* The statements that are kept. */
typedef enum {
    AIF_SQL_BEGIN,
    AIF_SQL_COMMIT,
    AIF_SQL_ROLLBACK,
    AIF_SQL_HEAD,
    AIF_SQL_BUMP,
    AIF_SQL_INSERT,
    AIF_SQL_KNOWN,
    AIF_SQL_SEQUENCE,
    AIF_SQL_UPTO,
    AIF_SQL_ADD_PURGED,
    AIF_SQL_SET_PURGED,
    AIF_SQL_PURGED,
    /* With a query's offsets as ?1 and ?2, and its patterns. */
    AIF_SQL_READ,
    AIF_SQL_COUNT,
    AIF_SQL_NEWEST,
    AIF_SQL_OLDEST,
    AIF_SQL_SENDERS,
    AIF_SQL_DELETE,
    AIF_SQL_STMTS
} aif_sqlite_stmt;

typedef struct {
    sqlite3 *db; /* NULL: lost, to be opened again */
    sqlite3_stmt *stmts[AIF_SQL_STMTS];
    char path[];
} aif_sqlite;

/* aif_store_ops.open and .close */
AIF_MUST_CHECK aif_err aif_sqlite_open(const char *uri, void **store,
                                       aif_error *e);
void aif_sqlite_close(void *store);
/* Every call begins with it: opens again what was lost. */
AIF_MUST_CHECK aif_err aif_sqlite_ready(aif_sqlite *s, aif_error *e);
/* Close the file; the next ready opens it. */
void aif_sqlite_shut(aif_sqlite *s);

/* SQLite's rc as an error of ours. */
aif_err aif_sqlite_fail(aif_sqlite *s, int rc, const char *what, aif_error *e);
/* Run a statement that has no rows. */
AIF_MUST_CHECK aif_err aif_sqlite_run(aif_sqlite *s, aif_sqlite_stmt which,
                                      const char *what, aif_error *e);
/* The kept statement, or, for patterns, one that aif_sqlite_done ends; its
 * query is bound, and the number that some have besides, as ?3. */
AIF_MUST_CHECK aif_err aif_sqlite_query(aif_sqlite *s, aif_sqlite_stmt which,
                                        const aif_query *query, uint64_t third,
                                        sqlite3_stmt **q, aif_error *e);
/* Ends the snapshot. */
void aif_sqlite_done(aif_sqlite *s, aif_sqlite_stmt which, sqlite3_stmt *q);
/* Step a query of one row and one number, and make it ready again. */
AIF_MUST_CHECK aif_err aif_sqlite_number(aif_sqlite *s, sqlite3_stmt *q,
                                         const char *what, uint64_t *out,
                                         aif_error *e);

#endif
