/* One handle: what goes in comes out, once, in order. */
#include "cmocka_all.h"

#include "log/store.h"
#include "store_contract.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static aif_error e;

static void
offsets_count_from_one_without_gaps(void **state)
{
    uint64_t next = 1;

    assert_int_equal(head_of(*state), 0);
    for (size_t n = 0; n < 20; n++) {
        append_at(*state, events_of("p", next, n), n, next);
        next += n;
        assert_int_equal(head_of(*state), next - 1);
        assert_int_equal(count_of(*state), next - 1);
    }
}

static void
assert_same(const aif_event *got, const aif_event *want, uint64_t offset)
{
    assert_int_equal(got->offset, offset);
    assert_true(got->create_time == want->create_time);
    assert_true(got->sequence == want->sequence);
    assert_true(aif_str_eq(got->ns, want->ns));
    assert_true(aif_str_eq(got->key, want->key));
    assert_true(aif_str_eq(got->value, want->value));
    assert_true(aif_str_eq(got->type, want->type));
    assert_true(aif_str_eq(got->sender, want->sender));
    assert_true(aif_str_eq(got->context, want->context));
    assert_true(aif_str_eq(got->producer, want->producer));
}

/* Extremes of every field; every ASCII character; the ends of each length of
 * UTF-8; what SQL, CSV, LIKE and arrays give a meaning to. */
static void
what_is_read_is_what_was_appended(void **state)
{
    static char long_text[AIF_VALUE_MAX];
    static char ascii[127];
    aif_batch out = {0};
    aif_event events[4];

    memset(long_text, 'x', sizeof long_text);
    for (size_t i = 0; i < sizeof ascii; i++) {
        ascii[i] = (char)(i + 1);
    }
    memcpy(events, events_of("p", 0, 4), sizeof events);
    events[0].value = (aif_str){long_text, AIF_VALUE_MAX};
    events[0].key = (aif_str){long_text, AIF_KEY_MAX};
    events[0].context = (aif_str){long_text, AIF_CONTEXT_MAX};
    events[0].producer = (aif_str){long_text, AIF_PRODUCER_MAX};
    events[0].ns = events[0].type = events[0].sender =
        (aif_str){long_text, AIF_NAME_MAX};
    events[0].sequence = AIF_SEQUENCE_MAX;
    events[0].create_time = 0;
    events[1].value = (aif_str){ascii, sizeof ascii};
    events[1].key = AIF_STR("{\"a\\\",NULL,'%_*[?]");
    events[2].value = AIF_STR("\x01\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf"
                              "\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf");
    events[2].sender = AIF_STR("\xf0\x9f\x8c\x8d");
    events[2].context = AIF_STR("NULL");
    events[3].value = (aif_str){0};
    events[3].create_time = INT64_MAX;
    append_at(*state, events, 4, 1);
    assert_int_equal(aif_log_read(*state, AIF_BEYOND(0), 10, &out, &e),
                     AIF_OK);
    assert_int_equal(out.n, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_same(&out.events[i], &events[i], i + 1);
    }
    aif_batch_fini(&out);
}

static void
a_known_identity_keeps_its_offset(void **state)
{
    uint64_t offsets[6] = {0};
    aif_event events[6];

    append_at(*state, events_of("p", 0, 3), 3, 1);
    append_at(*state, events_of("p", 0, 3), 3, 1); /* all of them again */
    assert_int_equal(head_of(*state), 3);
    append_at(*state, events_of("p", 1, 3), 3, 2); /* two known, one new */
    memcpy(events, events_of("p", 2, 6), sizeof events);
    events[1] = events[5] = events[3]; /* 2 5 4 5 6 5: 2 is known */
    events[1].sender = AIF_STR("not looked at");
    events[4].producer = AIF_STR("q"); /* another's 6 is another event */
    events[2].sequence = 4;
    assert_int_equal(aif_log_append(*state, events, 6, offsets, NULL, &e),
                     AIF_OK);
    assert_int_equal(offsets[0], 3);
    assert_int_equal(offsets[1], 5);
    assert_int_equal(offsets[2], 6);
    assert_int_equal(offsets[3], 5);
    assert_int_equal(offsets[4], 7);
    assert_int_equal(offsets[5], 5);
    assert_int_equal(head_of(*state), 7);
    assert_int_equal(count_of(*state), 7);
}

