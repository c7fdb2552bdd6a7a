/* mysql/store.c - the log in a MySQL or MariaDB database.
 *
 * append: mysql/append.c.
 * purge:  mysql/purge.c.
 * read:   pages of rows, as they come from the server, until there are
 *         enough, of rows or of bytes.
 *
 * What fails is told once, as ESTORE; the next call has a new connection.
 */
#include "log/store.h"

#include "mysql/append.h"
#include "mysql/conn.h"
#include "mysql/sql.h"

#include <sys/socket.h>

/* Rows asked for at once.  Nobody knows how long they are: the first page of
 * a read is small, and tells of the next. */
#define PAGE_FIRST 100
#define PAGE_MAX 5000
#define PAGE_GROWS 10

static aif_str
text(MYSQL_ROW row, const unsigned long *lengths, int column)
{
    return (aif_str){row[column], row[column] == NULL ? 0 : lengths[column]};
}

static aif_event
event_of(MYSQL_ROW row, const unsigned long *lengths)
{
    return (aif_event){
        .offset = aif_mysql_number(row[0]),
        .create_time = (int64_t)aif_mysql_number(row[1]),
        .ns = text(row, lengths, 2),
        .key = text(row, lengths, 3),
        .value = text(row, lengths, 4),
        .type = text(row, lengths, 5),
        .sender = text(row, lengths, 6),
        .context = text(row, lengths, 7),
        .producer = text(row, lengths, 8),
        .sequence = aif_mysql_number(row[9]),
    };
}

/* What is left of an answer must be taken in; if it is much, the line is
 * cut. */
static void
drain(aif_mysql *s, MYSQL_RES *res)
{
    uint64_t bytes = 0;

    while (bytes < AIF_READ_BYTES && mysql_fetch_row(res) != NULL) {
        bytes += mysql_fetch_lengths(res)[4];
    }
    if (bytes >= AIF_READ_BYTES) {
        (void)shutdown((int)mysql_get_socket(s->conn), SHUT_RDWR);
    }
    mysql_free_result(res);
    if (bytes >= AIF_READ_BYTES) {
        aif_mysql_shut(s);
    }
}

static aif_err
take_rows(aif_mysql *s, MYSQL_RES *res, size_t full, aif_batch *out,
          aif_error *e)
{
    aif_err err = AIF_OK;
    MYSQL_ROW row = NULL;

    while (err == AIF_OK && out->bytes < full &&
           (row = mysql_fetch_row(res)) != NULL) {
        aif_event ev = event_of(row, mysql_fetch_lengths(res));
        err = aif_batch_add(out, &ev, e);
    }
    if (row == NULL && mysql_errno(s->conn) != 0) {
        mysql_free_result(res);
        return aif_mysql_fail(s, "reading", e);
    }
    drain(s, res);
    return err;
}

static aif_err
read_page(aif_mysql *s, const aif_query *query, size_t rows, size_t full,
          aif_batch *out, aif_error *e)
{
    aif_mysql_sql q = {.e = e};
    MYSQL_RES *res;
    aif_err err = aif_mysql_ready(s, e);

    if (err != AIF_OK) {
        return err;
    }
    aif_mysql_put(&q, "SELECT " AIF_MYSQL_COLUMNS);
    aif_mysql_put_query(&q, query);
    aif_mysql_put(&q, " ORDER BY `offset` LIMIT ");
    aif_mysql_put_number(&q, rows);
    err = aif_mysql_stream(s, &q, "reading", &res);
    return err != AIF_OK ? err : take_rows(s, res, full, out, e);
}

/* After so many rows of so many bytes, with so many bytes left. */
static size_t
next_page(size_t rows, size_t bytes, size_t left)
{
    const size_t average = bytes / rows + 1;
    size_t page = rows * PAGE_GROWS;

    page = page > PAGE_MAX ? PAGE_MAX : page;
    return page < left / average ? page : left / average + 1;
}

static aif_err
mysql_read(void *store, const aif_query *query, size_t max, aif_batch *out,
           aif_error *e)
{
    const size_t first = out->n;
    const size_t bytes = out->bytes;
    const size_t full = bytes + AIF_READ_BYTES;
    aif_query rest = *query;
    size_t page = PAGE_FIRST;
    aif_err err = AIF_OK;

    while (err == AIF_OK && out->n - first < max && out->bytes < full) {
        const size_t before = out->n;

        page = page < max - (before - first) ? page : max - (before - first);
        err = read_page(store, &rest, page, full, out, e);
        if (out->n - before < page) {
            break;
        }
        rest.after = out->events[out->n - 1].offset;
        page = out->bytes < full
                   ? next_page(out->n - first, out->bytes - bytes,
                               full - out->bytes)
                   : 0;
    }
    return err;
}

static aif_err
mysql_count(void *store, const aif_query *query, uint64_t *n, aif_error *e)
{
    aif_mysql_sql q = {.e = e};
    aif_err err = aif_mysql_ready(store, e);

    if (err != AIF_OK) {
        return err;
    }
    aif_mysql_put(&q, "SELECT COUNT(*)");
    aif_mysql_put_query(&q, query);
    return aif_mysql_ask_number(store, &q, "counting", n);
}

