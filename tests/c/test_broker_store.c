/* A broker whose disk is full: a limit on the size of files, so that it is
 * the kernel that says no. */
#include "broker_fixture.h"

#include "base/clock.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BYTES = 64 << 10 };

static char value[BYTES];

/* The files of this process grow no further than so; 0: as they like. */
static void
limit_files(rlim_t bytes)
{
    struct rlimit most;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &most), 0);
    most.rlim_cur = bytes == 0 ? most.rlim_max : bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &most), 0);
}

static aif_err
publish(aif_client *c, uint64_t i, aif_error *e)
{
    aif_event ev = numbered("p", i);
    uint64_t offset = 0;
    aif_err err;

    ev.value = (aif_str){value, BYTES};
    err = aif_client_publish(c, &ev, 1, &offset, SOON, e);
    assert_int_equal(offset, err == AIF_OK ? i : 0);
    return err;
}

static bool
status_has(const served *s, const char *what)
{
    char text[AIF_STATUS_MAX + 1];
    aif_buf out = {0};
    aif_error e;

    assert_int_equal(aif_broker_status(s->broker, &out, &e), AIF_OK);
    memcpy(text, out.p, out.n);
    text[out.n] = '\0';
    aif_buf_fini(&out);
    return strstr(text, what) != NULL;
}

/* The next line, but for those of slow turns, which a slow machine has. */
static bool
next_line(const served *s, aif_trace_line *line)
{
    bool got;

    do {
        got = aif_broker_trace(s->broker, line);
    } while (got && strncmp(line->text, "slow turn", 9) == 0);
    return got;
}

/* What was acknowledged is there, once; nothing else is. */
static void
expect_log(aif_client *c, uint64_t n)
{
    aif_query q = {.after = 0};
    aif_batch out = {0};
    bool more;
    aif_error e;

    while (out.n < n) {
        assert_int_equal(aif_client_list(c, &q, 1000, &out, &more, SOON, &e),
                         AIF_OK);
    }
    assert_int_equal(out.n, n);
    for (uint64_t i = 0; i < n; i++) {
        assert_int_equal(out.events[i].sequence, i + 1);
        assert_int_equal(out.events[i].value.n, BYTES);
    }
    aif_batch_fini(&out);
}

static void
expect_pushed(aif_sub *sub, aif_batch *out, uint64_t n)
{
    bool hinted;
    aif_error e;

    while (out->n < n) {
        assert_int_equal(aif_sub_next(sub, SOON, out, NULL, NULL, &hinted, &e),
                         AIF_OK);
    }
    assert_int_equal(out->n, n);
    assert_int_equal(out->events[n - 1].offset, n);
}

/* Publishers are told; who reads notices nothing; with the first byte of room
 * all is well again, and the same publish goes in. */
static void
a_full_disk_is_said_and_survived(void **state)
{
    served *s = *state;
    aif_batch pushed = {0};
    uint64_t i = 0;
    uint64_t failed = 0;
    aif_trace_line line;
    aif_client *c;
    aif_sub *sub;
    aif_error e;

    (void)signal(SIGXFSZ, SIG_IGN); /* or the first byte too many kills us */
    memset(value, 'x', sizeof value);
    assert_int_equal(aif_client_open(s->bind, NULL, &c, &e), AIF_OK);
    assert_int_equal(
        sub_one(s->bind, &everything, 1, 0, false, SOON, &sub, &e), AIF_OK);
    for (int round = 0; round < 3; round++) {
        limit_files((rlim_t)(1 + round) << 20);
        while (publish(c, i + 1, &e) == AIF_OK) {
            i++;
        }
        assert_int_equal(e.code, AIF_ESTORE);
        for (int again = 0; again < 5; again++, failed++) {
            assert_int_equal(publish(c, i + 1, &e), AIF_ESTORE);
        }
        assert_true(status_has(s, "\"store\": {\"ok\": false"));
        expect_pushed(sub, &pushed, i); /* and it reads on */
        expect_log(c, i);
        assert_it_lives(s);
        limit_files(0);
        assert_int_equal(publish(c, ++i, &e), AIF_OK);
        assert_true(status_has(s, "\"store\": {\"ok\": true}"));
        expect_pushed(sub, &pushed, i);
    }
    expect_log(c, i);
    assert_int_equal(stats_of(s).retries, failed + 3);
    for (int n = 0; n < 6; n++) { /* once for each outage, and its end */
        assert_true(next_line(s, &line));
        assert_int_equal(line.level, n % 2 == 0 ? AIF_ERROR : AIF_INFO);
    }
    assert_false(next_line(s, &line));
    aif_batch_fini(&pushed);
    aif_sub_free(sub);
    aif_client_free(c);
}

/* The file is moved away, and comes back. */
static void
a_log_that_is_away_is_waited_for(void **state)
{
    served *s = *state;
    const char *path = s->log + strlen("sqlite:");
    char away[600];
    aif_batch pushed = {0};
    int64_t end;
    aif_client *c;
    aif_sub *sub;
    aif_error e;

    (void)snprintf(away, sizeof away, "%s.away", path);
    assert_int_equal(aif_client_open(s->bind, NULL, &c, &e), AIF_OK);
    assert_int_equal(
        sub_one(s->bind, &everything, 1, 0, false, SOON, &sub, &e), AIF_OK);
    assert_int_equal(publish(c, 1, &e), AIF_OK);
    assert_int_equal(rename(path, away), 0);
    assert_int_equal(publish(c, 2, &e), AIF_ESTORE);
    assert_true(status_has(s, "\"store\": {\"ok\": false"));
    assert_it_lives(s);
    assert_int_equal(rename(away, path), 0);
    assert_int_equal(publish(c, 2, &e), AIF_OK);
    /* Where the look for new events failed, too, the next one has to work. */
    end = aif_now_ms() + SOON;
    while (!status_has(s, "\"store\": {\"ok\": true}")) {
        assert_true(aif_now_ms() < end);
        assert_it_lives(s);
    }
    expect_pushed(sub, &pushed, 2);
    aif_batch_fini(&pushed);
    aif_sub_free(sub);
    aif_client_free(c);
}

int
main(void)
{
#define SERVED(test, how)                                                     \
    cmocka_unit_test_setup_teardown(test, served_##how, served_teardown)
    const struct CMUnitTest tests[] = {
        SERVED(a_full_disk_is_said_and_survived, sqlite),
        SERVED(a_log_that_is_away_is_waited_for, sqlite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
