/* broker.c - one thread, one turn after the other:
 *
 *   wait   until there is a frame, a stop, or something is due
 *   drain  what is ready, within bounds; questions are answered at once,
 *          publishes and subscribers are noted
 *   commit all publishes in one append; then answer each; then push
 *   tend   subscribers that are behind, leases, other processes' appends
 *
 * Frames that are not ours are counted and refused; the store's failures go
 * to who asked; a peer that does not read loses answers, never the broker's
 * time.  run ends only by stop, or when zmq itself fails.
 */
#include "broker_in.h"

#include "clock.h"
#include "mem.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* In frames, for each peer.  Credit bounds what a subscriber is sent, the
 * time a client waits for an answer what it asks; these bound the rest. */
#define SEND_HWM 256
#define RECV_HWM 64
#define HANDSHAKE_MS 2000 /* a connection that says nothing is closed */

aif_sent
aif_broker_send(aif_broker *b, const aif_route *to)
{
    if (zmq_send(b->router, to->p, to->n, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) {
        return zmq_errno() == EHOSTUNREACH ? AIF_GONE : AIF_FULL;
    }
    /* The first part chose the pipe and found room: this cannot block. */
    if (zmq_send(b->router, b->out.p, b->out.n, ZMQ_DONTWAIT) < 0) {
        return AIF_FULL;
    }
    return AIF_SENT;
}

void
aif_broker_answer(aif_broker *b, const aif_route *to, const aif_frame *f)
{
    aif_error e;

    if (aif_frame_encode(f, &b->out, &e) == AIF_OK) {
        (void)aif_broker_send(b, to);
    }
}

void
aif_broker_refuse(aif_broker *b, const aif_route *to, uint64_t id,
                  const aif_error *why)
{
    aif_frame f = {.kind = AIF_K_ERROR, .id = id, .code = why->code};

    f.text = (aif_str){why->text, strlen(why->text)};
    if (why->code == AIF_ESTORE) {
        f.sqlstate = (aif_str){why->sqlstate, strlen(why->sqlstate)};
    }
    aif_broker_answer(b, to, &f);
}

/* The pattern of a LIST or COUNT, or NULL for all. */
static aif_err
get_pattern(const aif_frame *f, aif_pattern *p, const aif_pattern **out,
            aif_error *e)
{
    aif_reader in = f->tail;
    size_t n;
    aif_err err = aif_wire_get_patterns(&in, 0, 1, p, &n, e);

    *out = n == 0 ? NULL : p;
    return err;
}

/* LISTED with what was read; more: the read may have been cut. */
static aif_err
answer_listed(aif_broker *b, const aif_route *from, uint64_t id,
              const aif_batch *batch, bool more, aif_error *e)
{
    const aif_frame f = {.kind = AIF_K_LISTED, .id = id, .flag = more};
    aif_err err = aif_frame_encode(&f, &b->out, e);

    for (size_t i = 0; err == AIF_OK && i < batch->n; i++) {
        err = aif_event_encode(&batch->events[i], &b->out, e);
    }
    if (err == AIF_OK) {
        (void)aif_broker_send(b, from);
    }
    return err;
}

static aif_err
do_list(aif_broker *b, const aif_route *from, const aif_frame *f, aif_error *e)
{
    size_t max = f->max < AIF_BATCH_MAX ? f->max : AIF_BATCH_MAX;
    const aif_pattern *p;
    aif_pattern room;
    aif_batch batch = {0};
    aif_err err = get_pattern(f, &room, &p, e);

    if (err == AIF_OK) {
        err = aif_log_read(b->log, p, f->from, max, &batch, e);
    }
    if (err == AIF_OK) {
        err =
            answer_listed(b, from, f->id, &batch,
                          batch.n == max || batch.bytes >= AIF_READ_BYTES, e);
    }
    aif_batch_fini(&batch);
    return err;
}

static aif_err
do_count(aif_broker *b, const aif_route *from, const aif_frame *f,
         aif_error *e)
{
    aif_frame answer = {.kind = AIF_K_COUNTED, .id = f->id};
    const aif_pattern *p;
    aif_pattern room;
    aif_err err = get_pattern(f, &room, &p, e);

    if (err == AIF_OK) {
        err = aif_log_count(b->log, p, f->from, &answer.to, e);
    }
    if (err == AIF_OK) {
        aif_broker_answer(b, from, &answer);
    }
    return err;
}

static aif_err
do_head(aif_broker *b, const aif_route *from, const aif_frame *f, aif_error *e)
{
    aif_frame answer = {.kind = AIF_K_HEADED, .id = f->id};
    aif_err err = aif_log_head(b->log, &answer.to, e);

    if (err == AIF_OK) {
        aif_broker_answer(b, from, &answer);
    }
    return err;
}

/* What a frame asks for.  *cost: how many events it weighs in this turn. */
static aif_err
dispatch(aif_broker *b, const aif_route *from, const aif_frame *f,
         zmq_msg_t *frame, size_t *cost, aif_error *e)
{
    switch (f->kind) {
    case AIF_K_PUBLISH:
        return aif_turn_add(&b->turn, from, f, frame, e);
    case AIF_K_LIST:
        *cost = AIF_READ_COST;
        return do_list(b, from, f, e);
    case AIF_K_COUNT:
        *cost = AIF_READ_COST;
        return do_count(b, from, f, e);
    case AIF_K_HEAD:
        *cost = AIF_LOOK_COST;
        return do_head(b, from, f, e);
    case AIF_K_SUBSCRIBE:
        *cost = AIF_LOOK_COST;
        return aif_subs_add(b, from, f, e);
    case AIF_K_UNSUBSCRIBE:
        aif_subs_remove(b, from, f->id);
        return AIF_OK;
    case AIF_K_CREDIT:
        return aif_subs_credit(b, from, f, e);
    case AIF_K_HINT:
        aif_subs_hint(b, f->text);
        return AIF_OK;
    case AIF_K_PING:
        aif_broker_answer(b, from,
                          &(aif_frame){.kind = AIF_K_PONG, .id = f->id});
        return AIF_OK;
    default:
        return aif_fail(e, AIF_EPROTO, "%s is an answer, not a request",
                        aif_kind_name(f->kind));
    }
}

static void
handle(aif_broker *b, const aif_route *from, zmq_msg_t *frame, size_t *cost)
{
    aif_frame f;
    aif_error e = {.sqlstate = ""};
    aif_err err =
        aif_frame_decode(zmq_msg_data(frame), zmq_msg_size(frame), &f, &e);

    if (err == AIF_OK) {
        err = dispatch(b, from, &f, frame, cost, &e);
    }
    if (err == AIF_EPROTO) {
        aif_count(&b->stats.rejected, 1);
    }
    if (err != AIF_OK &&
        f.kind != AIF_K_HINT) { /* nobody waits for a hint's */
        aif_broker_refuse(b, from, f.id, &e);
    }
}

/* One part of a message; false when there is none, or the wait was broken. */
static bool
recv_part(aif_broker *b, zmq_msg_t *part)
{
    return zmq_msg_recv(part, b->router, ZMQ_DONTWAIT) >= 0;
}

/* A message is a routing id and one frame.  Anything else is not ours: it is
 * read to its end and counted. */
static bool
recv_message(aif_broker *b, aif_route *from, zmq_msg_t *frame, bool *ours)
{
    size_t n;

    if (!recv_part(b, frame)) {
        return false;
    }
    n = zmq_msg_size(frame);
    *ours = n <= AIF_ROUTE_MAX && zmq_msg_more(frame);
    if (*ours) {
        from->n = (uint8_t)n;
        memcpy(from->p, zmq_msg_data(frame), n);
        *ours = recv_part(b, frame) && !zmq_msg_more(frame);
    }
    while (!*ours && zmq_msg_more(frame) && recv_part(b, frame)) {
    }
    return true;
}

/* False when nothing is ready. */
static bool
drain_one(aif_broker *b, size_t *events, size_t *bytes)
{
    aif_route from = {0};
    size_t before = b->turn.n;
    size_t cost = 0;
    zmq_msg_t frame;
    bool ours = false;
    bool got;

    (void)zmq_msg_init(&frame);
    got = recv_message(b, &from, &frame, &ours);
    if (got && ours) {
        *bytes += zmq_msg_size(&frame);
        handle(b, &from, &frame, &cost);
        *events += b->turn.n - before + cost;
    } else if (got) {
        aif_count(&b->stats.rejected, 1);
    }
    (void)zmq_msg_close(&frame);
    return got;
}

static void
drain(aif_broker *b)
{
    size_t frames = 0;
    size_t events = 0;
    size_t bytes = 0;

    while (frames++ < AIF_TURN_EVENTS && events < AIF_TURN_EVENTS &&
           bytes < AIF_TURN_BYTES && drain_one(b, &events, &bytes)) {
    }
}

/* Did another process append? */
static void
poll_head(aif_broker *b, int64_t now)
{
    aif_error e;
    uint64_t head;

    if (b->head_poll_ms == 0 || b->n_subs == 0 || now < b->head_due) {
        return;
    }
    if (aif_log_head(b->log, &head, &e) == AIF_OK) {
        b->head = head > b->head ? head : b->head;
        b->head_sure = true;
        b->head_due = now + b->head_poll_ms;
    } else {
        b->head_due = now + AIF_BROKER_STORE_RETRY_MS;
    }
}

static void
turn(aif_broker *b)
{
    int64_t now;

    drain(b);
    aif_turn_commit(b);
    now = aif_now_ms();
    poll_head(b, now);
    aif_subs_catch_up(b, now);
    aif_subs_expire(b, now);
}

static long
wait_ms(const aif_broker *b)
{
    int64_t now = aif_now_ms();
    int64_t due = aif_subs_due(b, now);

    if (b->head_poll_ms > 0 && b->n_subs > 0 && b->head_due < due) {
        due = b->head_due;
    }
    if (due == INT64_MAX) {
        return -1;
    }
    return due > now ? (long)(due - now) : 0;
}

static aif_err
serve(aif_broker *b, aif_error *e)
{
    zmq_pollitem_t items[2] = {{.socket = b->router, .events = ZMQ_POLLIN},
                               {.fd = b->stop, .events = ZMQ_POLLIN}};

    for (;;) {
        if (zmq_poll(items, 2, wait_ms(b)) < 0 && zmq_errno() != EINTR) {
            return aif_fail(e, AIF_ECLOSED, "waiting for frames: %s",
                            zmq_strerror(zmq_errno()));
        }
        if (items[1].revents != 0) {
            return AIF_OK;
        }
        turn(b);
    }
}

aif_err
aif_broker_run(aif_broker *b, aif_error *e)
{
    aif_err err = aif_guard_enter(&b->guard, e);

    if (err != AIF_OK) {
        return err;
    }
    err = serve(b, e);
    aif_guard_leave(&b->guard);
    return err;
}

void
aif_broker_stop(aif_broker *b)
{
    const uint64_t one = 1;
    int kept = errno;

    if (b != NULL && !aif_guard_forked(&b->guard) &&
        write(b->stop, &one, sizeof one) != sizeof one) {
        /* full: it was stopped 2^64 times already */
    }
    errno = kept;
}

static aif_err
zmq_failed(const char *what, aif_error *e)
{
    return aif_fail(e, AIF_ENOMEM, "%s: %s", what, zmq_strerror(zmq_errno()));
}

static bool
set(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

static aif_err
open_router(aif_broker *b, aif_error *e)
{
    const int64_t max = AIF_FRAME_MAX;
    void *s;

    b->ctx = zmq_ctx_new();
    b->router = b->ctx == NULL ? NULL : zmq_socket(b->ctx, ZMQ_ROUTER);
    s = b->router;
    if (s == NULL || !set(s, ZMQ_LINGER, 0) ||
        !set(s, ZMQ_ROUTER_MANDATORY, 1) || !set(s, ZMQ_SNDHWM, SEND_HWM) ||
        !set(s, ZMQ_RCVHWM, RECV_HWM) ||
        !set(s, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) ||
        zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &max, sizeof max) != 0) {
        return zmq_failed("a ROUTER socket", e);
    }
    return AIF_OK;
}

static aif_err
open_log(aif_broker *b, const char *uri, aif_error *e)
{
    aif_err err = aif_log_open(uri, &b->log, e);

    if (err == AIF_OK) {
        err = aif_log_head(b->log, &b->head, e);
    }
    b->head_sure = err == AIF_OK;
    if (strncmp(uri, "postgres", 8) == 0) {
        b->head_poll_ms = AIF_BROKER_HEAD_POLL_MS;
    } else if (strncmp(uri, "mem:", 4) != 0) {
        b->head_poll_ms = AIF_BROKER_HEAD_POLL_SLOW_MS;
    }
    return err;
}

static void
shut(aif_broker *b)
{
    aif_subs_fini(b);
    aif_turn_fini(&b->turn);
    if (b->router != NULL) {
        (void)zmq_close(b->router);
    }
    if (b->ctx != NULL) {
        (void)zmq_ctx_term(b->ctx);
    }
    aif_endpoint_fini(&b->endpoint);
    aif_log_free(b->log);
    if (b->stop >= 0) {
        (void)close(b->stop);
    }
    aif_buf_fini(&b->out);
    aif_free(b);
}

/* The address first: who lost the race for it must not touch the log. */
aif_err
aif_broker_open(const char *bind, const char *log_uri, aif_broker **out,
                aif_error *e)
{
    aif_broker *b = aif_zalloc(sizeof *b);
    aif_err err = AIF_OK;

    *out = NULL;
    if (b == NULL) {
        return aif_fail(e, AIF_ENOMEM, "a broker at %s", bind);
    }
    aif_guard_init(&b->guard);
    b->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (b->stop < 0) {
        err = zmq_failed("an eventfd", e);
    }
    if (err == AIF_OK) {
        err = open_router(b, e);
    }
    if (err == AIF_OK) {
        err = aif_endpoint_bind(&b->endpoint, b->router, bind, e);
    }
    if (err == AIF_OK) {
        err = open_log(b, log_uri, e);
    }
    if (err != AIF_OK) {
        shut(b);
        return err;
    }
    *out = b;
    return AIF_OK;
}

const char *
aif_broker_uri(const aif_broker *b)
{
    return b->endpoint.uri;
}

static uint64_t
get(_Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void
aif_broker_get_stats(aif_broker *b, aif_broker_stats *out)
{
    *out = (aif_broker_stats){
        .appended = get(&b->stats.appended),
        .pushed = get(&b->stats.pushed),
        .turns = get(&b->stats.turns),
        .rejected = get(&b->stats.rejected),
        .retries = get(&b->stats.retries),
        .subscribers = get(&b->stats.subscribers),
    };
}

void
aif_broker_free(aif_broker *b)
{
    if (b != NULL && !aif_guard_forked(&b->guard)) {
        shut(b);
    }
}
