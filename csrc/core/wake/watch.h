/* watch.h - has somebody else committed to this database?
 *
 * In:  the address of a database.  Out: hints that something changed in it.
 * PostgreSQL gives the payloads of NOTIFY with them; SQLite only says that
 * somebody committed (PRAGMA data_version).  A hint may be lost, so whoever
 * uses a watch also looks into the database itself from time to time.
 */
#ifndef AIF_WATCH_H
#define AIF_WATCH_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct aif_watch aif_watch;

/* uri "postgresql://..." (LISTENs to channel: letters, digits and _) or
 * "sqlite:PATH" (channel is not used).  Waits for the database at most 5 s.
 * A connection lost later is opened again by later polls, at most one try a
 * second; the first poll after that says "changed". */
AIF_MUST_CHECK aif_err aif_watch_open(const char *uri, const char *channel,
                                      aif_watch **out, aif_error *e);
void aif_watch_free(aif_watch *w); /* nothing in a fork */
/* Never blocks.  *changed: something happened since the last poll.  The next
 * payload is copied to payload, cut to cap bytes; where there is none, payload
 * is "".  Call again until it is. */
AIF_MUST_CHECK aif_err aif_watch_poll(aif_watch *w, bool *changed,
                                      char *payload, size_t cap, aif_error *e);
/* Wait until whatever was committed before this call can be polled.  0: that
 * is not known, there is no connection (SQLite never tells what was changed).
 * Else the number of this connection, from 1: what was told since an earlier
 * call with the same number is complete. */
uint64_t aif_watch_sync(aif_watch *w);
/* Readable when aif_watch_poll may say more; what it has taken from the
 * connection already, the fd tells no more: poll before each wait.  -1: there
 * is no fd (SQLite, or the connection is down), and the owner polls every
 * aif_watch_interval_ms. */
int aif_watch_fd(aif_watch *w);
int aif_watch_interval_ms(const aif_watch *w);

#endif
