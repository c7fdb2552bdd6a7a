/* watch_sqlite.c - PRAGMA data_version on a connection that never writes.
 *
 * It changes when any other connection commits, in whatever process.  A look
 * costs 3 us in WAL mode and 7 us otherwise; one every 5 ms by a waiting
 * scheduler (wake.py) takes 1.7 % of a core, where a loop in C took 1.1 %.
 * inotify would cost nothing at rest, but tells of the write to the WAL, which
 * comes before the commit can be seen.
 */
#include "base/clock.h"
#include "base/forks.h"
#include "db/sqlite.h"
#include "wake/watch_ops.h"

#include <sqlite3.h>
#include <string.h>

#define SCHEME "sqlite:"

typedef struct {
    sqlite3 *db; /* NULL: it was lost, and is opened again at retry_at */
    aif_owned file;
    sqlite3_stmt *get;
    sqlite3_int64 version;
    int64_t retry_at;
    const char *path;
} sqlite_watch;

static const char get_version[] = "PRAGMA data_version";

static void
sqlite_watch_drop(void *impl)
{
    sqlite_watch *w = impl;

    sqlite3_finalize(w->get);
    aif_sqlite_close(w->db, &w->file);
    w->get = NULL;
    w->db = NULL;
}

static int
sqlite_watch_read(sqlite_watch *w, sqlite3_int64 *version)
{
    int rc = sqlite3_step(w->get);

    if (rc == SQLITE_ROW) {
        *version = sqlite3_column_int64(w->get, 0);
    }
    (void)sqlite3_reset(w->get);
    return rc;
}

/* In journal modes other than WAL a writer locks the file for a moment. */
static bool
rc_is_busy(int rc)
{
    return (rc & 0xFF) == SQLITE_BUSY || (rc & 0xFF) == SQLITE_LOCKED;
}

static aif_err
sqlite_watch_connect(sqlite_watch *w, aif_error *e)
{
    int rc;

    w->retry_at = aif_now_ms() + AIF_WATCH_RETRY_MS;
    if (aif_sqlite_open(w->path, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX,
                        &w->db, &w->file, &rc, e) != AIF_OK) {
        return e->code;
    }
    if (rc == SQLITE_OK) {
        rc = sqlite3_prepare_v3(w->db, get_version, sizeof get_version,
                                SQLITE_PREPARE_PERSISTENT, &w->get, NULL);
    }
    if (rc == SQLITE_OK) {
        rc = sqlite_watch_read(w, &w->version);
    }
    if (rc == SQLITE_ROW ||
        rc_is_busy(rc)) { /* busy: version 0, so "changed" */
        return AIF_OK;
    }
    (void)aif_fail(e, rc == SQLITE_NOMEM ? AIF_ENOMEM : AIF_ESTORE,
                   "watching %s: %s", w->path,
                   w->db == NULL ? sqlite3_errstr(rc) : sqlite3_errmsg(w->db));
    sqlite_watch_drop(w);
    return e->code;
}

static aif_err
sqlite_watch_open(void *impl, const char *uri, const char *channel,
                  aif_error *e)
{
    sqlite_watch *w = impl;

    (void)channel;
    w->path = uri + strlen(SCHEME);
    return sqlite_watch_connect(w, e);
}

static bool
sqlite_watch_look(void *impl)
{
    sqlite_watch *w = impl;
    aif_error e;
    sqlite3_int64 version = w->version;
    int rc;

    if (w->db == NULL) {
        return aif_now_ms() >= w->retry_at &&
               sqlite_watch_connect(w, &e) == AIF_OK;
    }
    rc = sqlite_watch_read(w, &version);
    if (rc != SQLITE_ROW && !rc_is_busy(rc)) {
        sqlite_watch_drop(w);
    }
    if (version == w->version) {
        return false;
    }
    w->version = version;
    return true;
}

static void
sqlite_watch_payload(void *impl, char *out, size_t cap)
{
    (void)impl;
    (void)cap;
    out[0] = '\0';
}

static uint64_t
sqlite_watch_sync(void *impl)
{
    (void)impl;
    return 0;
}

static int
sqlite_watch_fd(const void *impl)
{
    (void)impl;
    return -1;
}

const aif_watch_ops aif_watch_sqlite = {
    .scheme = SCHEME,
    .size = sizeof(sqlite_watch),
    .open = sqlite_watch_open,
    .close = sqlite_watch_drop,
    .look = sqlite_watch_look,
    .payload = sqlite_watch_payload,
    .sync = sqlite_watch_sync,
    .fd = sqlite_watch_fd,
    .interval_ms = 5,
};
