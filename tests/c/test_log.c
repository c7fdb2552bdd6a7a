/* What log.c does before a store is asked; store_contract has the rest. */
#include "cmocka_all.h"

#include "fault.h"
#include "log/identity.h"
#include "log/log.h"
#include "store_contract.h"

#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static aif_error e;

static int
setup(void **state)
{
    return aif_log_open("mem:", (aif_log **)state, &e) != AIF_OK;
}

static int
teardown(void **state)
{
    aif_log_free(*state);
    return 0;
}

/* All but the scheme may be secret. */
static void
an_unknown_scheme_is_said(void **state)
{
    static const char *const uris[] = {"", "nope", "nope:", "nope://u:pw@h",
                                       "nope@pw"};
    aif_log *log;

    (void)state;
    for (size_t i = 0; i < sizeof uris / sizeof *uris; i++) {
        log = (aif_log *)1;
        assert_int_equal(aif_log_open(uris[i], &log, &e), AIF_EINVAL);
        assert_null(log);
        assert_string_equal(e.text,
                            i == 0 ? "no such kind of log: ''; there are "
                                     "mem:, sqlite:PATH, postgresql://... and "
                                     "mysql://..."
                                   : "no such kind of log: 'nope'; there are "
                                     "mem:, sqlite:PATH, postgresql://... and "
                                     "mysql://...");
    }
}

static void
a_path_alone_is_told_its_scheme(void **state)
{
    aif_log *log;

    (void)state;
    assert_int_equal(aif_log_open("/tmp/x.db", &log, &e), AIF_EINVAL);
    assert_string_equal(e.text,
                        "'/tmp/x.db' is a path: write sqlite:/tmp/x.db");
    assert_int_equal(aif_log_open("//u:pw@h/d", &log, &e), AIF_EINVAL);
    assert_null(strstr(e.text, "pw"));
}

static void
free_takes_null(void **state)
{
    (void)state;
    aif_log_free(NULL);
}

static void
an_append_of_nothing_is_nothing(void **state)
{
    assert_int_equal(aif_log_append(*state, NULL, 0, NULL, NULL, &e), AIF_OK);
    assert_int_equal(head_of(*state), 0);
}

/* A batch whose identities all fall together costs no more than it must. */
static void
every_event_of_a_call_may_be_the_same(void **state)
{
    static aif_event events[AIF_BATCH_MAX];
    static uint64_t offsets[AIF_BATCH_MAX];

    for (size_t i = 0; i < AIF_BATCH_MAX; i++) {
        events[i] = *events_of("p", i % 3, 1);
    }
    assert_int_equal(
        aif_log_append(*state, events, AIF_BATCH_MAX, offsets, NULL, &e),
        AIF_OK);
    for (size_t i = 0; i < AIF_BATCH_MAX; i++) {
        assert_int_equal(offsets[i], i % 3 + 1);
    }
    assert_int_equal(count_of(*state), 3);
}

/* A batch that has events already keeps them, whatever fails. */
static void
a_failed_read_leaves_the_batch(void **state)
{
    const aif_pattern bad = {AIF_STR("*"), AIF_STR(""), AIF_STR("*"),
                             AIF_STR("*"), AIF_STR("*")};
    aif_batch out = {0};
    size_t bytes;
    aif_err err;
    int n = 0;

    append_at(*state, events_of("p", 0, 1000), 1000, 1);
    assert_int_equal(aif_log_read(*state, AIF_BEYOND(0), 1, &out, &e), AIF_OK);
    bytes = out.bytes;
    assert_int_equal(aif_log_read(*state, MATCHING(&bad, 0), 9, &out, &e),
                     AIF_EINVAL);
    do {
        assert_true(out.n == 1 && out.bytes == bytes);
        fault_alloc_after(n++);
        err = aif_log_read(*state, AIF_BEYOND(1), 999, &out, &e);
        fault_off();
    } while (err == AIF_ENOMEM);
    assert_int_equal(err, AIF_OK);
    assert_int_equal(out.n, 1000);
    for (size_t i = 0; i < out.n; i++) {
        assert_int_equal(out.events[i].offset, i + 1);
        assert_int_equal(out.events[i].sequence, i);
    }
    aif_batch_fini(&out);
}

static int
all_refused(aif_log *log)
{
    const aif_query *all = AIF_BEYOND(0);
    const aif_event *ev = events_of("p", 0, 1);
    const aif_str ns = AIF_STR("*");
    aif_batch out = {0};
    aif_buf bytes = {0};
    aif_head head;
    uint64_t n;
    const aif_err errs[] = {
        aif_log_append(log, ev, 1, &n, NULL, &e),
        aif_log_conflict(log, ev, &e),
        aif_log_read(log, all, 1, &out, &e),
        aif_log_count(log, all, &n, &e),
        aif_log_head(log, &head, &e),
        aif_log_last(log, all, &n, &e),
        aif_log_senders(log, all, &bytes, &e),
        aif_log_sequence(log, ns, &n, &e),
        aif_log_at(log, 1, &n, &e),
        aif_log_purge(log, ns, 1, 1, &n, &e),
        aif_log_purged(log, &bytes, &e),
        aif_log_keep(log, ns, 1, &n, &e),
    };

    for (size_t i = 0; i < sizeof errs / sizeof *errs; i++) {
        if (errs[i] != AIF_EFORKED) {
            return 0;
        }
    }
    return 1;
}

