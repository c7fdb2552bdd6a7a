/* More handles, more processes, and somebody else's SQL. */
#include "cmocka_all.h"

#include "store_contract.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static aif_error e;

static void
a_log_is_there_when_opened_again(void **state)
{
    aif_log *log = open_again();

    (void)state;
    append_at(log, events_of("p", 0, 3), 3, 1);
    aif_log_free(log);
    log = open_again();
    append_at(log, events_of("p", 1, 3), 3, 2);
    aif_log_free(log);
    assert_stored(4);
}

static void
two_handles_take_turns(void **state)
{
    aif_log *other = open_again();

    for (uint64_t i = 0; i < 20; i++) {
        append_at(i % 2 == 0 ? *state : other, events_of("p", i, 2), 2, i + 1);
        assert_int_equal(head_of(i % 2 == 0 ? other : *state), i + 2);
    }
    aif_log_free(other);
}

enum { WRITERS = 3, TURNS = 40, SHARED = 25 };

/* Events of its own, and the same ones that all the others send. */
static int
write_in_a_child(int me)
{
    uint64_t offsets[4];
    char name[32];
    aif_log *log;

    (void)snprintf(name, sizeof name, "writer-%d", me);
    if (aif_log_open(contract->uri, &log, &e) != AIF_OK) {
        goto fail;
    }
    for (uint64_t i = 0; i < TURNS; i++) {
        if (append_among_others(log, events_of(name, 2 * i, 2), 2, offsets,
                                &e) != AIF_OK) {
            goto fail;
        }
        if (i < SHARED && append_among_others(log, events_of("all", i, 4), 4,
                                              offsets, &e) != AIF_OK) {
            goto fail;
        }
    }
    aif_log_free(log);
    return 0;
fail:
    fprintf(stderr, "%s: %s\n", name, e.text);
    return 1;
}

/* Follow the log as a consumer does: with one number.  aif_log_read refuses a
 * gap; one that is filled later would show in the sequence of a writer. */
static uint64_t
follow(aif_log *log, uint64_t want)
{
    uint64_t next[WRITERS] = {0};
    uint64_t cursor = 0;

    while (cursor < want) {
        aif_batch out = {0};

        if (aif_log_read(log, AIF_BEYOND(cursor), 50, &out, &e) != AIF_OK) {
            fail_msg("%s", e.text);
        }
        for (size_t i = 0; i < out.n; i++) {
            const aif_event *ev = &out.events[i];

            assert_int_equal(ev->offset, ++cursor);
            if (ev->producer.n > 3) {
                int writer = ev->producer.p[ev->producer.n - 1] - '0';
                assert_int_equal(ev->sequence, next[writer]++);
            }
        }
        aif_batch_fini(&out);
    }
    return cursor;
}

/* They also race for who makes the schema. */
static void
offset_order_is_commit_order_among_processes(void **state)
{
    const uint64_t want = WRITERS * TURNS * 2 + SHARED + 3;
    pid_t pids[WRITERS];
    aif_log *log;
    int status;

    (void)state;
    for (int i = 0; i < WRITERS; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            alarm(1000);
            _exit(write_in_a_child(i));
        }
    }
    log = open_again();
    alarm(1000);
    assert_int_equal(follow(log, want), want);
    alarm(0);
    for (int i = 0; i < WRITERS; i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    assert_int_equal(head_of(log), want);
    assert_int_equal(count_of(log), want);
    aif_log_free(log);
}

/* A handle of its own works in a child, unless the log is a file that was open
 * at the fork; the parent's is refused, and freeing it does nothing to the
 * parent. */
static int
use_in_a_child(aif_log *parents)
{
    uint64_t offset[2];
    aif_head head;
    aif_log *log;
    bool bad = aif_log_append(parents, events_of("c", 0, 1), 1, offset, NULL,
                              &e) != AIF_EFORKED ||
               aif_log_head(parents, &head, &e) != AIF_EFORKED ||
               aif_log_open(contract->uri, &log, &e) !=
                   (contract->file ? AIF_EFORKED : AIF_OK);

    if (contract->file) {
        bad |= strstr(e.text, "open it in a program of its own") == NULL;
    } else {
        bad = bad || aif_log_append(log, events_of("c", 0, 2), 2, offset, NULL,
                                    &e) != AIF_OK;
    }
    if (bad) {
        fprintf(stderr, "child: %s\n", e.text);
        return 1;
    }
    aif_log_free(log);
    aif_log_free(parents);
    return 0;
}