static void
one_bad_event_appends_nothing(void **state)
{
    uint64_t offsets[3];
    aif_event events[3];

    memcpy(events, events_of("p", 0, 3), sizeof events);
    events[2].key = AIF_STR("a\xff");
    assert_int_equal(aif_log_append(*state, events, 3, offsets, NULL, &e),
                     AIF_EINVAL);
    assert_string_equal(e.text, "key is not UTF-8 at byte 1");
    assert_int_equal(count_of(*state), 0);
    append_at(*state, events_of("p", 0, 3), 3, 1);
}

static void
an_append_has_its_limits(void **state)
{
    static uint64_t offsets[AIF_BATCH_MAX + 1];
    const size_t max = AIF_BATCH_MAX;

    append_at(*state, events_of("a", 0, max - 1), max - 1, 1);
    append_at(*state, events_of("b", 0, max), max, max);
    assert_int_equal(aif_log_append(*state, events_of("c", 0, max + 1),
                                    max + 1, offsets, NULL, &e),
                     AIF_EINVAL);
    assert_string_equal(e.text, "10001 events at once: 10000 are the most");
    assert_int_equal(head_of(*state), 2 * max - 1);
}

/* Values of 1 MiB until the strings have AIF_BATCH_BYTES + more. */
static void
an_append_has_its_limit_in_bytes(void **state)
{
    enum { N = AIF_BATCH_BYTES / AIF_VALUE_MAX };
    char *text = malloc(AIF_VALUE_MAX);
    uint64_t offsets[N];
    aif_event events[N];
    size_t others;

    memset(text, 'x', AIF_VALUE_MAX);
    memcpy(events, events_of("p", 0, N), sizeof events);
    others = aif_event_bytes(&events[0]) - events[0].value.n;
    for (size_t i = 0; i < N; i++) {
        events[i].value = (aif_str){text, AIF_VALUE_MAX};
    }
    events[0].value.n -= N * others - 1; /* one byte too many */
    assert_int_equal(aif_log_append(*state, events, N, offsets, NULL, &e),
                     AIF_EINVAL);
    assert_string_equal(e.text,
                        "67108865 bytes at once: 67108864 are the most");
    events[0].value.n--;
    append_at(*state, events, N, 1);
    free(text);
}

static void
a_read_is_a_page(void **state)
{
    aif_batch out = {0};

    append_at(*state, events_of("p", 0, 5000), 5000, 1);
    assert_int_equal(aif_log_read(*state, AIF_BEYOND(0), 0, &out, &e), AIF_OK);
    assert_int_equal(out.n, 0);
    assert_int_equal(aif_log_read(*state, AIF_BEYOND(0), 3, &out, &e), AIF_OK);
    assert_int_equal(aif_log_read(*state, AIF_BEYOND(3), 1, &out, &e), AIF_OK);
    assert_int_equal(aif_log_read(*state, AIF_BEYOND(4), 4500, &out, &e),
                     AIF_OK);
    assert_int_equal(out.n, 4504); /* it adds */
    assert_int_equal(
        aif_log_read(*state, AIF_BEYOND(4504), SIZE_MAX, &out, &e), AIF_OK);
    assert_int_equal(out.n, 5000);
    for (size_t i = 0; i < out.n; i++) {
        assert_int_equal(out.events[i].offset, i + 1);
        assert_int_equal(out.events[i].sequence, i);
    }
    assert_int_equal(aif_log_read(*state, AIF_BEYOND(5000), 9, &out, &e),
                     AIF_OK);
    assert_int_equal(aif_log_read(*state, AIF_BEYOND(UINT64_MAX), 9, &out, &e),
                     AIF_OK);
    assert_int_equal(out.n, 5000);
    aif_batch_fini(&out);
}

