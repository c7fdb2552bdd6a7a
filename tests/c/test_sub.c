/* Subscriptions: every event once, in order, whatever happens in between. */
#include "broker_fixture.h"

#include "base/clock.h"
#include "log/log.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static aif_client *
client_of(const served *s)
{
    aif_client *c;
    aif_error e;

    assert_int_equal(aif_client_open(s->bind, NULL, &c, &e), AIF_OK);
    return c;
}

static aif_sub *
subscribed(const served *s, uint64_t after)
{
    aif_sub *sub;
    aif_error e;

    if (sub_one(s->bind, &everything, 1, after, false, SOON, &sub, &e) !=
        AIF_OK) {
        fail_msg("%s", e.text);
    }
    return sub;
}

/* Take events until offset `to`, and see that each is the next. */
static void
expect_up_to(aif_sub *sub, uint64_t from, uint64_t to)
{
    aif_batch out = {0};
    uint64_t next = from;
    bool hinted;
    aif_error e;

    while (next <= to) {
        size_t seen = out.n;

        assert_int_equal(
            aif_sub_next(sub, SOON, &out, NULL, NULL, &hinted, &e), AIF_OK);
        assert_true(out.n > seen);
        for (; seen < out.n; seen++) {
            assert_int_equal(out.events[seen].offset, next++);
        }
    }
    assert_int_equal(next, to + 1);
    assert_int_equal(cursor_of(sub), to);
    aif_batch_fini(&out);
}

static void
expect_nothing(aif_sub *sub)
{
    aif_batch out = {0};
    bool hinted;
    aif_error e;

    assert_int_equal(aif_sub_next(sub, 0, &out, NULL, NULL, &hinted, &e),
                     AIF_OK);
    assert_int_equal(out.n, 0);
    assert_false(hinted);
}

/* n events in one publish; their offsets are from .. from + n - 1. */
static void
publish_many(aif_client *c, uint64_t from, size_t n, size_t value)
{
    aif_event *events = calloc(n, sizeof *events);
    uint64_t *offsets = calloc(n, sizeof *offsets);
    char *bytes = malloc(value + 1);
    aif_error e;

    assert_true(events != NULL && offsets != NULL && bytes != NULL);
    memset(bytes, 'v', value);
    for (size_t i = 0; i < n; i++) {
        events[i] = numbered("p", from + i);
        events[i].value = (aif_str){bytes, value};
    }
    assert_int_equal(aif_client_publish(c, events, n, offsets, SOON, &e),
                     AIF_OK);
    assert_int_equal(offsets[n - 1], from + n - 1);
    free(bytes);
    free(offsets);
    free(events);
}

static void
live_events_are_pushed(void **state)
{
    aif_client *c = client_of(*state);
    aif_sub *sub;

    (void)publish_one(c, "p", 1);
    sub = subscribed(*state, AIF_AFTER_NOW);
    expect_nothing(sub);
    (void)publish_one(c, "p", 2);
    expect_up_to(sub, 2, 2);
    (void)publish_one(c, "p", 3);
    expect_up_to(sub, 3, 3);
    aif_sub_free(sub);
    aif_sub_free(NULL);
    aif_client_free(c);
}

static void
it_resumes_anywhere(void **state)
{
    aif_client *c = client_of(*state);

    uint64_t head = 2500;

    publish_many(c, 1, head, 0);
    for (uint64_t after = 0; after <= 2500; after += 625) {
        aif_sub *sub = subscribed(*state, after);

        expect_up_to(sub, after + 1, head);
        publish_many(c, head + 1, 1, 0);
        expect_up_to(sub, head + 1, head + 1);
        head++;
        aif_sub_free(sub);
    }
    aif_client_free(c);
}