static aif_err
mysql_head(void *store, aif_head *out, aif_error *e)
{
    aif_err err = aif_mysql_ready(store, e);

    return err != AIF_OK
               ? err
               : aif_mysql_head(store, false, "reading the head", out, e);
}

/* The n-th newest that query means, from 0. */
static aif_err
newest(aif_mysql *s, const aif_query *query, uint64_t n, uint64_t *offset,
       aif_error *e)
{
    aif_mysql_sql q = {.e = e};
    aif_err err = aif_mysql_ready(s, e);

    if (err != AIF_OK) {
        return err;
    }
    aif_mysql_put(&q, "SELECT `offset`");
    aif_mysql_put_query(&q, query);
    aif_mysql_put(&q, " ORDER BY `offset` DESC LIMIT 1 OFFSET ");
    aif_mysql_put_number(&q, n);
    return aif_mysql_ask_number(s, &q, "asking", offset);
}

static aif_err
mysql_last(void *store, const aif_query *query, uint64_t *offset, aif_error *e)
{
    return newest(store, query, 0, offset, e);
}

static aif_err
mysql_keep(void *store, aif_str ns, uint64_t n, uint64_t *upto, aif_error *e)
{
    const aif_query q = AIF_MYSQL_OF(ns);

    return newest(store, &q, n, upto, e);
}

/* Rows of (text, number...) -> out; the text last, if it is. */
static aif_err
put_rows(MYSQL_RES *res, bool text_last, aif_buf *out, aif_error *e)
{
    const unsigned columns = mysql_num_fields(res);
    aif_err err = AIF_OK;
    MYSQL_ROW row;

    while (err == AIF_OK && (row = mysql_fetch_row(res)) != NULL) {
        const aif_str first = text(row, mysql_fetch_lengths(res), 0);

        if (!text_last) {
            err = aif_buf_str(out, first, e);
        }
        for (unsigned i = 1; err == AIF_OK && i < columns; i++) {
            err = aif_buf_u64(out, aif_mysql_number(row[i]), e);
        }
        if (err == AIF_OK && text_last) {
            err = aif_buf_str(out, first, e);
        }
    }
    return err;
}

static aif_err
ask_rows(aif_mysql *s, aif_mysql_sql *q, bool text_last, aif_buf *out)
{
    MYSQL_RES *res;
    aif_err err = aif_mysql_ask(s, q, "asking", &res);

    if (err == AIF_OK) {
        err = put_rows(res, text_last, out, q->e);
        mysql_free_result(res);
    }
    return err;
}

/* By bytes: 'a' and 'a ' are two senders. */
static aif_err
mysql_senders(void *store, const aif_query *query, aif_buf *out, aif_error *e)
{
    aif_mysql_sql q = {.e = e};
    aif_err err = aif_mysql_ready(store, e);

    if (err != AIF_OK) {
        return err;
    }
    aif_mysql_put(&q, "SELECT CAST(sender AS BINARY) AS who, COUNT(*)");
    aif_mysql_put_query(&q, query);
    aif_mysql_put(&q, " GROUP BY who ORDER BY who LIMIT ");
    aif_mysql_put_number(&q, AIF_SENDERS_MAX + 1);
    return ask_rows(store, &q, true, out);
}

static aif_err
mysql_sequence(void *store, aif_str producer, uint64_t *sequence, aif_error *e)
{
    aif_mysql_sql q = {.e = e};
    aif_err err = aif_mysql_ready(store, e);

    if (err != AIF_OK) {
        return err;
    }
    aif_mysql_put(&q,
                  "SELECT MAX(sequence) FROM aiflow_event WHERE producer = ");
    aif_mysql_put_text(&q, producer);
    return aif_mysql_ask_number(store, &q, "asking", sequence);
}

static aif_err
mysql_find(void *store, aif_str producer, uint64_t sequence, uint64_t *offset,
           aif_error *e)
{
    aif_mysql_sql q = {.e = e};
    aif_err err = aif_mysql_ready(store, e);

    if (err != AIF_OK) {
        return err;
    }
    aif_mysql_put(&q, "SELECT `offset` FROM aiflow_event WHERE producer = ");
    aif_mysql_put_text(&q, producer);
    aif_mysql_put(&q, " AND sequence = ");
    aif_mysql_put_number(&q, sequence);
    return aif_mysql_ask_number(store, &q, "asking", offset);
}

static aif_err
mysql_purged(void *store, aif_buf *out, aif_error *e)
{
    aif_mysql_sql q = {.e = e};
    aif_err err = aif_mysql_ready(store, e);

    if (err != AIF_OK) {
        return err;
    }
    aif_mysql_put(&q, "SELECT namespace, upto, events FROM aiflow_log_purged"
                      " ORDER BY namespace");
    return ask_rows(store, &q, false, out);
}

/* "mysql://"; store.c has "mariadb://" as well. */
const aif_store_ops aif_store_mysql = {
    .scheme = "mysql",
    .open = aif_mysql_open,
    .close = aif_mysql_close,
    .hurry = aif_mysql_hurry,
    .append = aif_mysql_append,
    .read = mysql_read,
    .count = mysql_count,
    .head = mysql_head,
    .last = mysql_last,
    .senders = mysql_senders,
    .sequence = mysql_sequence,
    .find = mysql_find,
    .purge = aif_mysql_purge,
    .purged = mysql_purged,
    .keep = mysql_keep,
};
