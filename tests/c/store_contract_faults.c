/* Everything fails once; after a failure all is as it was before. */
#include "cmocka_all.h"

#include "fault.h"
#include "fault_store.h"
#include "base/point.h"
#include "store_contract.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static aif_error e;

static aif_err
append_three(aif_log *log, uint64_t offsets[3])
{
    return aif_log_append(log, events_of("p", 2, 3), 3, offsets, NULL, &e);
}

static void
append_survives_every_oom(void **state)
{
    uint64_t offsets[3];
    aif_err err;
    int n = 0;

    append_at(*state, events_of("p", 0, 2), 2, 1);
    do {
        assert_int_equal(count_of(*state), 2);
        fault_alloc_after(n++);
        err = append_three(*state, offsets);
        fault_off();
    } while (err == AIF_ENOMEM);
    assert_int_equal(err, AIF_OK);
    assert_in_range(n, 2, 100);
    assert_int_equal(offsets[2], 5);
    assert_int_equal(count_of(*state), 5);
}

static void
read_survives_every_oom(void **state)
{
    const aif_pattern p = {AIF_STR("d*"), AIF_STR("digits"), AIF_STR("*"),
                           AIF_STR("*"), AIF_STR("*")};
    aif_batch out = {0};
    aif_err err;
    int n = 0;

    append_at(*state, events_of("p", 0, 500), 500, 1);
    do {
        assert_true(out.n == 0 && out.bytes == 0);
        fault_alloc_after(n++);
        err =
            aif_log_read(*state, n % 2 == 0 ? AIF_BEYOND(0) : MATCHING(&p, 0),
                         500, &out, &e);
        fault_off();
    } while (err == AIF_ENOMEM);
    assert_int_equal(err, AIF_OK);
    assert_in_range(n, 2, 100);
    assert_int_equal(out.n, 500);
    aif_batch_fini(&out);
}

static void
open_survives_every_oom(void **state)
{
    aif_log *log;
    aif_err err;
    int n = 0;

    do {
        fault_alloc_after(n++);
        err = aif_log_open(contract->uri, &log, &e);
        fault_off();
        assert_int_equal(log == NULL, err != AIF_OK);
    } while (err == AIF_ENOMEM);
    assert_int_equal(err, AIF_OK);
    assert_in_range(n, 3, 100);
    append_at(log, events_of("p", 0, 2), 2, 1);
    *state = log;
}

/* What the n-th failing call did to an append of three events after two. */
static bool
append_with_fault(void (*fault)(int), int n)
{
    uint64_t offsets[3];
    bool fired;
    aif_log *log;
    aif_err err;

    contract->fresh();
    log = open_again();
    append_at(log, events_of("p", 0, 2), 2, 1);
    fault(n);
    err = append_three(log, offsets);
    fault_store_off();
    fired = fault_store_fired();
    assert_true(err == AIF_OK || (err == AIF_ESTORE && fired));
    if (err != AIF_OK && fault == contract->fault) {
        assert_stored(2);
    }
    if (err != AIF_OK) { /* the next one opens again what was lost */
        assert_int_equal(append_three(log, offsets), AIF_OK);
    }
    assert_int_equal(offsets[0], 3);
    assert_int_equal(offsets[2], 5);
    assert_stored(5);
    aif_log_free(log);
    return fired;
}

/* As append_three, but one of them was known, and is lost with its answer. */
static bool
append_again_with_fault(void (*fault)(int n), int n)
{
    aif_log *log = open_again();
    uint64_t offsets[3];
    bool fired;
    aif_err err;

    append_at(log, events_of("p", 2, 1), 1, 1);
    fault(n);
    err = append_three(log, offsets);
    fault_store_off();
    fired = fault_store_fired();
    assert_true(err == AIF_OK || (err == AIF_ESTORE && fired));
    if (err != AIF_OK) {
        assert_int_equal(append_three(log, offsets), AIF_OK);
    }
    assert_int_equal(offsets[0], 1);
    assert_int_equal(offsets[2], 3);
    assert_stored(3);
    aif_log_free(log);
    return fired;
}

