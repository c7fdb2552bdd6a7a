/* watch_pg.c - LISTEN on a connection of its own.
 *
 * The happy path, one state after the other, none of them waiting:
 *   DOWN --(retry_at)--> CONNECTING --(PQconnectPoll)--> LISTENING
 *   --(answer to LISTEN)--> UP: notifications are drained.
 * The first time, another connection speaks, to see that it is heard.
 * Whatever fails leads back to DOWN.  What was missed in between nobody
 * knows, so reaching UP is itself a change.
 */
#include "base/clock.h"
#include "base/forks.h"
#include "base/mem.h"
#include "wake/watch_ops.h"

#include <libpq-fe.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define SCHEME "postgresql:"
#define CHANNEL_MAX 63 /* NAMEDATALEN - 1 */
#define CONNECT_MS 5000
#define HEAR_MS 5000

typedef struct {
    enum { DOWN, CONNECTING, LISTENING, UP } state;
    PGconn *conn; /* NULL when DOWN */
    aif_owned owned;
    PostgresPollingStatusType want;
    int64_t give_up_at; /* CONNECTING, LISTENING */
    int64_t retry_at;
    PGnotify *next; /* has a payload that was not asked for yet */
    char listen[sizeof "LISTEN \"\"" + CHANNEL_MAX];
    char uri[];
} watch;

static void
disconnect(watch *w)
{
    PQfreemem(w->next);
    aif_forks_stop();
    aif_forks_remove(&w->owned);
    aif_forks_go();
    PQfinish(w->conn);
    w->next = NULL;
    w->conn = NULL;
    w->state = DOWN;
}

static void
say_nothing(void *arg, const char *message)
{
    (void)arg;
    (void)message; /* libpq's own habit is to print it */
}

/* keepalives: a server whose machine is gone is noticed in 25 s, not in two
 * hours.  They stand before the URI, which may say otherwise. */
static PGconn *
dial(const watch *w, PGconn *(*connect_by)(const char *const *names,
                                           const char *const *values, int))
{
    static const char *const names[] = {"application_name",
                                        "keepalives_idle",
                                        "keepalives_interval",
                                        "keepalives_count",
                                        "connect_timeout",
                                        "client_encoding",
                                        "dbname",
                                        NULL};
    const char *const values[] = {"aiflow watch", "10",   "5", "3", "5",
                                  "UTF8",         w->uri, NULL};
    PGconn *conn = connect_by(names, values, 1);

    (void)PQsetNoticeProcessor(conn, say_nothing, NULL);
    return conn;
}

static void
start(watch *w)
{
    int64_t now = aif_now_ms();

    w->retry_at = now + AIF_WATCH_RETRY_MS;
    w->give_up_at = now + CONNECT_MS;
    w->conn = dial(w, PQconnectStartParams);
    w->want = PGRES_POLLING_WRITING;
    w->state = CONNECTING;
}

static bool
socket_ready(const watch *w, int timeout_ms)
{
    struct pollfd p = {.fd = PQsocket(w->conn), .events = POLLIN};

    if (w->state == CONNECTING && w->want == PGRES_POLLING_WRITING) {
        p.events = POLLOUT;
    }
    return poll(&p, 1, timeout_ms) > 0;
}

static bool
go_on_connecting(watch *w)
{
    if (PQstatus(w->conn) == CONNECTION_BAD) {
        return false;
    }
    while (w->state == CONNECTING && socket_ready(w, 0)) {
        w->want = PQconnectPoll(w->conn);
        if (w->want == PGRES_POLLING_FAILED) {
            return false;
        }
        if (w->want == PGRES_POLLING_OK) {
            aif_forks_stop();
            aif_forks_add(&w->owned, PQsocket(w->conn));
            aif_forks_go();
            /* 30 bytes into an empty socket buffer: it does not wait */
            w->state = LISTENING;
            return PQsendQuery(w->conn, w->listen) == 1;
        }
    }
    return true;
}

static bool
go_on_listening(watch *w)
{
    PGresult *res;
    bool ok = PQconsumeInput(w->conn) == 1;

    while (ok && w->state == LISTENING && !PQisBusy(w->conn)) {
        res = PQgetResult(w->conn);
        if (res == NULL) {
            w->state = UP;
        } else {
            ok = PQresultStatus(res) == PGRES_COMMAND_OK;
        }
        PQclear(res);
    }
    return ok;
}

