/* Several streams on one connection: each its events, in order, and an end of
 * its own. */
#include "broker_fixture.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

enum { KEYS = 5 };

static aif_sub *
opened(const served *s)
{
    aif_sub *sub;
    aif_error e;

    assert_int_equal(aif_sub_open(s->bind, NULL, false, &sub, &e), AIF_OK);
    return sub;
}

static aif_pattern
of_key(const char *key)
{
    return (aif_pattern){AIF_STR("*"),
                         {key, strlen(key)},
                         AIF_STR("*"),
                         AIF_STR("*"),
                         AIF_STR("*")};
}

static uint64_t
added(aif_sub *sub, const char *key, uint64_t after)
{
    const aif_pattern p = of_key(key);
    uint64_t stream;
    aif_error e;

    if (aif_sub_add(sub, &p, 1, (aif_place){.offset = after}, SOON, &stream,
                    &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    return stream;
}

/* Event i has the key i % KEYS, and offset i. */
static void
publish_keys(aif_client *c, uint64_t from, uint64_t to)
{
    static const char *const keys[KEYS] = {"0", "1", "2", "3", "4"};
    uint64_t offset;
    aif_error e;

    for (uint64_t i = from; i <= to; i++) {
        aif_event ev = numbered("p", i);

        ev.key = (aif_str){keys[i % KEYS], 1};
        assert_int_equal(aif_client_publish(c, &ev, 1, &offset, SOON, &e),
                         AIF_OK);
        assert_int_equal(offset, i);
    }
}

/* What each stream is to hear next; stream n has the key n - 1. */
typedef struct {
    aif_sub *sub;
    uint64_t next[KEYS + 1];
    uint64_t heard;
} hearing;

/* One call of next: the events of one stream, each the one that it waits for.
 */
static void
hear(hearing *h, int timeout_ms)
{
    aif_batch out = {0};
    uint64_t stream;
    bool hinted;
    aif_error e;

    if (aif_sub_next(h->sub, timeout_ms, &out, &stream, NULL, &hinted, &e) !=
        AIF_OK) {
        fail_msg("%s", e.text);
    }
    assert_int_equal(stream == 0, out.n == 0);
    for (size_t i = 0; i < out.n; i++) {
        assert_int_equal(out.events[i].offset, h->next[stream]);
        h->next[stream] += KEYS;
        h->heard++;
    }
    aif_batch_fini(&out);
}

static hearing
hearing_all(aif_sub *sub)
{
    static const char *const keys[KEYS] = {"0", "1", "2", "3", "4"};
    hearing h = {.sub = sub};

    for (uint64_t i = 0; i < KEYS; i++) {
        assert_int_equal(added(sub, keys[i], 0), i + 1);
        h.next[i + 1] = i == 0 ? KEYS : i;
    }
    return h;
}

static void
each_hears_its_own_in_order(void **state)
{
    enum { N = 300 };
    const served *s = *state;
    aif_client *c = client_at(s->bind);
    hearing h = hearing_all(opened(s));
    aif_place cursor;
    aif_error e;

    assert_int_equal(stats_of(s).subscribers, KEYS);
    publish_keys(c, 1, N);
    while (h.heard < N) {
        hear(&h, SOON);
    }
    for (uint64_t i = 1; i <= KEYS; i++) {
        assert_int_equal(aif_sub_cursor(h.sub, i, &cursor, &e), AIF_OK);
        assert_true(cursor.offset > N - KEYS);
    }
    aif_sub_free(h.sub);
    aif_client_free(c);
}

/* While one is added, events of the others come: none is lost. */
static void
one_is_added_while_others_hear(void **state)
{
    enum { N = 200 };
    const served *s = *state;
    aif_client *c = client_at(s->bind);
    hearing h = {.sub = opened(s), .next = {0, KEYS}};

    assert_int_equal(added(h.sub, "0", 0), 1);
    for (uint64_t i = 1; i <= N; i++) {
        publish_keys(c, i, i);
        if (i % 10 == 0) { /* of another key: it hears nothing */
            (void)added(h.sub, "x", AIF_AFTER_NOW);
        }
    }
    while (h.heard < N / KEYS) {
        hear(&h, SOON);
    }
    assert_int_equal(stats_of(s).subscribers, 1 + N / 10);
    aif_sub_free(h.sub);
    aif_client_free(c);
}

static void
one_is_removed_and_the_others_hear_on(void **state)
{
    const served *s = *state;
    aif_client *c = client_at(s->bind);
    hearing h = hearing_all(opened(s));
    aif_place cursor;
    aif_error e;

    publish_keys(c, 1, 10);
    while (h.heard < 10) {
        hear(&h, SOON);
    }
    assert_int_equal(aif_sub_remove(h.sub, 3, &e), AIF_OK);
    assert_int_equal(aif_sub_remove(h.sub, 3, &e), AIF_OK);
    assert_int_equal(aif_sub_remove(h.sub, 99, &e), AIF_OK);
    assert_int_equal(aif_sub_cursor(h.sub, 3, &cursor, &e), AIF_EINVAL);
    assert_string_equal(e.text, "there is no stream 3");
    publish_keys(c, 11, 20);
    while (h.heard < 18) {
        hear(&h, SOON);
    }
    assert_int_equal(added(h.sub, "2", 20), KEYS + 1); /* a new number */
    assert_int_equal(stats_of(s).subscribers, KEYS);
    aif_sub_free(h.sub);
    aif_client_free(c);
}

/* Refused by the broker: that one, and no other. */
static void
an_error_ends_its_stream_only(void **state)
{
    const served *s = *state;
    const aif_pattern p = of_key("*");
    aif_client *c = client_at(s->bind);
    hearing h = hearing_all(opened(s));
    uint64_t stream;
    aif_error e;

    assert_int_equal(aif_sub_add(h.sub, &p, 1, (aif_place){.offset = 77}, SOON,
                                 &stream, &e),
                     AIF_EINVAL);
    assert_non_null(strstr(e.text, "offset 77 is beyond the newest one, 0"));
    assert_int_equal(stream, 0);
    assert_int_equal(
        aif_sub_add(h.sub, &p, 0, (aif_place){0}, SOON, &stream, &e),
        AIF_EINVAL);
    publish_keys(c, 1, 20);
    while (h.heard < 20) {
        hear(&h, SOON);
    }
    aif_sub_free(h.sub);
    aif_client_free(c);
}

/* A broker that is killed and comes back knows none of them. */
static void
all_resume_where_they_were(void **state)
{
    served *s = *state;
    aif_client *c = client_at(s->bind);
    hearing h = hearing_all(opened(s));

    for (uint64_t i = 0; i < 4; i++) {
        publish_keys(c, 1 + 20 * i, 10 + 20 * i);
        if (i % 2 == 0) { /* also with events that were not taken */
            while (h.heard < 10 + 20 * i) {
                hear(&h, SOON);
            }
        }
        unserve(s);
        serve(s);
        publish_keys(c, 11 + 20 * i, 20 + 20 * i);
        while (h.heard < 20 + 20 * i) {
            hear(&h, SOON);
        }
    }
    aif_sub_free(h.sub);
    aif_client_free(c);
}

/* The fd tells of frames that were put aside, too. */
static void
the_fd_tells_of_all(void **state)
{
    enum { N = 100 };
    const served *s = *state;
    aif_client *c = client_at(s->bind);
    hearing h = hearing_all(opened(s));
    struct pollfd p = {.fd = aif_sub_fd(h.sub), .events = POLLIN};

    publish_keys(c, 1, N);
    (void)added(h.sub, "x", 0); /* puts aside what came */
    while (h.heard < N) {
        assert_int_equal(poll(&p, 1, SOON), 1);
        hear(&h, 0); /* not until it adds nothing: the fd stays readable */
    }
    aif_sub_free(h.sub);
    aif_client_free(c);
}

/* 4 MiB for all, and a frame for each: what is not read is not sent. */
static void
many_share_the_credit(void **state)
{
    enum { STREAMS = 16, EVENTS = 40, VALUE = 1 << 19 };
    static char value[VALUE];
    const served *s = *state;
    aif_client *c = client_at(s->bind);
    aif_sub *sub = opened(s);
    aif_event ev = numbered("p", 0);
    aif_batch out = {0};
    uint64_t offset;
    size_t n = 0;
    bool hinted;
    aif_error e;

    memset(value, 'v', sizeof value);
    ev.value = (aif_str){value, sizeof value};
    for (int i = 0; i < STREAMS; i++) {
        (void)added(sub, "*", 0);
    }
    for (ev.sequence = 1; ev.sequence <= EVENTS; ev.sequence++) {
        assert_int_equal(aif_client_publish(c, &ev, 1, &offset, SOON, &e),
                         AIF_OK);
    }
    /* of 320 MB: 4 MiB for the first, a share for the others, a frame each */
    assert_true(stats_of(s).pushed * VALUE <
                (4u << 20) * 4 + STREAMS * (2u << 20));
    while (n < STREAMS * EVENTS) {
        assert_int_equal(
            aif_sub_next(sub, SOON, &out, NULL, NULL, &hinted, &e), AIF_OK);
        n += out.n;
        aif_batch_fini(&out);
    }
    assert_int_equal(n, STREAMS * EVENTS);
    aif_sub_free(sub);
    aif_client_free(c);
}

static void
without_streams_nothing_comes(void **state)
{
    const served *s = *state;
    hearing h = {.sub = opened(s)};
    aif_client *c = client_at(s->bind);

    publish_keys(c, 1, 3);
    hear(&h, 20);
    assert_int_equal(h.heard, 0);
    aif_sub_free(h.sub);
    aif_client_free(c);
}

int
main(void)
{
#define SERVED(test, how)                                                     \
    cmocka_unit_test_setup_teardown(test, served_##how, served_teardown)
    const struct CMUnitTest tests[] = {
        SERVED(each_hears_its_own_in_order, mem),
        SERVED(one_is_added_while_others_hear, mem),
        SERVED(one_is_removed_and_the_others_hear_on, mem),
        SERVED(an_error_ends_its_stream_only, mem),
        SERVED(all_resume_where_they_were, sqlite),
        SERVED(the_fd_tells_of_all, mem),
        SERVED(many_share_the_credit, mem),
        SERVED(without_streams_nothing_comes, mem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