static void
only_what_a_pattern_matches_comes(void **state)
{
    const aif_pattern p[2] = {{AIF_STR("default"), AIF_STR("a*"), AIF_STR("*"),
                               AIF_STR("*"), AIF_STR("*")},
                              {AIF_STR("default"), AIF_STR("b"), AIF_STR("*"),
                               AIF_STR("*"), AIF_STR("*")}};
    static const char keys[] = "abcdab";
    aif_client *c = client_of(*state);
    const served *s = *state;
    aif_batch out = {0};
    uint64_t offset;
    bool hinted;
    aif_sub *sub;
    aif_error e;

    assert_int_equal(sub_one(s->bind, p, 2, 0, false, SOON, &sub, &e), AIF_OK);
    for (uint64_t i = 0; i < 6; i++) {
        aif_event ev = numbered("p", i);

        ev.key = (aif_str){keys + i, 1};
        assert_int_equal(aif_client_publish(c, &ev, 1, &offset, SOON, &e),
                         AIF_OK);
    }
    while (out.n < 4) {
        assert_int_equal(
            aif_sub_next(sub, SOON, &out, NULL, NULL, &hinted, &e), AIF_OK);
    }
    assert_int_equal(out.events[0].offset, 1);
    assert_int_equal(out.events[1].offset, 2);
    assert_int_equal(out.events[2].offset, 5);
    assert_int_equal(out.events[3].offset, 6);
    aif_batch_fini(&out);
    aif_sub_free(sub);
    aif_client_free(c);
}

/* Events that nobody wants move the cursor too: who subscribes again from it
 * has them not looked at again. */
static void
the_cursor_passes_what_is_not_wanted(void **state)
{
    const aif_pattern other = {AIF_STR("other"), AIF_STR("*"), AIF_STR("*"),
                               AIF_STR("*"), AIF_STR("*")};
    aif_client *c = client_of(*state);
    const served *s = *state;
    aif_batch out = {0};
    bool hinted;
    aif_sub *sub;
    aif_error e;

    assert_int_equal(sub_one(s->bind, &other, 1, 0, false, SOON, &sub, &e),
                     AIF_OK);
    publish_many(c, 1, 3000, 0);
    while (cursor_of(sub) < 3000) { /* told with a renewal */
        assert_int_equal(aif_sub_next(sub, 100, &out, NULL, NULL, &hinted, &e),
                         AIF_OK);
        assert_int_equal(out.n, 0);
    }
    aif_sub_free(sub);
    aif_client_free(c);
}

static void
a_broker_that_comes_back_loses_nothing(void **state)
{
    served *s = *state;
    aif_client *c = client_of(s);
    aif_sub *sub = subscribed(s, AIF_AFTER_NOW);

    for (uint64_t i = 1; i <= 8; i += 4) {
        publish_many(c, i, 2, 0);
        if (i > 1) {
            expect_up_to(sub, i, i + 1);
        }
        unserve(s);
        serve(s);
        publish_many(c, i + 2, 2, 0);
        expect_up_to(sub, i > 1 ? i + 2 : i, i + 3);
    }
    aif_sub_free(sub);
    aif_client_free(c);
}

/* 48 MiB of values, 4 MiB of credit. */
static void
a_slow_subscriber_delays_nobody(void **state)
{
    enum { EACH = 16, ROUNDS = 6, VALUE = 1 << 19 };
    aif_client *c = client_of(*state);
    aif_sub *slow = subscribed(*state, 0);
    aif_sub *quick = subscribed(*state, 0);

    for (uint64_t i = 0; i < ROUNDS; i++) {
        publish_many(c, 1 + EACH * i, EACH, VALUE);
        expect_up_to(quick, 1 + EACH * i, EACH * (i + 1));
    }
    assert_true(stats_of(*state).pushed < 2 * EACH * ROUNDS); /* it waits */
    expect_up_to(slow, 1, EACH * ROUNDS);
    assert_int_equal(stats_of(*state).subscribers, 2);
    aif_sub_free(slow);
    aif_sub_free(quick);
    aif_client_free(c);
}