static void
a_child_may_not_use_it(void **state)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        alarm(120);
        _exit(all_refused(*state) ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void *
append_for_ever(void *log)
{
    const aif_event ev = *events_of("p", 0, 1);
    uint64_t offset;
    aif_error mine;

    while (aif_log_append(log, &ev, 1, &offset, NULL, &mine) == AIF_OK) {
        pthread_testcancel();
    }
    return NULL;
}

/* The lock may be taken at the moment of the fork, and stays so there. */
static void
a_child_of_a_busy_process_is_refused_too(void **state)
{
    pthread_t thread;
    int status;

    assert_int_equal(pthread_create(&thread, NULL, append_for_ever, *state),
                     0);
    for (int i = 0; i < 100; i++) {
        pid_t pid = fork();

        if (pid == 0) {
            aif_log *log = *state;
            aif_head head;

            alarm(120);
            aif_log_free(log);
            _exit(aif_log_head(log, &head, &e) == AIF_EFORKED ? 0 : 1);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
    assert_int_equal(pthread_cancel(thread), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(head_of(*state), 1);
}

/* Those of a clock and a counter in one number are alike in their lowest
 * bits: they would lie in one row, and each be looked for along all of it. */
static void
sequences_are_spread_whatever_their_steps(void **state)
{
    enum { N = 1000 };
    static aif_event events[N];
    aif_ids ids = {0};
    size_t rows = 0;

    (void)state;
    assert_int_equal(aif_ids_reserve(&ids, events, N, &e), AIF_OK);
    for (size_t i = 0; i < N; i++) {
        events[i].producer = AIF_STR("p");
        events[i].sequence = (uint64_t)i << 22;
        aif_ids_add(&ids, events, i);
    }
    for (size_t i = 1; i < ids.cap; i++) {
        rows += ids.slots[i] != 0 && ids.slots[i - 1] == 0;
    }
    assert_in_range(rows, N / 10, N);
    aif_ids_fini(&ids);
}

static size_t n_reads;
static size_t n_rows;

static aif_err
counted_read(void *store, const aif_query *q, size_t max, aif_batch *out,
             aif_error *why)
{
    const size_t before = out->n;
    const aif_err err = aif_store_mem.read(store, q, max, out, why);

    n_reads++;
    n_rows += out->n - before;
    return err;
}

/* Compare 100 known events that lie so far apart. */
static void
compare_apart(size_t apart)
{
    static aif_event known[100];
    static uint64_t offsets[100];
    aif_store_ops ops = aif_store_mem;
    void *store;
    aif_head head;

    ops.read = counted_read;
    assert_int_equal(ops.open("mem:", false, &store, &e), AIF_OK);
    for (size_t i = 0; i < 100; i++) {
        uint64_t all[100];

        known[i] = *events_of("p", i * apart, 1);
        assert_int_equal(ops.append(store, events_of("p", i * apart, apart),
                                    apart, all, &head, &e),
                         AIF_OK);
        offsets[i] = all[0];
    }
    n_reads = n_rows = 0;
    assert_int_equal(
        aif_known_compare(&ops, store, known, 100, offsets, 100 * apart, &e),
        AIF_OK);
    for (size_t i = 0; i < 100; i++) {
        assert_int_equal(offsets[i], i * apart + 1);
    }
    ops.close(store);
}

/* A read of its own, or all rows in between: what costs less. */
static void
to_compare_costs_40_rows_an_event_at_most(void **state)
{
    (void)state;
    compare_apart(40);
    assert_in_range(n_reads, 1, 5); /* of 1,000 rows */
    assert_int_equal(n_rows, 99 * 40 + 1);
    compare_apart(41);
    assert_int_equal(n_reads, 100);
    assert_int_equal(n_rows, 100);
}

#define MEM(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_unknown_scheme_is_said),
        cmocka_unit_test(a_path_alone_is_told_its_scheme),
        cmocka_unit_test(free_takes_null),
        cmocka_unit_test(to_compare_costs_40_rows_an_event_at_most),
        cmocka_unit_test(sequences_are_spread_whatever_their_steps),
        MEM(an_append_of_nothing_is_nothing),
        MEM(every_event_of_a_call_may_be_the_same),
        MEM(a_failed_read_leaves_the_batch),
        MEM(a_child_may_not_use_it),
        MEM(a_child_of_a_busy_process_is_refused_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
