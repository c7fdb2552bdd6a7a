/* sql.h - everything that a log says to its database, a table a dialect.
 *
 * In:  which statement, and for some of them a query.  Out: its text, with
 * numbers as the parameters 1, 2... and texts behind them.  Pure.
 *
 * Where SQLite, PostgreSQL and MySQL differ is in sql.c, and nowhere else.
 */
#ifndef AIF_SQL_H
#define AIF_SQL_H

#include "db/db.h"
#include "event/query.h"
#include "log/where.h"

typedef enum {
    /* Questions; the numbers and texts of each are said in sql.c. */
    AIF_SQL_HEAD,
    AIF_SQL_LOCK, /* the same, and keeps others from appending */
    AIF_SQL_READ,
    AIF_SQL_COUNT,
    AIF_SQL_NEWEST,
    AIF_SQL_SENDERS,
    AIF_SQL_SEQUENCE,
    AIF_SQL_FIND,
    AIF_SQL_PURGED,
    /* A purge. */
    AIF_SQL_UPTO,
    AIF_SQL_OLDEST,
    AIF_SQL_COUNT_GONE,
    AIF_SQL_RAISE,
    /* Cursors. */
    AIF_SQL_CURSOR_FIND,
    AIF_SQL_CURSOR_COUNT,
    AIF_SQL_CURSOR_NEW,
    AIF_SQL_CURSOR_TAKE,
    AIF_SQL_CURSOR_MOVE,
    AIF_SQL_CURSOR_FORGET,
    AIF_SQL_CURSORS,
    /* An append: each database has its own way (the append_*.c files). */
    AIF_SQL_APPEND,
    AIF_SQL_APPEND_ONE,
    AIF_SQL_APPEND_AGAIN,
    AIF_SQL_MOVE,
    AIF_SQL_RENEW,
    /* The tables (schema.c). */
    AIF_SQL_EXISTS,
    AIF_SQL_VERSION,
    /* Of these three, one may be none: its from is NULL. */
    AIF_SQL_SCHEMA_LOCK,
    AIF_SQL_SCHEMA_UNLOCK,
    AIF_SQL_ODD,
    AIF_SQLS
} aif_sql;

/* Of MySQL's APPEND: how it goes on after the first row, a hundred times.  An
 * append takes the front of it. */
#define AIF_SQL_ROW ", (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
#define AIF_SQL_ROWS 100

typedef struct {
    const char *columns; /* of a row: n for a number, t for a text */
    const char *from;
    const char *to; /* behind the patterns */
} aif_sql_text;

typedef struct {
    aif_db_needs needs;
    aif_sql_text texts[AIF_SQLS];
    aif_dialect where;
    const char *offset; /* how it writes that column */
    /* Rows that a read asks for at once: first, and at most. */
    size_t page_first;
    size_t page_most;
    bool read_bytes; /* READ has a fourth number: how many bytes of values */
    /* Statements that make the tables, and that convert those of version 1
     * (NULL: there never was one), each list ended by NULL. */
    const char *const *create;
    const char *const *convert;
    const char *const *cursors; /* that make their table */
    const char *called;         /* "the database", for messages */
} aif_sql_dialect;

extern const aif_sql_dialect aif_sql_sqlite;
extern const aif_sql_dialect aif_sql_pg;
extern const aif_sql_dialect aif_sql_mysql;

#endif
