/* What people see of a broker: its status, and its lines. */
#include "broker_fixture.h"

#include "broker/whole.h"
#include "base/clock.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int
setup(void **state)
{
    const aif_broker_options o = {.bind = "tcp://127.0.0.1:0", .log = "mem:"};
    aif_error e;

    return aif_broker_open(&o, (aif_broker **)state, &e) != AIF_OK;
}

static int
teardown(void **state)
{
    aif_broker_free(*state);
    return 0;
}

/* A copy that ends with a NUL; the next call overwrites it. */
static const char *
status_of(aif_broker *b)
{
    static char text[AIF_STATUS_MAX + 1];
    aif_buf out = {0};
    aif_error e;

    assert_int_equal(aif_broker_status(b, &out, &e), AIF_OK);
    assert_true(out.n <= AIF_STATUS_MAX);
    memcpy(text, out.p, out.n);
    text[out.n] = '\0';
    aif_buf_fini(&out);
    return text;
}

static void
a_peer_is_told(void **state)
{
    served *s = *state;
    const aif_frame ask = {.kind = AIF_K_STATUS, .id = 3};
    char pid[32];
    char text[AIF_STATUS_MAX + 1];
    aif_frame f;
    raw r;

    raw_open(&r, s->bind);
    raw_frame(&r, &ask, NULL);
    f = raw_next(&r);
    assert_int_equal(f.kind, AIF_K_STATUSED);
    assert_int_equal(f.id, 3);
    memcpy(text, f.text.p, f.text.n);
    text[f.text.n] = '\0';
    (void)snprintf(pid, sizeof pid, "\"pid\": %d, ", (int)getpid());
    assert_non_null(strstr(text, pid));
    assert_non_null(strstr(text, "\"store\": {\"ok\": true}"));
    assert_non_null(strstr(text, "\"log\": \"sqlite\""));
    raw_close(&r);
}

static void
the_twenty_furthest_behind_are_shown(void **state)
{
    aif_broker *b = *state;
    aif_buf tail = {0};
    aif_error e;
    const char *text;

    assert_int_equal(aif_wire_put_pattern(&everything, &tail, &e), AIF_OK);
    append(b, 1, 1000);
    for (uint64_t i = 1; i <= 50; i++) {
        const aif_route to = {.n = 5, .p = {0, 1, 2, 3, (uint8_t)i}};
        const aif_frame f = {.kind = AIF_K_SUBSCRIBE,
                             .id = i,
                             .from = i * 37 % 50,
                             .max = 1000,
                             .tail = {tail.p, tail.n}};

        assert_int_equal(aif_subs_add(&b->subs, &to, &f, &e), AIF_OK);
    }
    aif_buf_fini(&tail);
    aif_subs_show(&b->subs, true);
    text = status_of(b);
    assert_non_null(
        strstr(text, "\"subscribers\": 50, \"flight\": 0, \"behind\": [{"));
    for (int lag = 1000; lag > 950; lag--) {
        char want[32];

        (void)snprintf(want, sizeof want, "\"lag\": %d,", lag);
        assert_int_equal(strstr(text, want) != NULL, lag > 980);
    }
}

static void
an_outage_is_said_once_and_its_end(void **state)
{
    static const char append[] = "append";
    aif_broker *b = *state;
    aif_trace_line line;
    aif_error e;

    for (int i = 0; i < 5; i++) {
        (void)aif_fail(&e, AIF_ESTORE, "the disk is \"full\"\n");
        aif_status_store(&b->status, append, AIF_ESTORE, &e);
    }
    assert_non_null(strstr(status_of(b), "\"store\": {\"ok\": false"));
    assert_non_null(strstr(status_of(b), "\"failures\": 5, \"error\": \"the "
                                         "disk is \\\"full\\\"?\"}"));
    aif_status_store(&b->status, "head", AIF_OK,
                     &e); /* reading works: that is not it */
    assert_non_null(strstr(status_of(b), "\"store\": {\"ok\": false"));
    aif_status_store(&b->status, append, AIF_OK, &e);
    aif_status_store(&b->status, append, AIF_OK, &e);
    assert_non_null(strstr(status_of(b), "\"store\": {\"ok\": true}"));
    assert_true(aif_broker_trace(b, &line));
    assert_int_equal(line.level, AIF_ERROR);
    assert_true(aif_broker_trace(b, &line));
    assert_int_equal(line.level, AIF_INFO);
    assert_non_null(strstr(line.text, " failures=5"));
    assert_false(aif_broker_trace(b, &line));
}

/* However many peers do wrong, the log gets so many lines. */
static void
lines_are_bounded(void **state)
{
    aif_broker *b = *state;
    aif_trace_line line;
    aif_message m;
    aif_error e;
    int n = 0;

    aif_message_init(&m);
    (void)aif_fail(&e, AIF_EPROTO, "no frame");
    for (int i = 0; i < 10000; i++) {
        m.from = (aif_route){.n = 5,
                             .p = {0, 9, 9, (uint8_t)(i / 256), (uint8_t)i}};
        aif_status_refused(&b->status, &m, &e);
        aif_status_refused(&b->status, &m, &e);
        n += aif_broker_trace(b, &line);
    }
    assert_in_range(n, 1, 100); /* two windows, if it is that slow */
    assert_non_null(strstr(status_of(b), "\"EPROTO\": 20000"));
    b->status.lines_since -= 60000; /* a minute later */
    aif_status_say(&b->status, AIF_INFO, "again");
    assert_true(aif_broker_trace(b, &line));
    assert_string_equal(line.text, "again");
    aif_message_close(&m);
}

int
main(void)
{
#define OPEN(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_peer_is_told, served_sqlite,
                                        served_teardown),
        OPEN(the_twenty_furthest_behind_are_shown),
        OPEN(an_outage_is_said_once_and_its_end),
        OPEN(lines_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
