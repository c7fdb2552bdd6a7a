/* Several brokers over one log: killed, stopped, silent, not there.  Each is a
 * process of its own: this program, started again with its address. */
#include "broker_fixture.h"

#include "fault.h"

#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BROKERS = 3 };

extern char **environ;

typedef struct {
    char dir[64];
    char log[128];
    char uri[BROKERS][96];
    char uris[BROKERS * 100]; /* all of them */
    pid_t pid[BROKERS];       /* 0: not running */
} fleet;

static void
start(fleet *f, int i)
{
    char *const argv[] = {"broker", f->uri[i], f->log, NULL};

    assert_int_equal(
        posix_spawn(&f->pid[i], "/proc/self/exe", NULL, NULL, argv, environ),
        0);
}

static void
end(fleet *f, int i)
{
    if (f->pid[i] > 0) {
        (void)kill(f->pid[i], SIGKILL);
        (void)waitpid(f->pid[i], NULL, 0);
        f->pid[i] = 0;
    }
}

/* Until the broker answers. */
static void
wait_for(const fleet *f, int i)
{
    aif_client *c = client_at(f->uri[i]);
    uint64_t n;
    aif_error e;

    assert_int_equal(aif_client_head(c, &n, SOON, &e), AIF_OK);
    aif_client_free(c);
}

static int
fleet_setup(void **state)
{
    char dir[] = "/tmp/aif-test-XXXXXX";
    fleet *f = calloc(1, sizeof *f);

    if (f == NULL || mkdtemp(dir) == NULL) {
        return -1;
    }
    memcpy(f->dir, dir, sizeof dir);
    (void)snprintf(f->log, sizeof f->log, "sqlite:%s/log", dir);
    for (int i = 0; i < BROKERS; i++) {
        size_t n = strlen(f->uris);

        (void)snprintf(f->uri[i], sizeof f->uri[i], "ipc://%s/%d", dir, i);
        (void)snprintf(f->uris + n, sizeof f->uris - n, "%s%s",
                       i == 0 ? "" : ",", f->uri[i]);
    }
    *state = f;
    return 0;
}

static int
fleet_teardown(void **state)
{
    fleet *f = *state;
    char command[128];

    for (int i = 0; i < BROKERS; i++) {
        end(f, i);
    }
    (void)snprintf(command, sizeof command, "rm -r %s", f->dir);
    free(f);
    return system(command);
}

static void
expect_once_in_order(aif_client *c, uint64_t n)
{
    aif_batch all = {0};

    list_all(c, 0, &all);
    assert_int_equal(all.n, n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(all.events[i].sequence, i + 1);
        assert_int_equal(all.events[i].offset, i + 1);
    }
    aif_batch_fini(&all);
}

/* In each round all but one are killed with -9, and that one is started: the
 * client has to move, or to wait until it is there. */
static void
a_killed_broker_is_replaced(void **state)
{
    enum { ROUNDS = 6, EACH = 5 };
    fleet *f = *state;
    aif_client *c = client_at(f->uris);
    uint64_t sequence = 0;

    for (int round = 0; round < ROUNDS; round++) {
        int alive = round % BROKERS;

        start(f, alive);
        for (int i = 0; i < BROKERS; i++) {
            if (i != alive) {
                end(f, i);
            }
        }
        for (int i = 0; i < EACH; i++) {
            sequence++;
            assert_int_equal(publish_one(c, "p", sequence), sequence);
        }
    }
    expect_once_in_order(c, ROUNDS * EACH);
    aif_client_free(c);
}

/* Its cursor goes with it: each event once, in order, from whichever. */
static void
a_subscription_resumes_at_another(void **state)
{
    enum { ROUNDS = 4, EACH = 5 };
    fleet *f = *state;
    aif_client *c = client_at(f->uris);
    aif_batch out = {0};
    uint64_t sequence = 0;
    bool hinted;
    aif_sub *sub;
    aif_error e;

    start(f, 0);
    assert_int_equal(
        sub_one(f->uris, &everything, 1, 0, false, SOON, &sub, &e), AIF_OK);
    for (int round = 0; round < ROUNDS; round++) {
        int next = (round + 1) % BROKERS;

        start(f, next);
        wait_for(f, next);
        end(f, round % BROKERS);
        for (int i = 0; i < EACH; i++) {
            (void)publish_one(c, "p", ++sequence);
        }
        while (out.n < sequence) {
            assert_int_equal(
                aif_sub_next(sub, SOON, &out, NULL, NULL, &hinted, &e),
                AIF_OK);
        }
    }
    assert_int_equal(out.n, ROUNDS * EACH);
    for (size_t i = 0; i < out.n; i++) {
        assert_int_equal(out.events[i].offset, i + 1);
    }
    aif_batch_fini(&out);
    aif_sub_free(sub);
    aif_client_free(c);
}

