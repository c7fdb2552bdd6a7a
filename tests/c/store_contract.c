#include "cmocka_all.h"

#include "base/point.h"
#include "store_contract.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

store_case *contract;

static aif_error e;

int
store_contract(store_case *c)
{
    contract = c;
    return store_contract_one() + store_contract_ask() +
           store_contract_purge() + store_contract_faults() +
           store_contract_id() + store_contract_cursor() +
           (c->sql == NULL
                ? 0
                : store_contract_many() + store_contract_purge_many());
}

int
contract_fresh(void **state)
{
    *state = NULL;
    contract->fresh();
    return 0;
}

aif_log *
open_again(void)
{
    aif_log *log;

    if (aif_log_open(contract->uri, &log, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    return log;
}

int
contract_open(void **state)
{
    contract->fresh();
    *state = open_again();
    return 0;
}

int
contract_close(void **state)
{
    aif_log_free(*state);
    return 0;
}

enum { EVENTS_MAX = AIF_BATCH_MAX + 1 };

const aif_event *
events_of(const char *producer, uint64_t first, size_t n)
{
    static aif_event events[EVENTS_MAX];

    assert_in_range(n, 0, EVENTS_MAX);
    for (size_t i = 0; i < n; i++) {
        events[i] = (aif_event){.create_time = 1000 + (int64_t)i,
                                .ns = AIF_STR("default"),
                                .key = AIF_STR("digits"),
                                .value = AIF_STR("17"),
                                .type = AIF_STR("UNDEFINED"),
                                .producer = {producer, strlen(producer)},
                                .sequence = first + i};
    }
    return events;
}

void
append_at(aif_log *log, const aif_event *events, size_t n, uint64_t from)
{
    uint64_t *offsets = calloc(n + 1, sizeof *offsets);

    if (aif_log_append(log, events, n, offsets, NULL, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(offsets[i], from + i);
    }
    assert_int_equal(offsets[n], 0);
    free(offsets);
}

aif_err
append_among_others(aif_log *log, const aif_event *events, size_t n,
                    uint64_t *offsets, aif_error *why)
{
    aif_err err;

    do {
        err = aif_log_append(log, events, n, offsets, NULL, why);
    } while (err == AIF_ESTORE);
    return err;
}

uint64_t
count_of(aif_log *log)
{
    uint64_t n;

    if (aif_log_count(log, AIF_BEYOND(0), &n, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    return n;
}

uint64_t
head_of(aif_log *log)
{
    aif_head head;

    if (aif_log_head(log, &head, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    return head.offset;
}

void
assert_stored(uint64_t n)
{
    aif_log *log = open_again();

    assert_int_equal(count_of(log), n);
    assert_int_equal(head_of(log), n);
    aif_log_free(log);
}

aif_err
read_all(aif_log *log, const aif_query *q, aif_error *why)
{
    aif_batch out = {0};
    aif_err err = aif_log_read(log, q, SIZE_MAX, &out, why);

    aif_batch_fini(&out);
    return err;
}

void
contract_die_at(const char *point)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        aif_log *log;

        (void)setenv("AIF_CRASH_AT", point, 1);
        aif_point_reload();
        _exit(aif_log_open(contract->uri, &log, &e) == AIF_OK);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGKILL);
}

static pid_t orphan;

/* The child, which never uses the log. */
static pid_t
fork_orphan(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        alarm(1000);
        for (;;) {
            (void)pause();
        }
    }
    return pid;
}

static void
live_and_die(int told, const char *point, void (*act)(aif_log *))
{
    aif_log *log = open_again();
    pid_t pid = fork_orphan();

    if (write(told, &pid, sizeof pid) == sizeof pid) {
        (void)setenv("AIF_CRASH_AT", point, 1);
        aif_point_reload();
        act(log);
    }
    _exit(1);
}

void
contract_orphan(const char *point, void (*act)(aif_log *))
{
    int told[2];
    int status;
    pid_t pid;

    assert_int_equal(pipe(told), 0);
    pid = fork();
    if (pid == 0) {
        live_and_die(told[1], point, act);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(read(told[0], &orphan, sizeof orphan), sizeof orphan);
    (void)close(told[0]);
    (void)close(told[1]);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

void
contract_end_orphan(void)
{
    assert_int_equal(kill(orphan, SIGKILL), 0);
}

void
contract_open_in_children(int n)
{
    int status;
    pid_t pid;

    for (int i = 0; i < n; i++) {
        pid = fork();
        if (pid == 0) {
            aif_log *log;

            _exit(aif_log_open(contract->uri, &log, &e) != AIF_OK);
        }
    }
    while (n-- > 0) {
        pid = wait(&status);
        assert_true(pid > 0);
        assert_int_equal(status, 0);
    }
}

void
contract_converted(uint64_t first, int64_t newest)
{
    aif_batch out = {0};
    aif_buf rows = {0};
    aif_head head;
    aif_log *log;

    contract_open_in_children(
        first == 1 ? 3 : 0); /* they race for it, or we do it */
    log = open_again();
    assert_int_equal(aif_log_head(log, &head, &e), AIF_OK);
    assert_int_equal(head.offset, 5);
    assert_int_equal(head.purged, first - 1);
    assert_true(head.create_time == newest);
    assert_int_equal(aif_log_purged(log, &rows, &e), AIF_OK);
    assert_int_equal(rows.n, first > 1 ? 4 + 1 + 8 + 8 : 0);
    assert_int_equal(read_all(log, AIF_BEYOND(1), &e),
                     first > 2 ? AIF_ERETENTION : AIF_OK);
    append_at(log, events_of("p", first, 8 - first), 8 - first, first);
    assert_int_equal(aif_log_read(log, AIF_BEYOND(0), 9, &out, &e), AIF_OK);
    assert_int_equal(out.n, 8 - first);
    assert_true(out.events[out.n - 1].create_time >= newest);
    aif_batch_fini(&out);
    aif_buf_fini(&rows);
    aif_log_free(log);
}
