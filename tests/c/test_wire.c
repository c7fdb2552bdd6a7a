#include "cmocka_all.h"

#include "fault.h"
#include "net/wire.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const aif_kind kinds[] = {
#define X(name, byte, fields) AIF_K_##name,
    AIF_KINDS(X)
#undef X
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static const aif_pattern pattern = {AIF_STR("default"), AIF_STR("abc*"),
                                    AIF_STR("*"), AIF_STR(""), AIF_STR("c*")};
static const aif_event event = {.offset = 7,
                                .create_time = 1700000000000,
                                .ns = AIF_STR("default"),
                                .key = AIF_STR("k"),
                                .value = AIF_STR("v"),
                                .type = AIF_STR("UNDEFINED"),
                                .producer = AIF_STR("p"),
                                .sequence = 9};

/* A frame of that kind with every field set. */
static aif_frame
sample(aif_kind kind)
{
    return (aif_frame){.kind = kind,
                       .id = 0x0102030405060708,
                       .from = 11,
                       .to = 22,
                       .max = 33,
                       .flag = 1,
                       .code = AIF_ESTORE,
                       .sqlstate = AIF_STR("40001"),
                       .text = AIF_STR("dag_1"),
                       .holder = 44};
}

static void
assert_ok(aif_err err)
{
    assert_int_equal(err, AIF_OK);
}

static void
encode(const aif_frame *f, aif_buf *out)
{
    aif_error e;

    assert_ok(aif_frame_encode(f, out, &e));
}

/* What the bytes are refused for. */
static const char *
refused(const void *p, size_t n, aif_frame *f)
{
    static aif_error e;

    assert_int_equal(aif_frame_decode(p, n, f, &e), AIF_EPROTO);
    return e.text;
}

static void
every_kind_comes_back_as_it_went(void **state)
{
    aif_buf out = {0};
    aif_buf again = {0};
    aif_frame f;
    aif_error e;

    (void)state;
    for (int i = 0; i < KINDS; i++) {
        aif_frame in = sample(kinds[i]);

        encode(&in, &out);
        assert_ok(aif_frame_decode(out.p, out.n, &f, &e));
        assert_int_equal(f.kind, in.kind);
        assert_int_equal(f.id, in.id);
        encode(&f, &again);
        assert_int_equal(out.n, again.n);
        assert_memory_equal(out.p, again.p, out.n);
    }
    aif_buf_fini(&out);
    aif_buf_fini(&again);
}

/* docs/protocol.md gives these bytes: other programs may rely on them. */
static void
the_bytes_are_those_of_the_document(void **state)
{
    static const uint8_t credit[] = {0xAF, 4, 7, 0, 5, 0, 0, 0, 0,  0, 0, 0,
                                     11,   0, 0, 0, 0, 0, 0, 0, 33, 0, 0, 0};
    static const uint8_t error[] = {
        0xAF, 4, 0xFF, 0,   5,   0,   0,   0,   0, 0, 0, 0, 3,   5,
        0,    0, 0,    '4', '0', '0', '0', '1', 2, 0, 0, 0, 'n', 'o'};
    aif_frame f = sample(AIF_K_CREDIT);
    aif_buf out = {0};

    (void)state;
    f.id = 5;
    encode(&f, &out);
    assert_int_equal(out.n, sizeof credit);
    assert_memory_equal(out.p, credit, sizeof credit);
    f = sample(AIF_K_ERROR);
    f.id = 5;
    f.text = AIF_STR("no");
    encode(&f, &out);
    assert_int_equal(out.n, sizeof error);
    assert_memory_equal(out.p, error, sizeof error);
    aif_buf_fini(&out);
}

