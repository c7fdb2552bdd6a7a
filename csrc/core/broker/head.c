/* head.c - knows how far the log goes, and looks when others may have appended.
 *
 * The happy path: this broker's own appends say where the log ends.  While
 * somebody subscribes, the store is also asked again and again.  A look that
 * finds what another process appended makes the next looks frequent for 200
 * ms; each later look that finds nothing doubles the time to the next.
 *
 * A look fails where the store does; the next one is 200 ms later.
 */
#include "broker/head.h"

#include "base/clock.h"

#include <string.h>

/* On PostgreSQL and MySQL.  LEAST is the time between two looks for KEEN ms
 * after another process was seen to append; POLL is what it grows to.  On
 * PostgreSQL that is 0.7 % of a core at the slow beat, and 2 ms on top of the
 * delivery's median (bench_broker ... second=1, on a busy machine).  LISTEN
 * would save the looks, but then each append has to NOTIFY: that takes a lock
 * of the whole server until the commit is on the disk, for which Airflow's own
 * NOTIFYs would wait; and MySQL has no such thing. */
#define POLL_LEAST_MS 2
#define POLL_MS 16
#define KEEN_MS 200
/* An SQLite file has one broker, but another program may append to it. */
#define POLL_FILE_LEAST_MS 50
#define POLL_FILE_MS 1000

/* Where another process moved the head, it may soon do so again. */
static void
head_moved(aif_head_watch *h, const aif_head *to)
{
    if (to->purged > h->purged) {
        h->purged = to->purged;
        aif_status_set(h->status, AIF_N_PURGED, h->purged);
    }
    if (to->offset > h->newest) {
        aif_head_found(h, to->offset);
        h->poll_now_ms = h->poll_least_ms;
        h->keen = aif_now_ms() + KEEN_MS;
    }
}

aif_err
aif_head_open(aif_head_watch *h, const char *uri, aif_status *status,
              aif_error *e)
{
    aif_head now = {0};
    aif_err err;

    *h = (aif_head_watch){.status = status};
    err = aif_log_open(uri, &h->log, e);
    if (err == AIF_OK) {
        err = aif_head_look(h, &now, e);
    }
    if (strncmp(uri, "sqlite:", 7) == 0) {
        h->poll_ms = POLL_FILE_MS;
        h->poll_least_ms = POLL_FILE_LEAST_MS;
    } else if (strncmp(uri, "mem:", 4) != 0) {
        h->poll_ms = POLL_MS;
        h->poll_least_ms = POLL_LEAST_MS;
    }
    h->poll_now_ms = h->poll_ms;
    return err;
}

void
aif_head_close(aif_head_watch *h)
{
    aif_log_free(h->log);
}

aif_log *
aif_head_log(const aif_head_watch *h)
{
    return h->log;
}

uint64_t
aif_head_newest(const aif_head_watch *h)
{
    return h->newest;
}

uint64_t
aif_head_purged(const aif_head_watch *h)
{
    return h->purged;
}

aif_err
aif_head_look(aif_head_watch *h, aif_head *now, aif_error *e)
{
    aif_err err = aif_log_head(h->log, now, e);

    if (err == AIF_OK) {
        head_moved(h, now);
    }
    return err;
}

/* Another broker may have appended it: look before it is refused. */
aif_err
aif_head_reach(aif_head_watch *h, uint64_t from, aif_error *e)
{
    aif_head now;
    aif_err err = AIF_OK;

    if (from > h->newest) {
        err = aif_head_look(h, &now, e);
    }
    if (err == AIF_OK && from > h->newest) {
        err = aif_fail(
            e, AIF_EINVAL, "offset %llu is beyond the newest one, %llu",
            (unsigned long long)from, (unsigned long long)h->newest);
    }
    return err;
}

void
aif_head_appended(aif_head_watch *h, const aif_head *before, uint64_t newest)
{
    head_moved(h, before);
    aif_head_found(h, newest);
}

void
aif_head_found(aif_head_watch *h, uint64_t offset)
{
    if (offset > h->newest) {
        h->newest = offset;
        aif_status_set(h->status, AIF_N_HEAD, h->newest);
    }
}

void
aif_head_poll(aif_head_watch *h, int64_t now)
{
    aif_error e;
    aif_head head;
    aif_err err;

    if (h->poll_ms == 0 || now < h->due) {
        return;
    }
    if (now >= h->keen) {
        h->poll_now_ms =
            2 * h->poll_now_ms < h->poll_ms ? 2 * h->poll_now_ms : h->poll_ms;
    }
    err = aif_head_look(h, &head, &e);
    aif_status_store(h->status, "head", err, &e);
    h->due =
        now + (err == AIF_OK ? h->poll_now_ms : AIF_BROKER_STORE_RETRY_MS);
}

int64_t
aif_head_due(const aif_head_watch *h)
{
    return h->poll_ms == 0 ? INT64_MAX : h->due;
}
