/* What is let go, and what a reader is told of it. */
#include "cmocka_all.h"

#include "fault.h"
#include "log/store.h"
#include "store_contract.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static aif_error e;

#define IN(ns)                                                                \
    (&(const aif_pattern){AIF_STR(ns), AIF_STR("*"), AIF_STR("*"),            \
                          AIF_STR("*"), AIF_STR("*")})

uint64_t
purge(aif_log *log, aif_str ns, uint64_t upto, size_t max)
{
    uint64_t gone = 99;

    if (aif_log_purge(log, ns, upto, max, &gone, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    return gone;
}

void
assert_purged(aif_log *log, const char *want)
{
    aif_buf out = {0};
    char text[200] = "";
    aif_reader in;
    uint64_t upto;
    uint64_t n;
    aif_str ns;

    assert_int_equal(aif_log_purged(log, &out, &e), AIF_OK);
    in = (aif_reader){out.p, out.n};
    while (in.n > 0) {
        const size_t used = strlen(text);

        assert_int_equal(aif_read_str(&in, AIF_NAME_MAX, &ns, &e), AIF_OK);
        assert_int_equal(aif_read_u64(&in, &upto, &e), AIF_OK);
        assert_int_equal(aif_read_u64(&in, &n, &e), AIF_OK);
        (void)snprintf(text + used, sizeof text - used, "%.*s %d %d;",
                       (int)ns.n, ns.p, (int)upto, (int)n);
    }
    assert_string_equal(text, want);
    aif_buf_fini(&out);
}

uint64_t
purged_of(aif_log *log)
{
    aif_head head;

    assert_int_equal(aif_log_head(log, &head, &e), AIF_OK);
    return head.purged;
}

void
assert_read(aif_log *log, const aif_query *q, const char *want)
{
    aif_batch out = {0};
    char text[200] = "";
    aif_query own = *q;
    aif_err err = aif_log_read(log, q, 100, &out, &e);

    for (size_t i = 0; i < out.n; i++) {
        const size_t used = strlen(text);

        (void)snprintf(text + used, sizeof text - used, "%s%d",
                       used > 0 ? " " : "", (int)out.events[i].offset);
    }
    if (err != AIF_OK) {
        assert_int_equal(err, AIF_ERETENTION);
        assert_int_equal(out.n, 0);
        own.kept = true;
        assert_int_equal(aif_log_read(log, &own, 100, &out, &e), AIF_OK);
        (void)snprintf(text, sizeof text, "RETENTION, %d kept", (int)out.n);
    }
    assert_string_equal(text, want);
    aif_batch_fini(&out);
}

void
append_in(aif_log *log, const char *namespaces, uint64_t from)
{
    const size_t n = strlen(namespaces);
    aif_event events[32];

    assert_in_range(n, 1, 32);
    memcpy(events, events_of("p", from, n), n * sizeof *events);
    for (size_t i = 0; i < n; i++) {
        events[i].ns = (aif_str){namespaces + i, 1};
    }
    append_at(log, events, n, from);
}

static void
the_oldest_go_first(void **state)
{
    append_at(*state, events_of("p", 1, 10), 10, 1);
    assert_purged(*state, "");
    assert_int_equal(purged_of(*state), 0);
    assert_int_equal(purge(*state, AIF_STR("*"), 6, 4), 4);
    assert_purged(*state, "* 4 4;");
    assert_int_equal(purged_of(*state), 4);
    assert_read(*state, AIF_BEYOND(0), "5 6 7 8 9 10");
    assert_int_equal(purge(*state, AIF_STR("*"), 6, 4), 2);
    assert_purged(*state, "* 6 6;");
    assert_int_equal(purge(*state, AIF_STR("*"), 6, 4), 0);
    assert_purged(*state, "* 6 6;");
    assert_int_equal(count_of(*state), 4);
    assert_int_equal(head_of(*state), 10);
    append_at(*state, events_of("p", 11, 1), 1, 11);
    assert_read(*state, AIF_BEYOND(0), "7 8 9 10 11");
}

static void
a_purge_of_nothing_is_nothing(void **state)
{
    assert_int_equal(purge(*state, AIF_STR("*"), UINT64_MAX, 100), 0);
    append_in(*state, "aab", 1);
    assert_int_equal(purge(*state, AIF_STR("c"), UINT64_MAX, 100), 0);
    assert_int_equal(purge(*state, AIF_STR("b"), 2, 100), 0);
    assert_int_equal(purge(*state, AIF_STR("*"), 0, 100), 0);
    assert_int_equal(purge(*state, AIF_STR("*"), UINT64_MAX, 0), 0);
    assert_purged(*state, "");
    assert_int_equal(purged_of(*state), 0);
    assert_read(*state, AIF_BEYOND(1), "2 3");
}

static void
what_is_behind_is_told_what_it_missed(void **state)
{
    append_at(*state, events_of("p", 1, 9), 9, 1);
    assert_int_equal(purge(*state, AIF_STR("def*"), 5, 100), 5);
    assert_read(*state, AIF_BEYOND(0), "6 7 8 9"); /* from the oldest kept */
    assert_read(*state, AIF_BEYOND(1), "RETENTION, 4 kept");
    assert_read(*state, AIF_BEYOND(4), "RETENTION, 4 kept");
    assert_int_equal(read_all(*state, AIF_BEYOND(4), &e), AIF_ERETENTION);
    assert_string_equal(
        e.text,
        "events beyond offset 4 were let go: of namespace 'def*' up to "
        "offset 5, 5 in all; begin again from offset 5, or from 0 for the "
        "oldest that are kept");
    assert_read(*state, AIF_BEYOND(5), "6 7 8 9");
    assert_read(*state, AIF_BEYOND(9), "");
    assert_read(*state, AIF_BEYOND(12), "");
    assert_read(*state, &((aif_query){.after = 4, .upto = 4}),
                "RETENTION, 0 kept");
}

/* Also where nothing that is kept lies behind it. */
static void
what_went_from_the_end_is_missed(void **state)
{
    append_in(*state, "aaabb", 1);
    assert_int_equal(purge(*state, AIF_STR("b"), 5, 9), 2);
    assert_read(*state, AIF_BEYOND(0), "1 2 3");
    assert_read(*state, AIF_BEYOND(1), "RETENTION, 2 kept");
    assert_read(*state, &((aif_query){.after = 1, .upto = 4}),
                "RETENTION, 2 kept");
    assert_read(*state, &((aif_query){.after = 1, .upto = 5}),
                "RETENTION, 2 kept");
    assert_read(*state, MATCHING(IN("a"), 1), "2 3");
}

/* Holes of a, c... between those that stay. */
static void
a_namespace_has_holes_of_its_own(void **state)
{
    append_in(*state, "abcabcabcab", 1);
    assert_int_equal(purge(*state, AIF_STR("a"), 7, 2), 2);
    assert_int_equal(purge(*state, AIF_STR("a"), 7, 2), 1);
    assert_int_equal(purge(*state, AIF_STR("c"), 4, 100), 1);
    assert_purged(*state, "a 7 3;c 3 1;");
    assert_int_equal(purged_of(*state), 7);
    assert_read(*state, AIF_BEYOND(0), "2 5 6 8 9 10 11");
    assert_read(*state, MATCHING(IN("a"), 0), "10");
    assert_read(*state, MATCHING(IN("a"), 6), "RETENTION, 1 kept");
    assert_read(*state, MATCHING(IN("a"), 7), "10");
    assert_read(*state, MATCHING(IN("b"), 1), "2 5 8 11"); /* has all */
    assert_read(*state, MATCHING(IN("c"), 2), "RETENTION, 2 kept");
    assert_read(*state, MATCHING(IN("c"), 3), "6 9");
    assert_read(*state, MATCHING(IN("*"), 6), "RETENTION, 4 kept");
    assert_read(*state, AIF_BEYOND(6), "RETENTION, 4 kept");
    assert_read(*state, AIF_BEYOND(7), "8 9 10 11");
}

static void
namespaces_may_overlap(void **state)
{
    aif_event events[6];

    memcpy(events, events_of("p", 1, 6), sizeof events);
    events[0].ns = events[3].ns = AIF_STR("a%");
    events[1].ns = events[4].ns = AIF_STR("ab");
    events[2].ns = events[5].ns = AIF_STR("A");
    append_at(*state, events, 6, 1);
    assert_int_equal(purge(*state, AIF_STR("a%*"), 3, 9), 1);
    assert_read(*state, MATCHING(IN("ab*"), 1), "2 5");
    assert_read(*state, MATCHING(IN("a*"), 2), "4 5"); /* 1 is behind it */
    assert_int_equal(purge(*state, AIF_STR("a*"), 3, 9), 1);
    assert_int_equal(purge(*state, AIF_STR("*"), 5, 9), 3);
    assert_int_equal(purge(*state, AIF_STR("A"), 5, 9), 0);
    assert_purged(*state, "* 5 3;a%* 1 1;a* 2 1;");
    assert_read(*state, AIF_BEYOND(0), "6");
    assert_read(*state, MATCHING(IN("A"), 4), "RETENTION, 1 kept");
    assert_read(*state, MATCHING(IN("A"), 5), "6");
}

static void
everything_may_go_and_offsets_go_on(void **state)
{
    const int64_t late = 5000;
    aif_event ev = *events_of("p", 4, 1);
    aif_head head;
    uint64_t n;

    append_at(*state, events_of("p", 1, 3), 3, 1);
    ev.create_time = late;
    append_at(*state, &ev, 1, 4);
    assert_int_equal(purge(*state, AIF_STR("*"), UINT64_MAX, SIZE_MAX), 4);
    assert_int_equal(count_of(*state), 0);
    assert_read(*state, AIF_BEYOND(0), "");
    assert_read(*state, AIF_BEYOND(3), "RETENTION, 0 kept");
    assert_read(*state, AIF_BEYOND(4), "");
    assert_int_equal(aif_log_last(*state, AIF_BEYOND(0), &n, &e), AIF_OK);
    assert_int_equal(n, 0);
    assert_int_equal(aif_log_at(*state, INT64_MAX, &n, &e), AIF_OK);
    assert_int_equal(n, 0);
    assert_int_equal(aif_log_sequence(*state, AIF_STR("p"), &n, &e), AIF_OK);
    assert_int_equal(n, 0);
    append_at(*state, events_of("p", 5, 2), 2, 5);
    assert_int_equal(aif_log_head(*state, &head, &e), AIF_OK);
    assert_int_equal(head.offset, 6);
    assert_int_equal(head.purged, 4);
    assert_int_equal(head.create_time, late); /* time went on, too */
    assert_read(*state, AIF_BEYOND(0), "5 6");
}

/* Its identity went with it. */
static void
what_was_let_go_is_new_when_sent_again(void **state)
{
    append_at(*state, events_of("p", 0, 4), 4, 1);
    assert_int_equal(purge(*state, AIF_STR("*"), 2, 9), 2);
    append_at(*state, events_of("p", 2, 1), 1, 3); /* is known */
    append_at(*state, events_of("p", 0, 2), 2, 5);
    assert_read(*state, AIF_BEYOND(0), "3 4 5 6");
}

static void
a_time_is_an_offset_among_holes(void **state)
{
    uint64_t offset;

    append_in(*state, "aabbabab", 1); /* created at 1000, 1001... */
    assert_int_equal(purge(*state, AIF_STR("a"), UINT64_MAX, 9), 4);
    for (uint64_t i = 0; i <= 8; i++) {
        static const uint64_t before[] = {0, 0, 0, 3, 4, 4, 6, 6, 8};

        assert_int_equal(aif_log_at(*state, 1000 + (int64_t)i, &offset, &e),
                         AIF_OK);
        assert_int_equal(offset, before[i]);
    }
}

static uint64_t
keep(aif_log *log, aif_str ns, uint64_t n)
{
    uint64_t upto = 99;

    if (aif_log_keep(log, ns, n, &upto, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    return upto;
}

static void
the_newest_are_kept(void **state)
{
    assert_int_equal(keep(*state, AIF_STR("*"), 0), 0);
    append_in(*state, "abaabbba", 1);
    assert_int_equal(keep(*state, AIF_STR("*"), 0), 8);
    assert_int_equal(keep(*state, AIF_STR("*"), 3), 5);
    assert_int_equal(keep(*state, AIF_STR("*"), 7), 1);
    assert_int_equal(keep(*state, AIF_STR("*"), 8), 0);
    assert_int_equal(keep(*state, AIF_STR("*"), UINT64_MAX), 0);
    assert_int_equal(keep(*state, AIF_STR("c*"), 0), 0);
    for (uint64_t n = 5; n-- > 0;) {
        uint64_t left;

        (void)purge(*state, AIF_STR("a"), keep(*state, AIF_STR("a"), n), 9);
        assert_int_equal(
            aif_log_count(*state, MATCHING(IN("a"), 0), &left, &e), AIF_OK);
        assert_int_equal(left, n);
    }
    assert_int_equal(count_of(*state), 4);
}

static void
a_namespace_must_be_one(void **state)
{
    static char text[AIF_NAME_MAX + 2];
    aif_str ns = {text, sizeof text - 1};
    uint64_t n;

    append_at(*state, events_of("p", 0, 1), 1, 1);
    assert_int_equal(aif_log_purge(*state, AIF_STR(""), 1, 1, &n, &e),
                     AIF_EINVAL);
    memset(text, 'x', sizeof text);
    assert_int_equal(aif_log_purge(*state, ns, 1, 1, &n, &e), AIF_EINVAL);
    assert_int_equal(aif_log_keep(*state, ns, 1, &n, &e), AIF_EINVAL);
    text[AIF_NAME_MAX] = '*';
    assert_int_equal(purge(*state, ns, 1, 1), 0);
    ns.n = AIF_NAME_MAX;
    assert_int_equal(purge(*state, ns, 1, 1), 0);
    assert_int_equal(purge(*state, AIF_STR("default"), 1, 1), 1);
}

/* The longest namespace there is, in the rows and in the text. */
static void
a_row_may_be_as_long_as_its_limits(void **state)
{
    static char text[AIF_NAME_MAX + 1];
    aif_event ev = *events_of("p", 0, 1);

    memset(text, 'x', sizeof text);
    ev.ns = (aif_str){text, AIF_NAME_MAX};
    append_at(*state, &ev, 1, 1);
    ev.sequence++;
    append_at(*state, &ev, 1, 2);
    text[AIF_NAME_MAX] = '*';
    assert_int_equal(purge(*state, (aif_str){text, sizeof text}, 9, 9), 2);
    assert_int_equal(read_all(*state, AIF_BEYOND(1), &e), AIF_ERETENTION);
    assert_non_null(strstr(e.text, "begin again from offset 2"));
}

static void
purge_survives_every_oom(void **state)
{
    uint64_t gone;
    aif_err err;
    int n = 0;

    append_in(*state, "abababababab", 1);
    do {
        assert_int_equal(count_of(*state), 12);
        assert_purged(*state, "");
        fault_alloc_after(n++);
        err = aif_log_purge(*state, AIF_STR("a"), 9, 9, &gone, &e);
        fault_off();
    } while (err == AIF_ENOMEM);
    assert_int_equal(err, AIF_OK);
    assert_int_equal(gone, 5);
    assert_int_equal(count_of(*state), 7);
    for (n = 0, err = AIF_ENOMEM; err == AIF_ENOMEM; n++) {
        fault_alloc_after(n);
        err = read_all(*state, AIF_BEYOND(1), &e);
        fault_off();
    }
    assert_int_equal(err, AIF_ERETENTION);
    assert_in_range(n, 2, 100);
}

int
store_contract_purge(void)
{
    const struct CMUnitTest tests[] = {
        OPEN(the_oldest_go_first),
        OPEN(a_purge_of_nothing_is_nothing),
        OPEN(what_is_behind_is_told_what_it_missed),
        OPEN(what_went_from_the_end_is_missed),
        OPEN(a_namespace_has_holes_of_its_own),
        OPEN(namespaces_may_overlap),
        OPEN(everything_may_go_and_offsets_go_on),
        OPEN(what_was_let_go_is_new_when_sent_again),
        OPEN(a_time_is_an_offset_among_holes),
        OPEN(the_newest_are_kept),
        OPEN(a_namespace_must_be_one),
        OPEN(a_row_may_be_as_long_as_its_limits),
        OPEN(purge_survives_every_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
