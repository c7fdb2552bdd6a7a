/* gate.c - asks the table of keys before anything is done.
 *
 * The happy path: libzmq asks whether a new connection's key is known (ZAP).
 * Then each frame is looked up, by its connection's key, in the table that is
 * in force now: a key that is revoked can do nothing from then on, on existing
 * connections too.  A new table may come from any thread; it is in force
 * before the next frame is looked at, and subscriptions that it does not allow
 * end.
 *
 * Without a broker's secret there is no CURVE and everything is allowed,
 * because the address is private to this user or machine, or --insecure was
 * said.  With a secret and without a table nobody may do anything.  A peer
 * that is denied something is told so, and it is counted.
 */
#include "broker/gate.h"

#include "base/mem.h"
#include "broker/seats.h"
#include "net/port.h"
#include "net/zap.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define LOOKS 1000 /* questions of libzmq answered in one turn */

/* ZAP first: while it has no server, libzmq lets everybody in. */
static aif_err
gate_open_curve(aif_gate *g, void *ctx, void *router, const char *secret,
                aif_error *e)
{
    aif_err err = aif_port_zap(ctx, &g->zap, e);

    if (err == AIF_OK) {
        err = aif_port_zap_domain(router, AIF_STR("aiflow"), e);
    }
    if (err == AIF_OK) {
        err = aif_curve_server(router, secret, e);
    }
    return err;
}

void
aif_gate_init(aif_gate *g)
{
    *g = (aif_gate){.wake = -1};
    pthread_mutex_init(&g->lock, NULL);
}

aif_err
aif_gate_open(aif_gate *g, void *ctx, void *router, const char *secret,
              aif_error *e)
{
    g->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (g->wake < 0) {
        return aif_fail(e, AIF_ENOMEM, "an eventfd: %s", strerror(errno));
    }
    return secret == NULL ? AIF_OK
                          : gate_open_curve(g, ctx, router, secret, e);
}

void
aif_gate_close(aif_gate *g)
{
    aif_port_close(g->zap, NULL, 0);
    if (g->wake >= 0) {
        (void)close(g->wake);
    }
    pthread_mutex_destroy(&g->lock);
    aif_access_free(g->next);
    aif_access_free(g->now);
}

/* --- the table ---------------------------------------------------------- */

void
aif_gate_set(aif_gate *g, aif_access *access)
{
    const uint64_t one = 1;
    aif_access *old;

    pthread_mutex_lock(&g->lock);
    old = g->next;
    g->next = access;
    atomic_store(&g->fresh, true);
    pthread_mutex_unlock(&g->lock);
    aif_access_free(old);
    if (write(g->wake, &one, sizeof one) != sizeof one) {
        /* full: the broker's thread is awake */
    }
}

bool
aif_gate_take(aif_gate *g)
{
    aif_access *old = g->now;

    if (!atomic_load(&g->fresh)) {
        return false;
    }
    pthread_mutex_lock(&g->lock);
    g->now = g->next;
    g->next = NULL;
    atomic_store(&g->fresh, false);
    pthread_mutex_unlock(&g->lock);
    g->who = NULL;
    aif_access_free(old);
    return g->zap != NULL;
}

/* The eventfd first: a table that is set after that wakes us again. */
bool
aif_gate_tend(aif_gate *g)
{
    uint64_t woken;

    return read(g->wake, &woken, sizeof woken) == sizeof woken &&
           aif_gate_take(g);
}

/* --- what a key may do -------------------------------------------------- */

static aif_err
gate_deny(const aif_grant *who, const char *what, aif_str ns, aif_error *e)
{
    aif_str name = aif_grant_name(who);

    return aif_fail(e, AIF_EDENIED, "key %.*s may not %s%.*s", (int)name.n,
                    name.p, what, (int)(ns.n < 120 ? ns.n : 120), ns.p);
}

static aif_err
gate_check_patterns(const aif_grant *who, const aif_pattern *p, size_t n,
                    aif_error *e)
{
    for (size_t i = 0; i < n; i++) {
        if (!aif_grant_read(who, p[i].ns)) {
            return gate_deny(who, "read namespace ", p[i].ns, e);
        }
    }
    if (n == 0 && !aif_grant_read(who, AIF_STR("*"))) {
        return gate_deny(who, "read all namespaces: name those that it may",
                         AIF_STR(""), e);
    }
    return AIF_OK;
}

