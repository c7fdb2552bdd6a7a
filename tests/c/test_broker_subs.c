/* Subscribers of a broker that does not run: the clock is ours. */
#include "broker_fixture.h"

#include "broker/whole.h"
#include "base/clock.h"

#include <stdio.h>
#include <string.h>

static const aif_route here = {.n = 5, .p = {0, 1, 2, 3, 4}};

static int
setup(void **state)
{
    aif_error e;

    return aif_broker_open(&(aif_broker_options){.bind = "tcp://127.0.0.1:0",
                                                 .log = "mem:"},
                           (aif_broker **)state, &e) != AIF_OK;
}

static int
teardown(void **state)
{
    aif_broker_free(*state);
    return 0;
}

/* On the connection number i: one subscription, n times the same pattern. */
static aif_err
add_at(aif_broker *b, uint8_t i, uint64_t id, uint64_t after,
       const aif_pattern *p, size_t n, aif_error *e)
{
    const aif_route from = {.n = 5, .p = {i, 1, 2, 3, 4}};
    aif_frame f = {
        .kind = AIF_K_SUBSCRIBE, .id = id, .from = after, .max = 1000};
    aif_buf tail = {0};
    aif_err err;

    while (n-- > 0) {
        assert_int_equal(aif_wire_put_pattern(p, &tail, e), AIF_OK);
    }
    f.tail = (aif_reader){tail.p, tail.n};
    err = aif_subs_add(&b->subs, &from, &f, e);
    aif_buf_fini(&tail);
    return err;
}

static aif_err
add_for(aif_broker *b, uint64_t id, uint64_t after, const aif_pattern *p,
        aif_error *e)
{
    return add_at(b, here.p[0], id, after, p, 1, e);
}

static aif_err
add(aif_broker *b, uint64_t id, uint64_t after, aif_error *e)
{
    return add_for(b, id, after, &everything, e);
}

static void
a_lease_is_10_seconds_from_what_was_heard_last(void **state)
{
    const aif_frame credit = {.kind = AIF_K_CREDIT, .id = 2, .max = 1};
    aif_broker *b = *state;
    int64_t heard;
    aif_error e;

    assert_int_equal(add(b, 1, 0, &e), AIF_OK);
    heard = aif_now_ms();
    assert_true(b->subs.list[0]->heard <= heard);
    assert_int_equal(add(b, 2, 0, &e), AIF_OK);
    b->subs.list[0]->heard = heard;
    b->subs.list[1]->heard = heard + 1;
    aif_subs_expire(&b->subs, heard + AIF_BROKER_LEASE_MS);
    assert_int_equal(b->subs.n, 2);
    /* the next look is due a second later, whatever was asked before */
    assert_int_equal(aif_subs_due(&b->subs, heard + AIF_BROKER_LEASE_MS),
                     heard + AIF_BROKER_LEASE_MS + 1000);
    b->subs.lease_due = 0;
    aif_subs_expire(&b->subs, heard + AIF_BROKER_LEASE_MS + 1);
    assert_int_equal(b->subs.n, 1);
    assert_int_equal(b->subs.list[0]->id, 2);
    b->subs.list[0]->heard = heard;
    /* its answer finds nobody: this route is nobody's */
    assert_int_equal(aif_subs_credit(&b->subs, &here, &credit, &e), AIF_OK);
    assert_int_equal(b->subs.n, 0);
    assert_int_equal(aif_subs_credit(&b->subs, &here, &credit, &e),
                     AIF_ECLOSED);
    assert_int_equal(aif_subs_due(&b->subs, 0), INT64_MAX);
}

/* A quarter of them for one connection, so others have room. */
static void
there_are_4096_subscriptions_at_most(void **state)
{
    aif_broker *b = *state;
    aif_error e;

    for (uint8_t i = 0; i < 4; i++) {
        for (uint64_t id = 1; id <= AIF_SUBSCRIBERS_EACH; id++) {
            assert_int_equal(add_at(b, i, id, 0, &everything, 1, &e), AIF_OK);
        }
        assert_int_equal(add_at(b, i, 7, 0, &everything, 1, &e), AIF_OK);
        if (i < 3) {
            assert_int_equal(
                add_at(b, i, AIF_SUBSCRIBERS_EACH + 1, 0, &everything, 1, &e),
                AIF_ECONFLICT);
            assert_string_equal(
                e.text, "this connection has 1024 subscriptions: that is its "
                        "limit; end some, or open another connection");
        }
    }
    assert_int_equal(b->subs.n, AIF_SUBSCRIBERS_MAX);
    assert_int_equal(add_at(b, 4, 1, 0, &everything, 1, &e), AIF_ECONFLICT);
    assert_string_equal(e.text,
                        "the broker has 4096 subscribers: that is its limit");
    aif_subs_remove(&b->subs, &here, 7);
    assert_int_equal(add_at(b, 4, 1, 0, &everything, 1, &e), AIF_OK);
}

