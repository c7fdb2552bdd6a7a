/* Who may do what: the table alone; test_zap.c has it in a broker. */
#include "cmocka_all.h"

#include "net/access.h"
#include "fault.h"

#include <stdio.h>

#define KEY_A "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
#define KEY_B "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"

static const aif_str own[] = {{"team-a", 6}, {"team-a.*", 8}};
static const aif_str all[] = {{"*", 1}};

static const aif_access_key ann = {.public = {KEY_A, 40},
                                   .name = {"ann", 3},
                                   .publish = own,
                                   .n_publish = 2,
                                   .read = all,
                                   .n_read = 1};
static const aif_access_key bob = {
    .public = {KEY_B, 40}, .name = {"bob", 3}, .read = own, .n_read = 2};

static aif_access *
table(void)
{
    const aif_access_key keys[] = {ann, bob};
    aif_access *a;
    aif_error e;

    if (aif_access_new(keys, 2, &a, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    return a;
}

static void
a_key_finds_its_grant(void **state)
{
    aif_access *a = table();
    const aif_grant *g = aif_access_find(a, AIF_STR(KEY_A));

    (void)state;
    assert_non_null(g);
    assert_true(aif_str_eq(aif_grant_name(g), AIF_STR("ann")));
    g = aif_access_find(a, AIF_STR(KEY_B));
    assert_true(aif_str_eq(aif_grant_name(g), AIF_STR("bob")));
    assert_null(aif_access_find(a, AIF_STR("")));
    assert_null(aif_access_find(a, (aif_str){KEY_A, 39}));
    assert_null(aif_access_find(
        a, AIF_STR("rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf8")));
    assert_null(aif_access_find(NULL, AIF_STR(KEY_A)));
    aif_access_free(a);
}

static void
it_publishes_where_it_may(void **state)
{
    aif_access *a = table();
    const aif_grant *g = aif_access_find(a, AIF_STR(KEY_A));

    (void)state;
    assert_true(aif_grant_publish(g, AIF_STR("team-a")));
    assert_true(aif_grant_publish(g, AIF_STR("team-a.x")));
    assert_true(aif_grant_publish(g, AIF_STR("team-a.*"))); /* literally */
    assert_false(aif_grant_publish(g, AIF_STR("team-ab")));
    assert_false(aif_grant_publish(g, AIF_STR("team-*")));
    assert_false(aif_grant_publish(g, AIF_STR("*")));
    assert_true(aif_grant_publishes(g));
    g = aif_access_find(a, AIF_STR(KEY_B));
    assert_false(aif_grant_publish(g, AIF_STR("team-a")));
    assert_false(aif_grant_publishes(g));
    aif_access_free(a);
}

static void
it_reads_what_one_grant_covers(void **state)
{
    aif_access *a = table();
    const aif_grant *g = aif_access_find(a, AIF_STR(KEY_B));

    (void)state;
    assert_true(aif_grant_read(g, AIF_STR("team-a")));
    assert_true(aif_grant_read(g, AIF_STR("team-a.*")));
    assert_true(aif_grant_read(g, AIF_STR("team-a.x*")));
    assert_false(aif_grant_read(g, AIF_STR("team-a*")));
    assert_false(aif_grant_read(g, AIF_STR("team-b")));
    assert_false(aif_grant_read(g, AIF_STR("*")));
    g = aif_access_find(a, AIF_STR(KEY_A));
    assert_true(aif_grant_read(g, AIF_STR("*")));
    assert_true(aif_grant_read(g, AIF_STR("anything")));
    aif_access_free(a);
}

static void
refused(const aif_access_key *keys, size_t n, const char *text)
{
    aif_access *a;
    aif_error e;

    assert_int_equal(aif_access_new(keys, n, &a, &e), AIF_EINVAL);
    assert_null(a);
    if (strstr(e.text, text) == NULL) {
        fail_msg("%s: not in: %s", text, e.text);
    }
}

static void
a_bad_table_is_refused(void **state)
{
    static char text[257];
    static aif_str many[AIF_ACCESS_PATTERNS_MAX + 1];
    aif_access_key keys[] = {ann, bob};
    const aif_str empty = {"", 0};
    aif_str longest = {text, 256};
    aif_access *a;
    aif_error e;

    (void)state;
    keys[1].public = ann.public;
    refused(keys, 2, "have the same public key");
    keys[1].public.n = 39;
    refused(keys, 2, "the public key of bob is no key");
    keys[1] = bob;
    keys[1].name.n = 0;
    refused(keys, 2, "key's name is empty");
    keys[1].name = (aif_str){KEY_A KEY_A, 65};
    refused(keys, 2, "key's name has 65 bytes");
    keys[1] = bob;
    keys[1].publish = &empty;
    keys[1].n_publish = 1;
    refused(keys, 2, "namespace is empty");
    memset(text, 'x', sizeof text - 1);
    keys[1].publish = &longest;
    refused(keys, 2, "namespace has 256 bytes");
    text[255] = '*'; /* 255 and a star */
    assert_int_equal(aif_access_new(keys, 2, &a, &e), AIF_OK);
    aif_access_free(a);
    for (size_t i = 0; i < AIF_ACCESS_PATTERNS_MAX + 1; i++) {
        many[i] = all[0];
    }
    keys[1].publish = many;
    keys[1].n_publish = AIF_ACCESS_PATTERNS_MAX;
    assert_int_equal(aif_access_new(keys, 2, &a, &e), AIF_OK);
    aif_access_free(a);
    keys[1].n_publish++;
    refused(keys, 2, "257 patterns");
    refused(keys, AIF_ACCESS_KEYS_MAX + 1, "10001 keys");
}

static void
none_may_do_nothing(void **state)
{
    aif_access *a;
    aif_error e;

    (void)state;
    assert_int_equal(aif_access_new(NULL, 0, &a, &e), AIF_OK);
    assert_null(aif_access_find(a, AIF_STR(KEY_A)));
    aif_access_free(a);
    aif_access_free(NULL);
}

static void
it_survives_every_oom(void **state)
{
    const aif_access_key keys[] = {ann, bob};
    aif_access *a;
    aif_error e;
    aif_err err;
    int n = 0;

    (void)state;
    do {
        fault_alloc_after(n++);
        err = aif_access_new(keys, 2, &a, &e);
        fault_off();
        assert_true(err == AIF_OK || (err == AIF_ENOMEM && a == NULL));
    } while (err != AIF_OK);
    assert_int_equal(n, 5);
    aif_access_free(a);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_finds_its_grant),
        cmocka_unit_test(it_publishes_where_it_may),
        cmocka_unit_test(it_reads_what_one_grant_covers),
        cmocka_unit_test(a_bad_table_is_refused),
        cmocka_unit_test(none_may_do_nothing),
        cmocka_unit_test(it_survives_every_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
