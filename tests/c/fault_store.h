/* fault_store.h - make the n-th call of a store to its database fail, once.
 *
 * SQLite: the calls are those of its files to the kernel, which fail with
 * an errno.  PostgreSQL: those of libpq that send; MySQL: those of
 * libmariadb (fault_mysql.c): the socket is shut down before, or after the server has done what was asked (the answer is lost).
 * So all that fails, fails as it would in life.
 */
#ifndef FAULT_STORE_H
#define FAULT_STORE_H

#include <stdbool.h>

/* n = 0: the next one. */
void fault_sqlite_after(int n, int error);
void fault_pg_after(int n, bool answer_is_lost);
/* fault_mysql_init comes first, once, when libmariadb has been loaded. */
void fault_mysql_init(void);
void fault_mysql_after(int n, bool answer_is_lost);
/* Is this the n-th?  For fault_mysql.c. */
bool fault_mysql_comes(bool *answer_is_lost);
/* SQLite's own allocations; needs fault_sqlite_memory_init before the first
 * use of SQLite. */
void fault_sqlite_memory_init(void);
void fault_sqlite_memory_after(int n);
/* Do this once, when a connection has been made and nobody knows of it yet. */
void fault_connected(void (*then)(void));
void fault_connected_now(void); /* for fault_mysql.c */
void fault_store_off(void);
/* Did the n-th call come? */
bool fault_store_fired(void);
/* How often this program asked for its files to be on the disk. */
int fault_store_syncs(void);

#endif
