#include "broker_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const aif_pattern everything = {{"*", 1}, {"*", 1}, {"*", 1}, {"*", 1}};

static void *
run(void *broker)
{
    aif_error e;

    return aif_broker_run(broker, &e) == AIF_OK ? NULL : broker;
}

void
serve(served *s)
{
    aif_error e;

    if (aif_broker_open(s->bind, s->log, &s->broker, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    assert_int_equal(pthread_create(&s->thread, NULL, run, s->broker), 0);
}

void
unserve(served *s)
{
    void *failed;

    aif_broker_stop(s->broker);
    assert_int_equal(pthread_join(s->thread, &failed), 0);
    assert_null(failed);
    aif_broker_free(s->broker);
    s->broker = NULL;
}

static int
setup(void **state, const char *log)
{
    served *s = calloc(1, sizeof *s);

    if (s == NULL) {
        return -1;
    }
    strcpy(s->dir, "/tmp/aif-test-XXXXXX");
    if (mkdtemp(s->dir) == NULL) {
        free(s);
        return -1;
    }
    (void)snprintf(s->bind, sizeof s->bind, "ipc://%s/s", s->dir);
    (void)snprintf(s->log, sizeof s->log, log, s->dir);
    *state = s;
    serve(s);
    return 0;
}

int
served_sqlite(void **state)
{
    return setup(state, "sqlite:%s/log");
}

int
served_mem(void **state)
{
    return setup(state, "mem:");
}

int
served_teardown(void **state)
{
    static const char *const files[] = {"s", "s.lock", "log", "log-wal",
                                        "log-shm"};
    served *s = *state;
    char path[128];

    if (s->broker != NULL) {
        unserve(s);
    }
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", s->dir, files[i]);
        (void)unlink(path);
    }
    (void)rmdir(s->dir);
    free(s);
    return 0;
}

aif_event
numbered(const char *producer, uint64_t i)
{
    return (aif_event){.ns = AIF_STR("default"),
                       .key = AIF_STR("k"),
                       .type = AIF_STR("UNDEFINED"),
                       .producer = {producer, strlen(producer)},
                       .sequence = i};
}

uint64_t
publish_one(aif_client *c, const char *producer, uint64_t i)
{
    aif_event ev = numbered(producer, i);
    uint64_t offset = 0;
    aif_error e;

    if (aif_client_publish(c, &ev, 1, &offset, SOON, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    return offset;
}

void
assert_it_lives(const served *s)
{
    const aif_frame ping = {.kind = AIF_K_PING, .id = 42};
    aif_frame f;
    raw r;

    raw_open(&r, aif_broker_uri(s->broker));
    raw_frame(&r, &ping, NULL);
    f = raw_next(&r);
    assert_int_equal(f.kind, AIF_K_PONG);
    assert_int_equal(f.id, 42);
    raw_close(&r);
}

aif_broker_stats
stats_of(const served *s)
{
    aif_broker_stats stats;

    aif_broker_get_stats(s->broker, &stats);
    return stats;
}

void
raw_open(raw *r, const char *uri)
{
    const int none = 0;

    r->ctx = zmq_ctx_new();
    r->socket = zmq_socket(r->ctx, ZMQ_DEALER);
    assert_non_null(r->socket);
    (void)zmq_setsockopt(r->socket, ZMQ_LINGER, &none, sizeof none);
    assert_int_equal(zmq_connect(r->socket, uri), 0);
    (void)zmq_msg_init(&r->msg);
}

void
raw_close(raw *r)
{
    (void)zmq_msg_close(&r->msg);
    (void)zmq_close(r->socket);
    (void)zmq_ctx_term(r->ctx);
}

void
raw_send(raw *r, const void *p, size_t n)
{
    assert_int_equal(zmq_send(r->socket, p, n, 0), n);
}

void
raw_frame(raw *r, const aif_frame *f, const aif_buf *tail)
{
    aif_buf out = {0};
    aif_error e;

    assert_int_equal(aif_frame_encode(f, &out, &e), AIF_OK);
    if (tail != NULL) {
        assert_int_equal(aif_buf_put(&out, tail->p, tail->n, &e), AIF_OK);
    }
    raw_send(r, out.p, out.n);
    aif_buf_fini(&out);
}

bool
raw_poll(raw *r, int ms)
{
    zmq_pollitem_t item = {.socket = r->socket, .events = ZMQ_POLLIN};

    return zmq_poll(&item, 1, ms) == 1;
}

aif_frame
raw_next(raw *r)
{
    aif_frame f = {0};
    aif_error e;

    if (!raw_poll(r, SOON)) {
        fail_msg("no frame came");
    }
    assert_true(zmq_msg_recv(&r->msg, r->socket, 0) >= 0);
    if (aif_frame_decode(zmq_msg_data(&r->msg), zmq_msg_size(&r->msg), &f,
                         &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    return f;
}

#ifdef __SANITIZE_THREAD__
/* Tests fork, and the child makes threads: TSan would rather not. */
__attribute__((visibility("default"))) const char *
__tsan_default_options(void);

const char *
__tsan_default_options(void)
{
    return "die_after_fork=0";
}
#endif
