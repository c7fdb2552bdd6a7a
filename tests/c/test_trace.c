#include "cmocka_all.h"

#include "base/trace.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static int
setup(void **state)
{
    *state = calloc(1, sizeof(aif_trace));
    aif_trace_init(*state);
    return 0;
}

static int
teardown(void **state)
{
    aif_trace_fini(*state);
    free(*state);
    return 0;
}

static void
lines_come_out_in_order_once(void **state)
{
    aif_trace_line line;

    aif_trace_say(*state, AIF_INFO, "one n=%d", 1);
    aif_trace_say(*state, AIF_ERROR, "two");
    assert_true(aif_trace_take(*state, &line));
    assert_int_equal(line.level, AIF_INFO);
    assert_string_equal(line.text, "one n=1");
    assert_true(aif_trace_take(*state, &line));
    assert_int_equal(line.level, AIF_ERROR);
    assert_string_equal(line.text, "two");
    assert_false(aif_trace_take(*state, &line));
}

static void
what_finds_no_room_is_counted(void **state)
{
    aif_trace_line line;

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < AIF_TRACE_LINES + 5; i++) {
            aif_trace_say(*state, AIF_INFO, "n=%d", i);
        }
        for (int i = 0; i < AIF_TRACE_LINES; i++) {
            assert_true(aif_trace_take(*state, &line));
            assert_int_equal(atoi(line.text + 2), i);
        }
        assert_true(aif_trace_take(*state, &line));
        assert_int_equal(line.level, AIF_WARNING);
        assert_string_equal(line.text, "lines that found no room here lost=5");
        assert_false(aif_trace_take(*state, &line));
    }
}

static void
a_long_line_is_cut(void **state)
{
    static const char x[] = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
    aif_trace_line line;

    aif_trace_say(*state, AIF_INFO, "%s%s%s%s%s%s%s%s%s", x, x, x, x, x, x, x,
                  x, x);
    assert_true(aif_trace_take(*state, &line));
    assert_int_equal(strlen(line.text), AIF_TRACE_TEXT - 1);
}

static void
a_thing_is_new_once(void **state)
{
    for (uint64_t key = 1; key <= AIF_TRACE_SEEN; key++) {
        assert_true(aif_trace_first(*state, key));
        assert_false(aif_trace_first(*state, key));
    }
    assert_false(aif_trace_first(*state, 1));
    assert_true(aif_trace_first(*state, 1 + AIF_TRACE_SEEN)); /* its place */
    assert_true(aif_trace_first(*state, 1));
}

static void *
say_many(void *trace)
{
    for (int i = 0; i < 1000; i++) {
        aif_trace_say(trace, AIF_DEBUG, "n=%d", i);
    }
    return NULL;
}

static void
threads_say_and_take(void **state)
{
    pthread_t threads[4];
    aif_trace_line line;
    int n = 0;
    int lost = 0;

    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, say_many, *state),
                         0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        while (aif_trace_take(*state, &line)) {
            if (line.level == AIF_WARNING) {
                lost += atoi(strrchr(line.text, '=') + 1);
            } else {
                n++;
            }
        }
    }
    assert_int_equal(n + lost, 4000);
}

int
main(void)
{
#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH(lines_come_out_in_order_once),
        WITH(what_finds_no_room_is_counted),
        WITH(a_long_line_is_cut),
        WITH(a_thing_is_new_once),
        WITH(threads_say_and_take),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