/* Stopped, it keeps its connections and says nothing: zmq's heartbeats tell.
 * First one, then the other, so that one of them is the client's. */
static void
a_stopped_broker_is_left(void **state)
{
    fleet *f = *state;
    char two[200];
    aif_client *c;

    (void)snprintf(two, sizeof two, "%s,%s", f->uri[0], f->uri[1]);
    c = client_at(two);
    for (int i = 0; i < 2; i++) {
        start(f, i);
        wait_for(f, i);
    }
    assert_int_equal(publish_one(c, "p", 1), 1);
    for (int i = 0; i < 2; i++) {
        int status;

        (void)kill(f->pid[i], SIGSTOP);
        assert_int_equal(waitpid(f->pid[i], &status, WUNTRACED), f->pid[i]);
        assert_true(WIFSTOPPED(status)); /* every thread of it */
        assert_int_equal(publish_one(c, "p", (uint64_t)i + 2), i + 2);
        (void)kill(f->pid[i], SIGCONT);
    }
    expect_once_in_order(c, 3);
    aif_client_free(c);
}

/* Somebody listens there, and never speaks ZMTP. */
static int
listen_silently(const char *uri)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    (void)snprintf(at.sun_path, sizeof at.sun_path, "%s",
                   uri + strlen("ipc://"));
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

static void
who_is_silent_or_not_there_is_passed_over(void **state)
{
    enum { CLIENTS = 6 }; /* they begin at different ones */
    fleet *f = *state;
    int fd = listen_silently(f->uri[0]);
    uint64_t n;
    aif_error e;

    start(f, 2);
    for (int i = 0; i < CLIENTS; i++) {
        aif_client *c = client_at(f->uris);
        aif_sub *sub;

        assert_int_equal(aif_client_head(c, &n, SOON, &e), AIF_OK);
        assert_int_equal(
            sub_one(f->uris, &everything, 1, 0, false, SOON, &sub, &e),
            AIF_OK);
        aif_sub_free(sub);
        aif_client_free(c);
    }
    (void)close(fd);
}

/* One address of the list cannot even be tried. */
static void
a_wrong_address_is_passed_over(void **state)
{
    fleet *f = *state;
    char two[200];
    uint64_t n;
    aif_error e;

    (void)snprintf(two, sizeof two, "tcp://127.0.0.1:x,%s", f->uri[0]);
    start(f, 0);
    for (int i = 0; i < 6; i++) {
        aif_client *c = client_at(two);

        assert_int_equal(aif_client_head(c, &n, SOON, &e), AIF_OK);
        aif_client_free(c);
    }
}

static void
none_there_is_a_timeout_that_names_all(void **state)
{
    fleet *f = *state;
    aif_client *c = client_at(f->uris);
    char text[400];
    uint64_t n;
    aif_sub *sub;
    aif_error e;

    assert_int_equal(aif_client_head(c, &n, 500, &e), AIF_ETIMEOUT);
    (void)snprintf(text, sizeof text,
                   "no answer to HEAD from %s, %s, %s in time", f->uri[0],
                   f->uri[1], f->uri[2]);
    assert_string_equal(e.text, text);
    assert_int_equal(sub_one(f->uris, &everything, 1, 0, false, 100, &sub, &e),
                     AIF_ETIMEOUT);
    assert_non_null(strstr(e.text, f->uri[2]));
    start(f, 1); /* the same call, later */
    assert_int_equal(aif_client_head(c, &n, SOON, &e), AIF_OK);
    aif_client_free(c);
}

