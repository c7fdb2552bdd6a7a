/* Ours are put in the place of the functions that were loaded. */
#define _GNU_SOURCE
#include "fault_store.h"
#include "db/mysql_load.h"

#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

/* What libmariadb has. */
#define REAL(name) static __typeof__(aif_lib_##name) real_##name
REAL(mysql_real_query);
REAL(mysql_stmt_prepare);
REAL(mysql_stmt_execute);
REAL(mysql_fetch_row);
REAL(mysql_real_connect);

static void
cut(MYSQL *c)
{
    (void)shutdown((int)mysql_get_socket(c), SHUT_RDWR);
}

/* Lost: the server has done it, then the line breaks, then we notice. */
static int
fail_query(MYSQL *c, const char *sql, unsigned long n)
{
    bool lost;

    if (fault_mysql_comes(&lost)) {
        if (lost && real_mysql_real_query(c, sql, n) == 0) {
            mysql_free_result(mysql_store_result(c));
        }
        cut(c);
    }
    return real_mysql_real_query(c, sql, n);
}

static int
fail_prepare(MYSQL_STMT *stmt, const char *sql, unsigned long n)
{
    bool lost;

    if (fault_mysql_comes(&lost)) {
        cut(stmt->mysql);
    }
    return real_mysql_stmt_prepare(stmt, sql, n);
}

static int
fail_execute(MYSQL_STMT *stmt)
{
    bool lost;

    if (fault_mysql_comes(&lost)) {
        if (lost) {
            (void)real_mysql_stmt_execute(stmt);
        }
        cut(stmt->mysql);
    }
    return real_mysql_stmt_execute(stmt);
}

/* What the kernel has of an answer already is lost, too. */
static void
lose(MYSQL *c)
{
    const int nobody = socket(AF_UNIX, SOCK_STREAM, 0);

    (void)dup2(nobody, (int)mysql_get_socket(c));
    (void)close(nobody);
}

/* Counts once an answer that comes row by row. */
static MYSQL_ROW
fail_fetch(MYSQL_RES *res)
{
    bool lost;

    if (res->handle != NULL && res->row_count == 0 &&
        fault_mysql_comes(&lost)) {
        lose(res->handle);
    }
    return real_mysql_fetch_row(res);
}

static MYSQL *
fail_connect(MYSQL *c, const char *host, const char *user,
             const char *password, const char *database, unsigned port,
             const char *unix_socket, unsigned long flags)
{
    bool lost;

    c = fault_mysql_comes(&lost)
            ? real_mysql_real_connect(c, "127.0.0.1", user, password, database,
                                      1, NULL, flags)
            : real_mysql_real_connect(c, host, user, password, database, port,
                                      unix_socket, flags);
    fault_connected_now();
    return c;
}

void
fault_mysql_init(void)
{
    real_mysql_real_query = mysql_real_query;
    real_mysql_stmt_prepare = mysql_stmt_prepare;
    real_mysql_stmt_execute = mysql_stmt_execute;
    real_mysql_fetch_row = mysql_fetch_row;
    real_mysql_real_connect = mysql_real_connect;
    mysql_real_query = fail_query;
    mysql_stmt_prepare = fail_prepare;
    mysql_stmt_execute = fail_execute;
    mysql_fetch_row = fail_fetch;
    mysql_real_connect = fail_connect;
}
