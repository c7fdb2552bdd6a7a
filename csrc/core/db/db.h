/* db.h - what a database must offer to whoever keeps something in it.
 *
 * In:  a statement: its text, and its parameters.  Out: rows, one after the
 * other, or the number of rows that it changed.  sqlite.c, pg.c and mysql.c
 * are the three implementations; nothing of the log is in them.
 *
 * One thread at a time, and one statement at a time: the rows of the last
 * ask are over before the next.  A database that was lost fails with ESTORE,
 * and is to be connected again then.  ECORRUPT: a table is not
 * the one that the statement is about (it is missing, or there already, or
 * lacks a column: then it is to be connected again, too), or the database says
 * that its bytes are damaged.
 */
#ifndef AIF_DB_H
#define AIF_DB_H

#include "base/err.h"
#include "base/guard.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AIF_DB_NUMBERS 4
#define AIF_DB_TEXTS (5 * 64 + 1)
#define AIF_DB_PLACES 32

/* Numbers are the parameters 1, 2...; texts follow them: ?1 in SQLite, $1 in
 * PostgreSQL and MySQL.  A statement with a place is the same each time that
 * it is asked, and its database may keep it prepared there; AIF_DB_ONCE: it
 * is asked once. */
#define AIF_DB_ONCE (-1)
typedef struct {
    const char *sql;
    int place;                        /* below AIF_DB_PLACES */
    uint64_t numbers[AIF_DB_NUMBERS]; /* up to INT64_MAX */
    int n_numbers;
    const aif_str *texts; /* UTF-8 */
    int n_texts;          /* up to AIF_DB_TEXTS */
    bool streamed; /* the answer may be long: not all of it in memory at once,
                      where the database can do without */
} aif_statement;

/* What is kept in it, and what that needs of it. */
typedef struct {
    const char *called;  /* "a log", in messages */
    const char *session; /* a server shows it in its list of connections */
    /* "name = value" for each connection, beyond what every one has, in the
     * words of this database; ended by NULL. */
    const char *const *settings;
    size_t longest; /* bytes of a statement, where the server has a bound */
} aif_db_needs;

typedef struct {
    /* Open what uri names; EINVAL says what is wrong with it.  Messages never
     * carry its password.  hurry: wait no longer for somebody else's lock than
     * AIF_LOCK_SLICE_MS: then ESTORE, which is busy. */
    aif_err (*open)(const char *uri, const aif_db_needs *needs, bool hurry,
                    void **db, aif_error *e);
    void (*close)(void *db);
    /* Every use begins with it.  *lost: connect has to be called, and then
     * nothing is known of what is there. */
    aif_err (*ready)(void *db, bool *lost, aif_error *e);
    aif_err (*connect)(void *db, aif_error *e);
    /* A transaction, in which nobody else writes (SQLite), or which locks what
     * it is about (the others). */
    aif_err (*begin)(void *db, const char *what, aif_error *e);
    aif_err (*commit)(void *db, const char *what, aif_error *e);
    /* After a failure too: nothing remains of the transaction, if there is
     * one.  Where that cannot be said to the database, the connection is
     * dropped, which says it too. */
    void (*undo)(void *db);
    /* Begin a statement that has rows; what: what it is for, for messages. */
    aif_err (*ask)(void *db, const aif_statement *st, const char *what,
                   aif_error *e);
    /* Go to the first row, or to the next; *there: it exists. */
    aif_err (*next)(void *db, bool *there, aif_error *e);
    /* A column of that row, from 0; NULL is 0.  A text is good until the next
     * call of next or done. */
    uint64_t (*number)(void *db, int column);
    aif_str (*text)(void *db, int column);
    /* After every ask that worked, also where next failed. */
    void (*done)(void *db);
    /* A statement whose rows, if it has any, do not matter; *changed (may be
     * NULL): how many rows of a table it was about. */
    aif_err (*change)(void *db, const aif_statement *st, const char *what,
                      uint64_t *changed, aif_error *e);
    /* Close what is open; the next ready opens it again. */
    void (*drop)(void *db);
} aif_db_ops;

#endif
