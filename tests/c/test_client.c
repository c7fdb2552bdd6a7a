/* The client: publish and ask, a broker that goes and comes, time limits. */
#include "broker_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static aif_client *
client_of(const served *s)
{
    return client_at(s->bind);
}

static uint64_t
count_of(aif_client *c)
{
    return count_all(c, *AIF_BEYOND(0));
}

static void
an_event_comes_back_as_it_went(void **state)
{
    const aif_pattern p = {AIF_STR("ns"), AIF_STR("a/*"), AIF_STR("T"),
                           AIF_STR("me"), AIF_STR("r*")};
    aif_query q = {.patterns = &p, .n = 1};
    bool more;
    aif_client *c = client_of(*state);
    aif_event ev = {.ns = AIF_STR("ns"),
                    .key = AIF_STR("a/b"),
                    .value = AIF_STR("\xC3\xA9"),
                    .type = AIF_STR("T"),
                    .sender = AIF_STR("me"),
                    .context = AIF_STR("run"),
                    .producer = AIF_STR("p"),
                    .sequence = 3,
                    .offset = 99,
                    .create_time = 5};
    aif_batch out = {0};
    uint64_t offset;
    aif_error e;

    assert_int_equal(aif_client_publish(c, &ev, 1, &offset, SOON, &e), AIF_OK);
    assert_int_equal(offset, 1);
    assert_int_equal(aif_client_list(c, &q, 10, &out, &more, SOON, &e),
                     AIF_OK);
    assert_false(more);
    assert_int_equal(q.after, 1);
    assert_int_equal(out.n, 1);
    assert_true(aif_str_eq(out.events[0].ns, ev.ns));
    assert_true(aif_str_eq(out.events[0].key, ev.key));
    assert_true(aif_str_eq(out.events[0].value, ev.value));
    assert_true(aif_str_eq(out.events[0].type, ev.type));
    assert_true(aif_str_eq(out.events[0].sender, ev.sender));
    assert_true(aif_str_eq(out.events[0].context, ev.context));
    assert_true(aif_str_eq(out.events[0].producer, ev.producer));
    assert_int_equal(out.events[0].sequence, 3);
    assert_int_equal(out.events[0].offset, 1); /* the log's, not the peer's */
    assert_true(out.events[0].create_time > 1600000000000);
    aif_batch_fini(&out);
    aif_client_free(c);
}

static void
head_and_count_are_numbers(void **state)
{
    aif_query q = {.patterns = &everything, .n = 1};
    aif_client *c = client_of(*state);
    uint64_t n;
    aif_error e;

    assert_int_equal(aif_client_head(c, &n, SOON, &e), AIF_OK);
    assert_int_equal(n, 0);
    (void)publish_one(c, "p", 1);
    (void)publish_one(c, "p", 2);
    assert_int_equal(aif_client_head(c, &n, SOON, &e), AIF_OK);
    assert_int_equal(n, 2);
    assert_int_equal(count_all(c, *AIF_BEYOND(1)), 1);
    q.upto = 1;
    assert_int_equal(count_all(c, q), 1);
    aif_client_free(c);
}

static void
a_resend_is_no_second_event(void **state)
{
    aif_client *c = client_of(*state);

    assert_int_equal(publish_one(c, "p", 1), 1);
    assert_int_equal(publish_one(c, "p", 1), 1);
    assert_int_equal(publish_one(c, "q", 1), 2);
    assert_int_equal(count_of(c), 2);
    aif_client_free(c);
}

/* A publish whose answer is lost: the client that asks again gets the offsets
 * of the first time. */
