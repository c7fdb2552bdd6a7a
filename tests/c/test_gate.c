/* A broker with CURVE: who is let in, what they may do, until when. */
#include "broker_fixture.h"

#include "net/access.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    served broker;
    aif_curve ann; /* publishes to a and a.*, reads all */
    aif_curve bob; /* reads a and a.*, publishes to b */
    aif_curve eve; /* is in no table */
} gated;

static const aif_str grant_a[] = {{"a", 1}, {"a.*", 3}};
static const aif_str grant_b[] = {{"b", 1}};
static const aif_str grant_all[] = {{"*", 1}};

static aif_str
text(const char *s)
{
    return (aif_str){s, strlen(s)};
}

/* The table with ann, or without her. */
static void
allow(gated *g, bool with_ann)
{
    const aif_access_key keys[] = {{.public = text(g->bob.public),
                                    .name = AIF_STR("bob"),
                                    .publish = grant_b,
                                    .n_publish = 1,
                                    .read = grant_a,
                                    .n_read = 2},
                                   {.public = text(g->ann.public),
                                    .name = AIF_STR("ann"),
                                    .publish = grant_a,
                                    .n_publish = 2,
                                    .read = grant_all,
                                    .n_read = 1}};
    aif_access *a;
    aif_error e;

    assert_int_equal(aif_access_new(keys, with_ann ? 2 : 1, &a, &e), AIF_OK);
    aif_broker_set_access(g->broker.broker, a);
}

static void
make_keys(const char *server, aif_curve *out)
{
    aif_error e;

    memcpy(out->server, server, sizeof out->server);
    assert_int_equal(aif_curve_pair(out->public, out->secret, &e), AIF_OK);
}

static int
setup(void **state)
{
    gated *g = calloc(1, sizeof *g);
    char server[41];
    aif_error e;

    assert_non_null(g);
    assert_int_equal(aif_curve_pair(server, g->broker.secret, &e), AIF_OK);
    strcpy(g->broker.bind, "tcp://127.0.0.1:0");
    strcpy(g->broker.log, "mem:");
    make_keys(server, &g->ann);
    make_keys(server, &g->bob);
    make_keys(server, &g->eve);
    serve(&g->broker);
    *state = g;
    return 0;
}

static int
setup_allowed(void **state)
{
    int rc = setup(state);

    allow(*state, true);
    return rc;
}

static int
teardown(void **state)
{
    gated *g = *state;

    unserve(&g->broker);
    free(g);
    return 0;
}

static void
open_as(const gated *g, raw *r, const aif_curve *keys)
{
    raw_open_curve(r, aif_broker_uri(g->broker.broker), keys);
}

static void
expect(raw *r, uint64_t id, aif_kind kind)
{
    aif_frame f = raw_next(r);

    if (f.kind == AIF_K_ERROR && kind != AIF_K_ERROR) {
        fail_msg("%.*s", (int)f.text.n, f.text.p);
    }
    assert_int_equal(f.kind, kind);
    assert_int_equal(f.id, id);
}

static void
expect_denied(raw *r, uint64_t id, const char *why)
{
    aif_frame f = raw_next(r);
    char got[256];

    assert_int_equal(f.kind, AIF_K_ERROR);
    assert_int_equal(f.id, id);
    assert_int_equal(f.code, AIF_EDENIED);
    (void)snprintf(got, sizeof got, "%.*s", (int)f.text.n, f.text.p);
    if (strstr(got, why) == NULL) {
        fail_msg("%s: not in: %s", why, got);
    }
}

static void
publish(raw *r, uint64_t id, const char *producer, const char *const *ns,
        size_t n)
{
    const aif_frame f = {.kind = AIF_K_PUBLISH, .id = id};
    aif_buf tail = {0};
    aif_error e;

    for (size_t i = 0; i < n; i++) {
        aif_event ev = numbered(producer, 1000 * id + i);

        ev.ns = text(ns[i]);
        assert_int_equal(aif_event_encode(&ev, &tail, &e), AIF_OK);
    }
    raw_frame(r, &f, &tail);
    aif_buf_fini(&tail);
}

