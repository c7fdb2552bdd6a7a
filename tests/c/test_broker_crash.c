/* kill -9 of the broker at every labelled point, and memory that runs out:
 * what was acknowledged is there once, and those who wait get their answer.
 */
#include "broker_fixture.h"

#include "fault.h"
#include "base/point.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EVENTS = 12, LIMIT_S = 1000, ALLOCATIONS = 48 };

/* In a child: serve until killed. */
static void
serve_here(const served *s)
{
    aif_broker *b;
    aif_error e;

    alarm(LIMIT_S);
    if (aif_broker_open(&(aif_broker_options){.bind = s->bind, .log = s->log},
                        &b, &e) != AIF_OK ||
        aif_broker_run(b, &e) != AIF_OK) {
        (void)fprintf(stderr, "%s\n", e.text);
        _exit(1);
    }
    _exit(0);
}

/* A process that sees one broker die at a point, says so, and is the next. */
static pid_t
serve_twice(const served *s, const char *point, const char *pass, int said)
{
    pid_t keeper = fork();

    if (keeper == 0) {
        int status = 0;
        pid_t first = fork();

        if (first == 0) {
            (void)setenv("AIF_CRASH_AT", point, 1);
            (void)setenv("AIF_CRASH_AFTER", pass, 1);
            aif_point_reload();
            serve_here(s);
        }
        (void)waitpid(first, &status, 0);
        if (write(said, &status, sizeof status) != sizeof status) {
            _exit(1);
        }
        serve_here(s);
    }
    return keeper;
}

static void
end(pid_t pid)
{
    int status;

    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, &status, 0);
}

/* Every event was acknowledged with its own offset; see it there, and pushed,
 * once and in order. */
static void
expect_each_once(const served *s, aif_sub *sub)
{
    aif_batch listed = {0};
    aif_batch pushed = {0};
    aif_client *c;
    bool hinted;
    aif_error e;

    assert_int_equal(aif_client_open(s->bind, NULL, &c, &e), AIF_OK);
    list_all(c, 0, &listed);
    while (pushed.n < EVENTS) {
        assert_int_equal(
            aif_sub_next(sub, SOON, &pushed, NULL, NULL, &hinted, &e), AIF_OK);
    }
    assert_int_equal(listed.n, EVENTS);
    assert_int_equal(pushed.n, EVENTS);
    for (size_t i = 0; i < EVENTS; i++) {
        assert_int_equal(listed.events[i].sequence, i + 1);
        assert_int_equal(pushed.events[i].sequence, i + 1);
    }
    aif_batch_fini(&listed);
    aif_batch_fini(&pushed);
    aif_client_free(c);
}

static void
killed_at(const char *point, const char *pass)
{
    void *state;
    served *s;
    int said[2];
    int status = 0;
    aif_client *c;
    aif_sub *sub;
    pid_t keeper;
    aif_error e;

    assert_int_equal(served_sqlite(&state), 0);
    s = state;
    unserve(s);
    assert_int_equal(pipe(said), 0);
    keeper = serve_twice(s, point, pass, said[1]);
    assert_int_equal(aif_client_open(s->bind, NULL, &c, &e), AIF_OK);
    assert_int_equal(
        sub_one(s->bind, &everything, 1, AIF_AFTER_NOW, false, SOON, &sub, &e),
        AIF_OK);
    for (uint64_t i = 1; i <= EVENTS; i++) {
        assert_int_equal(publish_one(c, "p", i), i);
    }
    assert_int_equal(read(said[0], &status, sizeof status), sizeof status);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGKILL);
    expect_each_once(s, sub);
    aif_sub_free(sub);
    aif_client_free(c);
    end(keeper);
    close(said[0]);
    close(said[1]);
    served_teardown(&state);
}

static void
killed_anywhere_every_event_is_there_once(void **state)
{
    static const char *const points[] = {
        "broker.drained",      "append.begin",    "append.before_commit",
        "append.after_commit", "broker.appended", "broker.answered"};
    static const char *const passes[] = {"1", "7"};

    (void)state;
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        for (size_t k = 0; k < sizeof passes / sizeof *passes; k++) {
            killed_at(points[i], passes[k]);
        }
    }
}

/* Fail the 1st allocation of a call, then the 2nd, ...: ENOMEM and nothing
 * changed, or as if nothing had been. */
static void
a_client_survives_every_oom(void **state)
{
    served *s = *state;
    aif_event ev = numbered("p", 1);
    aif_query q = {0};
    uint64_t offset = 0;
    aif_batch out = {0};
    aif_client *c;
    pid_t broker;
    bool more;
    aif_err err;
    aif_error e;
    int n = 0;

    unserve(s); /* no other thread of ours may meet the faults */
    broker = fork();
    if (broker == 0) {
        serve_here(s);
    }
    assert_int_equal(aif_client_open(s->bind, NULL, &c, &e), AIF_OK);
    do {
        fault_alloc_after(n++);
        err = aif_client_publish(c, &ev, 1, &offset, SOON, &e);
        fault_off();
        assert_true(err == AIF_OK || err == AIF_ENOMEM);
    } while (err != AIF_OK);
    assert_int_equal(offset, 1);
    assert_true(n > 1);
    n = 0;
    do {
        fault_alloc_after(n++);
        q.after = 0;
        err = aif_client_list(c, &q, 10, &out, &more, SOON, &e);
        fault_off();
        assert_true(err == AIF_OK || err == AIF_ENOMEM);
        assert_int_equal(out.n, err == AIF_OK);
        assert_int_equal(q.after, err == AIF_OK);
        aif_batch_fini(&out);
    } while (err != AIF_OK);
    assert_true(n > 1);
    aif_client_free(c);
    end(broker);
    serve(s);
}

