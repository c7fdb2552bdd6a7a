/* where.h - a query as a statement, in a database's own dialect.
 *
 * In:  a query.  Out: the SQL of a statement with " AND (... OR ...)" in its
 * middle, and the texts of its parameters, borrowed from the query.  Patterns
 * that differ in nothing but an exact key become one, with a list of the keys:
 * the database then looks a row's key up instead of comparing it with each.
 * Pure.
 */
#ifndef AIF_WHERE_H
#define AIF_WHERE_H

#include "base/buf.h"
#include "event/query.h"

typedef struct {
    const char *exact;  /* printf: column (%s), then its parameter (%d) */
    const char *prefix; /* the same, for the first bytes */
    const char *in[3];  /* what begins a list of keys: " AND key IN (", and
                           it once more where that needs a second test */
    const char *in_end;
    const char *one_of; /* printf: a parameter (%d) of that list */
} aif_dialect;

#define AIF_WHERE_TEXTS (5 * AIF_QUERY_PATTERNS_MAX)

/* A zeroed one may be used, again and again. */
typedef struct {
    aif_buf sql; /* ends with a NUL */
    aif_str params[AIF_WHERE_TEXTS];
    size_t n;
    int numbers;
} aif_where;

/* from, the patterns if there are any (q may be NULL), to.  Parameters are
 * numbered behind so many numbers. */
AIF_MUST_CHECK aif_err aif_where_make(aif_where *w, const aif_dialect *d,
                                      int numbers, const char *from,
                                      const aif_query *q, const char *to,
                                      aif_error *e);
void aif_where_fini(aif_where *w);
const char *aif_where_sql(const aif_where *w);

#endif