static void
a_resend_survives_every_failing_call(void **state)
{
    int n = 0;

    (void)state;
    do {
        contract->fresh();
    } while (append_again_with_fault(contract->fault, n++));
    assert_in_range(n, 2, 40);
    n = 0;
    do {
        contract->fresh();
    } while (contract->fault_lost != NULL &&
             append_again_with_fault(contract->fault_lost, n++));
}

static void
append_survives_every_failing_call(void **state)
{
    int n = 0;

    (void)state;
    while (append_with_fault(contract->fault, n)) {
        n++;
    }
    assert_in_range(n, 1, 1000);
}

static void
append_survives_every_lost_answer(void **state)
{
    int n = 0;

    (void)state;
    while (contract->fault_lost != NULL &&
           append_with_fault(contract->fault_lost, n)) {
        n++;
    }
    assert_in_range(n, contract->fault_lost != NULL, 1000);
}

static void
open_survives_every_failing_call(void **state)
{
    aif_log *log;
    aif_err err;
    int n = 0;

    (void)state;
    do {
        contract->fresh();
        contract->fault(n++);
        err = aif_log_open(contract->uri, &log, &e);
        fault_store_off();
        assert_int_equal(log == NULL, err != AIF_OK);
        if (err != AIF_OK && err != AIF_ESTORE) {
            fail_msg("call %d: %s", n - 1, e.text);
        }
        if (log == NULL) {
            log = open_again();
        }
        append_at(log, events_of("p", 0, 2), 2, 1);
        aif_log_free(log);
    } while (fault_store_fired());
    assert_in_range(n, 2, 1000);
}

/* A new handle each time: an old one has read its pages before. */
static void
read_survives_every_failing_call(void **state)
{
    aif_log *log = open_again();
    int n = 0;

    (void)state;
    append_at(log, events_of("p", 0, 500), 500, 1);
    aif_log_free(log);
    do {
        aif_batch out = {0};
        uint64_t counted;
        aif_err err;

        log = open_again();
        contract->fault(n++);
        err = aif_log_read(log, AIF_BEYOND(0), 500, &out, &e);
        if (err == AIF_OK) {
            err = aif_log_count(log, AIF_BEYOND(0), &counted, &e);
        }
        fault_store_off();
        if (err != AIF_OK && err != AIF_ESTORE) {
            fail_msg("call %d: %s", n - 1, e.text);
        }
        assert_true(out.n == 500 || out.n == 0);
        assert_int_equal(count_of(log), 500);
        aif_batch_fini(&out);
        aif_log_free(log);
    } while (fault_store_fired());
    assert_in_range(n, 2, 1000);
}

static void
append_and_die_at(const char *point)
{
    uint64_t offsets[3];
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        aif_log *log;

        (void)setenv("AIF_CRASH_AT", point, 1);
        aif_point_reload();
        if (aif_log_open(contract->uri, &log, &e) == AIF_OK) {
            (void)append_three(log, offsets);
        }
        _exit(1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGKILL);
}

static void
a_killed_append_is_all_or_nothing(void **state)
{
    aif_log *log;

    (void)state;
    append_and_die_at("append.begin");
    assert_stored(0);
    append_and_die_at("append.before_commit");
    assert_stored(0);
    append_and_die_at("append.after_commit");
    assert_stored(3);
    log = open_again(); /* who was not answered sends again */
    append_at(log, events_of("p", 2, 4), 4, 1);
    aif_log_free(log);
}

static void
append_and_die(aif_log *log)
{
    uint64_t offsets[3];

    (void)append_three(log, offsets);
}

/* Its child has inherited what it had open: a lock, a connection.  The next
 * writer waits for none of that. */
static void
a_child_of_the_killed_holds_nothing(void **state)
{
    aif_log *log;

    (void)state;
    contract_orphan("append.before_commit", append_and_die);
    log = open_again();
    append_at(log, events_of("p", 2, 3), 3, 1);
    contract_end_orphan();
    aif_log_free(log);
}