/* Those of exact namespaces and keys apart: they are found by an index. */
static void
a_connection_has_4096_patterns_to_compare(void **state)
{
    const aif_str any = AIF_STR("*");
    const aif_pattern exact = {AIF_STR("ns"), AIF_STR("k"), any, any, any};
    aif_broker *b = *state;
    aif_error e;

    assert_int_equal(add_at(b, 0, 1, 0, &exact, 64, &e), AIF_OK);
    for (uint64_t id = 2; id <= 64; id++) {
        assert_int_equal(add_at(b, 0, id, 0, &everything, 64, &e), AIF_OK);
    }
    assert_int_equal(add_at(b, 0, 65, 0, &everything, 63, &e), AIF_OK);
    assert_int_equal(add_at(b, 0, 66, 0, &everything, 2, &e), AIF_ECONFLICT);
    assert_string_equal(
        e.text, "this connection's subscriptions would have 4097 patterns in "
                "those with a * in a namespace or key: 4096 is its limit; end "
                "some, or use fewer patterns");
    assert_int_equal(add_at(b, 0, 66, 0, &everything, 1, &e), AIF_OK);
    assert_int_equal(add_at(b, 0, 67, 0, &everything, 1, &e), AIF_ECONFLICT);
    assert_int_equal(add_at(b, 0, 67, 0, &exact, 64, &e), AIF_OK);
    assert_int_equal(add_at(b, 1, 1, 0, &everything, 64, &e), AIF_OK);
    aif_subs_remove(&b->subs, &here, 66);
    assert_int_equal(add_at(b, 0, 66, 0, &everything, 1, &e), AIF_OK);
}

/* Those behind are due at once; who was full, 5 ms after; who has no credit,
 * not before it says something. */
static void
who_is_behind_is_due(void **state)
{
    const int64_t now = 1000;
    aif_broker *b = *state;
    aif_error e;

    b->subs.lease_due = now + 500;
    assert_int_equal(add(b, 1, 0, &e), AIF_OK);
    assert_int_equal(aif_subs_due(&b->subs, now), now + 500);
    append(b, 1, 2);
    assert_int_equal(aif_subs_due(&b->subs, now), now);
    b->subs.store_due = now + 200; /* the store has just failed */
    assert_int_equal(aif_subs_due(&b->subs, now), now + 200);
    b->subs.store_due = 0;
    b->subs.list[0]->full = true;
    b->subs.full_due = now + AIF_BROKER_FULL_RETRY_MS;
    assert_int_equal(aif_subs_due(&b->subs, now),
                     now + AIF_BROKER_FULL_RETRY_MS);
    b->subs.list[0]->full = false;
    b->subs.list[0]->credit.window = 0;
    assert_int_equal(aif_subs_due(&b->subs, now), now + 500);
}

/* zmq knows no such peer: found with the first push, not after the lease. */
static void
who_is_gone_is_dropped_with_the_first_push(void **state)
{
    aif_broker *b = *state;
    aif_error e;

    assert_int_equal(add(b, 1, 0, &e), AIF_OK);
    append(b, 1, 1);
    aif_subs_catch_up(&b->subs, aif_now_ms());
    assert_int_equal(b->subs.n, 0);
}

/* 16 connections, each with all the patterns that it may have: a turn looks at
 * so many events that others need not wait, and the next one goes on.  Whom
 * the index finds does not wait for them. */
static void
a_turn_compares_no_more_than_4_million_times(void **state)
{
    const aif_str any = AIF_STR("*");
    const aif_pattern rare = {any, AIF_STR("no such*"), any, any, any};
    const aif_pattern exact = {AIF_STR("ns"), AIF_STR("no"), any, any, any};
    const uint64_t most = AIF_TURN_COMPARES / (16 * AIF_COMPARED_EACH);
    aif_broker *b = *state;
    aif_error e;

    for (uint8_t i = 0; i < 16; i++) {
        for (uint64_t id = 1; id <= 64; id++) {
            assert_int_equal(add_at(b, i, id, 0, &rare, 64, &e), AIF_OK);
        }
    }
    assert_int_equal(add_at(b, 16, 1, 0, &exact, 1, &e), AIF_OK);
    append(b, 1, 2 * (size_t)most + 1);
    for (uint64_t turn = 1; turn <= 3; turn++) {
        b->subs.compared = 0; /* as a turn begins */
        b->subs.appended = 1000000;
        aif_subs_catch_up(&b->subs, aif_now_ms());
        for (size_t i = 0; i < b->subs.n; i++) {
            assert_int_equal(b->subs.list[i]->cursor,
                             b->subs.list[i]->indexed || turn == 3
                                 ? b->head.newest
                                 : turn * most);
        }
    }
}