/* Seeds of another version reach no more than the head. */
static void
the_fuzzer_begins_with_each_kind(void **state)
{
    static const char dir[] = "tests/fuzz/corpus/fuzz_wire";
    DIR *seeds = opendir(dir);
    bool seen[256] = {false};
    aif_frame f;
    aif_error e;

    (void)state;
    assert_non_null(seeds);
    for (struct dirent *d; (d = readdir(seeds)) != NULL;) {
        char path[512];
        uint8_t bytes[1024];
        FILE *in;
        size_t n;

        (void)snprintf(path, sizeof path, "%s/%s", dir, d->d_name);
        in = fopen(path, "rb");
        assert_non_null(in);
        n = fread(bytes, 1, sizeof bytes, in); /* of a folder: nothing */
        (void)fclose(in);
        if (n > 0) {
            assert_ok(aif_frame_decode(bytes, n, &f, &e));
            seen[f.kind] = true;
        }
    }
    (void)closedir(seeds);
    for (int i = 0; i < KINDS; i++) {
        assert_true(seen[kinds[i]]);
    }
}

static void
a_frame_cut_anywhere_is_refused(void **state)
{
    aif_buf out = {0};
    aif_frame f;

    (void)state;
    for (int i = 0; i < KINDS; i++) {
        aif_frame in = sample(kinds[i]);

        encode(&in, &out);
        for (size_t n = 0; n < out.n; n++) {
            /* a copy of n bytes, so that ASan sees a read beyond */
            uint8_t *cut = malloc(n + !n);

            assert_non_null(cut);
            memcpy(cut, out.p, n);
            (void)refused(cut, n, &f);
            assert_int_equal(f.id, n < AIF_FRAME_HEAD ? 0 : in.id);
            free(cut);
        }
    }
    aif_buf_fini(&out);
}

static void
bytes_after_the_end_are_refused(void **state)
{
    aif_buf out = {0};
    aif_frame in = sample(AIF_K_HEAD);
    aif_frame f;
    aif_error e;

    (void)state;
    encode(&in, &out);
    assert_ok(aif_buf_u8(&out, 0, &e));
    assert_string_equal(refused(out.p, out.n, &f),
                        "1 bytes after the end of HEAD");
    assert_int_equal(f.id, in.id); /* so that the refusal finds its way */
    aif_buf_fini(&out);
}

static void
a_foreign_head_is_refused(void **state)
{
    uint8_t head[AIF_FRAME_HEAD] = {0xAF, 4, AIF_K_HEAD, 0, 3};
    aif_frame f;
    aif_error e;

    (void)state;
    assert_ok(aif_frame_decode(head, sizeof head, &f, &e));
    head[0] = 'G';
    assert_string_equal(refused(head, sizeof head, &f),
                        "not a frame: it begins with 0x47");
    assert_int_equal(f.id, 0);
    head[0] = 0xAF;
    head[1] = 2;
    assert_string_equal(refused(head, sizeof head, &f),
                        "protocol version 2: 4 is spoken here");
    assert_int_equal(f.id, 3);
    head[1] = 4;
    head[2] = 0x7F;
    assert_string_equal(refused(head, sizeof head, &f),
                        "no such kind of frame: 0x7f 0");
    head[2] = AIF_K_HEAD;
    head[3] = 1;
    assert_string_equal(refused(head, sizeof head, &f),
                        "no such kind of frame: 0x4 0x1");
}

static void
a_field_beyond_its_limit_is_refused(void **state)
{
    static const char text[] =
        "a hint of 255 bytes is the longest; this one is made as long as that "
        "and then by one byte "
        "longer............................................"
        "....................................................................."
        "..."
        "............................................";
    aif_buf out = {0};
    aif_frame in = sample(AIF_K_HINT);
    aif_frame f;
    aif_error e;

    (void)state;
    assert_true(sizeof text > AIF_HINT_MAX + 1);
    in.text = (aif_str){text, AIF_HINT_MAX};
    encode(&in, &out);
    assert_ok(aif_frame_decode(out.p, out.n, &f, &e));
    in.text.n++;
    encode(&in, &out);
    assert_string_equal(refused(out.p, out.n, &f),
                        "a string of 256 bytes where 255 are the most");
    in.text = AIF_STR("a\0b");
    encode(&in, &out);
    assert_string_equal(refused(out.p, out.n, &f),
                        "HINT has a NUL at byte 1: leave it out");
    aif_buf_fini(&out);
}