/* A frame of this kind with a pattern of namespaces, or none. */
static void
ask(raw *r, aif_kind kind, uint64_t id, const char *ns, uint8_t hints)
{
    aif_frame f = {.kind = kind,
                   .id = id,
                   .max = 1 << 20,
                   .flag = hints,
                   .text = AIF_STR("c"),
                   .holder = 1};
    aif_pattern p = everything;
    aif_buf tail = {0};
    aif_error e;

    if (ns != NULL) {
        p.ns = text(ns);
        assert_int_equal(aif_wire_put_pattern(&p, &tail, &e), AIF_OK);
    }
    raw_frame(r, &f, &tail);
    aif_buf_fini(&tail);
}

static void
a_key_publishes_where_it_may_all_or_nothing(void **state)
{
    static const char *const good[] = {"a", "a.x"};
    static const char *const bad[] = {"a", "b", "a"};
    static const char *const star[] = {"*"};
    const gated *g = *state;
    raw r;

    open_as(g, &r, &g->ann);
    publish(&r, 1, "p", good, 2);
    expect(&r, 1, AIF_K_PUBLISHED);
    publish(&r, 2, "p", bad, 3);
    expect_denied(&r, 2, "key ann may not publish to namespace b");
    publish(&r, 3, "p", star, 1);
    expect_denied(&r, 3, "key ann may not publish to namespace *");
    publish(&r, 4, "p", good, 1); /* the connection lives */
    expect(&r, 4, AIF_K_PUBLISHED);
    ask(&r, AIF_K_COUNT, 5, NULL, 0);
    assert_int_equal(raw_next(&r).to, 3);
    assert_int_equal(stats_of(&g->broker).denied, 2);
    raw_close(&r);
}

static void
a_key_reads_what_it_may(void **state)
{
    static const aif_kind kinds[] = {AIF_K_LIST, AIF_K_COUNT,  AIF_K_SUBSCRIBE,
                                     AIF_K_TAKE, AIF_K_FORGET, AIF_K_CURSORS};
    static const aif_kind answers[] = {AIF_K_LISTED,     AIF_K_COUNTED,
                                       AIF_K_SUBSCRIBED, AIF_K_TAKEN,
                                       AIF_K_COUNTED,    AIF_K_CURSORED};
    const gated *g = *state;
    raw r;

    open_as(g, &r, &g->bob);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        ask(&r, kinds[i], 10 * i + 1, "a", 0);
        expect(&r, 10 * i + 1, answers[i]);
        ask(&r, kinds[i], 10 * i + 2, "a.x*", 0);
        expect(&r, 10 * i + 2, answers[i]);
        ask(&r, kinds[i], 10 * i + 3, "a*", 0);
        expect_denied(&r, 10 * i + 3, "key bob may not read namespace a*");
        ask(&r, kinds[i], 10 * i + 4, "*", 0);
        expect_denied(&r, 10 * i + 4, "key bob may not read namespace *");
        ask(&r, kinds[i], 10 * i + 5, "b", 0); /* to publish is not to read */
        expect_denied(&r, 10 * i + 5, "key bob may not read namespace b");
    }
    ask(&r, AIF_K_LIST, 70, NULL, 0);
    expect_denied(&r, 70, "may not read all namespaces");
    ask(&r, AIF_K_SUBSCRIBE, 71, "a", 1);
    expect_denied(&r, 71, "may not listen for hints");
    ask(&r, AIF_K_STATUS, 72, NULL, 0);
    expect_denied(&r, 72, "may not ask for the status");
    ask(&r, AIF_K_HEAD, 73, NULL, 0);
    expect(&r, 73, AIF_K_HEADED);
    ask(&r, AIF_K_PING, 74, NULL, 0);
    expect(&r, 74, AIF_K_PONG);
    raw_close(&r);
}

