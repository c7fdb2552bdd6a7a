/* The ZAP server alone: libzmq's questions, and what is none. */
#include "cmocka_all.h"

#include "net/port.h"
#include "net/zap.h"

#include <zmq.h>

#define PUBLIC "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7" /* RFC 26's */

typedef struct {
    void *ctx;
    void *zap;
    void *asker;
    aif_access *access;
    uint8_t key[32];
} zap;

static int
setup(void **state)
{
    static zap z;
    static const aif_access_key ann = {.public = {PUBLIC, 40},
                                       .name = {"ann", 3}};
    aif_error e;

    z.ctx = zmq_ctx_new();
    assert_int_equal(aif_port_zap(z.ctx, &z.zap, &e), AIF_OK);
    z.asker = zmq_socket(z.ctx, ZMQ_REQ);
    assert_int_equal(zmq_connect(z.asker, "inproc://zeromq.zap.01"), 0);
    assert_int_equal(aif_access_new(&ann, 1, &z.access, &e), AIF_OK);
    assert_non_null(zmq_z85_decode(z.key, PUBLIC));
    *state = &z;
    return 0;
}

static int
teardown(void **state)
{
    zap *z = *state;

    aif_access_free(z->access);
    (void)zmq_close(z->asker);
    (void)zmq_close(z->zap);
    (void)zmq_ctx_term(z->ctx);
    return 0;
}

typedef struct {
    const void *p;
    size_t n;
} part;

#define TEXT(s) ((part){s, sizeof(s) - 1})

static void
ask(zap *z, const part *parts, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int more = i + 1 < n ? ZMQ_SNDMORE : 0;

        assert_int_equal(zmq_send(z->asker, parts[i].p, parts[i].n, more),
                         parts[i].n);
    }
}

/* The reply's code and user; it has the six frames of RFC 27. */
static void
expect(zap *z, const char *code, const char *user)
{
    char got[6][64] = {{0}};
    int more = 1;
    size_t n = sizeof more;

    for (int i = 0; i < 6; i++) {
        assert_true(zmq_recv(z->asker, got[i], 63, 0) >= 0);
        assert_int_equal(zmq_getsockopt(z->asker, ZMQ_RCVMORE, &more, &n), 0);
        assert_int_equal(more, i < 5);
    }
    assert_string_equal(got[0], "1.0");
    assert_string_equal(got[1], "id");
    assert_string_equal(got[2], code);
    assert_string_equal(got[4], user);
    assert_string_equal(got[5], "");
}

static void
a_known_key_is_let_in_by_its_name(void **state)
{
    zap *z = *state;
    const part question[] = {TEXT("1.0"), TEXT("id"), TEXT("aiflow"),
                             TEXT("::1"), TEXT(""),   TEXT("CURVE"),
                             {z->key, 32}};
    aif_zap_peer peer;

    assert_false(aif_zap_answer(z->zap, z->access, &peer));
    ask(z, question, 7);
    while (!aif_zap_answer(z->zap, z->access, &peer)) {
    }
    assert_true(peer.allowed);
    assert_string_equal(peer.address, "::1");
    assert_string_equal(peer.key, PUBLIC);
    expect(z, "200", PUBLIC);
    assert_false(aif_zap_answer(z->zap, z->access, &peer));
}

static void
without_a_table_it_may_come_again(void **state)
{
    zap *z = *state;
    const part question[] = {TEXT("1.0"), TEXT("id"), TEXT("aiflow"),
                             TEXT("::1"), TEXT(""),   TEXT("CURVE"),
                             {z->key, 32}};
    aif_zap_peer peer;

    ask(z, question, 7);
    while (!aif_zap_answer(z->zap, NULL, &peer)) {
    }
    assert_false(peer.allowed);
    expect(z, "300", "");
}

static void
what_is_no_question_of_ours_is_refused(void **state)
{
    zap *z = *state;
    static const char address[300] = "an address that does not fit";
    const part good[] = {
        TEXT("1.0"), TEXT("id"),    TEXT("aiflow"), {address, sizeof address},
        TEXT(""),    TEXT("CURVE"), {z->key, 32},   TEXT("and more")};
    const struct {
        size_t n;
        size_t at;
        part instead;
    } bad[] = {
        {7, 0, TEXT("2.0")},   {7, 5, TEXT("PLAIN")}, {7, 5, TEXT("NULL")},
        {7, 6, {z->key, 31}},  {7, 6, {z->key, 0}},   {7, 6, TEXT(PUBLIC)},
        {6, 5, TEXT("CURVE")}, {2, 0, TEXT("1.0")},
    };
    aif_zap_peer peer;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        part question[8];

        memcpy(question, good, sizeof question);
        question[bad[i].at] = bad[i].instead;
        ask(z, question, bad[i].n);
        while (!aif_zap_answer(z->zap, z->access, &peer)) {
        }
        assert_false(peer.allowed);
        expect(z, "400", "");
    }
    ask(z, good, 8); /* what comes after the key is not looked at */
    while (!aif_zap_answer(z->zap, z->access, &peer)) {
    }
    assert_true(peer.allowed);
    assert_int_equal(strlen(peer.address), strlen(address));
    expect(z, "200", PUBLIC);
}

static void
a_context_has_one(void **state)
{
    zap *z = *state;
    void *second;
    aif_error e;

    assert_int_equal(aif_port_zap(z->ctx, &second, &e), AIF_ENOMEM);
    assert_null(second);
}

int
main(void)
{
#define ZAP(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        ZAP(a_known_key_is_let_in_by_its_name),
        ZAP(without_a_table_it_may_come_again),
        ZAP(what_is_no_question_of_ours_is_refused),
        ZAP(a_context_has_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
