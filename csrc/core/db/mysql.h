/* mysql.h - a MySQL or MariaDB database, as db.h has it.
 *
 * In:  mysql://user:password@host:port/database?name=value&... (mysql_uri.h).
 * What db.h has no words for (statements with many rows of parameters) goes
 * through the connection itself, which append_mysql.c uses.
 */
#ifndef AIF_MYSQL_H
#define AIF_MYSQL_H

#include "db/db.h"
#include "db/mysql_load.h"

extern const aif_db_ops aif_mysql;

/* NULL while it is lost. */
MYSQL *aif_mysql_conn(void *db);
/* Another number for each connection: statements prepared on an earlier one
 * are of no use. */
unsigned aif_mysql_connection(void *db);
/* Bytes of the longest statement that the server takes. */
uint64_t aif_mysql_packet(void *db);
/* What went wrong with stmt; drops the connection: no state of it outlives a
 * failure. */
aif_err aif_mysql_fail_stmt(void *db, MYSQL_STMT *stmt, const char *what,
                            aif_error *e);

#endif
