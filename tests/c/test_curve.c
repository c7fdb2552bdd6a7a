/* Keys: made, checked, given to sockets. */
#include "cmocka_all.h"

#include "net/curve.h"

#include <stdio.h>
#include <zmq.h>

static aif_err
check(const char *key, aif_error *e)
{
    return aif_curve_check("the key", (aif_str){key, strlen(key)}, e);
}

static void
a_pair_belongs_together(void **state)
{
    char public[41];
    char secret[41];
    char again[41];
    aif_error e;

    (void)state;
    assert_int_equal(aif_curve_pair(public, secret, &e), AIF_OK);
    assert_int_equal(check(public, &e), AIF_OK);
    assert_int_equal(check(secret, &e), AIF_OK);
    assert_string_not_equal(public, secret);
    assert_int_equal(aif_curve_public(secret, again, &e), AIF_OK);
    assert_string_equal(again, public);
}

/* RFC 26's own: what is no Z85, too long, too short, or beyond four bytes. */
static void
what_is_no_key_is_refused_and_not_repeated(void **state)
{
    static const char good[] = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7";
    static const char *const bad[] = {
        "",
        "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf",
        "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf77",
        "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf~",
        "#####>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7",
        "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf\xff",
    };
    char public[41];
    aif_error e;

    (void)state;
    assert_int_equal(check(good, &e), AIF_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(check(bad[i], &e), AIF_EINVAL);
        assert_int_equal(aif_curve_public(bad[i], public, &e), AIF_EINVAL);
        assert_string_equal(public, "");
        assert_null(strstr(e.text, "Lns47"));
        assert_non_null(strstr(e.text, "40 characters"));
    }
}

/* A server answers who has its public key, and nobody else. */
static void
sockets_take_them(void **state)
{
    void *ctx = zmq_ctx_new();
    void *server = zmq_socket(ctx, ZMQ_ROUTER);
    void *client = zmq_socket(ctx, ZMQ_DEALER);
    char secret[41];
    char uri[64];
    size_t n = sizeof uri;
    char got[8];
    aif_curve keys;
    aif_error e;

    (void)state;
    assert_int_equal(aif_curve_pair(keys.server, secret, &e), AIF_OK);
    assert_int_equal(aif_curve_pair(keys.public, keys.secret, &e), AIF_OK);
    assert_int_equal(aif_curve_server(server, secret, &e), AIF_OK);
    assert_int_equal(zmq_bind(server, "tcp://127.0.0.1:*"), 0);
    assert_int_equal(zmq_getsockopt(server, ZMQ_LAST_ENDPOINT, uri, &n), 0);
    assert_int_equal(aif_curve_client(client, &keys, &e), AIF_OK);
    assert_int_equal(zmq_connect(client, uri), 0);
    assert_int_equal(zmq_send(client, "hi", 2, 0), 2);
    assert_int_equal(zmq_recv(server, got, sizeof got, 0), 5);
    assert_int_equal(zmq_recv(server, got, sizeof got, 0), 2);
    keys.secret[0] = '~';
    assert_int_equal(aif_curve_client(client, &keys, &e), AIF_EINVAL);
    assert_non_null(strstr(e.text, "secret key"));
    assert_int_equal(aif_curve_server(server, "no", &e), AIF_EINVAL);
    (void)zmq_close(client);
    (void)zmq_close(server);
    (void)zmq_ctx_term(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pair_belongs_together),
        cmocka_unit_test(what_is_no_key_is_refused_and_not_repeated),
        cmocka_unit_test(sockets_take_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
