#include "cmocka_all.h"

#include "base/buf.h"
#include "fault.h"

#include <stdlib.h>
#include <string.h>

static aif_error e;

static void
numbers_are_little_endian(void **state)
{
    static const uint8_t want[] = {1, 5, 4, 3, 2, 13, 12, 11, 10, 9, 8, 7, 6};
    aif_buf b = {0};

    (void)state;
    assert_int_equal(aif_buf_u8(&b, 1, &e), AIF_OK);
    assert_int_equal(aif_buf_u32(&b, 0x02030405, &e), AIF_OK);
    assert_int_equal(aif_buf_u64(&b, 0x060708090a0b0c0du, &e), AIF_OK);
    assert_int_equal(b.n, sizeof want);
    assert_memory_equal(b.p, want, sizeof want);
    aif_buf_fini(&b);
    assert_null(b.p);
}

static void
what_is_written_is_read(void **state)
{
    aif_buf b = {0};
    aif_reader r;
    uint8_t u8;
    uint32_t u32;
    uint64_t u64;
    aif_str s;

    (void)state;
    assert_int_equal(aif_buf_u8(&b, UINT8_MAX, &e), AIF_OK);
    assert_int_equal(aif_buf_u32(&b, UINT32_MAX, &e), AIF_OK);
    assert_int_equal(aif_buf_u64(&b, UINT64_MAX - 1, &e), AIF_OK);
    assert_int_equal(aif_buf_str(&b, AIF_STR("gr\xc3\xbc\xc3\x9f"), &e),
                     AIF_OK);
    assert_int_equal(aif_buf_str(&b, (aif_str){0}, &e), AIF_OK);
    r = (aif_reader){b.p, b.n};
    assert_int_equal(aif_read_u8(&r, &u8, &e), AIF_OK);
    assert_int_equal(aif_read_u32(&r, &u32, &e), AIF_OK);
    assert_int_equal(aif_read_u64(&r, &u64, &e), AIF_OK);
    assert_int_equal(u8, UINT8_MAX);
    assert_int_equal(u32, UINT32_MAX);
    assert_true(u64 == UINT64_MAX - 1);
    assert_int_equal(aif_read_str(&r, 6, &s, &e), AIF_OK);
    assert_true(aif_str_eq(s, AIF_STR("gr\xc3\xbc\xc3\x9f")));
    assert_int_equal(aif_read_str(&r, 0, &s, &e), AIF_OK);
    assert_int_equal(s.n, 0);
    assert_int_equal(r.n, 0);
    aif_buf_fini(&b);
}

/* Each number and the string, one byte short, in bytes of their own, so that
 * a sanitizer sees a read too far. */
static void
a_cut_read_takes_nothing_and_zeroes(void **state)
{
    uint8_t *p = calloc(1, 7);
    aif_reader r = {p, 0};
    uint8_t u8 = 1;
    uint32_t u32 = 1;
    uint64_t u64 = 1;
    aif_str s = AIF_STR("x");

    (void)state;
    assert_int_equal(aif_read_u8(&r, &u8, &e), AIF_EPROTO);
    assert_string_equal(e.text, "cut short: 0 bytes where 1 belong");
    r.n = 3;
    assert_int_equal(aif_read_u32(&r, &u32, &e), AIF_EPROTO);
    r.n = 7;
    assert_int_equal(aif_read_u64(&r, &u64, &e), AIF_EPROTO);
    p[0] = 4; /* a string of 4 bytes, of which 3 are there */
    assert_int_equal(aif_read_str(&r, 100, &s, &e), AIF_EPROTO);
    assert_string_equal(e.text, "cut short: 3 bytes where 4 belong");
    assert_int_equal(u8 | u32, 0);
    assert_true(u64 == 0 && s.n == 0 && s.p == NULL);
    assert_true(r.p == p && r.n == 7);
    free(p);
}

static void
a_string_has_its_limit(void **state)
{
    aif_buf b = {0};
    aif_reader r;
    aif_str s;

    (void)state;
    assert_int_equal(aif_buf_str(&b, AIF_STR("abcd"), &e), AIF_OK);
    r = (aif_reader){b.p, b.n};
    assert_int_equal(aif_read_str(&r, 3, &s, &e), AIF_EPROTO);
    assert_string_equal(e.text, "a string of 4 bytes where 3 are the most");
    assert_int_equal(aif_read_str(&r, 4, &s, &e), AIF_OK);
    aif_buf_fini(&b);
}

static void
a_failed_put_leaves_the_buffer(void **state)
{
    char big[1000] = {0};
    aif_buf b = {0};

    (void)state;
    assert_int_equal(aif_buf_u8(&b, 7, &e), AIF_OK);
    fault_alloc_after(0);
    assert_int_equal(aif_buf_str(&b, (aif_str){big, sizeof big}, &e),
                     AIF_ENOMEM);
    fault_off();
    assert_int_equal(b.n, 1);
    assert_int_equal(b.p[0], 7);
    assert_int_equal(aif_buf_put(&b, big, SIZE_MAX - 1, &e), AIF_ENOMEM);
    assert_int_equal(b.n, 1);
    assert_int_equal(aif_buf_str(&b, (aif_str){big, SIZE_MAX / 2}, &e),
                     AIF_EINVAL);
    aif_buf_fini(&b);
}

/* An error's text is cut between characters: it becomes a Python str. */
static void
a_long_error_stays_utf8(void **state)
{
    char long_text[400];

    (void)state;
    for (size_t shift = 0; shift < 3; shift++) {
        memset(long_text, 'x', shift);
        for (size_t i = shift; i + 3 < sizeof long_text; i += 3) {
            memcpy(long_text + i, "\xe2\x82\xac", 4);
        }
        (void)aif_fail(&e, AIF_EINVAL, "%s", long_text);
        assert_int_equal((strlen(e.text) - shift) % 3, 0);
        assert_in_range(strlen(e.text), sizeof e.text - 4, sizeof e.text - 1);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_little_endian),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(a_cut_read_takes_nothing_and_zeroes),
        cmocka_unit_test(a_string_has_its_limit),
        cmocka_unit_test(a_failed_put_leaves_the_buffer),
        cmocka_unit_test(a_long_error_stays_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
