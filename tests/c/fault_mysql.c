/* As in fault_store.c: our definitions come before those of libmariadb. */
#define _GNU_SOURCE
#include "fault_store.h"

#include <dlfcn.h>
#include <mysql.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static void
cut(MYSQL *c)
{
    (void)shutdown((int)mysql_get_socket(c), SHUT_RDWR);
}

/* Lost: the server has done it, then the line breaks, then we notice. */
EXPORT int
mysql_real_query(MYSQL *c, const char *sql, unsigned long n)
{
    static int (*real)(MYSQL *, const char *, unsigned long);
    bool lost;

    if (real == NULL) {
        *(void **)&real = dlsym(RTLD_NEXT, "mysql_real_query");
    }
    if (fault_mysql_comes(&lost)) {
        if (lost && real(c, sql, n) == 0) {
            mysql_free_result(mysql_store_result(c));
        }
        cut(c);
    }
    return real(c, sql, n);
}

EXPORT int
mysql_stmt_prepare(MYSQL_STMT *stmt, const char *sql, unsigned long n)
{
    static int (*real)(MYSQL_STMT *, const char *, unsigned long);
    bool lost;

    if (real == NULL) {
        *(void **)&real = dlsym(RTLD_NEXT, "mysql_stmt_prepare");
    }
    if (fault_mysql_comes(&lost)) {
        cut(stmt->mysql);
    }
    return real(stmt, sql, n);
}

EXPORT int
mysql_stmt_execute(MYSQL_STMT *stmt)
{
    static int (*real)(MYSQL_STMT *);
    bool lost;

    if (real == NULL) {
        *(void **)&real = dlsym(RTLD_NEXT, "mysql_stmt_execute");
    }
    if (fault_mysql_comes(&lost)) {
        if (lost) {
            (void)real(stmt);
        }
        cut(stmt->mysql);
    }
    return real(stmt);
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
EXPORT MYSQL_ROW
mysql_fetch_row(MYSQL_RES *res)
{
    static MYSQL_ROW (*real)(MYSQL_RES *);
    bool lost;

    if (real == NULL) {
        *(void **)&real = dlsym(RTLD_NEXT, "mysql_fetch_row");
    }
    if (res->handle != NULL && res->row_count == 0 &&
        fault_mysql_comes(&lost)) {
        lose(res->handle);
    }
    return real(res);
}

EXPORT MYSQL *
mysql_real_connect(MYSQL *c, const char *host, const char *user,
                   const char *password, const char *database, unsigned port,
                   const char *unix_socket, unsigned long flags)
{
    static MYSQL *(*real)(MYSQL *, const char *, const char *, const char *,
                          const char *, unsigned, const char *, unsigned long);
    bool lost;

    if (real == NULL) {
        *(void **)&real = dlsym(RTLD_NEXT, "mysql_real_connect");
    }
    return fault_mysql_comes(&lost)
               ? real(c, "127.0.0.1", user, password, database, 1, NULL, flags)
               : real(c, host, user, password, database, port, unix_socket,
                      flags);
}