static void
what_is_revoked_ends_at_once(void **state)
{
    static const char *const ns[] = {"a"};
    gated *g = *state;
    raw ann;
    raw bob;

    open_as(g, &ann, &g->ann);
    open_as(g, &bob, &g->bob);
    ask(&ann, AIF_K_SUBSCRIBE, 7, "*", 1);
    expect(&ann, 7, AIF_K_SUBSCRIBED);
    ask(&bob, AIF_K_SUBSCRIBE, 8, "a", 0);
    expect(&bob, 8, AIF_K_SUBSCRIBED);
    allow(g, false);
    expect_denied(&ann, 7, "revoked");
    publish(&ann, 9, "p", ns, 1);
    expect_denied(&ann, 9, "does not know this key");
    ask(&ann, AIF_K_PING, 10, NULL, 0);
    expect_denied(&ann, 10, "does not know this key");
    assert_int_equal(stats_of(&g->broker).subscribers, 1);
    allow(g, true);
    publish(&ann, 11, "p", ns, 1);
    expect(&ann, 11, AIF_K_PUBLISHED);
    expect(&bob, 8, AIF_K_EVENTS); /* the other one never noticed */
    aif_broker_set_access(g->broker.broker, NULL);
    expect_denied(&bob, 8, "revoked");
    raw_close(&ann);
    raw_close(&bob);
}

static void
nobody_may_do_anything_before_there_is_a_table(void **state)
{
    gated *g = *state;
    raw r;

    open_as(g, &r, &g->ann);
    ask(&r, AIF_K_PING, 1, NULL, 0);
    while (stats_of(&g->broker).strangers == 0) {
        assert_false(raw_poll(&r, 10));
    }
    allow(g, true);
    expect(&r, 1, AIF_K_PONG); /* libzmq tries again */
    raw_close(&r);
}

/* Of the two, one gets in. */
static void
assert_only_ann_is_let_in(gated *g, const aif_curve *other)
{
    uint64_t before = stats_of(&g->broker).strangers;
    raw stranger;
    raw ann;

    open_as(g, &stranger, other);
    ask(&stranger, AIF_K_PING, 1, NULL, 0);
    open_as(g, &ann, &g->ann);
    do {
        ask(&ann, AIF_K_PING, 2, NULL, 0);
        expect(&ann, 2, AIF_K_PONG);
    } while (stats_of(&g->broker).strangers == before);
    assert_false(raw_poll(&stranger, 0));
    raw_close(&stranger);
    raw_close(&ann);
}

static void
who_is_not_known_is_not_let_in(void **state)
{
    gated *g = *state;

    assert_only_ann_is_let_in(g, &g->eve);
}

static void
who_knows_another_broker_is_not_let_in(void **state)
{
    gated *g = *state;
    aif_curve keys = g->ann;

    memcpy(keys.server, g->eve.public, sizeof keys.server);
    assert_only_ann_is_let_in(g, &keys);
}

static void
who_has_no_key_is_not_let_in(void **state)
{
    gated *g = *state;

    assert_only_ann_is_let_in(g, NULL);
}

/* Her public key is no secret; the secret one is. */
static void
who_has_but_the_public_key_is_not_let_in(void **state)
{
    gated *g = *state;
    aif_curve keys = g->eve;

    memcpy(keys.public, g->ann.public, sizeof keys.public);
    assert_only_ann_is_let_in(g, &keys);
}

static aif_err
head_as(const gated *g, const aif_curve *keys, int timeout_ms, aif_error *e)
{
    aif_client *c;
    uint64_t n;
    aif_err err;

    assert_int_equal(
        aif_client_open(aif_broker_uri(g->broker.broker), keys, &c, e),
        AIF_OK);
    err = aif_client_head(c, &n, timeout_ms, e);
    if (err == AIF_EDENIED) { /* and again, when it asks again */
        assert_int_equal(aif_client_head(c, &n, timeout_ms, e), AIF_EDENIED);
    }
    aif_client_free(c);
    return err;
}

/* It does not wait for what will not come. */
static void
a_client_is_told_that_it_is_not_let_in(void **state)
{
    const gated *g = *state;
    aif_curve keys = g->ann;
    aif_error e;

    assert_int_equal(head_as(g, &g->ann, SOON, &e), AIF_OK);
    assert_int_equal(head_as(g, &g->eve, SOON, &e), AIF_EDENIED);
    assert_non_null(strstr(e.text, ": the broker does not take our keys"));
    assert_int_equal(head_as(g, NULL, SOON, &e), AIF_EDENIED);
    assert_non_null(strstr(e.text, "wants keys (CURVE), and we have none"));
    memcpy(keys.server, g->eve.public, sizeof keys.server);
    assert_int_equal(head_as(g, &keys, 300, &e), AIF_ETIMEOUT);
    keys.secret[3] = ' '; /* no character of Z85 */
    assert_int_equal(head_as(g, &keys, SOON, &e), AIF_EINVAL);
}

