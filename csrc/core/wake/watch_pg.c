/* watch_pg.c - LISTEN on a connection of its own.
 *
 * The happy path goes through four states, and no step of it waits:
 *   DOWN --(retry_at)--> CONNECTING --(PQconnectPoll)--> LISTENING
 *   --(answer to LISTEN)--> UP: notifications are drained.
 * The first time, a second connection says NOTIFY, to see whether it is heard.
 * Whatever fails leads back to DOWN.  Nobody can say what was missed in
 * between, so reaching UP counts as a change.
 *
 * libpq looks the server's name up while its caller waits, and a DNS server
 * that does not answer takes 10 s.  So after a connection was UP and is lost,
 * the address that it had is tried first, for ADDRESS_MS.  After that the name
 * is looked up again, at most once in NAME_MS.
 */
#include "base/clock.h"
#include "db/pg_dial.h"
#include "wake/watch_ops.h"

#include <libpq-fe.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define NAME "aiflow watch" /* in pg_stat_activity */
#define CHANNEL_MAX 63      /* NAMEDATALEN - 1 */
#define CONNECT_MS 5000
#define HEAR_MS 5000
#define ADDRESS_MS 5000
#define NAME_MS 60000
#define SYNC_MS 1000

typedef struct {
    enum { DOWN, CONNECTING, LISTENING, UP } state;
    PGconn *conn; /* NULL when DOWN */
    aif_owned owned;
    PostgresPollingStatusType want;
    int64_t give_up_at; /* CONNECTING, LISTENING */
    int64_t retry_at;
    unsigned forks;   /* of this process when it began to connect */
    int tries;        /* to connect, in which it was forked meanwhile */
    char address[64]; /* of the server; "": none, or one of several */
    int64_t name_at;  /* its name is looked up no sooner */
    uint64_t number;  /* of this connection */
    PGnotify *next;   /* has a payload that was not asked for yet */
    char listen[sizeof "LISTEN \"\"" + CHANNEL_MAX];
    const char *uri;
} pg_watch;

static void
pg_watch_drop(void *impl)
{
    pg_watch *w = impl;

    PQfreemem(w->next);
    aif_pg_hang_up(w->conn, &w->owned);
    w->next = NULL;
    w->conn = NULL;
    w->state = DOWN;
}

static void
pg_watch_start(pg_watch *w)
{
    int64_t now = aif_now_ms();
    const bool by_name = now >= w->name_at;

    if (by_name) {
        w->name_at = now + NAME_MS;
    }
    w->forks = aif_forks_count();
    w->retry_at = now + AIF_WATCH_RETRY_MS;
    w->give_up_at = now + CONNECT_MS;
    w->conn = aif_pg_dial_start(w->uri, NAME, by_name ? "" : w->address);
    w->want = PGRES_POLLING_WRITING;
    w->state = CONNECTING;
}

/* Of several servers another may be the one to turn to next time. */
static void
pg_watch_note_address(pg_watch *w)
{
    const char *address = PQhostaddr(w->conn);

    if (address != NULL && strchr(w->uri, ',') == NULL) {
        (void)snprintf(w->address, sizeof w->address, "%s", address);
    }
}

static bool
pg_watch_connect_on(pg_watch *w)
{
    PostgresPollingStatusType is =
        aif_pg_dial_on(w->conn, &w->owned, &w->want);

    while (is == PGRES_POLLING_OK && aif_forks_again(&w->forks, &w->tries)) {
        pg_watch_drop(w); /* a child has it, too */
        pg_watch_start(w);
        is = aif_pg_dial_on(w->conn, &w->owned, &w->want);
    }
    if (is == PGRES_POLLING_OK) {
        w->tries = 0;
        w->state = LISTENING;
        /* 30 bytes into an empty socket buffer: it does not wait */
        return PQsendQuery(w->conn, w->listen) == 1;
    }
    return is != PGRES_POLLING_FAILED;
}

static bool
pg_watch_listen(pg_watch *w)
{
    PGresult *res;
    bool ok = PQconsumeInput(w->conn) == 1;

    while (ok && w->state == LISTENING && !PQisBusy(w->conn)) {
        res = PQgetResult(w->conn);
        if (res == NULL) {
            w->state = UP;
            w->number++;
            pg_watch_note_address(w);
        } else {
            ok = PQresultStatus(res) == PGRES_COMMAND_OK;
        }
        PQclear(res);
    }
    return ok;
}