static void
a_resend_after_a_lost_answer_is_no_second_event(void **state)
{
    served *s = *state;
    aif_frame publish = {.kind = AIF_K_PUBLISH, .id = 1};
    aif_event ev = numbered("p", 1);
    aif_client *c = client_of(s);
    aif_buf tail = {0};
    aif_error e;
    raw r;

    raw_open(&r, s->bind);
    assert_int_equal(aif_event_encode(&ev, &tail, &e), AIF_OK);
    raw_frame(&r, &publish, &tail);
    while (count_of(c) == 0) {
    }
    raw_close(&r); /* the answer was never read */
    assert_int_equal(publish_one(c, "p", 1), 1);
    assert_int_equal(count_of(c), 1);
    aif_buf_fini(&tail);
    aif_client_free(c);
}

/* More events, and more bytes, than one frame takes. */
static void
a_large_publish_is_split(void **state)
{
    enum { MANY = 2 * AIF_BATCH_MAX + 1, LARGE = 20 };
    aif_client *c = client_of(*state);
    aif_event *events = calloc(MANY, sizeof *events);
    uint64_t *offsets = calloc(MANY, sizeof *offsets);
    char *value = malloc(AIF_VALUE_MAX);
    aif_batch out = {0};
    aif_error e;

    assert_true(events != NULL && offsets != NULL && value != NULL);
    memset(value, 'v', AIF_VALUE_MAX);
    for (size_t i = 0; i < MANY; i++) {
        events[i] = numbered("p", i);
    }
    assert_int_equal(aif_client_publish(c, events, MANY, offsets, SOON, &e),
                     AIF_OK);
    for (size_t i = 0; i < MANY; i++) {
        assert_int_equal(offsets[i], i + 1);
    }
    list_all(c, 0, &out);
    assert_int_equal(out.n, MANY);
    assert_int_equal(out.events[MANY - 1].offset, MANY);
    aif_batch_fini(&out);
    for (size_t i = 0; i < LARGE; i++) {
        events[i] = numbered("q", i);
        events[i].value = (aif_str){value, AIF_VALUE_MAX};
    }
    assert_int_equal(aif_client_publish(c, events, LARGE, offsets, SOON, &e),
                     AIF_OK);
    list_all(c, MANY, &out);
    assert_int_equal(out.n, LARGE);
    assert_int_equal(out.events[LARGE - 1].value.n, AIF_VALUE_MAX);
    aif_batch_fini(&out);
    aif_client_free(c);
    free(value);
    free(offsets);
    free(events);
}

static void
a_wrong_event_is_said_before_anything_is_sent(void **state)
{
    aif_client *c = client_of(*state);
    aif_event events[2] = {numbered("p", 1), numbered("p", 2)};
    uint64_t offsets[2];
    aif_error e;

    events[1].key.n = 0;
    assert_int_equal(aif_client_publish(c, events, 2, offsets, SOON, &e),
                     AIF_EINVAL);
    assert_string_equal(e.text, "key is empty: it needs 1 to 1024 bytes");
    assert_int_equal(count_of(c), 0);
    assert_int_equal(aif_client_publish(c, events, 0, offsets, 0, &e), AIF_OK);
    aif_client_free(c);
}

static void
a_wrong_pattern_is_said(void **state)
{
    const aif_pattern wrong = {AIF_STR("ns"), AIF_STR(""), AIF_STR("T"),
                               AIF_STR(""), AIF_STR("*")};
    aif_query q = {.patterns = &wrong, .n = 1};
    aif_client *c = client_of(*state);
    aif_batch out = {0};
    uint64_t n;
    bool more;
    aif_error e;

    assert_int_equal(aif_client_list(c, &q, 1, &out, &more, SOON, &e),
                     AIF_EINVAL);
    assert_int_equal(aif_client_count(c, &q, &n, &more, SOON, &e), AIF_EINVAL);
    assert_int_equal(aif_client_last(c, &q, &n, &more, SOON, &e), AIF_EINVAL);
    q.n = AIF_PATTERNS_MAX + 1;
    assert_int_equal(aif_client_count(c, &q, &n, &more, SOON, &e), AIF_EINVAL);
    assert_string_equal(e.text, "65 patterns: 64 are the most");
    assert_int_equal(aif_client_sequence(c, AIF_STR(""), &n, SOON, &e),
                     AIF_EINVAL);
    aif_client_free(c);
}