/* A raw subscriber that never reads and never grants more. */
static void
credit_bounds_what_is_under_way(void **state)
{
    const aif_frame subscribe = {
        .kind = AIF_K_SUBSCRIBE, .id = 5, .max = 1000};
    aif_client *c = client_of(*state);
    aif_frame credit = {.kind = AIF_K_CREDIT, .id = 5};
    const served *s = *state;
    aif_buf tail = {0};
    aif_frame f;
    aif_error e;
    raw r;

    publish_many(c, 1, 10, 600);
    raw_open(&r, s->bind);
    assert_int_equal(aif_wire_put_pattern(&everything, &tail, &e), AIF_OK);
    raw_frame(&r, &subscribe, &tail);
    f = raw_next(&r);
    assert_int_equal(f.kind, AIF_K_SUBSCRIBED);
    assert_int_equal(f.to, 0);
    f = raw_next(&r); /* a frame may go over the credit, but only one */
    assert_int_equal(f.kind, AIF_K_EVENTS);
    assert_int_equal(f.from, 0);
    assert_int_equal(f.to, 10);
    publish_many(c, 11, 1, 600);
    assert_int_equal(stats_of(s).pushed, 10);
    credit.max = 100000;
    raw_frame(&r, &credit, NULL);
    f = raw_next(&r); /* the answer to CREDIT */
    assert_int_equal(f.from, 10);
    assert_int_equal(f.to, 10);
    assert_int_equal(f.tail.n, 0);
    f = raw_next(&r);
    assert_int_equal(f.from, 10);
    assert_int_equal(f.to, 11);
    aif_buf_fini(&tail);
    raw_close(&r);
    aif_client_free(c);
}

/* zmq says so with the next push. */
static void
who_is_gone_is_dropped(void **state)
{
    aif_client *c = client_of(*state);
    aif_sub *sub = subscribed(*state, 0);

    assert_int_equal(stats_of(*state).subscribers, 1);
    aif_sub_free(sub);
    for (uint64_t i = 1; stats_of(*state).subscribers > 0; i++) {
        (void)publish_one(c, "p", i);
    }
    aif_client_free(c);
}

static void
hints_come_to_those_who_want_them(void **state)
{
    const served *s = *state;
    aif_client *c = client_of(s);
    char hint[AIF_HINT_MAX + 1] = "before";
    aif_batch out = {0};
    bool hinted;
    int64_t end;
    aif_sub *sub[2];
    aif_error e;

    for (int i = 0; i < 2; i++) {
        assert_int_equal(
            sub_one(s->bind, &everything, 1, 0, i == 0, SOON, &sub[i], &e),
            AIF_OK);
    }
    assert_int_equal(aif_sub_next(sub[0], 0, &out, NULL, hint, &hinted, &e),
                     AIF_OK);
    assert_false(hinted);
    assert_string_equal(hint, "");
    assert_int_equal(aif_client_hint(c, AIF_STR("run_7"), &e), AIF_OK);
    assert_int_equal(aif_sub_next(sub[0], SOON, &out, NULL, hint, &hinted, &e),
                     AIF_OK);
    assert_true(hinted);
    assert_string_equal(hint, "run_7");
    assert_int_equal(out.n, 0);
    expect_nothing(sub[1]);
    assert_int_equal(aif_client_hint(c, AIF_STR("a\0b"), &e), AIF_EINVAL);
    aif_client_free(c);
    end = aif_now_ms() + SOON;
    do { /* who hints and goes; if it connects too slowly, it is lost */
        assert_true(aif_now_ms() < end);
        c = client_of(s);
        assert_int_equal(aif_client_hint(c, AIF_STR("run_8"), &e), AIF_OK);
        aif_client_free(c);
        assert_int_equal(
            aif_sub_next(sub[0], 1000, &out, NULL, hint, &hinted, &e), AIF_OK);
    } while (!hinted);
    assert_string_equal(hint, "run_8");
    aif_sub_free(sub[0]);
    aif_sub_free(sub[1]);
}

static void
the_fd_says_when_there_is_something(void **state)
{
    aif_client *c = client_of(*state);
    aif_sub *sub = subscribed(*state, 0);
    struct pollfd p = {.fd = aif_sub_fd(sub), .events = POLLIN};

    for (uint64_t i = 1; i <= 200; i++) {
        (void)publish_one(c, "p", i);
        if (i % 3 == 0) { /* also when frames of several pushes wait */
            assert_int_equal(poll(&p, 1, SOON), 1);
            expect_up_to(sub, i - 2, i);
        }
    }
    assert_int_equal(poll(&p, 1, SOON), 1); /* i = 199, 200 */
    expect_up_to(sub, 199, 200);
    /* and again within about a second, or the lease would end unseen */
    expect_nothing(sub);
    assert_int_equal(poll(&p, 1, SOON), 1);
    assert_int_equal(aif_sub_fd(sub), p.fd);
    aif_sub_free(sub);
    aif_client_free(c);
}

