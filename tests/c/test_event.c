#include "cmocka_all.h"

#include "event/batch.h"
#include "event/event.h"
#include "fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static aif_error e;

static const aif_event hello = {
    .offset = 7,
    .create_time = -1234567890123,
    .ns = {"default", 7},
    .key = {"hello", 5},
    .value = {"w\xc3\xb6rld \xf0\x9f\x8c\x8d", 11},
    .type = {"UNDEFINED", 9},
    .sender = {"me", 2},
    .producer = {"p-1", 3},
    .sequence = 42,
};

static void
assert_same(const aif_event *a, const aif_event *b)
{
    assert_true(a->offset == b->offset && a->sequence == b->sequence);
    assert_true(a->create_time == b->create_time);
    assert_true(aif_str_eq(a->ns, b->ns) && aif_str_eq(a->key, b->key));
    assert_true(aif_str_eq(a->value, b->value) &&
                aif_str_eq(a->type, b->type));
    assert_true(aif_str_eq(a->sender, b->sender));
    assert_true(aif_str_eq(a->context, b->context));
    assert_true(aif_str_eq(a->producer, b->producer));
}

static void
decode_undoes_encode(void **state)
{
    aif_buf b = {0};
    aif_reader r;
    aif_event ev;

    (void)state;
    assert_int_equal(aif_event_encode(&hello, &b, &e), AIF_OK);
    assert_int_equal(aif_event_encode(&hello, &b, &e), AIF_OK);
    r = (aif_reader){b.p, b.n};
    assert_int_equal(aif_event_decode(&r, &ev, &e), AIF_OK);
    assert_same(&ev, &hello);
    assert_int_equal(r.n, b.n / 2);
    assert_int_equal(aif_event_decode(&r, &ev, &e), AIF_OK);
    assert_same(&ev, &hello);
    assert_int_equal(r.n, 0);
    aif_buf_fini(&b);
}

/* Every cut is EPROTO, takes nothing, and reads nothing beyond its end. */
static void
every_cut_is_refused(void **state)
{
    aif_buf b = {0};
    aif_event ev;

    (void)state;
    assert_int_equal(aif_event_encode(&hello, &b, &e), AIF_OK);
    for (size_t n = 0; n < b.n; n++) {
        uint8_t *p = malloc(n == 0 ? 1 : n);
        aif_reader r = {p, n};

        memcpy(p, b.p, n);
        assert_int_equal(aif_event_decode(&r, &ev, &e), AIF_EPROTO);
        assert_true(r.n == n && ev.key.p == NULL && ev.offset == 0);
        free(p);
    }
    aif_buf_fini(&b);
}

/* Any byte of any value: it is refused, or what it says is within limits. */
static void
every_changed_byte_is_survived(void **state)
{
    aif_buf b = {0};
    aif_event ev;

    (void)state;
    assert_int_equal(aif_event_encode(&hello, &b, &e), AIF_OK);
    for (size_t i = 0; i < b.n; i++) {
        const uint8_t was = b.p[i];

        for (unsigned v = 0; v < 256; v++) {
            aif_reader r = {b.p, b.n};

            b.p[i] = (uint8_t)v;
            if (aif_event_decode(&r, &ev, &e) == AIF_OK) {
                assert_int_equal(aif_event_check(&ev, &e), AIF_OK);
            } else {
                assert_int_equal(e.code, AIF_EPROTO);
            }
        }
        b.p[i] = was;
    }
    aif_buf_fini(&b);
}

static void
encode_survives_every_oom(void **state)
{
    aif_buf b = {0};
    aif_err err;
    int n = 0;

    (void)state;
    assert_int_equal(aif_buf_u8(&b, 9, &e), AIF_OK);
    do {
        assert_int_equal(b.n, 1);
        fault_alloc_after(n++);
        err = aif_event_encode(&hello, &b, &e);
        fault_off();
    } while (err == AIF_ENOMEM);
    assert_int_equal(err, AIF_OK);
    assert_true(n > 1 && b.p[0] == 9);
    aif_buf_fini(&b);
}

typedef struct {
    const char *name;
    size_t at; /* of the aif_str in an aif_event */
    size_t min;
    size_t max;
} field;

static const field fields[] = {
    {"namespace", offsetof(aif_event, ns), 1, AIF_NAME_MAX},
    {"key", offsetof(aif_event, key), 1, AIF_KEY_MAX},
    {"value", offsetof(aif_event, value), 0, AIF_VALUE_MAX},
    {"type", offsetof(aif_event, type), 1, AIF_NAME_MAX},
    {"sender", offsetof(aif_event, sender), 0, AIF_NAME_MAX},
    {"context", offsetof(aif_event, context), 0, AIF_CONTEXT_MAX},
    {"producer", offsetof(aif_event, producer), 1, AIF_PRODUCER_MAX},
};
enum { FIELDS = sizeof fields / sizeof *fields };

static aif_err
check_with(const field *f, aif_str s)
{
    aif_event ev = hello;

    memcpy((char *)&ev + f->at, &s, sizeof s);
    return aif_event_check(&ev, &e);
}

static void
every_field_has_its_limits(void **state)
{
    char *text = malloc(AIF_VALUE_MAX + 1);
    char want[100];

    (void)state;
    memset(text, 'x', AIF_VALUE_MAX + 1);
    for (size_t i = 0; i < FIELDS; i++) {
        const field *f = &fields[i];

        for (size_t n = f->max - 1; n <= f->max + 1; n++) {
            assert_int_equal(check_with(f, (aif_str){text, n}),
                             n <= f->max ? AIF_OK : AIF_EINVAL);
        }
        (void)snprintf(want, sizeof want, "%s has %zu bytes: %zu are the most",
                       f->name, f->max + 1, f->max);
        assert_string_equal(e.text, want);
        assert_int_equal(check_with(f, (aif_str){NULL, 0}),
                         f->min == 0 ? AIF_OK : AIF_EINVAL);
        assert_int_equal(check_with(f, (aif_str){text, 1}), AIF_OK);
    }
    free(text);
}

