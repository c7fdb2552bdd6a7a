/* broker/gate.c - the gate of a broker that is reached over tcp.
 *
 * The happy path: libzmq asks whether a new connection's key is known (ZAP),
 * then each frame is looked up by its connection's key in the table that is
 * in force now, so a key that is revoked can do nothing from then on, on
 * connections that exist too.  A new table comes in from any thread; it is
 * taken before the next frame, and what it does not allow any more ends.
 *
 * Without a broker's secret there is no CURVE and nobody is asked: the
 * address is private, or --insecure was said.  With one and no table, nobody
 * may do anything.  Who is denied is told, and counted.
 */
#include "broker/in.h"

#include "net/zap.h"

#include "base/mem.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define LOOKS 1000 /* questions answered in one turn */

/* ZAP first: libzmq lets everybody in while nobody answers it. */
static aif_err
open_curve(aif_broker *b, const char *secret, aif_error *e)
{
    static const char domain[] = "aiflow";
    aif_err err = aif_zap_open(b->ctx, &b->gate.zap, e);

    if (err == AIF_OK && zmq_setsockopt(b->router, ZMQ_ZAP_DOMAIN, domain,
                                        strlen(domain)) != 0) {
        err = aif_fail(e, AIF_ENOMEM, "a ZAP domain: %s",
                       zmq_strerror(zmq_errno()));
    }
    if (err == AIF_OK) {
        err = aif_curve_server(b->router, secret, e);
    }
    return err;
}

void
aif_gate_init(aif_broker *b)
{
    pthread_mutex_init(&b->gate.lock, NULL);
    b->gate.wake = -1;
}

aif_err
aif_gate_open(aif_broker *b, const char *bind, const char *secret,
              aif_error *e)
{
    aif_gate *g = &b->gate;
    aif_err err = AIF_OK;

    g->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (g->wake < 0) {
        return aif_fail(e, AIF_ENOMEM, "an eventfd: %s", strerror(errno));
    }
    if (secret != NULL && aif_address_is_tcp(bind)) {
        err = open_curve(b, secret, e);
    }
    if (aif_address_is_tcp(bind)) {
        aif_parts_open(b);
    }
    return err == AIF_OK ? aif_door_open(b, e) : err;
}

void
aif_gate_close(aif_broker *b)
{
    aif_gate *g = &b->gate;

    if (g->zap != NULL) {
        (void)zmq_close(g->zap);
    }
    if (g->wake >= 0) {
        (void)close(g->wake);
    }
    pthread_mutex_destroy(&g->lock);
    aif_access_free(g->next);
    aif_access_free(g->now);
    aif_door_close(b);
    aif_parts_close(b);
}

void
aif_broker_set_access(aif_broker *b, aif_access *access)
{
    const uint64_t one = 1;
    aif_gate *g = &b->gate;
    aif_access *old;

    if (aif_guard_forked(&b->guard)) {
        aif_access_free(access);
        return;
    }
    pthread_mutex_lock(&g->lock);
    old = g->next;
    g->next = access;
    atomic_store(&g->fresh, true);
    pthread_mutex_unlock(&g->lock);
    aif_access_free(old);
    if (write(g->wake, &one, sizeof one) != sizeof one) {
        /* full: it is awake */
    }
}

/* Put the newest table in force. */
static void
take_table(aif_broker *b)
{
    aif_gate *g = &b->gate;
    aif_access *old = g->now;

    if (!atomic_load(&g->fresh)) {
        return;
    }
    pthread_mutex_lock(&g->lock);
    g->now = g->next;
    g->next = NULL;
    atomic_store(&g->fresh, false);
    pthread_mutex_unlock(&g->lock);
    g->who = NULL;
    aif_access_free(old);
    if (g->zap != NULL) {
        aif_subs_recheck(b);
    }
}

static aif_err
deny(const aif_grant *who, const char *what, aif_str ns, aif_error *e)
{
    aif_str name = aif_grant_name(who);

    return aif_fail(e, AIF_EDENIED, "key %.*s may not %s%.*s", (int)name.n,
                    name.p, what, (int)(ns.n < 120 ? ns.n : 120), ns.p);
}

static aif_err
check_patterns(const aif_grant *who, const aif_pattern *p, size_t n,
               aif_error *e)
{
    for (size_t i = 0; i < n; i++) {
        if (!aif_grant_read(who, p[i].ns)) {
            return deny(who, "read namespace ", p[i].ns, e);
        }
    }
    if (n == 0 && !aif_grant_read(who, AIF_STR("*"))) {
        return deny(who, "read all namespaces: name those that it may",
                    AIF_STR(""), e);
    }
    return AIF_OK;
}

/* Hints have no namespace: only who reads everything is sent them. */
static aif_err
check_hints(const aif_grant *who, bool hints, aif_error *e)
{
    if (hints && !aif_grant_read(who, AIF_STR("*"))) {
        return deny(who, "listen for hints: that needs read *", AIF_STR(""),
                    e);
    }
    return AIF_OK;
}