static void
after_now_is_the_head_of_the_log(void **state)
{
    aif_broker *b = *state;
    aif_error e;

    append(b, 1, 3);
    b->head.newest = 1; /* others appended 2 and 3, and we have not looked */
    assert_int_equal(add(b, 1, AIF_AFTER_NOW, &e), AIF_OK);
    assert_int_equal(b->subs.list[0]->cursor, 3);
    assert_int_equal(b->head.newest, 3);
    assert_int_equal(add(b, 2, 4, &e), AIF_EINVAL);
    assert_string_equal(e.text, "offset 4 is beyond the newest one, 3");
    assert_int_equal(add(b, 2, 3, &e), AIF_OK);
}

/* The first of the two begins where events were let go; so does the second,
 * but they were not its. */
static void
who_missed_events_is_dropped(void **state)
{
    const aif_pattern elsewhere = {AIF_STR("elsewhere"), AIF_STR("*"),
                                   AIF_STR("*"), AIF_STR("*"), AIF_STR("*")};
    aif_broker *b = *state;
    uint64_t gone;
    aif_error e;

    append(b, 1, 9);
    assert_int_equal(add(b, 1, 2, &e), AIF_OK);
    assert_int_equal(add(b, 2, 2, &e), AIF_OK);
    assert_int_equal(aif_log_purge(aif_head_log(&b->head), AIF_STR("default"),
                                   5, 9, &gone, &e),
                     AIF_OK);
    b->subs.list[1]->patterns[0] = elsewhere;
    aif_subs_catch_up(&b->subs, 1000);
    assert_int_equal(b->subs.n, 1);
    assert_int_equal(b->subs.list[0]->id, 2);
    assert_int_equal(b->subs.list[0]->cursor, 9);
}

/* As a SUBSCRIBE that comes back: beyond an offset of the log log_id. */
static aif_err
resume(aif_broker *b, uint64_t id, uint64_t log_id, uint64_t after,
       aif_error *e)
{
    aif_frame f = {.kind = AIF_K_SUBSCRIBE,
                   .id = id,
                   .from = after,
                   .to = log_id,
                   .max = 1000};
    aif_buf tail = {0};
    aif_err err;

    assert_int_equal(aif_wire_put_pattern(&everything, &tail, e), AIF_OK);
    f.tail = (aif_reader){tail.p, tail.n};
    err = aif_subs_add(&b->subs, &here, &f, e);
    aif_buf_fini(&tail);
    return err;
}

/* Those who began in the old log are ended before they are sent a part of the
 * new one; who began in the new one stays. */
static void
who_began_in_a_log_that_was_replaced_is_told(void **state)
{
    const aif_pattern elsewhere = {AIF_STR("elsewhere"), AIF_STR("*"),
                                   AIF_STR("*"), AIF_STR("*"), AIF_STR("*")};
    aif_broker *b = *state;
    const uint64_t log_id = b->head.log_id;
    aif_error e;

    append(b, 1, 3);
    assert_int_equal(add(b, 1, 1, &e), AIF_OK);
    b->head.newest = 9; /* there were 9, and it went back to 3 */
    assert_int_equal(add(b, 2, 2, &e), AIF_OK); /* looks */
    assert_int_equal(b->subs.n, 2);
    assert_int_equal(b->head.newest, 3);
    assert_true(b->head.log_id != log_id);
    b->subs.list[1]->patterns[0] = elsewhere; /* there is nobody to push to */
    aif_subs_catch_up(&b->subs, aif_now_ms());
    assert_int_equal(b->subs.n, 1);
    assert_int_equal(b->subs.list[0]->id, 2);
    assert_int_equal(b->subs.list[0]->cursor, 3);
    assert_int_equal(aif_status_get(&b->status, AIF_N_REPLACED), 1);
    assert_int_equal(resume(b, 3, log_id, 2, &e), AIF_EREPLACED);
    assert_non_null(strstr(e.text, "saw first: offset 2 was reached"));
    assert_int_equal(resume(b, 3, b->head.log_id, 4, &e), AIF_EREPLACED);
    assert_non_null(strstr(e.text, "by an older copy: offset 4 was reached"));
    assert_int_equal(resume(b, 3, b->head.log_id, 3, &e), AIF_OK);
    assert_int_equal(resume(b, 4, log_id, 0, &e), AIF_OK); /* misses nothing */
}

/* Who began with the oldest that was kept misses nothing that was let go
 * before; what is let go while it is behind, it does. */