static void
a_window_is_1_byte_to_16_mib(void **state)
{
    static const aif_kind with_window[] = {AIF_K_SUBSCRIBE, AIF_K_CREDIT};
    aif_buf out = {0};
    aif_frame f;
    aif_error e;

    (void)state;
    for (int i = 0; i < 2; i++) {
        aif_frame in = sample(with_window[i]);

        in.max = AIF_WINDOW_MAX;
        encode(&in, &out);
        assert_ok(aif_frame_decode(out.p, out.n, &f, &e));
        in.max++;
        encode(&in, &out);
        assert_string_equal(
            refused(out.p, out.n, &f),
            "a window of 16777217 bytes: 1 to 16777216 belong");
        in.max = 0;
        encode(&in, &out);
        assert_string_equal(refused(out.p, out.n, &f),
                            "a window of 0 bytes: 1 to 16777216 belong");
    }
    aif_buf_fini(&out);
}

static void
flags_codes_and_cursors_are_checked(void **state)
{
    aif_buf out = {0};
    aif_frame in = sample(AIF_K_LISTED);
    aif_frame f;

    (void)state;
    in.flag = 2;
    encode(&in, &out);
    assert_string_equal(refused(out.p, out.n, &f),
                        "a flag of 2: 0 or 1 belong");
    in = sample(AIF_K_ERROR);
    in.code = AIF_OK;
    encode(&in, &out);
    assert_string_equal(refused(out.p, out.n, &f), "no such error code: 0");
    in.code = AIF_ERR_COUNT;
    encode(&in, &out);
    assert_string_equal(refused(out.p, out.n, &f), "no such error code: 14");
    in = sample(AIF_K_TAKE);
    in.holder = 0;
    encode(&in, &out);
    assert_string_equal(refused(out.p, out.n, &f),
                        "a holder of 0: 1 to 9223372036854775807 belong");
    in.holder = (uint64_t)INT64_MAX + 1;
    encode(&in, &out);
    assert_string_equal(
        refused(out.p, out.n, &f),
        "a holder of 9223372036854775808: 1 to 9223372036854775807 belong");
    in = sample(AIF_K_EVENTS);
    in.to = in.from - 1;
    encode(&in, &out);
    assert_string_equal(refused(out.p, out.n, &f),
                        "events from 11 back to 10");
    aif_buf_fini(&out);
}

static void
a_frame_larger_than_16_mib_is_refused(void **state)
{
    uint8_t *p = calloc(1, AIF_FRAME_MAX + 1);
    aif_frame in = sample(AIF_K_PUBLISH);
    aif_buf out = {0};
    aif_frame f;
    aif_error e;

    (void)state;
    assert_non_null(p);
    encode(&in, &out);
    memcpy(p, out.p, out.n);
    assert_ok(aif_frame_decode(p, AIF_FRAME_MAX, &f, &e));
    assert_string_equal(refused(p, AIF_FRAME_MAX + 1, &f),
                        "a frame of 16777217 bytes: 16777216 are the most");
    aif_buf_fini(&out);
    free(p);
}

