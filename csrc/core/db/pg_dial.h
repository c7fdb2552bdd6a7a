/* pg_dial.h - connections of libpq, as everybody who is a guest wants them: a
 * dead server is noticed, nothing is printed, no message has the password in
 * it, and a forked child keeps none.
 *
 * In:  a URI.  Out: a connection, and its place in forks.h's list: a zeroed
 * aif_owned that stays where it is as long as the connection.
 */
#ifndef AIF_PG_DIAL_H
#define AIF_PG_DIAL_H

#include "base/err.h"
#include "base/forks.h"

#include <libpq-fe.h>
#include <stdbool.h>

/* EINVAL, unless libpq takes the URI and finds no part of a password in its
 * host or database. */
AIF_MUST_CHECK aif_err aif_pg_check_uri(const char *uri, aif_error *e);
/* Connect, and wait for it up to 5 s for each address of the host.
 * name: what the server is to show in pg_stat_activity.
 * address: of the server, so that its name is not looked up; "": look it up.
 * Where this process was forked meanwhile, the child has the connection too:
 * then it is closed, and another one is made. */
PGconn *aif_pg_dial(const char *uri, const char *name, const char *address,
                    aif_owned *owned);
/* The same without waiting; aif_pg_dial_on goes on with it each time that
 * aif_pg_wait says so, beginning at once. */
PGconn *aif_pg_dial_start(const char *uri, const char *name,
                          const char *address);
/* As far as it goes without waiting: PGRES_POLLING_OK, it is connected;
 * PGRES_POLLING_FAILED, PQerrorMessage says why; else *want is what it waits
 * for.  *want is PGRES_POLLING_WRITING at first. */
PostgresPollingStatusType aif_pg_dial_on(PGconn *conn, aif_owned *owned,
                                         PostgresPollingStatusType *want);
/* Until the socket is ready for want, at most ms; false: it is not. */
bool aif_pg_wait(const PGconn *conn, PostgresPollingStatusType want, int ms);
/* NULL is no connection, and no error. */
void aif_pg_hang_up(PGconn *conn, aif_owned *owned);

#endif
