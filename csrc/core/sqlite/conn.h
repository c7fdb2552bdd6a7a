/* sqlite/conn.h - a log's SQLite file, open and prepared: what the files of
 * sqlite/ share, and nobody else has.
 */
#ifndef AIF_SQLITE_CONN_H
#define AIF_SQLITE_CONN_H

#include "base/forks.h"
#include "log/store.h"

#include <sqlite3.h>
#include <stdint.h>

#define AIF_SQLITE_SCHEME "sqlite:"

/* All of a namespace, exact or by a prefix. */
#define AIF_SQLITE_OF(ns)                                                     \
    (aif_query)                                                               \
    {                                                                         \
        .patterns = &(const aif_pattern){(ns), AIF_STR("*"), AIF_STR("*"),    \
                                         AIF_STR("*"), AIF_STR("*")},         \
        .n = 1, .upto = INT64_MAX                                             \
    }

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
    AIF_SQL_DELETE,
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
    AIF_SQL_STMTS
} aif_sqlite_stmt;

typedef struct {
    sqlite3 *db; /* NULL: lost, to be opened again */
    aif_owned file;
    bool hurry;
    sqlite3_stmt *stmts[AIF_SQL_STMTS];
    char path[];
} aif_sqlite;

/* aif_store_ops.open and .close */
AIF_MUST_CHECK aif_err aif_sqlite_open(const char *uri, void **store,
                                       aif_error *e);
void aif_sqlite_close(void *store);
/* Every call begins with it: opens again what was lost. */
AIF_MUST_CHECK aif_err aif_sqlite_ready(aif_sqlite *s, aif_error *e);
/* From now on no fork(2) of this process happens while a thread of it has one
 * of the locks that SQLite has for the whole process (sqlite/fork.c). */
void aif_sqlite_fork_safely(void);
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
/* That of a kept statement whose first parameter is a text. */
AIF_MUST_CHECK aif_err aif_sqlite_number_of(aif_sqlite *s,
                                            aif_sqlite_stmt which, aif_str of,
                                            uint64_t *out, aif_error *e);
void aif_sqlite_bind(sqlite3_stmt *q, int i, aif_str v);
AIF_MUST_CHECK aif_err aif_sqlite_head(aif_sqlite *s, aif_head *out,
                                       aif_error *e);
/* Some errors roll back by themselves, others leave it to us. */
void aif_sqlite_undo(aif_sqlite *s);

/* aif_store_ops.purge (purge.c) */
AIF_MUST_CHECK aif_err aif_sqlite_purge(void *store, aif_str ns, uint64_t upto,
                                        size_t max, uint64_t *gone,
                                        aif_error *e);

#endif