static void
a_read_stops_after_so_many_bytes(void **state)
{
    enum { N = 40, BIG = AIF_VALUE_MAX / 2 };
    char *text = malloc(BIG);
    aif_event events[N];
    uint64_t after = 0;
    size_t reads = 0;

    memset(text, 'x', BIG);
    memcpy(events, events_of("p", 0, N), sizeof events);
    for (size_t i = 0; i < N; i++) {
        events[i].value = (aif_str){text, BIG};
    }
    append_at(*state, events, N, 1);
    while (after < N) {
        aif_batch out = {0};

        assert_int_equal(aif_log_read(*state, AIF_BEYOND(after), N, &out, &e),
                         AIF_OK);
        assert_in_range(out.n, 1, AIF_READ_BYTES / BIG);
        assert_true(out.events[0].offset == after + 1);
        after += out.n;
        reads++;
        aif_batch_fini(&out);
    }
    assert_int_equal(after, N);
    assert_in_range(reads, 3, 4);
    free(text);
}

static void
count_begins_after(void **state)
{
    uint64_t n;

    append_at(*state, events_of("p", 0, 10), 10, 1);
    for (uint64_t after = 0; after <= 12; after++) {
        assert_int_equal(aif_log_count(*state, AIF_BEYOND(after), &n, &e),
                         AIF_OK);
        assert_int_equal(n, after > 10 ? 0 : 10 - after);
    }
    assert_int_equal(aif_log_count(*state, AIF_BEYOND(UINT64_MAX), &n, &e),
                     AIF_OK);
    assert_int_equal(n, 0);
}

static const aif_str words[] = {
    {"a", 1},  {"ab", 2},       {"b", 1},        {"a%", 2}, {"a_", 2},
    {"A", 1},  {"\xc3\xa4", 2}, {"a*b", 3},      {"'", 1},  {"[a]", 3},
    {"a?", 2}, {"\\", 1},       {"a\xc3\xa4", 3}};
static const aif_str means[] = {
    {"*", 1},   {"a", 1},   {"a*", 2},   {"ab", 2},        {"ab*", 3},
    {"a%*", 3}, {"a_*", 3}, {"A", 1},    {"\xc3\xa4*", 3}, {"a*b", 3},
    {"'*", 2},  {"[a]", 3}, {"[a]*", 4}, {"a?*", 3},       {"\\*", 2}};
#define PICK(of) (of[(size_t)rand() % (sizeof of / sizeof *of)])

/* The oracle is aif_query_matches: SQL has to say the same. */
static void
check_query(aif_log *log, aif_event *events, size_t n, const aif_query *q)
{
    aif_batch out = {0};
    uint64_t counted;
    size_t seen = 0;

    assert_int_equal(aif_log_read(log, q, n, &out, &e), AIF_OK);
    for (size_t i = 0; i < n; i++) {
        events[i].offset = i + 1;
        if (aif_query_matches(q, &events[i])) {
            assert_in_range(seen, 0, out.n - 1);
            assert_same(&out.events[seen++], &events[i], i + 1);
        }
    }
    assert_int_equal(seen, out.n);
    assert_int_equal(aif_log_count(log, q, &counted, &e), AIF_OK);
    assert_int_equal(counted, out.n);
    aif_batch_fini(&out);
}

static aif_pattern
some_pattern(int i)
{
    aif_pattern p = {AIF_STR("*"), PICK(means), AIF_STR("*"), AIF_STR("*"),
                     AIF_STR("*")};

    p.ns = i % 5 == 1 ? PICK(means) : p.ns;
    p.type = i % 5 == 2 ? PICK(means) : p.type;
    p.sender = i % 5 == 3 ? PICK(means) : p.sender;
    p.sender = i % 10 == 8 ? (aif_str){0} : p.sender;
    p.context = i % 5 == 4 ? PICK(means) : p.context;
    p.context = i % 10 == 9 ? (aif_str){0} : p.context;
    return p;
}

static void
a_pattern_means_the_same_in_every_store(void **state)
{
    enum { N = 400 };
    static aif_event events[N];

    srand(3);
    memcpy(events, events_of("p", 0, N), sizeof events);
    for (size_t i = 0; i < N; i++) {
        events[i].ns = PICK(words);
        events[i].key = PICK(words);
        events[i].type = PICK(words);
        events[i].sender = i % 3 == 0 ? (aif_str){0} : PICK(words);
        events[i].context = i % 4 == 0 ? (aif_str){0} : PICK(words);
    }
    append_at(*state, events, N, 1);
    for (int i = 0; i < 200; i++) {
        const aif_pattern p[3] = {some_pattern(i), some_pattern(i + 3),
                                  some_pattern(2 * i)};
        aif_query q = {.patterns = p, .n = (size_t)i % 4};

        q.after = (uint64_t)rand() % N;
        q.upto = i % 3 == 0 ? 0 : (uint64_t)rand() % N;
        check_query(*state, events, N, &q);
    }
}