/* ---- a server, and others who use it ---- */

static void
a_lost_connection_is_opened_again(void **state)
{
    aif_batch out = {0};
    aif_head head;
    uint64_t n;

    append_at(*state, events_of("p", 0, 2), 2, 1);
    contract->kill();
    assert_int_equal(
        aif_log_append(*state, events_of("p", 2, 1), 1, &n, NULL, &e),
        AIF_ESTORE);
    assert_int_not_equal(e.text[0], '\0');
    append_at(*state, events_of("p", 2, 1), 1, 3);
    contract->kill();
    assert_int_equal(aif_log_head(*state, &head, &e), AIF_ESTORE);
    assert_int_equal(head_of(*state), 3);
    contract->kill();
    assert_int_equal(aif_log_read(*state, AIF_BEYOND(0), 9, &out, &e),
                     AIF_ESTORE);
    assert_int_equal(aif_log_read(*state, AIF_BEYOND(0), 9, &out, &e), AIF_OK);
    assert_int_equal(out.n, 3);
    aif_batch_fini(&out);
}

static void *
append_one(void *arg)
{
    static const aif_event ev = {.ns = {"default", 7},
                                 .key = {"digits", 6},
                                 .type = {"UNDEFINED", 9},
                                 .producer = {"p", 1},
                                 .sequence = 2};
    appending *a = arg;

    a->e.code = aif_log_append(a->log, &ev, 1, &a->offset, NULL, &a->e);
    return NULL;
}

void
appending_start(appending *a)
{
    assert_int_equal(pthread_create(&a->thread, NULL, append_one, a), 0);
}

void
appending_join(appending *a)
{
    assert_int_equal(pthread_join(a->thread, NULL), 0);
}

/* Two events are in the log, and somebody else has the lock that appends
 * need. */
static appending
locked_out(aif_log *log)
{
    append_at(log, events_of("p", 0, 2), 2, 1);
    contract->sql("BEGIN");
    contract->sql("SELECT * FROM aiflow_log_head FOR UPDATE");
    return (appending){.log = log};
}

static void
expect_estore(const appending *a, const char *const want[2])
{
    assert_int_equal(a->e.code, AIF_ESTORE);
    assert_int_equal(strlen(a->e.sqlstate), 5);
    assert_non_null(strstr(a->e.sqlstate, want[0]));
    if (strstr(a->e.text, want[1]) == NULL) {
        fail_msg("%s", a->e.text);
    }
}

static void
a_connection_lost_inside_an_append_is_estore(void **state)
{
    appending a = locked_out(*state);

    appending_start(&a);
    contract->wait_until_locked();
    contract->kill();
    appending_join(&a);
    expect_estore(&a, contract->lost);
    contract->sql("ROLLBACK");
    assert_int_equal(count_of(*state), 2);
    append_at(*state, events_of("p", 2, 1), 1, 3);
}

/* Waits 5 s for the lock, and no longer. */
static void
a_lock_that_is_never_given_back_is_estore(void **state)
{
    appending a = locked_out(*state);

    appending_start(&a);
    appending_join(&a);
    expect_estore(&a, contract->waited);
    contract->sql("ROLLBACK");
    append_at(*state, events_of("p", 2, 1), 1, 3);
}

/* The other one commits the same event while we wait for its lock: beyond our
 * snapshot, where there is one, but not beyond the unique index. */
static void
an_identity_that_another_commits_first_is_found(void **state)
{
    appending a = locked_out(*state);

    appending_start(&a);
    contract->wait_until_locked();
    contract->sql("UPDATE aiflow_log_head SET \"offset\" = 4");
    contract->sql("INSERT INTO aiflow_event VALUES"
                  " (3, 0, 'n', 'k', '', 't', '', '', 'q', 0),"
                  " (4, 0, 'default', 'digits', '', 'UNDEFINED', '', '', 'p',"
                  " 2)");
    contract->sql("COMMIT");
    appending_join(&a);
    assert_int_equal(a.e.code, AIF_OK);
    assert_int_equal(a.offset, 4);
    assert_int_equal(count_of(*state), 4);
    append_at(*state, events_of("p", 3, 1), 1, 5);
}

