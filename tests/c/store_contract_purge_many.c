/* A purge that fails or dies, and many at once. */
#include "cmocka_all.h"

#include "fault_store.h"
#include "base/point.h"
#include "store_contract.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static aif_error e;

/* Twelve events, five of which are to go. */
static aif_log *
twelve(void)
{
    aif_log *log = open_again();

    append_in(log, "abababababab", 1);
    return log;
}

static void
assert_all_or_nothing(bool gone)
{
    aif_log *log = open_again();

    assert_purged(log, gone ? "a 9 5;" : "");
    assert_int_equal(purged_of(log), gone ? 9 : 0);
    assert_int_equal(count_of(log), gone ? 7 : 12);
    assert_int_equal(head_of(log), 12);
    aif_log_free(log);
}

/* What the n-th failing call did to a purge, and to the reader after it. */
static bool
purge_with_fault(void (*fault)(int), int n)
{
    uint64_t gone = 99;
    uint64_t again;
    bool fired;
    aif_log *log;
    aif_err err;

    contract->fresh();
    log = twelve();
    fault(n);
    err = aif_log_purge(log, AIF_STR("a"), 9, 9, &gone, &e);
    if (err == AIF_OK) {
        assert_int_equal(gone, 5);
        err = read_all(log, AIF_BEYOND(1), &e);
        err = err == AIF_ERETENTION ? AIF_OK : err;
    }
    fault_store_off();
    fired = fault_store_fired();
    if (err != AIF_OK && (err != AIF_ESTORE || !fired)) {
        fail_msg("call %d: %s", n, e.text);
    }
    if (gone == 0 && fault == contract->fault) {
        assert_all_or_nothing(false);
    }
    again = purge(log, AIF_STR("a"), 9, 9); /* opens again what was lost */
    assert_true(gone == 0 || again == 0);
    aif_log_free(log);
    assert_all_or_nothing(true);
    return fired;
}

static void
purge_survives_every_failing_call(void **state)
{
    int n = 0;

    (void)state;
    while (purge_with_fault(contract->fault, n)) {
        n++;
    }
    assert_in_range(n, 1, 1000);
}

static void
purge_survives_every_lost_answer(void **state)
{
    int n = 0;

    (void)state;
    while (contract->fault_lost != NULL &&
           purge_with_fault(contract->fault_lost, n)) {
        n++;
    }
    assert_in_range(n, contract->fault_lost != NULL, 1000);
}

static void
purge_and_die_at(const char *point)
{
    uint64_t gone;
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        aif_log *log;

        (void)setenv("AIF_CRASH_AT", point, 1);
        aif_point_reload();
        if (aif_log_open(contract->uri, &log, &e) == AIF_OK &&
            aif_log_purge(log, AIF_STR("a"), 9, 9, &gone, &e) == AIF_OK) {
            fprintf(stderr, "%s was not passed\n", point);
        }
        _exit(1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGKILL);
}

static void
a_killed_purge_is_all_or_nothing(void **state)
{
    (void)state;
    aif_log_free(twelve());
    purge_and_die_at("purge.begin");
    assert_all_or_nothing(false);
    purge_and_die_at("purge.before_commit");
    assert_all_or_nothing(false);
    purge_and_die_at("purge.after_commit");
    assert_all_or_nothing(true);
}

static void
purge_and_die(aif_log *log)
{
    (void)purge(log, AIF_STR("a"), 9, 9);
}

static void
a_child_of_the_killed_holds_no_lock(void **state)
{
    aif_log *log = twelve();

    (void)state;
    aif_log_free(log);
    contract_orphan("purge.before_commit", purge_and_die);
    log = open_again();
    assert_int_equal(purge(log, AIF_STR("a"), 9, 9), 5);
    contract_end_orphan();
    aif_log_free(log);
}

enum { TOTAL = 4000, CHUNK = 50 };

/* Until the log is as long as it will be, and nothing of it is left. */
static int
purge_in_a_child(aif_str ns, int result)
{
    uint64_t gone = 0;
    uint64_t all = 0;
    aif_head head = {0};
    aif_log *log;
    aif_err err = aif_log_open(contract->uri, &log, &e);

    while (err == AIF_OK && (gone > 0 || head.offset < TOTAL)) {
        err = aif_log_head(log, &head, &e);
        if (err == AIF_OK) {
            do { /* as in append_among_others */
                err = aif_log_purge(log, ns, UINT64_MAX, CHUNK, &gone, &e);
            } while (err == AIF_ESTORE);
        }
        all += gone;
    }
    if (err != AIF_OK || write(result, &all, sizeof all) != sizeof all) {
        fprintf(stderr, "purger: %s\n", e.text);
        return 1;
    }
    aif_log_free(log);
    return 0;
}