static void
wrong_patterns_are_said(void **state)
{
    const served *s = *state;
    aif_pattern p[AIF_PATTERNS_MAX + 1];
    aif_sub *sub;
    aif_error e;

    for (size_t i = 0; i <= AIF_PATTERNS_MAX; i++) {
        p[i] = everything;
    }
    assert_int_equal(sub_one(s->bind, p, 0, 0, false, SOON, &sub, &e),
                     AIF_EINVAL);
    assert_string_equal(e.text, "0 patterns: a subscription has 1 to 64");
    assert_int_equal(
        sub_one(s->bind, p, AIF_PATTERNS_MAX + 1, 0, false, SOON, &sub, &e),
        AIF_EINVAL);
    assert_int_equal(
        sub_one(s->bind, p, AIF_PATTERNS_MAX, 0, false, SOON, &sub, &e),
        AIF_OK);
    aif_sub_free(sub);
    p[0].key.n = 0;
    assert_int_equal(sub_one(s->bind, p, 1, 0, false, SOON, &sub, &e),
                     AIF_EINVAL);
    assert_int_equal(
        sub_one("nowhere", &everything, 1, 0, false, SOON, &sub, &e),
        AIF_EINVAL);
    assert_null(sub);
}

static void
no_broker_is_a_timeout(void **state)
{
    served *s = *state;
    aif_sub *sub;
    aif_error e;

    unserve(s);
    assert_int_equal(sub_one(s->bind, &everything, 1, 0, false, 300, &sub, &e),
                     AIF_ETIMEOUT);
    assert_null(sub);
    assert_non_null(strstr(e.text, "no answer to SUBSCRIBE from ipc://"));
}

static void
a_child_may_not_use_it(void **state)
{
    aif_client *c = client_of(*state);
    aif_sub *sub = subscribed(*state, 0);
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        aif_batch out = {0};
        bool hinted;
        aif_error e;

        alarm(120);
        aif_sub_free(sub);
        _exit(aif_sub_next(sub, SOON, &out, NULL, NULL, &hinted, &e) !=
              AIF_EFORKED);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    (void)publish_one(c, "p", 1);
    expect_up_to(sub, 1, 1);
    aif_sub_free(sub);
    aif_client_free(c);
}

/* Another program appends to the same log: seen within about a second. */
static void
events_of_other_writers_come_too(void **state)
{
    const served *s = *state;
    aif_client *c = client_of(s);
    aif_sub *sub = subscribed(s, 0);
    aif_event ev = numbered("other", 1);
    uint64_t offset;
    aif_log *log;
    aif_error e;

    assert_int_equal(aif_log_open(s->log, &log, &e), AIF_OK);
    (void)publish_one(c, "p", 1);
    expect_up_to(sub, 1, 1);
    assert_int_equal(aif_log_append(log, &ev, 1, &offset, NULL, &e), AIF_OK);
    assert_int_equal(offset, 2);
    expect_up_to(sub, 2, 2);
    ev.sequence = 2; /* and when our own comes right behind it */
    assert_int_equal(aif_log_append(log, &ev, 1, &offset, NULL, &e), AIF_OK);
    assert_int_equal(publish_one(c, "p", 2), 4);
    expect_up_to(sub, 3, 4);
    aif_log_free(log);
    aif_sub_free(sub);
    aif_client_free(c);
}

int
main(void)
{
#define SERVED(test, how)                                                     \
    cmocka_unit_test_setup_teardown(test, served_##how, served_teardown)
    const struct CMUnitTest tests[] = {
        SERVED(live_events_are_pushed, sqlite),
        SERVED(it_resumes_anywhere, sqlite),
        SERVED(only_what_a_pattern_matches_comes, mem),
        SERVED(the_cursor_passes_what_is_not_wanted, mem),
        SERVED(a_broker_that_comes_back_loses_nothing, sqlite),
        SERVED(a_slow_subscriber_delays_nobody, mem),
        SERVED(credit_bounds_what_is_under_way, mem),
        SERVED(who_is_gone_is_dropped, mem),
        SERVED(hints_come_to_those_who_want_them, mem),
        SERVED(the_fd_says_when_there_is_something, mem),
        SERVED(wrong_patterns_are_said, mem),
        SERVED(no_broker_is_a_timeout, mem),
        SERVED(a_child_may_not_use_it, mem),
        SERVED(events_of_other_writers_come_too, sqlite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