static void
who_begins_with_the_oldest_misses_what_goes_later(void **state)
{
    aif_broker *b = *state;
    uint64_t gone;
    aif_error e;

    append(b, 1, 9);
    assert_int_equal(aif_log_purge(aif_head_log(&b->head), AIF_STR("default"),
                                   3, 9, &gone, &e),
                     AIF_OK);
    assert_int_equal(add(b, 1, 0, &e), AIF_OK);
    b->subs.list[0]->cursor = 1; /* as if it had got 1 of another namespace */
    b->subs.list[0]->credit.window = 0;
    assert_int_equal(b->subs.list[0]->gone, 3);
    assert_int_equal(aif_catch_missed(&b->subs, b->subs.list[0], &e), AIF_OK);
    assert_int_equal(aif_log_purge(aif_head_log(&b->head), AIF_STR("default"),
                                   5, 9, &gone, &e),
                     AIF_OK);
    assert_int_equal(add(b, 2, AIF_AFTER_NOW, &e), AIF_OK); /* looks */
    assert_int_equal(b->head.purged, 5);
    assert_int_equal(aif_catch_missed(&b->subs, b->subs.list[0], &e),
                     AIF_ERETENTION);
    b->subs.list[0]->credit.window = 1000;
    aif_subs_catch_up(&b->subs, 1000);
    assert_int_equal(b->subs.n, 1);
    assert_int_equal(b->subs.list[0]->id, 2);
    assert_int_equal(add(b, 3, 2, &e), AIF_ERETENTION);
    assert_int_equal(b->subs.n, 1);
}

/* What goes from one namespace may lie before what went from another, so that
 * the head's `purged` stays where it was. */
static void
who_is_behind_misses_what_goes_before_what_went(void **state)
{
    aif_broker *b = *state;
    aif_event ev = numbered("q", 1);
    uint64_t gone;
    aif_error e;

    append(b, 1, 9);
    ev.ns = AIF_STR("other");
    assert_int_equal(aif_log_append(aif_head_log(&b->head), &ev, 1,
                                    &b->head.newest, NULL, &e),
                     AIF_OK);
    assert_int_equal(aif_log_purge(aif_head_log(&b->head), AIF_STR("other"),
                                   10, 9, &gone, &e),
                     AIF_OK);
    assert_int_equal(add(b, 1, 0, &e), AIF_OK);
    b->subs.list[0]->cursor = 2; /* as if it had got the first two */
    assert_int_equal(aif_log_purge(aif_head_log(&b->head), AIF_STR("default"),
                                   5, 9, &gone, &e),
                     AIF_OK);
    assert_int_equal(gone, 5);
    aif_subs_catch_up(&b->subs, 1000);
    assert_int_equal(b->subs.n, 0);
    assert_int_equal(aif_status_get(&b->status, AIF_N_RETENTION), 1);
}

/* The event's key is "k".  Nobody is at this route, so who is sent it is
 * dropped, and the others are where the span ends. */
static void
a_push_finds_who_wants_it_by_the_key(void **state)
{
    static const char *const keys[] = {"k", "other", "k*", "*", "l*"};
    static const bool wanted[] = {true, false, true, true, false};
    aif_broker *b = *state;
    aif_error e;

    for (size_t i = 0; i < 5; i++) {
        const aif_pattern p = {AIF_STR("default"),
                               {keys[i], strlen(keys[i])},
                               AIF_STR("*"),
                               AIF_STR("*"),
                               AIF_STR("*")};

        assert_int_equal(add_for(b, i, 0, &p, &e), AIF_OK);
        assert_int_equal(b->subs.list[i]->indexed, i < 2);
    }
    assert_int_equal(b->subs.n_indexed, 2);
    append(b, 1, 3);
    aif_subs_catch_up(&b->subs, aif_now_ms());
    assert_int_equal(b->subs.n, 2);
    for (size_t i = 0; i < b->subs.n; i++) {
        assert_false(wanted[b->subs.list[i]->id]);
        assert_int_equal(b->subs.list[i]->cursor, 3);
    }
    assert_int_equal(b->subs.n_indexed, 1);
}

int
main(void)
{
#define OPEN(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        OPEN(a_lease_is_10_seconds_from_what_was_heard_last),
        OPEN(there_are_4096_subscriptions_at_most),
        OPEN(a_connection_has_4096_patterns_to_compare),
        OPEN(who_is_behind_is_due),
        OPEN(a_push_finds_who_wants_it_by_the_key),
        OPEN(who_missed_events_is_dropped),
        OPEN(who_began_in_a_log_that_was_replaced_is_told),
        OPEN(who_is_behind_misses_what_goes_before_what_went),
        OPEN(who_begins_with_the_oldest_misses_what_goes_later),
        OPEN(who_is_gone_is_dropped_with_the_first_push),
        OPEN(a_turn_compares_no_more_than_4_million_times),
        OPEN(after_now_is_the_head_of_the_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
