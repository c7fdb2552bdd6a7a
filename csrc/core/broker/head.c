/* head.c - knows how far the log goes, and looks when others may have appended.
 *
 * The happy path: this broker's own appends say where the log ends.  While
 * somebody subscribes, the store is also asked again and again.  A look that
 * finds what another process appended makes the next looks frequent for 200
 * ms; each later look that finds nothing doubles the time to the next.
 *
 * A look fails where the store does; the next one is 200 ms later.
 *
 * A head that is behind what is known, or of another log, says that the log
 * was replaced: restored from a backup, dropped and made anew, a database that
 * failed over to a copy that was behind.  Then only the new log counts, and
 * catch.c ends the subscriptions to the old one.  An older copy has the same
 * id; it gets another one, so that other brokers and clients, which may look
 * when its head is beyond their offsets again, hear of it too.
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

static aif_err
head_fail(bool other, uint64_t was, uint64_t now, aif_error *e)
{
    return aif_fail(
        e, AIF_EREPLACED,
        "the log was replaced by %s: offset %llu was reached in the old one, "
        "the new one ends at %llu; begin again after 0 for all that it has, "
        "or after %llu for what comes",
        other ? "another one, or an older copy that another broker saw first"
              : "an older copy",
        (unsigned long long)was, (unsigned long long)now,
        (unsigned long long)now);
}

aif_err
aif_head_resume(const aif_head *now, uint64_t log_id, uint64_t from,
                aif_error *e)
{
    const bool other = now->log_id != log_id;

    return other || from > now->offset ? head_fail(other, from, now->offset, e)
                                       : AIF_OK;
}

/* Until that works, the others hear of the older copy only if they look before
 * the head has passed their offsets. */
static void
head_renew(aif_head_watch *h)
{
    aif_error e;
    aif_err err = aif_log_renew(h->log, h->log_id, &h->log_id, &e);

    if (err != AIF_OK && !h->renew_failed) {
        aif_status_say(h->status, AIF_ERROR,
                       "log id not renewed (it is tried again) why=\"%s\"",
                       e.text);
    }
    h->renew_due = h->renew_failed = err != AIF_OK;
}

static void
head_replaced(aif_head_watch *h, const aif_head *to)
{
    const bool other = to->log_id != h->log_id;

    (void)head_fail(other, h->newest, to->offset, &h->why);
    aif_status_say(h->status, AIF_ERROR, "log replaced why=\"%s\"",
                   h->why.text);
    h->replaced++;
    h->newest = to->offset;
    h->purged = to->purged;
    aif_status_set(h->status, AIF_N_HEAD, h->newest);
    aif_status_set(h->status, AIF_N_PURGED, h->purged);
    h->log_id = to->log_id;
    h->renew_due = !other;
}

/* Where another process moved the head, it may soon do so again. */
static void
head_moved(aif_head_watch *h, const aif_head *to)
{
    if (h->log_id == 0) {
        h->log_id = to->log_id;
    } else if (to->log_id != h->log_id || to->offset < h->newest) {
        head_replaced(h, to);
    }
    if (h->renew_due) {
        head_renew(h);
    }
    aif_status_set(h->status, AIF_N_LOG_ID, h->log_id);
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

uint64_t
aif_head_log_id(const aif_head_watch *h)
{
    return h->log_id;
}

unsigned
aif_head_replaced(const aif_head_watch *h, const aif_error **why)
{
    *why = &h->why;
    return h->replaced;
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