static void
a_wrong_address_is_said(void **state)
{
    static const char *const wrong[] = {"", "ipc://", "tcp://host", "host:1",
                                        "ipc://@x"};
    aif_client *c;
    aif_error e;

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(aif_client_open(wrong[i], NULL, &c, &e), AIF_EINVAL);
        assert_null(c);
        assert_true(strlen(e.text) > 20);
    }
    assert_int_equal(aif_client_open("tcp://127.0.0.1:x", NULL, &c, &e),
                     AIF_OK);
    assert_int_equal(aif_client_head(c, &(uint64_t){0}, SOON, &e), AIF_EINVAL);
    assert_non_null(strstr(e.text, "cannot connect to tcp://127.0.0.1:x"));
    aif_client_free(c);
    aif_client_free(NULL);
}

static void
no_broker_is_a_timeout(void **state)
{
    served *s = *state;
    aif_client *c = client_of(s);
    aif_event ev = numbered("p", 1);
    uint64_t n;
    aif_error e;

    unserve(s);
    assert_int_equal(aif_client_publish(c, &ev, 1, &n, 0, &e), AIF_ETIMEOUT);
    assert_non_null(strstr(e.text, "no answer to PUBLISH from ipc://"));
    assert_int_equal(aif_client_head(c, &n, 600, &e), AIF_ETIMEOUT);
    serve(s); /* the same call again, the same event */
    assert_int_equal(publish_one(c, "p", 1), 1);
    assert_int_equal(count_of(c), 1);
    aif_client_free(c);
}

static void
a_broker_that_comes_back_is_found(void **state)
{
    served *s = *state;
    aif_client *c = client_of(s);

    for (uint64_t i = 1; i <= 5; i++) {
        assert_int_equal(publish_one(c, "p", i), i);
        unserve(s);
        serve(s);
    }
    assert_int_equal(count_of(c), 5);
    aif_client_free(c);
}

/* At the broker's place, until the client has called in vain. */
static void
be_called(const served *s)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);

    (void)snprintf(at.sun_path, sizeof at.sun_path, "%s",
                   s->bind + strlen("ipc://"));
    (void)bind(listener, (struct sockaddr *)&at, sizeof at);
    (void)listen(listener, 1);
    (void)close(accept(listener, NULL, NULL));
    (void)close(listener);
    (void)unlink(at.sun_path);
}

static void *
come_later(void *arg)
{
    served *s = arg;

    be_called(s);
    serve(s);
    return NULL;
}

static void
a_call_waits_for_the_broker_to_come(void **state)
{
    served *s = *state;
    aif_client *c = client_of(s);
    pthread_t thread;

    unserve(s);
    assert_int_equal(pthread_create(&thread, NULL, come_later, s), 0);
    assert_int_equal(publish_one(c, "p", 1), 1);
    pthread_join(thread, NULL);
    assert_int_equal(count_of(c), 1);
    aif_client_free(c);
}

/* A server that answers what it likes: other ids, then other kinds. */
static void
wrong_answers_are_not_believed(void **state)
{
    served *s = *state;
    aif_frame headed = {.kind = AIF_K_COUNTED, .id = 1, .to = 5};
    void *ctx = zmq_ctx_new();
    void *router = zmq_socket(ctx, ZMQ_ROUTER);
    aif_client *c = client_of(s);
    aif_buf out = {0};
    uint8_t route[64];
    uint64_t n;
    int len;
    aif_error e;

    unserve(s);
    assert_int_equal(zmq_bind(router, s->bind), 0);
    assert_int_equal(aif_client_hint(c, AIF_STR("x"), &e), AIF_OK); /* id 1 */
    len = zmq_recv(router, route, sizeof route, 0);
    for (headed.id = 1; headed.id <= 2; headed.id++) { /* HEAD will be 2 */
        assert_int_equal(aif_frame_encode(&headed, &out, &e), AIF_OK);
        zmq_send(router, route, (size_t)len, ZMQ_SNDMORE);
        zmq_send(router, out.p, headed.id == 2 ? out.n : out.n / 2, 0);
    }
    assert_int_equal(aif_client_head(c, &n, SOON, &e), AIF_EPROTO);
    assert_string_equal(e.text, "HEAD was answered with COUNTED");
    aif_buf_fini(&out);
    aif_client_free(c);
    zmq_close(router);
    zmq_ctx_term(ctx);
    unlink(s->bind + strlen("ipc://"));
    serve(s);
}