/* Go on towards UP as far as that is possible without waiting.  False: the
 * connection failed, or took longer than CONNECT_MS. */
static bool
pg_watch_go_on(pg_watch *w)
{
    bool ok = true;

    if (w->state == CONNECTING) {
        ok = pg_watch_connect_on(w);
    }
    if (ok && w->state == LISTENING) {
        ok = pg_watch_listen(w);
    }
    if (ok && w->state != UP) {
        ok = aif_now_ms() < w->give_up_at;
    }
    return ok;
}

/* Take notifications until one has a payload; true when there were any. */
static bool
pg_watch_drain(pg_watch *w)
{
    bool any = w->next != NULL;
    PGnotify *n;

    while (w->next == NULL && (n = PQnotifies(w->conn)) != NULL) {
        any = true;
        if (n->extra[0] != '\0') {
            w->next = n;
        } else {
            PQfreemem(n);
        }
    }
    return any;
}

static bool
pg_watch_hear(pg_watch *w)
{
    bool ok = PQconsumeInput(w->conn) == 1;
    bool any =
        pg_watch_drain(w); /* also what came before the connection broke */

    if (!ok || PQstatus(w->conn) == CONNECTION_BAD) {
        pg_watch_drop(w);
        w->name_at = aif_now_ms() + ADDRESS_MS;
    }
    return any;
}

static bool
pg_watch_look(void *impl)
{
    pg_watch *w = impl;

    if (w->state == UP) {
        return pg_watch_hear(w);
    }
    if (w->state == DOWN) {
        if (aif_now_ms() < w->retry_at) {
            return false;
        }
        pg_watch_start(w);
    }
    if (!pg_watch_go_on(w)) {
        pg_watch_drop(w);
        return false;
    }
    if (w->state == UP) {
        (void)pg_watch_drain(w);
    }
    return w->state == UP;
}

static aif_err
pg_watch_set_channel(pg_watch *w, const char *channel, aif_error *e)
{
    size_t n = strspn(channel, "abcdefghijklmnopqrstuvwxyz_0123456789"
                               "ABCDEFGHIJKLMNOPQRSTUVWXYZ");

    if (n == 0 || n > CHANNEL_MAX || channel[n] != '\0') {
        return aif_fail(e, AIF_EINVAL,
                        "a channel is 1 to %d letters, digits and _, not %s",
                        CHANNEL_MAX, channel);
    }
    (void)snprintf(w->listen, sizeof w->listen, "LISTEN \"%s\"", channel);
    return AIF_OK;
}

/* Whoever opens the watch waits for it, and is told what is wrong. */
static aif_err
pg_watch_wait_until_up(pg_watch *w, aif_error *e)
{
    const char *why;
    bool ok = true;

    pg_watch_start(w);
    while (ok && w->state != UP) {
        ok = pg_watch_go_on(w);
        if (ok && w->state != UP) {
            (void)aif_pg_wait(w->conn, w->want, 100);
        }
    }
    if (ok) {
        return AIF_OK;
    }
    why = PQerrorMessage(w->conn); /* says so when conn is NULL, too */
    why = *why == '\0' ? "no answer in 5 s" : why;
    return aif_fail(e, AIF_ESTORE, "watching: %.*s", (int)strcspn(why, "\n"),
                    why);
}

/* NOTIFY, from a connection of its own. */
static aif_err
pg_watch_speak(const pg_watch *w, aif_error *e)
{
    char notify[sizeof w->listen];
    aif_owned owned = {0};
    PGconn *other = aif_pg_dial(w->uri, NAME, w->address, &owned);
    PGresult *res = NULL;
    aif_err err = AIF_OK;

    (void)snprintf(notify, sizeof notify, "NOTIFY%s",
                   w->listen + strlen("LISTEN"));
    if (PQstatus(other) == CONNECTION_OK) {
        res = PQexec(other, notify);
    }
    if (PQresultStatus(res) != PGRES_COMMAND_OK) {
        const char *why = PQerrorMessage(other);

        err = aif_fail(e, AIF_ESTORE, "watching: %.*s",
                       (int)strcspn(why, "\n"), why);
    }
    PQclear(res);
    aif_pg_hang_up(other, &owned);
    return err;
}

