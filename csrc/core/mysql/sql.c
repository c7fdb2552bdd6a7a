#include "mysql/sql.h"

#include "log/where.h"

#include <inttypes.h>
#include <stdio.h>

/* '?' stands for the text of a parameter, '#' for its length: 'a' and 'a '
 * are equal in utf8mb4_bin.  An index of yours on a column is of use. */
static const aif_dialect DIALECT = {
    .exact = "LENGTH(`%1$s`) = # AND `%1$s` = ?",
    .prefix = "LEFT(CAST(`%1$s` AS BINARY), #) = ?",
    .in = {" AND `key` IN (", " AND CAST(`key` AS BINARY) IN ("},
    .in_end = ")",
    .one_of = "?",
};

static void
put(aif_mysql_sql *q, const void *p, size_t n)
{
    if (q->err == AIF_OK) {
        q->err = aif_buf_put(&q->text, p, n, q->e);
    }
}

void
aif_mysql_put(aif_mysql_sql *q, const char *sql)
{
    put(q, sql, strlen(sql));
}

void
aif_mysql_put_number(aif_mysql_sql *q, uint64_t number)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%" PRIu64, number);
    aif_mysql_put(q, text);
}

void
aif_mysql_put_text(aif_mysql_sql *q, aif_str s)
{
    static const char digits[] = "0123456789abcdef";

    aif_mysql_put(q, "_utf8mb4 X'");
    for (size_t i = 0; i < s.n; i++) {
        const unsigned char byte = (unsigned char)s.p[i];
        const char pair[] = {digits[byte >> 4], digits[byte & 15]};

        put(q, pair, sizeof pair);
    }
    aif_mysql_put(q, "'");
}

static void
put_patterns(aif_mysql_sql *q, const aif_where *where)
{
    const aif_str *param = where->params;

    for (const char *at = aif_where_sql(where); *at != '\0'; at++) {
        if (*at == '#') {
            aif_mysql_put_number(q, param->n);
        } else if (*at == '?') {
            aif_mysql_put_text(q, *param++);
        } else {
            put(q, at, 1);
        }
    }
}

void
aif_mysql_put_query(aif_mysql_sql *q, const aif_query *query)
{
    aif_where where;

    aif_mysql_put(q, " FROM aiflow_event WHERE `offset` > ");
    aif_mysql_put_number(q, query->after);
    aif_mysql_put(q, " AND `offset` <= ");
    aif_mysql_put_number(q, query->upto);
    if (q->err == AIF_OK) {
        q->err = aif_where_init(&where, &DIALECT, "", query, "", q->e);
        if (q->err == AIF_OK) {
            put_patterns(q, &where);
            aif_where_fini(&where);
        }
    }
}

static aif_err
send(aif_mysql *s, aif_mysql_sql *q, const char *what)
{
    aif_err err;

    put(q, "", 1); /* its end */
    err = q->err != AIF_OK
              ? q->err
              : aif_mysql_run(s, (const char *)q->text.p, what, q->e);
    aif_buf_fini(&q->text);
    return err;
}

static aif_err
answer(aif_mysql *s, aif_mysql_sql *q, const char *what, MYSQL_RES **out,
       MYSQL_RES *(*take)(MYSQL *))
{
    aif_err err = send(s, q, what);

    *out = NULL;
    if (err != AIF_OK) {
        return err;
    }
    *out = take(s->conn);
    return *out == NULL ? aif_mysql_fail(s, what, q->e) : AIF_OK;
}

aif_err
aif_mysql_ask(aif_mysql *s, aif_mysql_sql *q, const char *what,
              MYSQL_RES **out)
{
    return answer(s, q, what, out, mysql_store_result);
}

aif_err
aif_mysql_stream(aif_mysql *s, aif_mysql_sql *q, const char *what,
                 MYSQL_RES **out)
{
    return answer(s, q, what, out, mysql_use_result);
}

aif_err
aif_mysql_change(aif_mysql *s, aif_mysql_sql *q, const char *what,
                 uint64_t *changed)
{
    aif_err err = send(s, q, what);

    if (err == AIF_OK) {
        *changed = mysql_affected_rows(s->conn);
    }
    return err;
}

aif_err
aif_mysql_ask_number(aif_mysql *s, aif_mysql_sql *q, const char *what,
                     uint64_t *out)
{
    MYSQL_RES *res;
    MYSQL_ROW row;
    aif_err err = aif_mysql_ask(s, q, what, &res);

    if (err != AIF_OK) {
        return err;
    }
    row = mysql_fetch_row(res);
    *out = row == NULL ? 0 : aif_mysql_number(row[0]);
    mysql_free_result(res);
    return AIF_OK;
}