/* Not under ASan: a thread of zmq's may hold its allocator's lock at the
 * fork, and keeps it in the child. */
static bool
own_client_works(const served *s, const aif_event *ev)
{
#ifdef __SANITIZE_ADDRESS__
    return s->broker != NULL && ev != NULL;
#else
    uint64_t n = 0;
    aif_client *c;
    aif_error e;

    return aif_client_open(s->bind, NULL, &c, &e) == AIF_OK &&
           aif_client_publish(c, ev, 1, &n, SOON, &e) == AIF_OK && n == 2;
#endif
}

static void
a_child_may_not_use_it(void **state)
{
    served *s = *state;
    aif_client *c = client_of(s);
    uint64_t n;
    int status;
    pid_t pid;

    (void)publish_one(c, "p", 1);
    pid = fork();
    if (pid == 0) {
        aif_event ev = numbered("p", 2);
        aif_error e;

        alarm(120);
        aif_client_free(c); /* does nothing */
        if (aif_client_publish(c, &ev, 1, &n, SOON, &e) != AIF_EFORKED ||
            aif_client_head(c, &n, SOON, &e) != AIF_EFORKED ||
            aif_client_hint(c, AIF_STR("x"), &e) != AIF_EFORKED) {
            _exit(1);
        }
        _exit(!own_client_works(s, &ev));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    n = count_of(c);
    assert_int_equal(publish_one(c, "p", 3), n + 1);
    aif_client_free(c);
}

enum { THREADS = 4, EACH = 200 };

static void *
publish_each(void *arg)
{
    static _Atomic int numbers;
    const served *s = arg;
    char producer[16];
    aif_client *c = client_of(s);

    (void)snprintf(producer, sizeof producer, "p%d", numbers++);
    for (uint64_t i = 1; i <= EACH; i++) {
        (void)publish_one(c, producer, i);
    }
    aif_client_free(c);
    return NULL;
}

static void
many_publish_at_once(void **state)
{
    served *s = *state;
    pthread_t threads[THREADS];
    aif_client *c = client_of(s);

    for (int i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, publish_each, s);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(count_of(c), THREADS * EACH);
    assert_int_equal(stats_of(s).appended, THREADS * EACH);
    aif_client_free(c);
}

int
main(void)
{
#define SERVED(test, how)                                                     \
    cmocka_unit_test_setup_teardown(test, served_##how, served_teardown)
    const struct CMUnitTest tests[] = {
        SERVED(an_event_comes_back_as_it_went, sqlite),
        SERVED(head_and_count_are_numbers, mem),
        SERVED(a_resend_is_no_second_event, sqlite),
        SERVED(a_resend_after_a_lost_answer_is_no_second_event, mem),
        SERVED(a_large_publish_is_split, sqlite),
        SERVED(a_wrong_event_is_said_before_anything_is_sent, mem),
        SERVED(a_wrong_pattern_is_said, mem),
        cmocka_unit_test(a_wrong_address_is_said),
        SERVED(no_broker_is_a_timeout, mem),
        SERVED(a_broker_that_comes_back_is_found, sqlite),
        SERVED(a_call_waits_for_the_broker_to_come, mem),
        SERVED(wrong_answers_are_not_believed, mem),
        SERVED(a_child_may_not_use_it, mem),
        SERVED(many_publish_at_once, mem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