/* One that is not there may take them, when it is. */
static void
a_broker_that_is_away_has_not_denied(void **state)
{
    const gated *g = *state;
    char uris[300];
    aif_client *c;
    uint64_t n;
    aif_error e;

    (void)snprintf(uris, sizeof uris, "%s,ipc:///tmp/aif-test-nobody",
                   aif_broker_uri(g->broker.broker));
    assert_int_equal(aif_client_open(uris, &g->eve, &c, &e), AIF_OK);
    assert_int_equal(aif_client_head(c, &n, 500, &e), AIF_ETIMEOUT);
    aif_client_free(c);
}

static void
open_named(const gated *g, raw *r, const void *id, size_t n)
{
    aif_error e;

    r->ctx = zmq_ctx_new();
    r->socket = zmq_socket(r->ctx, ZMQ_DEALER);
    zmq_msg_init(&r->msg);
    zmq_setsockopt(r->socket, ZMQ_ROUTING_ID, id, n);
    assert_int_equal(aif_curve_client(r->socket, &g->ann, &e), AIF_OK);
    zmq_connect(r->socket, aif_broker_uri(g->broker.broker));
}

/* Whoever takes the id of one that left is sent what was meant for it. */
static void
a_routing_id_of_ones_own_is_refused(void **state)
{
    const aif_frame ping = {.kind = AIF_K_PING, .id = 1};
    raw r;

    open_named(*state, &r, "me", 2);
    raw_frame(&r, &ping, NULL);
    expect_denied(&r, 1, "routing id");
    raw_close(&r);
}

/* libzmq would abort the broker where a peer names the id that its counter
 * gives next, and the counter begins at rand(). */
static void
nobody_guesses_the_routing_id_that_is_given_next(void **state)
{
    enum { GUESSES = 8 };
    const aif_frame ping = {.kind = AIF_K_PING, .id = 1};
    gated *g = *state;
    raw r[2 * GUESSES];
    uint32_t next;

    unserve(&g->broker);
    strcpy(g->broker.bind, "tcp://127.0.0.1:0");
    srand(1); /* as nobody seeds it */
    next = (uint32_t)rand();
    next |= (uint32_t)rand() << 31;
    srand(1);
    serve(&g->broker);
    allow(g, true);
    for (uint32_t i = 0; i < 2 * GUESSES; i++) {
        const uint8_t id[] = {0, (uint8_t)(next >> 24), (uint8_t)(next >> 16),
                              (uint8_t)(next >> 8), (uint8_t)(next + i)};

        open_named(g, &r[i], id, i < GUESSES ? sizeof id : 0);
        raw_frame(&r[i], &ping, NULL);
        expect(&r[i], 1, AIF_K_PONG);
    }
    for (size_t i = 0; i < 2 * GUESSES; i++) {
        raw_close(&r[i]);
    }
}

/* With keys the whole world may knock. */
static void
with_keys_any_address_is_served(void **state)
{
    static const char *const binds[] = {
        "tcp://127.0.0.1:0", "tcp://0.0.0.0:0",  "tcp://*:0",
        "tcp://lo:0",        "tcp://[::1]:0",    "tcp://[::]:0",
        "tcp://localhost:0", "tcp://127.9.9.9:0"};
    static const char *const bad[] = {"tcp://example.org:0", "tcp://[::g]:0",
                                      "tcp://nosuch0:0",     "tcp://[]:0",
                                      "tcp://[:0",           "tcp://:0",
                                      "tcp://1.2.3:0",       "tcp://*"};
    const gated *g = *state;
    aif_broker_options o = {.log = "mem:", .secret = g->broker.secret};
    aif_broker *b;
    aif_error e;

    for (size_t i = 0; i < sizeof binds / sizeof *binds; i++) {
        if (strchr(binds[i], '[') != NULL && !has_ipv6()) {
            continue;
        }
        o.bind = binds[i];
        if (aif_broker_open(&o, &b, &e) != AIF_OK) {
            fail_msg("%s", e.text);
        }
        assert_null(strstr(aif_broker_uri(b), ":0\0"));
        aif_broker_free(b);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        o.bind = bad[i];
        assert_int_equal(aif_broker_open(&o, &b, &e), AIF_EINVAL);
        assert_non_null(strstr(e.text, bad[i]));
    }
    o.bind = "tcp://127.0.0.1:0";
    o.secret = "no key";
    assert_int_equal(aif_broker_open(&o, &b, &e), AIF_EINVAL);
    assert_non_null(strstr(e.text, "secret key is no key"));
}