/* The longest SQL there is: as many patterns as may be, of five prefixes,
 * each of the greatest length. */
static void
a_pattern_may_be_as_long_as_its_limits(void **state)
{
    static char text[AIF_KEY_MAX + 1];
    static aif_pattern all[AIF_QUERY_PATTERNS_MAX + 1];
    aif_query q = {.patterns = all, .n = AIF_QUERY_PATTERNS_MAX};
    aif_event ev = *events_of("p", 0, 1);
    aif_batch out = {0};
    aif_pattern p;

    memset(text, 'x', AIF_KEY_MAX);
    ev.key = ev.context = (aif_str){text, AIF_KEY_MAX};
    ev.ns = ev.type = ev.sender = (aif_str){text, AIF_NAME_MAX};
    append_at(*state, &ev, 1, 1);
    text[AIF_KEY_MAX] = '*';
    p.key = p.context = (aif_str){text, AIF_KEY_MAX + 1};
    p.ns = p.type = p.sender =
        (aif_str){text + AIF_KEY_MAX - AIF_NAME_MAX, AIF_NAME_MAX + 1};
    for (size_t i = 0; i < q.n; i++) {
        all[i] = p;
    }
    assert_int_equal(aif_log_read(*state, &q, 9, &out, &e), AIF_OK);
    assert_int_equal(out.n, 1);
    q.n++;
    assert_int_equal(aif_log_read(*state, &q, 9, &out, &e), AIF_EINVAL);
    assert_string_equal(e.text, "65 patterns: 64 are the most");
    q.n = 1;
    all[0].key = (aif_str){NULL, 0};
    assert_int_equal(aif_log_read(*state, &q, 9, &out, &e), AIF_EINVAL);
    assert_string_equal(e.text,
                        "pattern's key is empty: it needs 1 to 1024 bytes");
    aif_batch_fini(&out);
}

/* More than a page of PostgreSQL's, of which few match. */
static void
a_pattern_looks_through_a_long_log(void **state)
{
    enum { N = 9000 };
    static aif_event events[N];
    const aif_pattern p = {AIF_STR("*"), AIF_STR("rare*"), AIF_STR("*"),
                           AIF_STR("*"), AIF_STR("*")};
    aif_batch out = {0};

    memcpy(events, events_of("p", 0, N), sizeof events);
    for (size_t i = 0; i < N; i += 3) {
        events[i].key = AIF_STR("rare1");
    }
    append_at(*state, events, N, 1);
    assert_int_equal(aif_log_read(*state, MATCHING(&p, 0), N, &out, &e),
                     AIF_OK);
    assert_int_equal(out.n, N / 3);
    assert_int_equal(aif_log_read(*state, MATCHING(&p, 3001), 2500, &out, &e),
                     AIF_OK);
    assert_int_equal(out.n, N / 3 + 1999);
    assert_int_equal(out.events[N / 3].offset, 3004);
    aif_batch_fini(&out);
}

int
store_contract_one(void)
{
    const struct CMUnitTest tests[] = {
        OPEN(offsets_count_from_one_without_gaps),
        OPEN(what_is_read_is_what_was_appended),
        OPEN(a_known_identity_keeps_its_offset),
        OPEN(one_bad_event_appends_nothing),
        OPEN(an_append_has_its_limits),
        OPEN(an_append_has_its_limit_in_bytes),
        OPEN(a_read_is_a_page),
        OPEN(a_read_stops_after_so_many_bytes),
        OPEN(count_begins_after),
        OPEN(a_pattern_means_the_same_in_every_store),
        OPEN(a_pattern_may_be_as_long_as_its_limits),
        OPEN(a_pattern_looks_through_a_long_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