/* --- a fork while another thread connects -------------------------------- */

static pid_t forked;
static int held[2];

static void
fork_one(void)
{
    char byte;

    forked = fork();
    if (forked == 0) {
        alarm(600);
        (void)close(held[1]);
        _exit((int)read(held[0], &byte, 1));
    }
    assert_true(forked > 0);
}

/* Has the process, among its descriptors, what link says? */
static bool
has(pid_t pid, const char *link)
{
    char path[64];
    char to[64];
    bool found = false;
    DIR *all;

    (void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    all = opendir(path);
    assert_non_null(all);
    for (struct dirent *d = readdir(all); d != NULL; d = readdir(all)) {
        const ssize_t n = readlinkat(dirfd(all), d->d_name, to, sizeof to - 1);

        to[n > 0 ? n : 0] = '\0';
        found |= strcmp(to, link) == 0;
    }
    (void)closedir(all);
    return found;
}

/* How many sockets of ours, that the process before had not, has the other? */
static int
common_sockets(pid_t before, pid_t other)
{
    char link[64];
    int common = 0;

    for (int fd = 0; fd < 256; fd++) {
        char path[64];
        ssize_t n;

        (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        n = readlink(path, link, sizeof link - 1);
        link[n > 0 ? n : 0] = '\0';
        common += strncmp(link, "socket:", 7) == 0 && !has(before, link) &&
                  has(other, link);
    }
    return common;
}

/* What it has of a connection would hold the lock of our append when we are
 * killed. */
static void
a_child_forked_while_it_connects_has_no_connection(void **state)
{
    pid_t before;

    *state = NULL;
    assert_int_equal(pipe(held), 0);
    fork_one();
    before = forked;
    fault_connected(fork_one);
    *state = open_again();
    assert_int_not_equal(forked, before);
    append_at(*state, events_of("p", 0, 1), 1, 1);
    assert_int_equal(common_sockets(before, forked), 0);
    (void)close(held[1]);
    (void)close(held[0]);
    assert_int_equal(waitpid(before, NULL, 0), before);
    assert_int_equal(waitpid(forked, NULL, 0), forked);
}

#define FRESH(test) cmocka_unit_test_setup(test, contract_fresh)

int
store_contract_faults(void)
{
    const struct CMUnitTest memory[] = {
        OPEN(append_survives_every_oom),
        OPEN(read_survives_every_oom),
        cmocka_unit_test_setup_teardown(open_survives_every_oom,
                                        contract_fresh, contract_close),
    };
    const struct CMUnitTest calls[] = {
        FRESH(append_survives_every_failing_call),
        FRESH(a_resend_survives_every_failing_call),
        FRESH(append_survives_every_lost_answer),
        FRESH(open_survives_every_failing_call),
        FRESH(read_survives_every_failing_call),
        FRESH(a_killed_append_is_all_or_nothing),
        FRESH(a_child_of_the_killed_holds_nothing),
    };
    const struct CMUnitTest others[] = {
        OPEN(a_lost_connection_is_opened_again),
        OPEN(a_connection_lost_inside_an_append_is_estore),
        OPEN(a_lock_that_is_never_given_back_is_estore),
        OPEN(an_identity_that_another_commits_first_is_found),
        cmocka_unit_test_setup_teardown(
            a_child_forked_while_it_connects_has_no_connection, contract_fresh,
            contract_close),
    };
    int failed = cmocka_run_group_tests(memory, NULL, NULL);

    if (contract->fault != NULL) {
        failed += cmocka_run_group_tests(calls, NULL, NULL);
    }
    if (contract->kill != NULL) {
        failed += cmocka_run_group_tests(others, NULL, NULL);
    }
    return failed;
}