/* The file's mode keeps others away, so nobody needs a key there. */
static void
ipc_needs_no_key(void **state)
{
    gated *g = *state;
    char dir[] = "/tmp/aif-test-XXXXXX";
    served s = {.log = "mem:"};
    char path[64];

    assert_non_null(mkdtemp(dir));
    (void)snprintf(s.bind, sizeof s.bind, "ipc://%s/s", dir);
    memcpy(s.secret, g->broker.secret, sizeof s.secret);
    serve(&s);
    assert_it_lives(&s);
    aif_broker_set_access(s.broker, NULL);
    assert_it_lives(&s);
    unserve(&s);
    (void)snprintf(path, sizeof path, "%s/s.lock", dir);
    (void)remove(path);
    assert_int_equal(remove(dir), 0);
}

/* Who has a key may hurt himself: libzmq drops his connection. */
static void
a_huge_frame_hurts_its_sender_only(void **state)
{
    gated *g = *state;
    char *p = calloc(1, AIF_FRAME_MAX + 1);
    raw ann;
    raw bob;

    assert_non_null(p);
    open_as(g, &ann, &g->ann);
    open_as(g, &bob, &g->bob);
    raw_send(&ann, p, AIF_FRAME_MAX + 1);
    ask(&bob, AIF_K_PING, 1, NULL, 0);
    expect(&bob, 1, AIF_K_PONG);
    while (stats_of(&g->broker).strangers == 0) { /* it never came in */
        ask(&bob, AIF_K_PING, 2, NULL, 0);
        expect(&bob, 2, AIF_K_PONG);
    }
    assert_int_equal(stats_of(&g->broker).rejected, 0);
    free(p);
    raw_close(&ann);
    raw_close(&bob);
}

static void *
replace_tables(void *arg)
{
    gated *g = arg;

    for (int i = 0; i < 200; i++) {
        allow(g, true);
    }
    return NULL;
}

static void
tables_change_while_it_works(void **state)
{
    gated *g = *state;
    static const char *const ns[] = {"a"};
    pthread_t threads[2];
    raw r;

    open_as(g, &r, &g->ann);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, replace_tables, g),
                         0);
    }
    for (uint64_t i = 1; i <= 200; i++) {
        publish(&r, i, "p", ns, 1);
        expect(&r, i, AIF_K_PUBLISHED);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    raw_close(&r);
}

int
main(void)
{
#define GATED(test)                                                           \
    cmocka_unit_test_setup_teardown(test, setup_allowed, teardown)
    const struct CMUnitTest tests[] = {
        GATED(a_key_publishes_where_it_may_all_or_nothing),
        GATED(a_key_reads_what_it_may),
        GATED(what_is_revoked_ends_at_once),
        cmocka_unit_test_setup_teardown(
            nobody_may_do_anything_before_there_is_a_table, setup, teardown),
        GATED(who_is_not_known_is_not_let_in),
        GATED(who_knows_another_broker_is_not_let_in),
        GATED(who_has_no_key_is_not_let_in),
        GATED(a_client_is_told_that_it_is_not_let_in),
        GATED(a_broker_that_is_away_has_not_denied),
        GATED(who_has_but_the_public_key_is_not_let_in),
        GATED(a_routing_id_of_ones_own_is_refused),
        GATED(nobody_guesses_the_routing_id_that_is_given_next),
        GATED(with_keys_any_address_is_served),
        GATED(ipc_needs_no_key),
        GATED(a_huge_frame_hurts_its_sender_only),
        GATED(tables_change_while_it_works),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
