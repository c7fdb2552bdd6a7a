/* What a log is asked besides its events; and what it says to a second event
 * of the same identity. */
#include "cmocka_all.h"

#include "fault.h"
#include "log/store.h"
#include "store_contract.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static aif_error e;

static uint64_t
last_of(aif_log *log, const aif_query *q)
{
    uint64_t offset = 99;

    if (aif_log_last(log, q, &offset, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    return offset;
}

static void
the_newest_of_a_query_is_found(void **state)
{
    const aif_pattern a = {AIF_STR("*"), AIF_STR("a*"), AIF_STR("*"),
                           AIF_STR("*"), AIF_STR("*")};
    aif_event events[9];
    aif_query q = {.patterns = &a, .n = 1};

    assert_int_equal(last_of(*state, &q), 0);
    assert_int_equal(last_of(*state, AIF_BEYOND(0)), 0);
    memcpy(events, events_of("p", 0, 9), sizeof events);
    events[2].key = AIF_STR("a");
    events[5].key = AIF_STR("ab");
    append_at(*state, events, 9, 1);
    assert_int_equal(last_of(*state, AIF_BEYOND(0)), 9);
    assert_int_equal(last_of(*state, AIF_BEYOND(9)), 0);
    assert_int_equal(last_of(*state, &q), 6);
    q.upto = 5;
    assert_int_equal(last_of(*state, &q), 3);
    q.after = 3;
    assert_int_equal(last_of(*state, &q), 0);
}

/* Patterns that differ in an exact key alone go to a database as one list, in
 * whatever order they come. */
static void
a_list_of_keys_is_by_bytes(void **state)
{
    static const aif_str keys[] = {{"a", 1},  {"a ", 2}, {"A", 1},
                                   {"b ", 2}, {"b", 1},  {"\xc3\xa4", 2},
                                   {"ab", 2}, {"", 0},   {"a", 1}};
    const aif_str any = AIF_STR("*");
    const aif_str t = AIF_STR("t2");
    const aif_pattern asked[] = {
        {any, {"a", 1}, any, any, any},  {any, {"a", 1}, t, any, any},
        {any, {"x*", 2}, any, any, any}, {any, {"b ", 2}, any, any, any},
        {any, {"A", 1}, t, any, any},    {any, {"\xc3\xa4", 2}, any, any, any},
        {any, {"b ", 2}, any, any, any}};
    const aif_query all = {.patterns = asked, .n = 7};
    const aif_query first = {.patterns = asked, .n = 1};
    aif_event events[9];

    memcpy(events, events_of("p", 0, 9), sizeof events);
    for (size_t i = 0; i < 9; i++) {
        events[i].key = keys[i].n == 0 ? AIF_STR("xy") : keys[i];
        events[i].type = i == 2 ? t : AIF_STR("t1");
    }
    append_at(*state, events, 9, 1);
    assert_read(*state, &first, "1 9");
    assert_read(*state, &all, "1 3 4 6 8 9");
    assert_int_equal(last_of(*state, &all), 9);
}

static void
assert_senders(aif_log *log, const aif_query *q, const char *want)
{
    aif_buf out = {0};
    char text[200] = "";
    aif_reader in;
    aif_str sender;
    uint64_t n;

    if (aif_log_senders(log, q, &out, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    in = (aif_reader){out.p, out.n};
    while (in.n > 0) {
        const size_t used = strlen(text);

        assert_int_equal(aif_read_u64(&in, &n, &e), AIF_OK);
        assert_int_equal(aif_read_str(&in, AIF_NAME_MAX, &sender, &e), AIF_OK);
        (void)snprintf(text + used, sizeof text - used, "%d %.*s;", (int)n,
                       (int)sender.n, sender.p);
    }
    assert_string_equal(text, want);
    aif_buf_fini(&out);
}

/* By bytes, whatever a database's collation is. */
static void
events_are_counted_by_sender(void **state)
{
    const aif_pattern key = {AIF_STR("*"), AIF_STR("k"), AIF_STR("*"),
                             AIF_STR("*"), AIF_STR("*")};
    static const aif_str senders[] = {{"b", 1}, {"", 0},   {"A", 1},
                                      {"a", 1}, {"b", 1},  {"\xc3\xa4", 2},
                                      {"", 0},  {"a ", 2}, {"b", 1}};
    aif_event events[9];

    assert_senders(*state, AIF_BEYOND(0), "");
    memcpy(events, events_of("p", 0, 9), sizeof events);
    for (size_t i = 0; i < 9; i++) {
        events[i].sender = senders[i];
        events[i].key = i < 4 ? AIF_STR("k") : events[i].key;
    }
    append_at(*state, events, 9, 1);
    assert_senders(*state, AIF_BEYOND(0), "2 ;1 A;1 a;1 a ;3 b;1 \xc3\xa4;");
    assert_senders(*state, AIF_BEYOND(6), "1 ;1 a ;1 b;");
    assert_senders(*state, MATCHING(&key, 0), "1 ;1 A;1 a;1 b;");
    assert_senders(*state, MATCHING(&key, 2), "1 A;1 a;");
}

static void
too_many_senders_are_refused(void **state)
{
    static char names[AIF_SENDERS_MAX + 1][8];
    static aif_event events[AIF_SENDERS_MAX + 1];
    aif_buf out = {0};

    memcpy(events, events_of("p", 0, AIF_SENDERS_MAX + 1), sizeof events);
    for (size_t i = 0; i <= AIF_SENDERS_MAX; i++) {
        (void)snprintf(names[i], sizeof names[i], "%zu", i);
        events[i].sender = (aif_str){names[i], strlen(names[i])};
    }
    append_at(*state, events, AIF_SENDERS_MAX, 1);
    assert_int_equal(aif_buf_u8(&out, 7, &e), AIF_OK);
    assert_int_equal(aif_log_senders(*state, AIF_BEYOND(1), &out, &e), AIF_OK);
    assert_int_equal(aif_log_senders(*state, AIF_BEYOND(0), &out, &e), AIF_OK);
    out.n = 1;
    append_at(*state, events + AIF_SENDERS_MAX, 1, AIF_SENDERS_MAX + 1);
    assert_int_equal(aif_log_senders(*state, AIF_BEYOND(0), &out, &e),
                     AIF_EINVAL);
    assert_string_equal(e.text,
                        "more than 10000 senders: ask for fewer events");
    assert_int_equal(out.n, 1); /* as it was */
    assert_int_equal(aif_log_senders(*state, AIF_BEYOND(1), &out, &e), AIF_OK);
    aif_buf_fini(&out);
}

static uint64_t
sequence_of(aif_log *log, aif_str producer)
{
    uint64_t sequence = 99;

    if (aif_log_sequence(log, producer, &sequence, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    return sequence;
}

static void
a_producer_finds_its_greatest_sequence(void **state)
{
    static char name[AIF_PRODUCER_MAX + 1];
    uint64_t sequence;

    memset(name, 'x', sizeof name);
    assert_int_equal(sequence_of(*state, AIF_STR("p")), 0);
    append_at(*state, events_of("p", 0, 3), 3, 1);
    append_at(*state, events_of("q", 70, 3), 3, 4);
    append_at(*state, events_of("p", AIF_SEQUENCE_MAX - 1, 2), 2, 7);
    append_at(*state, events_of("p", 3, 1), 1, 9);
    assert_true(sequence_of(*state, AIF_STR("p")) == AIF_SEQUENCE_MAX);
    assert_int_equal(sequence_of(*state, AIF_STR("q")), 72);
    assert_int_equal(sequence_of(*state, AIF_STR("P")), 0);
    assert_int_equal(sequence_of(*state, (aif_str){name, AIF_PRODUCER_MAX}),
                     0);
    assert_int_equal(
        aif_log_sequence(*state, (aif_str){name, sizeof name}, &sequence, &e),
        AIF_EINVAL);
}

/* Events at these times, one append each. */
static void
append_times(aif_log *log, const int64_t *times, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        aif_event ev = *events_of("t", i, 1);

        ev.create_time = times[i];
        append_at(log, &ev, 1, i + 1);
    }
}

static void
assert_times(aif_log *log, const int64_t *times, size_t n)
{
    aif_batch out = {0};

    assert_int_equal(aif_log_read(log, AIF_BEYOND(0), n + 1, &out, &e),
                     AIF_OK);
    assert_int_equal(out.n, n);
    for (size_t i = 0; i < n; i++) {
        assert_true(out.events[i].create_time == times[i]);
    }
    aif_batch_fini(&out);
}

/* Clocks do, and there may be many brokers. */
static void
time_does_not_go_back(void **state)
{
    const int64_t clock[] = {5, 3, 7, -1, 7, 8};
    const int64_t stored[] = {5, 5, 7, 7, 7, 8, 8, 8, 9, 9};
    uint64_t offsets[4];
    aif_head before;
    aif_event events[4];

    append_times(*state, clock, 6);
    memcpy(events, events_of("u", 0, 4), sizeof events);
    events[0].create_time = 1;
    events[1].create_time = 0;
    events[2].create_time = 9;
    events[3].create_time = 4;
    assert_int_equal(aif_log_append(*state, events, 4, offsets, &before, &e),
                     AIF_OK);
    assert_int_equal(before.offset, 6);
    assert_int_equal(before.purged, 0);
    assert_int_equal(before.create_time, 8);
    assert_times(*state, stored, 10);
    assert_int_equal(aif_log_head(*state, &before, &e), AIF_OK);
    assert_int_equal(before.offset, 10);
    assert_int_equal(before.create_time, 9);
    /* known ones change nothing */
    events[0].create_time = 77;
    assert_int_equal(aif_log_append(*state, events, 1, offsets, &before, &e),
                     AIF_OK);
    assert_int_equal(offsets[0], 7);
    assert_int_equal(before.create_time, 9);
    assert_int_equal(aif_log_head(*state, &before, &e), AIF_OK);
    assert_int_equal(before.create_time, 9);
    assert_times(*state, stored, 10);
}

static uint64_t
at(aif_log *log, int64_t ms)
{
    uint64_t offset = 99;

    if (aif_log_at(log, ms, &offset, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    return offset;
}

static void
a_time_is_an_offset(void **state)
{
    const int64_t times[] = {5, 5, 7, 7, 7, 8, 20};

    assert_int_equal(at(*state, INT64_MAX), 0);
    append_times(*state, times, 7);
    for (int64_t ms = -1; ms < 30; ms++) {
        uint64_t want = 0;

        while (want < 7 && times[want] < ms) {
            want++;
        }
        assert_int_equal(at(*state, ms), want);
    }
    assert_int_equal(at(*state, INT64_MIN), 0);
    assert_int_equal(at(*state, INT64_MAX), 7);
}

static aif_event
other(uint64_t sequence, int i)
{
    aif_event ev = *events_of("p", sequence, 1);
    aif_str *const fields[] = {&ev.ns, &ev.key, &ev.type, &ev.value};

    *fields[i] = AIF_STR("other");
    return ev;
}

/* Never silently dropped: its producer's numbers are mixed up. */
static void
another_event_of_the_same_identity_is_a_conflict(void **state)
{
    uint64_t offsets[4];
    aif_event ev;

    append_at(*state, events_of("p", 5, 3), 3, 1);
    for (int i = 0; i < 4; i++) {
        ev = other(6, i);
        assert_int_equal(aif_log_append(*state, &ev, 1, offsets, NULL, &e),
                         AIF_OK);
        assert_int_equal(offsets[0], 0);
    }
    assert_int_equal(aif_log_conflict(*state, &ev, &e), AIF_ECONFLICT);
    assert_string_equal(e.text, "sequence 6 of producer p is in the log "
                                "already, as another event (offset 2)");
    ev = *events_of("p", 6, 1); /* who moved on, or to another context */
    ev.sender = ev.context = AIF_STR("other");
    ev.create_time = 99;
    append_at(*state, &ev, 1, 2);
    assert_int_equal(head_of(*state), 3);
    assert_int_equal(count_of(*state), 3);
}

/* Its neighbours are appended, or keep what they have. */
static void
a_conflict_is_the_one_events_alone(void **state)
{
    uint64_t offsets[6] = {9, 9, 9, 9, 9, 9};
    aif_event events[6];

    append_at(*state, events_of("p", 0, 300), 300, 1);
    events[0] = *events_of("p", 250, 1); /* known: 251 */
    events[1] = other(0, 1);             /* far from it */
    events[2] = *events_of("p", 300, 1); /* new: 301 */
    events[3] = other(300, 2);           /* the same, not the same */
    events[4] = other(251, 3);
    events[5] = *events_of("p", 251, 1); /* known: 252 */
    assert_int_equal(aif_log_append(*state, events, 6, offsets, NULL, &e),
                     AIF_OK);
    assert_int_equal(offsets[0], 251);
    assert_int_equal(offsets[1], 0);
    assert_int_equal(offsets[2], 301);
    assert_int_equal(offsets[3], 0);
    assert_int_equal(offsets[4], 0);
    assert_int_equal(offsets[5], 252);
    assert_int_equal(count_of(*state), 301);
}

/* All that a lost answer can bring: a whole batch again, with large values. */
static void
a_whole_batch_may_come_again(void **state)
{
    enum { N = 3000, BIG = 8000 };
    static char text[BIG];
    static aif_event events[N];
    static uint64_t offsets[N];

    memset(text, 'x', sizeof text);
    memcpy(events, events_of("p", 0, N), sizeof events);
    for (size_t i = 0; i < N; i++) {
        events[i].value = (aif_str){text, BIG};
    }
    append_at(*state, events, N, 1);
    append_at(*state, events, N, 1);
    events[N - 1].value.n--;
    assert_int_equal(aif_log_append(*state, events, N, offsets, NULL, &e),
                     AIF_OK);
    assert_int_equal(offsets[N - 2], N - 1);
    assert_int_equal(offsets[N - 1], 0);
}

/* Each of the questions, one after the other. */
static aif_err
ask_all(aif_log *log)
{
    const aif_pattern p = {AIF_STR("d*"), AIF_STR("digits"), AIF_STR("*"),
                           AIF_STR("*"), AIF_STR("*")};
    const aif_event known = other(1, 0);
    aif_buf out = {0};
    uint64_t n;
    aif_err err = aif_log_last(log, MATCHING(&p, 0), &n, &e);

    if (err == AIF_OK) {
        assert_int_equal(n, 500);
        err = aif_log_senders(log, MATCHING(&p, 0), &out, &e);
    }
    if (err == AIF_OK) {
        assert_int_equal(out.n, 12);
        err = aif_log_sequence(log, AIF_STR("p"), &n, &e);
    }
    aif_buf_fini(&out);
    if (err == AIF_OK) {
        assert_int_equal(n, 499);
        err = aif_log_at(log, 1250, &n, &e);
    }
    if (err == AIF_OK) {
        assert_int_equal(n, 250);
        err = aif_log_append(log, &known, 1, &n, NULL, &e);
    }
    if (err == AIF_OK) {
        assert_int_equal(n, 0);
        err = aif_log_conflict(log, &known, &e);
    }
    return err == AIF_ECONFLICT ? AIF_OK : err;
}

static void
a_question_survives_every_oom(void **state)
{
    aif_err err;
    int n = 0;

    append_at(*state, events_of("p", 0, 500), 500, 1);
    do {
        fault_alloc_after(n++);
        err = ask_all(*state);
        fault_off();
    } while (err == AIF_ENOMEM);
    if (err != AIF_OK) {
        fail_msg("%s", e.text);
    }
    assert_in_range(n, 8, 200);
}

int
store_contract_ask(void)
{
    const struct CMUnitTest tests[] = {
        OPEN(the_newest_of_a_query_is_found),
        OPEN(a_list_of_keys_is_by_bytes),
        OPEN(events_are_counted_by_sender),
        OPEN(too_many_senders_are_refused),
        OPEN(a_producer_finds_its_greatest_sequence),
        OPEN(time_does_not_go_back),
        OPEN(a_time_is_an_offset),
        OPEN(another_event_of_the_same_identity_is_a_conflict),
        OPEN(a_conflict_is_the_one_events_alone),
        OPEN(a_whole_batch_may_come_again),
        OPEN(a_question_survives_every_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