static aif_err
check_query(const aif_grant *who, const aif_frame *f, aif_error *e)
{
    aif_pattern patterns[AIF_PATTERNS_MAX];
    aif_reader in = f->tail;
    size_t n;
    aif_err err =
        aif_wire_get_patterns(&in, 0, AIF_PATTERNS_MAX, patterns, &n, e);

    return err == AIF_OK ? check_patterns(who, patterns, n, e) : err;
}

/* PUBLISH is looked at event by event, where they are decoded. */
static aif_err
check_kind(const aif_grant *who, const aif_frame *f, aif_error *e)
{
    aif_err err;

    switch (f->kind) {
    case AIF_K_SUBSCRIBE:
        err = check_hints(who, f->flag, e);
        return err == AIF_OK ? check_query(who, f, e) : err;
    case AIF_K_LIST:
    case AIF_K_COUNT:
    case AIF_K_SENDERS:
    case AIF_K_LAST:
        return check_query(who, f, e);
    case AIF_K_STATUS: /* it names the other clients */
        return aif_grant_read(who, AIF_STR("*"))
                   ? AIF_OK
                   : deny(who, "ask for the status: that needs read *",
                          AIF_STR(""), e);
    case AIF_K_HINT:
    case AIF_K_SEQUENCE:
        return aif_grant_publishes(who)
                   ? AIF_OK
                   : deny(who, "do that: it may publish nothing", AIF_STR(""),
                          e);
    default: /* the log's head and times: anybody whom we know */
        return AIF_OK;
    }
}

/* libzmq gives 5 bytes, the first 0.  Who takes another's gets its answers. */
static bool
is_given(const aif_route *from)
{
    return from->n == 5 && from->p[0] == 0;
}

static aif_err
check_frame(aif_gate *g, const aif_route *from, const aif_frame *f,
            aif_error *e)
{
    if (g->who == NULL) {
        return aif_fail(e, AIF_EDENIED,
                        "the broker does not know this key: it was revoked, "
                        "or not added yet");
    }
    if (!is_given(from)) {
        return aif_fail(e, AIF_EDENIED,
                        "a routing id of its own: leave it to libzmq");
    }
    return check_kind(g->who, f, e);
}

aif_err
aif_gate_check(aif_broker *b, const aif_route *from, zmq_msg_t *frame,
               const aif_frame *f, aif_error *e)
{
    aif_gate *g = &b->gate;
    const char *user;

    g->who = NULL;
    g->key[0] = '\0';
    if (g->zap == NULL) {
        return AIF_OK;
    }
    take_table(b);
    user = zmq_msg_gets(frame, AIF_ZAP_USER);
    if (user != NULL && strlen(user) == AIF_CURVE_KEY) {
        memcpy(g->key, user, sizeof g->key);
        g->who = aif_access_find(g->now, (aif_str){g->key, AIF_CURVE_KEY});
    }
    return check_frame(g, from, f, e);
}

aif_err
aif_gate_publish(const aif_gate *g, const aif_event *ev, aif_error *e)
{
    if (g->zap == NULL || aif_grant_publish(g->who, ev->ns)) {
        return AIF_OK;
    }
    return deny(g->who, "publish to namespace ", ev->ns, e);
}

aif_err
aif_gate_keeps(const aif_gate *g, const aif_subscriber *s, aif_error *e)
{
    const aif_grant *who =
        aif_access_find(g->now, (aif_str){s->key, strlen(s->key)});
    aif_err err;

    if (who == NULL) {
        return aif_fail(e, AIF_EDENIED, "the key was revoked");
    }
    err = check_hints(who, s->hints, e);
    return err == AIF_OK ? check_patterns(who, s->patterns, s->n, e) : err;
}

static void
answer_zap(aif_broker *b)
{
    aif_zap_peer peer;

    for (int i = 0; i < LOOKS; i++) {
        if (!aif_zap_answer(b->gate.zap, b->gate.now, &peer)) {
            return;
        }
        if (!peer.allowed) {
            aif_door_unknown(b, peer.address, peer.key);
        }
    }
}

size_t
aif_gate_items(const aif_broker *b,
               zmq_pollitem_t items[static AIF_GATE_ITEMS])
{
    void *const sockets[] = {b->gate.zap, b->door.monitor};
    size_t n = 0;

    items[n++] = (zmq_pollitem_t){.fd = b->gate.wake, .events = ZMQ_POLLIN};
    for (size_t i = 0; i < 2; i++) {
        if (sockets[i] != NULL) {
            items[n++] =
                (zmq_pollitem_t){.socket = sockets[i], .events = ZMQ_POLLIN};
        }
    }
    return n;
}

void
aif_gate_tend(aif_broker *b)
{
    uint64_t woken;

    if (read(b->gate.wake, &woken, sizeof woken) == sizeof woken) {
        take_table(b);
    }
    if (b->gate.zap != NULL) {
        answer_zap(b);
    }
}