/* A pooler that lends a session for one transaction accepts our LISTEN, but
 * what that session hears later goes to another client of the pooler.  So when
 * our own NOTIFY is not heard, the session is told UNLISTEN, and the watch is
 * refused.  The pooler may lend us another session for the UNLISTEN. */
static aif_err
pg_watch_check_hearing(pg_watch *w, aif_error *e)
{
    char unlisten[sizeof w->listen + 2];
    aif_err err = pg_watch_speak(w, e);
    const int64_t until = aif_now_ms() + HEAR_MS;

    while (err == AIF_OK && !pg_watch_hear(w)) {
        if (w->state != UP) {
            return aif_fail(e, AIF_ESTORE, "watching: the connection broke");
        }
        if (aif_now_ms() >= until) {
            (void)snprintf(unlisten, sizeof unlisten, "UN%s", w->listen);
            PQclear(PQexec(w->conn, unlisten));
            return aif_fail(
                e, AIF_EINVAL,
                "watching: a NOTIFY was not heard in %d s: this is the "
                "address of a pooler in transaction mode, such as PgBouncer; "
                "give that of the server itself",
                HEAR_MS / 1000);
        }
        (void)aif_pg_wait(w->conn, w->want, 100);
    }
    return err;
}

static aif_err
pg_watch_open(void *impl, const char *uri, const char *channel, aif_error *e)
{
    pg_watch *w = impl;

    w->uri = uri;
    if (pg_watch_set_channel(w, channel, e) != AIF_OK ||
        aif_pg_check_uri(uri, e) != AIF_OK ||
        pg_watch_wait_until_up(w, e) != AIF_OK ||
        pg_watch_check_hearing(w, e) != AIF_OK) {
        pg_watch_drop(w);
        return e->code;
    }
    return AIF_OK;
}

/* The length of text, or of as many whole UTF-8 characters as max holds. */
static size_t
text_cut(const char *text, size_t max)
{
    size_t n = strlen(text);

    if (n <= max) {
        return n;
    }
    while (max > 0 && ((unsigned char)text[max] & 0xC0) == 0x80) {
        max--;
    }
    return max;
}

static void
pg_watch_payload(void *impl, char *out, size_t cap)
{
    pg_watch *w = impl;
    size_t n = 0;

    if (w->next != NULL) {
        n = text_cut(w->next->extra, cap - 1);
        memcpy(out, w->next->extra, n);
        PQfreemem(w->next);
        w->next = NULL;
    }
    out[n] = '\0';
}

/* An empty query, and its answer. */
static bool
pg_watch_ask(pg_watch *w)
{
    const int64_t until = aif_now_ms() + SYNC_MS;
    PGresult *res;
    bool ok = PQsendQuery(w->conn, "") == 1;

    while (ok) {
        while (ok && PQisBusy(w->conn)) {
            int64_t left = until - aif_now_ms();
            ok = left > 0 &&
                 aif_pg_wait(w->conn, PGRES_POLLING_READING, (int)left) &&
                 PQconsumeInput(w->conn) == 1;
        }
        res = ok ? PQgetResult(w->conn) : NULL;
        if (res == NULL) {
            break;
        }
        ok = PQresultStatus(res) == PGRES_EMPTY_QUERY;
        PQclear(res);
    }
    return ok;
}

/* A server tells a session what others have committed when that session is
 * idle: at the latest between our first query and the answer to the second. */
static uint64_t
pg_watch_sync(void *impl)
{
    pg_watch *w = impl;

    if (w->state != UP) {
        return 0;
    }
    if (!pg_watch_ask(w) || !pg_watch_ask(w)) {
        pg_watch_drop(w);
        w->name_at = aif_now_ms() + ADDRESS_MS;
        return 0;
    }
    return w->number;
}

static int
pg_watch_fd(const void *impl)
{
    const pg_watch *w = impl;

    return w->state == UP ? PQsocket(w->conn) : -1;
}

const aif_watch_ops aif_watch_pg = {
    .scheme = "postgresql:",
    .size = sizeof(pg_watch),
    .open = pg_watch_open,
    .close = pg_watch_drop,
    .look = pg_watch_look,
    .payload = pg_watch_payload,
    .sync = pg_watch_sync,
    .fd = pg_watch_fd,
    .interval_ms = 50,
};
