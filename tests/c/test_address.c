/* Addresses, and lists of them. */
#include "cmocka_all.h"

#include "net/address.h"

#include <stdio.h>
#include <string.h>

static void
one_address_is_a_list_of_one(void **state)
{
    aif_addresses u;
    aif_error e;

    (void)state;
    assert_int_equal(aif_addresses_parse("tcp://broker:50051", &u, &e),
                     AIF_OK);
    assert_int_equal(u.n, 1);
    assert_string_equal(u.uri[0], "tcp://broker:50051");
    assert_string_equal(u.names, "tcp://broker:50051");
}

static void
several_have_commas_between(void **state)
{
    aif_addresses u;
    aif_error e;

    (void)state;
    assert_int_equal(aif_addresses_parse(
                         "tcp://a:1,tcp://b:2,  ipc:///c,d,ipc:///e", &u, &e),
                     AIF_OK);
    assert_int_equal(u.n, 4);
    assert_string_equal(u.uri[1], "tcp://b:2");
    assert_string_equal(u.uri[2], "ipc:///c,d"); /* a comma of the path */
    assert_string_equal(u.uri[3], "ipc:///e");
    assert_string_equal(u.names, "tcp://a:1, tcp://b:2, ipc:///c,d, ipc:///e");
}

static void
what_is_no_address_is_said(void **state)
{
    static const char *const wrong[][2] = {
        {"", " is no address"},
        {"tcp://a:1,b:2,tcp://c", "tcp://c is no address"},
        {"http://a:1", "http://a:1 is no address"},
        {"tcp://a:1,ipc://", "a path in the file system"},
        {"ipc://@x,tcp://a:1", "a path in the file system"},
        {" tcp://a:1", "is no address"},
    };
    aif_addresses u;
    aif_error e;

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(aif_addresses_parse(wrong[i][0], &u, &e), AIF_EINVAL);
        assert_non_null(strstr(e.text, wrong[i][1]));
    }
}

static void
sixteen_are_the_most_and_names_are_cut(void **state)
{
    char text[20 * 32] = "";
    aif_addresses u;
    aif_error e;

    (void)state;
    for (int i = 0; i < AIF_ADDRESSES_MAX; i++) {
        size_t n = strlen(text);

        (void)snprintf(text + n, sizeof text - n, "%stcp://host-%02d:50051",
                       i == 0 ? "" : ",", i);
    }
    assert_int_equal(aif_addresses_parse(text, &u, &e), AIF_OK);
    assert_int_equal(u.n, AIF_ADDRESSES_MAX);
    assert_int_equal(strlen(u.names), sizeof u.names - 1);
    (void)snprintf(text + strlen(text), 16, ",ipc:///x");
    assert_int_equal(aif_addresses_parse(text, &u, &e), AIF_EINVAL);
    assert_string_equal(e.text, "more than 16 addresses");
}

static void
a_long_address_is_refused(void **state)
{
    char text[AIF_URI_MAX + 2] = "tcp://";
    aif_addresses u;
    aif_error e;

    (void)state;
    memset(text + 6, 'h', sizeof text - 7);
    memcpy(text + sizeof text - 4, ":12", 4);
    assert_int_equal(strlen(text), AIF_URI_MAX + 1);
    assert_int_equal(aif_addresses_parse(text, &u, &e), AIF_EINVAL);
    assert_non_null(strstr(e.text, "an address of 256 bytes: 255 are"));
    memmove(text + 6, text + 7, strlen(text) - 6);
    assert_int_equal(aif_addresses_parse(text, &u, &e), AIF_OK);
}

static void
the_parts_of_an_address(void **state)
{
    char host[64];
    char port[8];

    (void)state;
    assert_string_equal(aif_address_path("ipc://a:b"), "a:b");
    assert_null(aif_address_path("tcp://a:1"));
    assert_true(aif_address_is_tcp("tcp://a:1"));
    assert_false(aif_address_is_tcp("ipc://tcp://"));
    assert_true(aif_address_is_v6("tcp://[::1]:1"));
    assert_false(aif_address_is_v6("tcp://127.0.0.1:1"));
    assert_true(aif_address_split("tcp://[::1]:0", host, port));
    assert_string_equal(host, "[::1]");
    assert_string_equal(port, "*");
    assert_true(aif_address_split("tcp://*:65535", host, port));
    assert_string_equal(host, "*");
    assert_string_equal(port, "65535");
    assert_false(aif_address_split("tcp://a:65536", host, port));
    assert_false(aif_address_split("tcp://a:", host, port));
    assert_false(aif_address_split("tcp://a", host, port));
    assert_false(aif_address_split("ipc://a:1", host, port));
}

static void
only_this_machine_reaches_a_loopback(void **state)
{
    (void)state;
    assert_string_equal(aif_address_loopback("localhost"), "127.0.0.1");
    assert_string_equal(aif_address_loopback("127.1.2.3"), "127.1.2.3");
    assert_string_equal(aif_address_loopback("[::1]"), "[::1]");
    assert_null(aif_address_loopback("*"));
    assert_null(aif_address_loopback("128.0.0.1"));
    assert_null(aif_address_loopback("eth0"));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_parts_of_an_address),
        cmocka_unit_test(only_this_machine_reaches_a_loopback),
        cmocka_unit_test(one_address_is_a_list_of_one),
        cmocka_unit_test(several_have_commas_between),
        cmocka_unit_test(what_is_no_address_is_said),
        cmocka_unit_test(sixteen_are_the_most_and_names_are_cut),
        cmocka_unit_test(a_long_address_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
