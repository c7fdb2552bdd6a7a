/* mysql.h - a MySQL or MariaDB database, as db.h has it.
 *
 * In:  mysql://user:password@host:port/database?name=value&... (mysql_uri.h).
 * What db.h has no words for (statements with many rows of parameters, in
 * binary) goes through aif_mysql_execute, which append_mysql.c uses.
 */
#ifndef AIF_MYSQL_H
#define AIF_MYSQL_H

#include "db/db.h"

extern const aif_db_ops aif_mysql;

#define AIF_MYSQL_VALUES 1000
typedef struct {
    const void *p;
    size_t n; /* bytes of the text at p; AIF_MYSQL_NUMBER: p is a uint64_t */
} aif_mysql_value;
#define AIF_MYSQL_NUMBER SIZE_MAX

typedef struct {
    aif_str sql; /* with a ? for each value */
    int place;   /* below AIF_DB_PLACES, the same for the same sql: it is kept
                    prepared there */
    const aif_mysql_value *values;
    size_t n; /* up to AIF_MYSQL_VALUES */
} aif_mysql_prepared;

/* A statement without rows; what: what it is for, for messages.  *changed: how
 * many rows of a table it was about; 0, and nothing was done, where it would
 * have made a second row for a unique key. */
AIF_MUST_CHECK aif_err aif_mysql_execute(void *db,
                                         const aif_mysql_prepared *st,
                                         const char *what, uint64_t *changed,
                                         aif_error *e);
/* Bytes of the longest statement that the server takes. */
uint64_t aif_mysql_packet(void *db);

#endif