static void
a_sequence_fits_a_bigint(void **state)
{
    aif_event ev = hello;

    (void)state;
    ev.sequence = (uint64_t)INT64_MAX;
    assert_int_equal(aif_event_check(&ev, &e), AIF_OK);
    ev.sequence++;
    assert_int_equal(aif_event_check(&ev, &e), AIF_EINVAL);
    assert_string_equal(e.text, "sequence 9223372036854775808: "
                                "9223372036854775807 is the most");
}

/* Each text at each place among plain bytes, so that both the fast and the
 * slow look meet it. */
static void
check_text(const char *bytes, size_t n, bool good)
{
    char text[64];

    for (size_t at = 0; at + n <= 40; at++) {
        memset(text, 'x', sizeof text);
        memcpy(text + at, bytes, n);
        for (size_t i = 0; i < FIELDS; i++) {
            assert_int_equal(check_with(&fields[i], (aif_str){text, 40}),
                             good ? AIF_OK : AIF_EINVAL);
        }
    }
}

static void
texts_are_utf8(void **state)
{
    static const char *const good[] = {"\x01",
                                       "\x7f",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xef\xbf\xbf",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf",
                                       "\xe2\x82\xac\xf0\x9f\x8c\x8d"};
    static const char *const bad[] = {"\x80",
                                      "\xbf",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xc2",
                                      "\xc2x",
                                      "\xe0\x9f\xbf",
                                      "\xe0\xa0",
                                      "\xed\xa0\x80",
                                      "\xe2\x82x",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf0\x9f\x8c",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xff",
                                      "\xfe"};

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        check_text(good[i], strlen(good[i]), true);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        check_text(bad[i], strlen(bad[i]), false);
    }
    check_text("\0", 1, false);
}

static void
a_bad_text_is_said_with_its_place(void **state)
{
    (void)state;
    assert_int_equal(check_with(&fields[2], AIF_STR("0123456789\xff")),
                     AIF_EINVAL);
    assert_string_equal(e.text, "value is not UTF-8 at byte 10");
    assert_int_equal(check_with(&fields[1], AIF_STR("ab\0cd")), AIF_EINVAL);
    assert_string_equal(e.text, "key has a NUL at byte 2: leave it out");
    assert_int_equal(check_with(&fields[1], AIF_STR("")), AIF_EINVAL);
    assert_string_equal(e.text, "key is empty: it needs 1 to 1024 bytes");
}

static void
a_character_cut_by_the_end_is_refused(void **state)
{
    char *exact = malloc(2); /* a sanitizer sees a look beyond it */

    (void)state;
    memcpy(exact, "\xe2\x82", 2);
    assert_int_equal(check_with(&fields[2], (aif_str){exact, 2}), AIF_EINVAL);
    free(exact);
}

static void
a_batch_keeps_copies_that_stay_where_they_are(void **state)
{
    aif_batch b = {0};
    const char *first;

    (void)state;
    for (uint64_t i = 1; i <= 1000; i++) {
        char key[32];
        aif_event ev = hello;

        ev.offset = i;
        ev.key = (aif_str){
            key, (size_t)snprintf(key, sizeof key, "k%zu", (size_t)i)};
        assert_int_equal(aif_batch_add(&b, &ev, &e), AIF_OK);
        memset(key, '!', sizeof key);
        first = i == 1 ? b.events[0].key.p : first;
    }
    assert_true(b.events[0].key.p == first);
    assert_int_equal(b.n, 1000);
    assert_true(b.events[999].offset == 1000);
    assert_true(aif_str_eq(b.events[999].key, AIF_STR("k1000")));
    assert_int_equal(b.bytes, 1000 * (aif_event_bytes(&hello) - 5) + 2 * 9 +
                                  3 * 90 + 4 * 900 + 5);
    aif_batch_fini(&b);
    assert_int_equal(b.n, 0);
    assert_int_equal(aif_batch_add(&b, &hello, &e), AIF_OK);
    aif_batch_fini(&b);
}

static void
a_batch_survives_every_oom(void **state)
{
    aif_batch b = {0};
    aif_err err;
    int n = 0;

    (void)state;
    do {
        assert_true(b.n == 0 && b.bytes == 0);
        fault_alloc_after(n++);
        err = aif_batch_add(&b, &hello, &e);
        fault_off();
    } while (err == AIF_ENOMEM);
    assert_int_equal(err, AIF_OK);
    assert_int_equal(n, 3); /* events, arena */
    assert_same(&b.events[0], &hello);
    aif_batch_fini(&b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_undoes_encode),
        cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(every_changed_byte_is_survived),
        cmocka_unit_test(encode_survives_every_oom),
        cmocka_unit_test(every_field_has_its_limits),
        cmocka_unit_test(a_sequence_fits_a_bigint),
        cmocka_unit_test(texts_are_utf8),
        cmocka_unit_test(a_bad_text_is_said_with_its_place),
        cmocka_unit_test(a_character_cut_by_the_end_is_refused),
        cmocka_unit_test(a_batch_keeps_copies_that_stay_where_they_are),
        cmocka_unit_test(a_batch_survives_every_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
