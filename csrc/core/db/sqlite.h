/* sqlite.h - an SQLite file, as db.h has it.
 *
 * In:  "sqlite:PATH"; the file is made where there is none.  A file that was
 * moved away or deleted is opened again once it is back, and never made anew
 * by a handle that has seen it.
 */
#ifndef AIF_SQLITE_H
#define AIF_SQLITE_H

#include "base/forks.h"
#include "db/db.h"

struct sqlite3;

extern const aif_db_ops aif_sqlite;

/* sqlite3_open_v2, and what a fork(2) wants of whoever uses SQLite: no fork
 * happens while a thread of ours has one of the locks that SQLite has for the
 * whole process, and a child does not open a file that is open here
 * (sqlite_fork.c, forks.h).  EFORKED: *path is such a file, and was not
 * opened.  Else *rc is what sqlite3_open_v2 said, and aif_sqlite_close
 * belongs to it, whatever that was. */
AIF_MUST_CHECK aif_err aif_sqlite_open(const char *path, int flags,
                                       struct sqlite3 **db, aif_owned *file,
                                       int *rc, aif_error *e);
/* After its statements are finalized.  NULL is none, and no error. */
void aif_sqlite_close(struct sqlite3 *db, aif_owned *file);

#endif
