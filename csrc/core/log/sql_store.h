/* sql_store.h - a store in a database: what SQLite, PostgreSQL and MySQL do
 * alike, which is all but an append.
 *
 * In:  a database (db.h) and its dialect (sql.h).  Out: what aif_store_ops
 * wants, and what an append needs.  For the append_*.c files and schema.c.
 */
#ifndef AIF_SQL_STORE_H
#define AIF_SQL_STORE_H

#include "db/db.h"
#include "log/away.h"
#include "log/sql.h"
#include "log/store.h"

/* What aif_store_ops calls a store. */
typedef struct {
    const aif_db_ops *ops;
    const aif_sql_dialect *sql;
    void *db;
    aif_away away;
    aif_where where; /* the text of the statement that is asked */
    bool hurry;
    bool opened; /* there was a log: where there is none any more, none is
                        made */
} aif_sql_store;

/* Functions of aif_store_ops; open takes the two tables besides, and the size
 * of a store, which begins with an aif_sql_store. */
AIF_MUST_CHECK aif_err aif_sql_open(const aif_db_ops *ops,
                                    const aif_sql_dialect *sql,
                                    const char *uri, bool hurry, size_t size,
                                    void **store, aif_error *e);
void aif_sql_close(void *store);
AIF_MUST_CHECK aif_err aif_sql_read(void *store, const aif_query *q,
                                    size_t max, aif_batch *out, aif_error *e);
AIF_MUST_CHECK aif_err aif_sql_ask(void *store, const aif_ask *ask,
                                   aif_buf *out, aif_error *e);
AIF_MUST_CHECK aif_err aif_sql_purge(void *store, aif_str ns, uint64_t upto,
                                     size_t max, uint64_t *gone, aif_error *e);
AIF_MUST_CHECK aif_err aif_sql_take(void *store, const aif_cursor *c,
                                    uint64_t *offset, aif_head *head,
                                    aif_error *e);
AIF_MUST_CHECK aif_err aif_sql_move(void *store, const aif_cursor *c,
                                    uint64_t *holder, aif_error *e);
AIF_MUST_CHECK aif_err aif_sql_forget(void *store, const aif_cursor *c,
                                      bool *was, aif_error *e);
AIF_MUST_CHECK aif_err aif_sql_renew(void *store, uint64_t was, aif_error *e);

/* Every use of a store begins with it: opens again what was lost, and looks
 * at the tables then. */
AIF_MUST_CHECK aif_err aif_sql_ready(aif_sql_store *s, aif_error *e);
/* The first n columns, all numbers, of a statement's first row; *there: it
 * has one (else they are 0).  what: what it is for, for messages. */
AIF_MUST_CHECK aif_err aif_sql_row(aif_sql_store *s, aif_sql which,
                                   aif_statement *st, const char *what,
                                   uint64_t *numbers, int n, bool *there,
                                   aif_error *e);
/* The head's row by AIF_SQL_HEAD or AIF_SQL_LOCK; ECORRUPT: it is lost. */
AIF_MUST_CHECK aif_err aif_sql_head(aif_sql_store *s, aif_sql which,
                                    const char *what, aif_head *out,
                                    aif_error *e);
/* A statement without rows that matter.  st NULL: it has no parameters;
 * changed may be NULL. */
AIF_MUST_CHECK aif_err aif_sql_change(aif_sql_store *s, aif_sql which,
                                      aif_statement *st, const char *what,
                                      uint64_t *changed, aif_error *e);

/* schema.c: make the tables where they are missing, convert those of version
 * 1, give an older log its id and cursors, check the tables. */
AIF_MUST_CHECK aif_err aif_sql_schema(aif_sql_store *s, aif_error *e);

#endif
