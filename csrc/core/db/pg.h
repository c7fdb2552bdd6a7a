/* pg.h - a PostgreSQL database, as db.h has it.
 *
 * In:  a URI that libpq takes.  What db.h has no words for (arrays as
 * parameters) goes through aif_pg_execute, which append_pg.c uses.
 */
#ifndef AIF_PG_H
#define AIF_PG_H

#include "db/db.h"

#include <libpq-fe.h>

extern const aif_db_ops aif_pg;

/* Types and arrays of them, by their oid. */
enum {
    AIF_PG_INT8 = 20,
    AIF_PG_TEXT = 25,
    AIF_PG_TEXTS = 1009,
    AIF_PG_INT8S = 1016
};

/* n parameters in binary; place as in aif_statement.  The answer is binary
 * too; NULL or a failed one: aif_pg_fail says why. */
PGresult *aif_pg_execute(void *db, const char *sql, int place, int n,
                         const Oid *types, const char *const *values,
                         const int *lengths);
/* What went wrong; frees res, and drops a connection that is of no use. */
aif_err aif_pg_fail(void *db, PGresult *res, const char *what, aif_error *e);
/* An int8 of a binary answer. */
uint64_t aif_pg_int8(const PGresult *res, int row, int column);

#endif