static int
append_in_a_child(void)
{
    uint64_t offsets[20];
    aif_log *log;
    aif_err err = aif_log_open(contract->uri, &log, &e);

    for (uint64_t i = 0; err == AIF_OK && i < TOTAL; i += 20) {
        aif_event events[20];

        memcpy(events, events_of("p", i, 20), sizeof events);
        for (size_t k = 0; k < 20; k++) {
            events[k].ns = k % 3 == 0 ? AIF_STR("a") : events[k].ns;
        }
        err = append_among_others(log, events, 20, offsets, &e);
    }
    if (err != AIF_OK) {
        fprintf(stderr, "writer: %s\n", e.text);
        return 1;
    }
    aif_log_free(log);
    return 0;
}

/* A reader follows all of it, without a gap, or is told. */
static uint64_t
follow_or_be_told(aif_log *log)
{
    uint64_t cursor = 0;
    uint64_t told = 0;

    while (cursor < TOTAL) {
        const bool first = cursor == 0;
        aif_batch out = {0};
        aif_head head;
        aif_err err = aif_log_read(log, AIF_BEYOND(cursor), 30, &out, &e);

        for (size_t i = 0; err == AIF_OK && i < out.n; i++) {
            assert_true(first || out.events[i].offset == cursor + 1);
            cursor = out.events[i].offset;
        }
        if (err == AIF_ERETENTION) {
            told++;
            assert_int_equal(aif_log_head(log, &head, &e), AIF_OK);
            assert_true(head.purged > cursor);
            cursor = head.purged;
        } else if (err != AIF_OK) {
            fail_msg("%s", e.text);
        } else if (first && out.n == 0) {
            assert_int_equal(aif_log_head(log, &head, &e), AIF_OK);
            cursor = head.purged; /* all that was there is gone */
        }
        aif_batch_fini(&out);
    }
    return told;
}

/* Two of them let the same go, and count each event once, while it is written
 * and read. */
static void
two_purge_while_others_write_and_read(void **state)
{
    const aif_str all = AIF_STR("*");
    int results[2];
    uint64_t sum = 0;
    pid_t pids[3];
    aif_log *log;
    int status;

    (void)state;
    assert_int_equal(pipe(results), 0);
    for (int i = 0; i < 3; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            alarm(1000);
            _exit(i == 0   ? append_in_a_child()
                  : i == 1 ? purge_in_a_child(all, results[1])
                           : purge_in_a_child(AIF_STR("a"), results[1]));
        }
    }
    log = open_again();
    alarm(1000);
    (void)follow_or_be_told(log);
    alarm(0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    for (int i = 0; i < 2; i++) {
        uint64_t n;

        assert_int_equal(read(results[0], &n, sizeof n), sizeof n);
        sum += n;
    }
    (void)close(results[0]);
    (void)close(results[1]);
    assert_int_equal(sum, TOTAL);
    assert_int_equal(count_of(log), 0);
    assert_int_equal(head_of(log), TOTAL);
    aif_log_free(log);
}

/* A log is long, and what goes from it may be rare. */
static void
a_purge_looks_without_the_lock(void **state)
{
    append_in(*state, "aab", 1);
    contract->hold(true);
    assert_int_equal(purge(*state, AIF_STR("c"), 3, 9), 0);
    contract->hold(false);
    assert_int_equal(purge(*state, AIF_STR("a"), 3, 9), 2);
}

static void
only_a_purge_makes_holes(void **state)
{
    aif_batch out = {0};

    append_in(*state, "abababab", 1);
    assert_int_equal(purge(*state, AIF_STR("a"), 4, 9), 2);
    contract->sql("DELETE FROM aiflow_event WHERE \"offset\" = 2");
    assert_read(*state, AIF_BEYOND(0), "4 5 6 7 8"); /* who can tell */
    contract->sql("DELETE FROM aiflow_event WHERE \"offset\" = 6");
    assert_int_equal(aif_log_read(*state, AIF_BEYOND(0), 9, &out, &e),
                     AIF_ECORRUPT);
    assert_string_equal(e.text, "offset 7 follows 5");
    assert_int_equal(aif_log_read(*state,
                                  &((aif_query){.after = 5, .kept = true}), 9,
                                  &out, &e),
                     AIF_ECORRUPT);
    assert_int_equal(out.n, 0);
    aif_batch_fini(&out);
    contract->sql("DELETE FROM aiflow_log_head");
    assert_int_equal(
        aif_log_purge(*state, AIF_STR("a"), 9, 9, &(uint64_t){0}, &e),
        AIF_ECORRUPT);
    assert_int_equal(read_all(*state, AIF_BEYOND(1), &e), AIF_ECORRUPT);
}

#define FRESH(test) cmocka_unit_test_setup(test, contract_fresh)

int
store_contract_purge_many(void)
{
    const struct CMUnitTest tests[] = {
        FRESH(purge_survives_every_failing_call),
        FRESH(purge_survives_every_lost_answer),
        FRESH(a_killed_purge_is_all_or_nothing),
        FRESH(a_child_of_the_killed_holds_no_lock),
        FRESH(two_purge_while_others_write_and_read),
        OPEN(a_purge_looks_without_the_lock),
        OPEN(only_a_purge_makes_holes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
