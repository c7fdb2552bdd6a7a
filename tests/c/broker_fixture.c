#include "broker_fixture.h"

#include "broker/whole.h"
#include "log/log.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const aif_pattern everything = {
    {"*", 1}, {"*", 1}, {"*", 1}, {"*", 1}, AIF_STR("*")};

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

    aif_broker_options o = {.bind = s->bind, .log = s->log};

    o.secret = s->secret[0] != '\0' ? s->secret : NULL;
    if (aif_broker_open(&o, &s->broker, &e) != AIF_OK) {
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

aif_client *
client_at(const char *uri)
{
    aif_client *c;
    aif_error e;

    if (aif_client_open(uri, NULL, &c, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    return c;
}

void
list_all(aif_client *c, uint64_t after, aif_batch *out)
{
    aif_query q = {.after = after};
    bool more = true;
    aif_error e;

    while (more) {
        if (aif_client_list(c, &q, AIF_BATCH_MAX, out, &more, SOON, &e) !=
            AIF_OK) {
            fail_msg("%s", e.text);
        }
    }
}

uint64_t
count_all(aif_client *c, aif_query q)
{
    uint64_t all = 0;
    uint64_t n;
    bool more = true;
    aif_error e;

    while (more) {
        if (aif_client_count(c, &q, &n, &more, SOON, &e) != AIF_OK) {
            fail_msg("%s", e.text);
        }
        all += n;
    }
    return all;
}

aif_err
sub_one(const char *uri, const aif_pattern *p, size_t n, uint64_t after,
        bool hints, int timeout_ms, aif_sub **out, aif_error *e)
{
    uint64_t stream;
    aif_err err = aif_sub_open(uri, NULL, hints, out, e);

    if (err == AIF_OK) {
        err = aif_sub_add(*out, p, n, (aif_place){.offset = after}, timeout_ms,
                          &stream, e);
    }
    if (err != AIF_OK) {
        aif_sub_free(*out);
        *out = NULL;
    }
    return err;
}

uint64_t
cursor_of(aif_sub *s)
{
    aif_place cursor;
    aif_error e;

    assert_int_equal(aif_sub_cursor(s, 1, &cursor, &e), AIF_OK);
    return cursor.offset;
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

bool
has_ipv6(void)
{
    struct sockaddr_in6 sa = {.sin6_family = AF_INET6,
                              .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    bool has = bind(fd, (struct sockaddr *)&sa, sizeof sa) == 0;

    (void)close(fd);
    return has;
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
    raw_open_curve(r, uri, NULL);
}

void
raw_open_curve(raw *r, const char *uri, const aif_curve *keys)
{
    const int none = 0;
    aif_error e;

    r->ctx = zmq_ctx_new();
    r->socket = zmq_socket(r->ctx, ZMQ_DEALER);
    assert_non_null(r->socket);
    (void)zmq_setsockopt(r->socket, ZMQ_LINGER, &none, sizeof none);
    if (keys != NULL) {
        assert_int_equal(aif_curve_client(r->socket, keys, &e), AIF_OK);
    }
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

aif_frame
expect_error(raw *r, uint64_t id, aif_err code)
{
    aif_frame f = raw_next(r);

    assert_int_equal(f.kind, AIF_K_ERROR);
    assert_int_equal(f.id, id);
    assert_int_equal(f.code, code);
    return f;
}

void
put_events(aif_buf *out, const char *producer, uint64_t from, size_t n)
{
    aif_error e;

    for (size_t i = 0; i < n; i++) {
        aif_event ev = numbered(producer, from + i);

        assert_int_equal(aif_event_encode(&ev, out, &e), AIF_OK);
    }
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

void
append(aif_broker *b, uint64_t from, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        aif_event ev = numbered("p", from + i);
        aif_error e;

        assert_int_equal(aif_log_append(aif_head_log(&b->head), &ev, 1,
                                        &b->head.newest, NULL, &e),
                         AIF_OK);
    }
}
