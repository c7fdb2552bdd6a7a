/* sqlite.h - an SQLite file, as db.h has it.
 *
 * In:  "sqlite:PATH"; the file is made where there is none.  A file that was
 * moved away or deleted is opened again once it is back, and never made anew
 * by a handle that has seen it.
 */
#ifndef AIF_SQLITE_H
#define AIF_SQLITE_H

#include "db/db.h"

extern const aif_db_ops aif_sqlite;

/* From now on no fork(2) of this process happens while a thread of it has one
 * of the locks that SQLite has for the whole process (sqlite_fork.c).  Before
 * SQLite is asked to open anything. */
void aif_sqlite_fork_safely(void);

#endif