static void
a_child_opens_its_own(void **state)
{
    const uint64_t childs = contract->file ? 0 : 2;
    int status;
    pid_t pid;

    append_at(*state, events_of("p", 0, 2), 2, 1);
    pid = fork();
    if (pid == 0) {
        alarm(120);
        _exit(use_in_a_child(*state));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    append_at(*state, events_of("p", 2, 2), 2, 3 + childs);
    assert_stored(4 + childs);
}

/* The parent ends first, and takes nothing of the child's with it.  A file is
 * opened by both, and after the fork. */
static void
a_child_outlives_its_parents_handle(void **state)
{
    int there[2];
    int go_on[2];
    int status;
    char byte = 0;
    pid_t pid;

    assert_int_equal(pipe(there) | pipe(go_on), 0);
    append_at(*state, events_of("p", 0, 2), 2, 1);
    if (contract->file) {
        aif_log_free(*state);
        *state = NULL;
    }
    pid = fork();
    if (pid == 0) {
        uint64_t offsets[2];
        aif_log *log;
        bool ok = aif_log_open(contract->uri, &log, &e) == AIF_OK &&
                  aif_log_append(log, events_of("c", 0, 2), 2, offsets, NULL,
                                 &e) == AIF_OK;

        alarm(120);
        ok = write(there[1], &byte, 1) == 1 && read(go_on[0], &byte, 1) == 1 &&
             ok &&
             aif_log_append(log, events_of("c", 2, 2), 2, offsets, NULL, &e) ==
                 AIF_OK;
        _exit(ok ? 0 : 1);
    }
    if (contract->file) {
        *state = open_again();
    }
    assert_int_equal(read(there[0], &byte, 1), 1);
    aif_log_free(*state);
    *state = NULL;
    assert_int_equal(write(go_on[1], &byte, 1), 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    for (int i = 0; i < 2; i++) {
        (void)close(there[i]);
        (void)close(go_on[i]);
    }
    assert_stored(6);
}

static void
another_version_is_refused(void **state)
{
    aif_log *log = (aif_log *)1;

    aif_log_free(*state);
    *state = NULL;
    contract->sql("UPDATE aiflow_log_head SET version = 99");
    assert_int_equal(aif_log_open(contract->uri, &log, &e), AIF_ECORRUPT);
    assert_null(log);
    assert_non_null(strstr(e.text, "version 99, this is version 2: use the "
                                   "aiflow_ext that wrote it"));
    contract->sql("DELETE FROM aiflow_log_head");
    assert_int_equal(aif_log_open(contract->uri, &log, &e), AIF_ECORRUPT);
    contract->sql("DROP TABLE aiflow_event");
    contract->sql(
        "INSERT INTO aiflow_log_head (id, version, \"offset\", purged,"
        " create_time) VALUES (1, 2, 0, 0, 0)");
    assert_int_equal(aif_log_open(contract->uri, &log, &e), AIF_ECORRUPT);
    assert_non_null(strstr(e.text, "aiflow_event"));
}

static void
assert_corrupt(aif_log *log, const char *text)
{
    aif_batch out = {0};

    assert_int_equal(aif_log_read(log, AIF_BEYOND(0), 9, &out, &e),
                     AIF_ECORRUPT);
    assert_string_equal(e.text, text);
    assert_true(out.n == 0 && out.bytes == 0);
    aif_batch_fini(&out);
}

static void
a_row_that_cannot_be_ours_is_said(void **state)
{
    append_at(*state, events_of("p", 0, 4), 4, 1);
    contract->sql("UPDATE aiflow_event SET \"key\" = '' WHERE \"offset\" = 2");
    assert_corrupt(*state, "event 2: key is empty: it needs 1 to 1024 bytes");
    contract->sql("UPDATE aiflow_event SET sequence = -1, \"key\" = 'k'"
                  " WHERE \"offset\" = 2");
    assert_corrupt(*state, "event 2: sequence 18446744073709551615: "
                           "9223372036854775807 is the most");
    contract->sql("DELETE FROM aiflow_event WHERE \"offset\" = 2");
    assert_corrupt(*state, "offset 3 follows 1");
    append_at(*state, events_of("p", 4, 1), 1, 5);
}

static void
a_head_behind_its_events_is_said(void **state)
{
    uint64_t offset;

    append_at(*state, events_of("p", 0, 4), 4, 1);
    contract->sql("UPDATE aiflow_log_head SET \"offset\" = 2");
    assert_int_equal(
        aif_log_append(*state, events_of("p", 4, 1), 1, &offset, NULL, &e),
        AIF_ECORRUPT);
    contract->sql("DELETE FROM aiflow_log_head");
    assert_int_equal(
        aif_log_append(*state, events_of("p", 4, 1), 1, &offset, NULL, &e),
        AIF_ECORRUPT);
    contract->sql(
        "INSERT INTO aiflow_log_head (id, version, \"offset\", purged,"
        " create_time) VALUES (1, 2, 4, 0, 0)");
    append_at(*state, events_of("p", 4, 1), 1, 5);
}

#define FRESH(test) cmocka_unit_test_setup(test, contract_fresh)

int
store_contract_many(void)
{
    const struct CMUnitTest tests[] = {
        FRESH(a_log_is_there_when_opened_again),
        OPEN(two_handles_take_turns),
        FRESH(offset_order_is_commit_order_among_processes),
        OPEN(a_child_opens_its_own),
        OPEN(a_child_outlives_its_parents_handle),
        OPEN(another_version_is_refused),
        OPEN(a_row_that_cannot_be_ours_is_said),
        OPEN(a_head_behind_its_events_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
