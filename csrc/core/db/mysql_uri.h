/* mysql_uri.h - where a MySQL database is.
 *
 * In:  mysql://user:password@host:port/database?name=value&...
 * Out: its parts, decoded.  Pure.  For mysql.c.
 */
#ifndef AIF_MYSQL_URI_H
#define AIF_MYSQL_URI_H

#include "base/err.h"

#include <stdbool.h>

typedef struct {
    const char *user;     /* NULL: the one that runs this process */
    const char *password; /* NULL: none */
    const char *host;
    unsigned port;
    const char *database;
    const char *unix_socket; /* NULL: TCP */
    bool tls;                /* ssl=required */
    bool verify;             /* ssl=verify, which ssl_ca means as well */
    const char *ca, *cert, *key;
    bool relaxed; /* durable=no: a commit need not be on the disk */
} aif_mysql_uri;

/* Takes text apart in place: the fields are in it.  EINVAL says what to
 * write, and nothing of what was written: it may be the password. */
AIF_MUST_CHECK aif_err aif_mysql_uri_parse(char *text, aif_mysql_uri *out,
                                           aif_error *e);

#endif
