/* mysql/sql.h - a statement of MySQL, put together piece by piece.
 *
 * Texts of others go in as hexadecimal literals: nothing in them means
 * anything, whatever the character set or the mode of the session.
 */
#ifndef AIF_MYSQL_SQL_H
#define AIF_MYSQL_SQL_H

#include "mysql/conn.h"

/* All events of a namespace, exact or by a prefix. */
#define AIF_MYSQL_OF(ns)                                                      \
    (aif_query)                                                               \
    {                                                                         \
        .patterns = &(const aif_pattern){(ns), AIF_STR("*"), AIF_STR("*"),    \
                                         AIF_STR("*"), AIF_STR("*")},         \
        .n = 1, .upto = INT64_MAX                                             \
    }

/* A zeroed one with its e set is empty.  What fails is remembered, and said
 * by aif_mysql_ask and its like, which free it too. */
typedef struct {
    aif_buf text;
    aif_err err;
    aif_error *e;
} aif_mysql_sql;

void aif_mysql_put(aif_mysql_sql *q, const char *sql);
void aif_mysql_put_number(aif_mysql_sql *q, uint64_t number);
void aif_mysql_put_text(aif_mysql_sql *q, aif_str s);
/* " FROM aiflow_event WHERE `offset` > 5 AND ...": what query means. */
void aif_mysql_put_query(aif_mysql_sql *q, const aif_query *query);

/* Its answer, all of it; *out is NULL on failure, and mysql_free_result does
 * nothing to that. */
AIF_MUST_CHECK aif_err aif_mysql_ask(aif_mysql *s, aif_mysql_sql *q,
                                     const char *what, MYSQL_RES **out);
/* The same, row by row from the server. */
AIF_MUST_CHECK aif_err aif_mysql_stream(aif_mysql *s, aif_mysql_sql *q,
                                        const char *what, MYSQL_RES **out);
/* No answer; *changed: how many rows it was about. */
AIF_MUST_CHECK aif_err aif_mysql_change(aif_mysql *s, aif_mysql_sql *q,
                                        const char *what, uint64_t *changed);
/* The first column of the first row; 0 where there is none. */
AIF_MUST_CHECK aif_err aif_mysql_ask_number(aif_mysql *s, aif_mysql_sql *q,
                                            const char *what, uint64_t *out);

#endif