static void
patterns_come_back_within_their_number(void **state)
{
    aif_pattern back[2];
    aif_buf out = {0};
    aif_reader in;
    aif_error e;
    size_t n;

    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_ok(aif_wire_put_pattern(&pattern, &out, &e));
    }
    in = (aif_reader){out.p, out.n};
    assert_ok(aif_wire_get_patterns(&in, 1, 2, back, &n, &e));
    assert_int_equal(n, 2);
    assert_true(aif_str_eq(back[1].key, pattern.key));
    assert_true(aif_str_eq(back[1].sender, pattern.sender));
    assert_true(aif_str_eq(back[1].context, pattern.context));
    in = (aif_reader){out.p, out.n};
    assert_int_equal(aif_wire_get_patterns(&in, 0, 1, back, &n, &e),
                     AIF_EPROTO);
    assert_string_equal(e.text, "too many patterns: 0 to 1 belong");
    in = (aif_reader){out.p, 0};
    assert_int_equal(aif_wire_get_patterns(&in, 1, 2, back, &n, &e),
                     AIF_EPROTO);
    assert_string_equal(e.text, "too few patterns: 1 to 2 belong");
    aif_buf_fini(&out);
}

static void
a_wrong_pattern_is_the_peers_fault(void **state)
{
    const aif_pattern wrong = {AIF_STR("default"), AIF_STR(""), AIF_STR("*"),
                               AIF_STR("*"), AIF_STR("*")};
    aif_buf out = {0};
    aif_pattern back;
    aif_reader in;
    aif_error e;

    (void)state;
    assert_ok(aif_wire_put_pattern(&wrong, &out, &e));
    in = (aif_reader){out.p, out.n};
    assert_int_equal(aif_wire_get_pattern(&in, &back, &e), AIF_EPROTO);
    aif_buf_fini(&out);
}

static void
an_event_is_no_larger_than_its_size(void **state)
{
    aif_buf out = {0};
    aif_error e;

    (void)state;
    assert_ok(aif_event_encode(&event, &out, &e));
    assert_true(out.n <= aif_wire_event_size(&event));
    /* the broker keeps views into frames: see aif_turn_add */
    assert_true(out.n + AIF_FRAME_HEAD > 33);
    aif_buf_fini(&out);
}

/* Nothing is half written that somebody would take for a frame. */
static void
encoding_survives_every_oom(void **state)
{
    (void)state;
    for (int i = 0; i < KINDS; i++) {
        aif_frame in = sample(kinds[i]);
        aif_error e;
        aif_err err;
        int n = 0;

        do {
            aif_buf out = {0};

            fault_alloc_after(n++);
            err = aif_frame_encode(&in, &out, &e);
            fault_off();
            assert_true(err == AIF_OK || err == AIF_ENOMEM);
            aif_buf_fini(&out);
        } while (err != AIF_OK);
        assert_true(n > 1);
    }
}

static void
an_unknown_kind_is_not_encoded(void **state)
{
    const aif_frame f = {.kind = (aif_kind)0x55};
    aif_buf out = {0};
    aif_error e;

    (void)state;
    assert_int_equal(aif_frame_encode(&f, &out, &e), AIF_EINVAL);
    assert_string_equal(aif_kind_name(f.kind), "?");
    assert_string_equal(aif_kind_name(AIF_K_PUBLISH), "PUBLISH");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_comes_back_as_it_went),
        cmocka_unit_test(the_bytes_are_those_of_the_document),
        cmocka_unit_test(the_fuzzer_begins_with_each_kind),
        cmocka_unit_test(a_frame_cut_anywhere_is_refused),
        cmocka_unit_test(bytes_after_the_end_are_refused),
        cmocka_unit_test(a_foreign_head_is_refused),
        cmocka_unit_test(a_field_beyond_its_limit_is_refused),
        cmocka_unit_test(a_window_is_1_byte_to_16_mib),
        cmocka_unit_test(flags_codes_and_cursors_are_checked),
        cmocka_unit_test(a_frame_larger_than_16_mib_is_refused),
        cmocka_unit_test(patterns_come_back_within_their_number),
        cmocka_unit_test(a_wrong_pattern_is_the_peers_fault),
        cmocka_unit_test(an_event_is_no_larger_than_its_size),
        cmocka_unit_test(encoding_survives_every_oom),
        cmocka_unit_test(an_unknown_kind_is_not_encoded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