/* As far up as goes without waiting; false when that way is blocked. */
static bool
go_on(watch *w)
{
    bool ok = true;

    if (w->state == CONNECTING) {
        ok = go_on_connecting(w);
    }
    if (ok && w->state == LISTENING) {
        ok = go_on_listening(w);
    }
    if (ok && w->state != UP) {
        ok = aif_now_ms() < w->give_up_at;
    }
    return ok;
}

/* Notifications up to the next one with a payload; true if there were any. */
static bool
drain(watch *w)
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
look_up(watch *w)
{
    bool ok = PQconsumeInput(w->conn) == 1;
    bool any = drain(w); /* also what came before the connection broke */

    if (!ok || PQstatus(w->conn) == CONNECTION_BAD) {
        disconnect(w);
    }
    return any;
}

static bool
watch_look(void *impl)
{
    watch *w = impl;

    if (w->state == UP) {
        return look_up(w);
    }
    if (w->state == DOWN) {
        if (aif_now_ms() < w->retry_at) {
            return false;
        }
        start(w);
    }
    if (!go_on(w)) {
        disconnect(w);
        return false;
    }
    if (w->state == UP) {
        (void)drain(w);
    }
    return w->state == UP;
}

static aif_err
set_channel(watch *w, const char *channel, aif_error *e)
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

/* libpq's own words on a bad URI may quote it, password and all. */
static aif_err
check_uri(const char *uri, aif_error *e)
{
    PQconninfoOption *options = PQconninfoParse(uri, NULL);

    if (options == NULL) {
        return aif_fail(e, AIF_EINVAL, "not a PostgreSQL URI");
    }
    PQconninfoFree(options);
    return AIF_OK;
}

/* The first time somebody waits for us, and wants to hear what is wrong. */
static aif_err
wait_until_up(watch *w, aif_error *e)
{
    const char *why;
    bool ok = true;

    start(w);
    while (ok && w->state != UP) {
        ok = go_on(w);
        if (ok && w->state != UP) {
            (void)socket_ready(w, 100);
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
speak(const watch *w, aif_error *e)
{
    char notify[sizeof w->listen];
    PGconn *other = dial(w, PQconnectdbParams);
    aif_owned owned = {0};
    PGresult *res = NULL;
    aif_err err = AIF_OK;

    aif_forks_stop();
    aif_forks_add(&owned, PQsocket(other));
    aif_forks_go();
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
    aif_forks_stop();
    aif_forks_remove(&owned);
    aif_forks_go();
    PQfinish(other);
    return err;
}

/* A pooler that lends its sessions for one transaction takes a LISTEN, and
 * what its session then hears goes to somebody else.  There the session is
 * told to hear no more, if it is the one we are lent this time. */
static aif_err
check_hearing(watch *w, aif_error *e)
{
    char unlisten[sizeof w->listen + 2];
    aif_err err = speak(w, e);
    const int64_t until = aif_now_ms() + HEAR_MS;

    while (err == AIF_OK && !look_up(w)) {
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
        (void)socket_ready(w, 100);
    }
    return err;
}

static aif_err
watch_open(const char *uri, const char *channel, void **impl, aif_error *e)
{
    size_t n = strlen(uri) + 1;
    watch *w;

    *impl = NULL;
    w = aif_zalloc(sizeof *w + n);
    if (w == NULL) {
        return aif_fail(e, AIF_ENOMEM, "opening a watch");
    }
    memcpy(w->uri, uri, n);
    if (set_channel(w, channel, e) != AIF_OK || check_uri(uri, e) != AIF_OK ||
        wait_until_up(w, e) != AIF_OK || check_hearing(w, e) != AIF_OK) {
        disconnect(w);
        aif_free(w);
        return e->code;
    }
    *impl = w;
    return AIF_OK;
}

static void
watch_close(void *impl)
{
    disconnect(impl);
    aif_free(impl);
}

/* The length of text, or of as many whole UTF-8 characters as max holds. */
static size_t
cut(const char *text, size_t max)
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
watch_payload(void *impl, char *out, size_t cap)
{
    watch *w = impl;
    size_t n = 0;

    if (w->next != NULL) {
        n = cut(w->next->extra, cap - 1);
        memcpy(out, w->next->extra, n);
        PQfreemem(w->next);
        w->next = NULL;
    }
    out[n] = '\0';
}

static int
watch_fd(const void *impl)
{
    const watch *w = impl;

    return w->state == UP ? PQsocket(w->conn) : -1;
}

const aif_watch_ops aif_watch_pg = {
    .scheme = SCHEME,
    .open = watch_open,
    .close = watch_close,
    .look = watch_look,
    .payload = watch_payload,
    .fd = watch_fd,
    .interval_ms = 50,
};
