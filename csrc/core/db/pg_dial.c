#include "db/pg_dial.h"

#include <poll.h>
#include <stddef.h>
#include <string.h>

/* A password with '@' or '/' in it puts its rest into the host, the port or
 * the database, which libpq's messages quote. */
static bool
uri_is_mistaken(const PQconninfoOption *options)
{
    for (const PQconninfoOption *o = options; o->keyword != NULL; o++) {
        if (o->val != NULL && strchr(o->val, '@') != NULL &&
            (strcmp(o->keyword, "host") == 0 ||
             strcmp(o->keyword, "dbname") == 0)) {
            return true;
        }
    }
    return false;
}

/* libpq's own words on a bad URI quote it, password and all. */
aif_err
aif_pg_check_uri(const char *uri, aif_error *e)
{
    PQconninfoOption *options = PQconninfoParse(uri, NULL);
    bool good = options != NULL && !uri_is_mistaken(options);

    PQconninfoFree(options);
    return good ? AIF_OK
                : aif_fail(e, AIF_EINVAL,
                           "not a PostgreSQL URI: write postgresql://user:"
                           "password@host:port/database, with %%40 for @ and "
                           "%%2F for / in the password");
}

static void
notice_drop(void *arg, const char *message)
{
    (void)arg;
    (void)message; /* libpq's own habit is to print it */
}

/* A server whose machine is gone is noticed in 11 s while nothing is asked of
 * it, and in 10 s while an answer is waited for.  The URI may say otherwise of
 * what stands before dbname. */
static PGconn *
conn_begin(const char *uri, const char *name, const char *address,
           PGconn *(*begin)(const char *const *names,
                            const char *const *values, int expand))
{
    static const char *const names[] = {"application_name",
                                        "connect_timeout",
                                        "keepalives_idle",
                                        "keepalives_interval",
                                        "keepalives_count",
                                        "tcp_user_timeout",
                                        "dbname",
                                        "client_encoding",
                                        "hostaddr", /* "": the URI's */
                                        NULL};
    const char *const values[] = {name,    "5", "5",    "2",     "3",
                                  "10000", uri, "UTF8", address, NULL};
    PGconn *conn = begin(names, values, 1);

    (void)PQsetNoticeProcessor(conn, notice_drop, NULL);
    return conn;
}

PGconn *
aif_pg_dial(const char *uri, const char *name, const char *address,
            aif_owned *owned)
{
    unsigned forks = aif_forks_count();
    int tries = 0;
    PGconn *conn = NULL;

    do {
        aif_pg_hang_up(conn, owned);
        conn = conn_begin(uri, name, address, PQconnectdbParams);
        if (PQstatus(conn) != CONNECTION_OK) {
            break;
        }
        aif_forks_own(owned, PQsocket(conn));
    } while (aif_forks_again(&forks, &tries));
    return conn;
}

PGconn *
aif_pg_dial_start(const char *uri, const char *name, const char *address)
{
    return conn_begin(uri, name, address, PQconnectStartParams);
}

PostgresPollingStatusType
aif_pg_dial_on(PGconn *conn, aif_owned *owned, PostgresPollingStatusType *want)
{
    if (PQstatus(conn) == CONNECTION_BAD) {
        *want = PGRES_POLLING_FAILED;
    }
    while (
        (*want == PGRES_POLLING_READING || *want == PGRES_POLLING_WRITING) &&
        aif_pg_wait(conn, *want, 0)) {
        *want = PQconnectPoll(conn);
    }
    if (*want == PGRES_POLLING_OK) {
        aif_forks_own(owned, PQsocket(conn));
    }
    return *want;
}

bool
aif_pg_wait(const PGconn *conn, PostgresPollingStatusType want, int ms)
{
    struct pollfd p = {
        .fd = PQsocket(conn),
        .events = want == PGRES_POLLING_WRITING ? POLLOUT : POLLIN,
    };

    return poll(&p, 1, ms) > 0;
}

void
aif_pg_hang_up(PGconn *conn, aif_owned *owned)
{
    aif_forks_disown(owned);
    PQfinish(conn);
}