static void
a_subscription_survives_every_oom(void **state)
{
    served *s = *state;
    aif_client *c;
    pid_t broker;
    aif_error e;

    unserve(s);
    broker = fork();
    if (broker == 0) {
        serve_here(s);
    }
    assert_int_equal(aif_client_open(s->bind, NULL, &c, &e), AIF_OK);
    (void)publish_one(c, "p", 1);
    for (int n = 0; n < 12; n++) {
        aif_batch out = {0};
        aif_sub *sub = NULL;
        bool hinted;
        aif_err err;

        fault_alloc_after(n);
        err = sub_one(s->bind, &everything, 1, 0, false, SOON, &sub, &e);
        while (err == AIF_OK && out.n == 0) {
            err = aif_sub_next(sub, SOON, &out, NULL, NULL, &hinted, &e);
            assert_int_equal(out.n > 0, err == AIF_OK);
            assert_int_equal(cursor_of(sub), err == AIF_OK);
            if (err == AIF_ENOMEM) { /* it comes again */
                err = AIF_OK;
            }
        }
        fault_off();
        assert_true(err == AIF_OK || (err == AIF_ENOMEM && sub == NULL));
        aif_batch_fini(&out);
        aif_sub_free(sub);
    }
    aif_client_free(c);
    end(broker);
    serve(s);
}

static aif_broker *running;

static void
stop_running(int signal)
{
    (void)signal;
    aif_broker_stop(running); /* may be called in a signal handler */
}

/* A client's whole life, in a child: everything may be refused for want of
 * memory once, and then works. */
static bool
use(const served *s, uint64_t sequence)
{
    aif_event ev = numbered("p", sequence);
    aif_batch out = {0};
    aif_query q = {.after = sequence - 1};
    bool hinted;
    bool more;
    uint64_t offset;
    aif_client *c;
    aif_sub *sub;
    aif_err err;
    aif_error e;

    if (aif_client_open(s->bind, NULL, &c, &e) != AIF_OK) {
        return false;
    }
    do {
        err = aif_client_publish(c, &ev, 1, &offset, SOON, &e);
    } while (err == AIF_ENOMEM);
    if (err != AIF_OK || offset != sequence) {
        return false;
    }
    do {
        err = aif_client_list(c, &q, 10, &out, &more, SOON, &e);
    } while (err == AIF_ENOMEM);
    if (err != AIF_OK || out.n != 1) {
        return false;
    }
    do {
        err = sub_one(s->bind, &everything, 1, sequence - 1, false, SOON, &sub,
                      &e);
    } while (err == AIF_ENOMEM);
    return err == AIF_OK &&
           aif_sub_next(sub, SOON, &out, NULL, NULL, &hinted, &e) == AIF_OK &&
           out.n == 2 && out.events[1].sequence == sequence;
}

static void
a_broker_survives_every_oom(void **state)
{
    served *s = *state;
    struct sigaction stop = {.sa_handler = stop_running};
    aif_client *c;
    aif_error e;

    unserve(s);
    assert_int_equal(sigaction(SIGUSR1, &stop, NULL), 0);
    for (int n = 0; n < ALLOCATIONS; n++) {
        int status;
        pid_t child;

        /* first: a thread of zmq's may hold a lock of the sanitizer's */
        child = fork();
        if (child == 0) {
            bool fine = use(s, (uint64_t)n + 1);

            (void)kill(getppid(), SIGUSR1);
            _exit(!fine);
        }
        assert_int_equal(aif_broker_open(&(aif_broker_options){.bind = s->bind,
                                                               .log = s->log},
                                         &running, &e),
                         AIF_OK);
        fault_alloc_after(n);
        assert_int_equal(aif_broker_run(running, &e), AIF_OK);
        fault_off();
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
        aif_broker_free(running);
    }
    serve(s);
    assert_int_equal(aif_client_open(s->bind, NULL, &c, &e), AIF_OK);
    assert_int_equal(count_all(c, *AIF_BEYOND(0)), ALLOCATIONS);
    aif_client_free(c);
}

/* Opening, too: nothing is left behind that would stop the next. */
static void
opening_survives_every_oom(void **state)
{
    served *s = *state;
    aif_broker *b;
    aif_err err;
    aif_error e;
    int n = 0;

    unserve(s);
    do {
        fault_alloc_after(n++);
        err = aif_broker_open(
            &(aif_broker_options){.bind = s->bind, .log = s->log}, &b, &e);
        fault_off();
        assert_true(err == AIF_OK || (err == AIF_ENOMEM && b == NULL));
    } while (err != AIF_OK);
    assert_true(n > 3);
    aif_broker_free(b);
    serve(s);
}

int
main(void)
{
#define SERVED(test, how)                                                     \
    cmocka_unit_test_setup_teardown(test, served_##how, served_teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_anywhere_every_event_is_there_once),
        SERVED(a_client_survives_every_oom, mem),
        SERVED(a_subscription_survives_every_oom, mem),
        SERVED(a_broker_survives_every_oom, sqlite),
        SERVED(opening_survives_every_oom, sqlite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