/* Hints have no namespace, so only a key that may read everything gets them. */
static aif_err
gate_check_hints(const aif_grant *who, bool hints, aif_error *e)
{
    if (hints && !aif_grant_read(who, AIF_STR("*"))) {
        return gate_deny(who, "listen for hints: that needs read *",
                         AIF_STR(""), e);
    }
    return AIF_OK;
}

static aif_err
gate_check_query(const aif_grant *who, const aif_frame *f, aif_error *e)
{
    aif_pattern patterns[AIF_PATTERNS_MAX];
    aif_reader in = f->tail;
    size_t n;
    aif_err err =
        aif_wire_get_patterns(&in, 0, AIF_PATTERNS_MAX, patterns, &n, e);

    return err == AIF_OK ? gate_check_patterns(who, patterns, n, e) : err;
}

/* The events of a PUBLISH are looked at one by one when they are decoded. */
static aif_err
gate_check_kind(const aif_grant *who, const aif_frame *f, aif_error *e)
{
    aif_err err;

    switch (f->kind) {
    case AIF_K_SUBSCRIBE:
        err = gate_check_hints(who, f->flag, e);
        return err == AIF_OK ? gate_check_query(who, f, e) : err;
    case AIF_K_LIST:
    case AIF_K_COUNT:
    case AIF_K_SENDERS:
    case AIF_K_LAST:
    case AIF_K_TAKE:
    case AIF_K_MOVE:
    case AIF_K_FORGET:
    case AIF_K_CURSORS:
        return gate_check_query(who, f, e);
    case AIF_K_STATUS: /* it names the other clients */
        return aif_grant_read(who, AIF_STR("*"))
                   ? AIF_OK
                   : gate_deny(who, "ask for the status: that needs read *",
                               AIF_STR(""), e);
    case AIF_K_HINT:
    case AIF_K_SEQUENCE:
        return aif_grant_publishes(who)
                   ? AIF_OK
                   : gate_deny(who, "do that: it may publish nothing",
                               AIF_STR(""), e);
    default: /* any key of the table may ask for the log's head and times */
        return AIF_OK;
    }
}

static aif_err
gate_check_frame(const aif_gate *g, const aif_route *from, const aif_frame *f,
                 aif_error *e)
{
    if (g->who == NULL) {
        return aif_fail(e, AIF_EDENIED,
                        "the broker does not know this key: it was revoked, "
                        "or not added yet");
    }
    if (!aif_route_is_given(from)) { /* with another peer's id it would be sent
                                        that peer's answers */
        return aif_fail(e, AIF_EDENIED,
                        "a routing id of its own: leave it to libzmq");
    }
    return gate_check_kind(g->who, f, e);
}

aif_err
aif_gate_check(aif_gate *g, const aif_message *m, const aif_frame *f,
               aif_error *e)
{
    const char *key;

    g->who = NULL;
    g->key[0] = '\0';
    if (g->zap == NULL) {
        return AIF_OK;
    }
    key = aif_message_key(m);
    if (key != NULL && strlen(key) == AIF_CURVE_KEY) {
        memcpy(g->key, key, sizeof g->key);
        g->who = aif_access_find(g->now, (aif_str){g->key, AIF_CURVE_KEY});
    }
    return gate_check_frame(g, &m->from, f, e);
}

aif_err
aif_gate_publish(const aif_gate *g, const aif_event *ev, aif_error *e)
{
    if (g->zap == NULL || aif_grant_publish(g->who, ev->ns)) {
        return AIF_OK;
    }
    return gate_deny(g->who, "publish to namespace ", ev->ns, e);
}

aif_err
aif_gate_keeps(const aif_gate *g, const char *key, const aif_query *q,
               bool hints, aif_error *e)
{
    const aif_grant *who =
        aif_access_find(g->now, (aif_str){key, strlen(key)});
    aif_err err;

    if (who == NULL) {
        return aif_fail(e, AIF_EDENIED, "the key was revoked");
    }
    err = gate_check_hints(who, hints, e);
    return err == AIF_OK ? gate_check_patterns(who, q->patterns, q->n, e)
                         : err;
}

/* --- new connections ---------------------------------------------------- */

void
aif_gate_let_in(aif_gate *g, aif_seats *seats)
{
    aif_zap_peer peer;

    for (int i = 0; g->zap != NULL && i < LOOKS; i++) {
        if (!aif_zap_answer(g->zap, g->now, &peer)) {
            return;
        }
        if (!peer.allowed) {
            aif_seats_unknown(seats, peer.address, peer.key);
        }
    }
}