/* Hints are not answered, so nothing else tells that the broker is gone. */
static void
a_hint_finds_the_broker_that_is_there(void **state)
{
    fleet *f = *state;
    aif_client *c = client_at(f->uris);
    aif_batch out = {0};
    uint64_t n;
    bool hinted = false;
    aif_sub *sub;
    aif_error e;

    start(f, 0);
    assert_int_equal(aif_client_head(c, &n, SOON, &e), AIF_OK);
    start(f, 1);
    assert_int_equal(
        sub_one(f->uri[1], &everything, 1, 0, true, SOON, &sub, &e), AIF_OK);
    end(f, 0);
    while (!hinted) {
        assert_int_equal(aif_client_hint(c, AIF_STR("x"), &e), AIF_OK);
        assert_int_equal(aif_sub_next(sub, 50, &out, NULL, NULL, &hinted, &e),
                         AIF_OK);
    }
    aif_sub_free(sub);
    aif_client_free(c);
}

/* Both streams' events, once and in order, whichever allocation failed. */
static bool
hear_both(aif_sub *sub, aif_error *e)
{
    aif_batch out[3] = {{0}};
    uint64_t heard = 0;
    bool fine = true;

    while (heard < 4) {
        aif_batch some = {0};
        uint64_t stream;
        bool hinted;
        aif_err err =
            aif_sub_next(sub, SOON, &some, &stream, NULL, &hinted, e);

        fine = fine && (err == AIF_OK || err == AIF_ENOMEM) && stream < 3;
        for (size_t i = 0; fine && i < some.n; i++) {
            while (aif_batch_add(&out[stream], &some.events[i], e) != AIF_OK) {
            }
        }
        heard = fine ? out[1].n + out[2].n : 4;
        aif_batch_fini(&some);
    }
    for (size_t i = 0; fine && i < 2; i++) {
        fine = out[1].events[i].offset == 2 * i + 1 &&
               out[2].events[i].offset == 2 * i + 2;
    }
    aif_batch_fini(&out[1]);
    aif_batch_fini(&out[2]);
    return fine;
}

/* The second is added while events of the first come, and are put aside. */
static void
every_allocation_fails_once(void **state)
{
    enum { ALLOCATIONS = 40 };
    const aif_pattern a = {AIF_STR("*"), AIF_STR("a"), AIF_STR("*"),
                           AIF_STR("*"), AIF_STR("*")};
    const aif_pattern b = {AIF_STR("*"), AIF_STR("b"), AIF_STR("*"),
                           AIF_STR("*"), AIF_STR("*")};
    fleet *f = *state;
    aif_client *c = client_at(f->uri[0]);
    aif_error e;

    start(f, 0);
    for (uint64_t i = 1; i <= 4; i++) {
        aif_event ev = numbered("p", i);
        uint64_t offset;

        ev.key = i % 2 == 1 ? AIF_STR("a") : AIF_STR("b");
        assert_int_equal(aif_client_publish(c, &ev, 1, &offset, SOON, &e),
                         AIF_OK);
    }
    aif_client_free(c);
    for (int n = 0; n < ALLOCATIONS; n++) {
        uint64_t stream;
        aif_sub *sub;
        aif_err err;

        fault_alloc_after(n);
        err = aif_sub_open(f->uris, NULL, false, &sub, &e);
        if (err == AIF_OK) {
            err = aif_sub_add(sub, &a, 1, (aif_place){0}, SOON, &stream, &e);
        }
        if (err == AIF_OK) {
            err = aif_sub_add(sub, &b, 1, (aif_place){0}, SOON, &stream, &e);
        }
        assert_true(err == AIF_ENOMEM ||
                    (err == AIF_OK && hear_both(sub, &e)));
        fault_off();
        aif_sub_free(sub);
    }
}

static int
be_broker(const char *uri, const char *log)
{
    aif_broker *b;
    aif_error e;

    if (aif_broker_open(&(aif_broker_options){.bind = uri, .log = log}, &b,
                        &e) != AIF_OK ||
        aif_broker_run(b, &e) != AIF_OK) {
        (void)fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    return 0;
}

int
main(int argc, char **argv)
{
#define FLEET(test)                                                           \
    cmocka_unit_test_setup_teardown(test, fleet_setup, fleet_teardown)
    const struct CMUnitTest tests[] = {
        FLEET(a_killed_broker_is_replaced),
        FLEET(a_subscription_resumes_at_another),
        FLEET(a_stopped_broker_is_left),
        FLEET(who_is_silent_or_not_there_is_passed_over),
        FLEET(a_wrong_address_is_passed_over),
        FLEET(none_there_is_a_timeout_that_names_all),
        FLEET(a_hint_finds_the_broker_that_is_there),
        FLEET(every_allocation_fails_once),
    };
    if (argc == 3) {
        return be_broker(argv[1], argv[2]);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
