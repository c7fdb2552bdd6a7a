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
#include "broker/in.h"

#include "base/clock.h"
#include "base/mem.h"
#include "net/port.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* In frames, for each peer.  Credit bounds what a subscriber is sent, the
 * time a client waits for an answer what it asks; these bound the rest. */
#define SEND_HWM 256
#define RECV_HWM 64
#define HANDSHAKE_MS 2000  /* a connection that says nothing is closed */
#define HEARTBEAT_MS 10000 /* and one whose peer hangs, with what waits for */
#define HEARTBEAT_TIMEOUT_MS 30000 /* it; libzmq's own thread answers them */

aif_sent
aif_broker_send(aif_broker *b, const aif_route *to)
{
    aif_sent how = AIF_SENT;
    zmq_msg_t frame;

    if (zmq_msg_init_size(&frame, b->out.n) != 0) {
        return AIF_FULL; /* before its route: else the next would follow it */
    }
    memcpy(zmq_msg_data(&frame), b->out.p, b->out.n);
    if (zmq_send(b->router, to->p, to->n, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) {
        how = zmq_errno() == EHOSTUNREACH ? AIF_GONE : AIF_FULL;
    } else if (zmq_msg_send(&frame, b->router, ZMQ_DONTWAIT) < 0) {
        how = AIF_FULL; /* never: the route found room */
    }
    if (how == AIF_SENT) {
        aif_count(&b->stats.bytes_out, b->out.n);
    } else {
        (void)zmq_msg_close(&frame);
    }
    return how;
}

void
aif_broker_answer(aif_broker *b, const aif_route *to, const aif_frame *f)
{
    aif_error e;

    if (aif_frame_encode(f, &b->out, &e) == AIF_OK &&
        aif_broker_send(b, to) != AIF_SENT) {
        aif_count(&b->stats.lost, 1);
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

static aif_err
do_status(aif_broker *b, const aif_route *from, const aif_frame *f,
          aif_error *e)
{
    aif_frame answer = {.kind = AIF_K_STATUSED, .id = f->id};
    aif_buf text = {0};
    aif_err err;

    aif_seen_subs(b, true);
    err = aif_broker_status(b, &text, e);
    if (err == AIF_OK) {
        answer.text = (aif_str){(const char *)text.p, text.n};
        aif_broker_answer(b, from, &answer);
    }
    aif_buf_fini(&text);
    return err;
}

/* What a frame asks for.  *cost: how many events it weighs in this turn. */
static aif_err
dispatch(aif_broker *b, const aif_route *from, const aif_frame *f,
         zmq_msg_t *frame, size_t *cost, aif_error *e)
{
    switch (f->kind) {
    case AIF_K_PUBLISH:
        return aif_turn_add(&b->turn, &b->gate, from, f, frame, e);
    case AIF_K_LIST:
    case AIF_K_COUNT:
    case AIF_K_HEAD:
    case AIF_K_SENDERS:
    case AIF_K_AT:
    case AIF_K_LAST:
    case AIF_K_SEQUENCE:
        return aif_broker_ask(b, from, f, cost, e);
    case AIF_K_STATUS:
        *cost = AIF_LOOK_COST;
        return do_status(b, from, f, e);
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
        err = aif_gate_check(b, from, frame, &f, &e);
    }
    if (err == AIF_OK) {
        err = dispatch(b, from, &f, frame, cost, &e);
    }
    if (err == AIF_EPROTO) {
        aif_count(&b->stats.rejected, 1);
    } else if (err == AIF_EDENIED) {
        aif_count(&b->stats.denied, 1);
    }
    if (err != AIF_OK) {
        aif_seen_refused(b, from, frame, &e);
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
    if (got) {
        aif_door_took(b, &frame, ours);
    }
    if (got && ours) {
        *bytes += zmq_msg_size(&frame);
        aif_count(&b->stats.frames, 1);
        aif_count(&b->stats.bytes_in, zmq_msg_size(&frame));
        handle(b, &from, &frame, &cost);
        *events += b->turn.n - before + cost;
    } else if (got) {
        aif_error e;

        (void)aif_fail(&e, AIF_EPROTO, "not a routing id and one frame");
        aif_count(&b->stats.rejected, 1);
        aif_seen_refused(b, &from, &frame, &e);
    }
    (void)zmq_msg_close(&frame);
    return got;
}

/* True when nothing was left. */
static bool
drain(aif_broker *b)
{
    size_t frames = 0;
    size_t events = 0;
    size_t bytes = 0;
    bool got = true;

    while (got && frames++ < AIF_TURN_EVENTS && events < AIF_TURN_EVENTS &&
           bytes < AIF_TURN_BYTES) {
        got = drain_one(b, &events, &bytes);
    }
    return !got;
}

void
aif_broker_moved(aif_broker *b, const aif_head *head)
{
    if (head->purged > b->purged) {
        b->purged = head->purged;
        atomic_store(&b->stats.purged, b->purged);
    }
    if (head->offset > b->head) {
        b->head = head->offset;
        b->poll_now_ms = b->poll_least_ms;
        b->keen = b->now + AIF_BROKER_KEEN_MS;
        atomic_store(&b->stats.head, b->head);
    }
}

/* Did another process append?  Who has just appended will soon again. */
static void
poll_head(aif_broker *b, int64_t now)
{
    aif_error e;
    aif_head head;
    aif_err err;

    if (b->poll_ms == 0 || b->n_subs == 0 || now < b->head_due) {
        return;
    }
    if (now >= b->keen) {
        b->poll_now_ms =
            2 * b->poll_now_ms < b->poll_ms ? 2 * b->poll_now_ms : b->poll_ms;
    }
    err = aif_broker_look(b, &head, &e);
    aif_seen_store(b, "head", err, &e);
    b->head_due =
        now + (err == AIF_OK ? b->poll_now_ms : AIF_BROKER_STORE_RETRY_MS);
}

static void
turn(aif_broker *b)
{
    uint64_t since = aif_now_us();
    int64_t now;
    bool dry;

    atomic_store(&b->stats.busy_since, since);
    aif_gate_tend(b);
    b->now = aif_now_ms();
    dry = drain(b);
    aif_door_tend(b); /* after it: the last words of who left were heard */
    aif_parts_look(b, dry);
    aif_turn_commit(b);
    now = aif_now_ms();
    poll_head(b, now);
    aif_subs_catch_up(b, now);
    aif_subs_expire(b, now);
    aif_seen_subs(b, false);
    aif_seen_turn(b, since);
    atomic_store(&b->stats.busy_since, 0);
}

static long
wait_ms(const aif_broker *b)
{
    int64_t now = aif_now_ms();
    int64_t due = aif_subs_due(b, now);

    if (b->poll_ms > 0 && b->n_subs > 0 && b->head_due < due) {
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
    zmq_pollitem_t items[2 + AIF_GATE_ITEMS] = {
        {.socket = b->router, .events = ZMQ_POLLIN},
        {.fd = b->stop, .events = ZMQ_POLLIN}};
    int n = 2 + (int)aif_gate_items(b, items + 2);

    for (;;) {
        long due = wait_ms(b);
        long tick = aif_parts_wait(b, due);
        int ready = zmq_poll(items, n, tick);

        if (ready < 0 && zmq_errno() != EINTR) {
            return aif_fail(e, AIF_ECLOSED, "waiting for frames: %s",
                            zmq_strerror(zmq_errno()));
        }
        if (items[1].revents != 0) {
            return AIF_OK;
        }
        if (ready == 0 && tick != due) {
            aif_parts_look(b, true);
        } else {
            turn(b);
        }
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

/* The context is its own: libzmq asks one ZAP server of each context who is
 * let in, so two brokers with keys could not share one.  Nor would it always
 * be faster.  With 300 subscriptions in the broker's process, of which 30 get
 * each event, 3,000 publishes take 3.5 to 4.2 s, and 4.2 to 5.9 s in a shared
 * context; where none gets it 1.8 to 2.3 s, and 0.5 to 1.5 s. */
static aif_err
open_router(aif_broker *b, aif_error *e)
{
    const int64_t max = AIF_FRAME_MAX;
    aif_err err = aif_port_new(&b->ctx, e);
    void *s;

    if (err != AIF_OK) {
        return err;
    }
    s = b->router = aif_route_socket(b);
    if (s == NULL || !aif_port_set(s, ZMQ_LINGER, 0) ||
        !aif_port_set(s, ZMQ_ROUTER_MANDATORY, 1) ||
        !aif_port_set(s, ZMQ_SNDHWM, SEND_HWM) ||
        !aif_port_set(s, ZMQ_RCVHWM, RECV_HWM) ||
        !aif_port_set(s, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) ||
        !aif_port_set(s, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS) ||
        !aif_port_set(s, ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS) ||
        zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &max, sizeof max) != 0) {
        return aif_port_failed("a ROUTER socket", e);
    }
    return AIF_OK;
}

static aif_err
open_log(aif_broker *b, const char *uri, aif_error *e)
{
    aif_head head = {0};
    aif_err err = aif_log_open(uri, &b->log, e);

    if (err == AIF_OK) {
        err = aif_log_head(b->log, &head, e);
    }
    aif_broker_moved(b, &head);
    if (strncmp(uri, "sqlite:", 7) == 0) {
        b->poll_ms = AIF_BROKER_POLL_FILE_MS;
        b->poll_least_ms = AIF_BROKER_POLL_FILE_LEAST_MS;
    } else if (strncmp(uri, "mem:", 4) != 0) {
        b->poll_ms = AIF_BROKER_POLL_MS;
        b->poll_least_ms = AIF_BROKER_POLL_LEAST_MS;
    }
    b->poll_now_ms = b->poll_ms;
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
    aif_gate_close(b);
    if (b->ctx != NULL) {
        aif_port_end(b->ctx);
    }
    aif_listen_fini(&b->endpoint);
    aif_log_free(b->log);
    if (b->stop >= 0) {
        (void)close(b->stop);
    }
    aif_buf_fini(&b->out);
    aif_seen_fini(b);
    aif_free(b);
}

/* The address first: who lost the race for it must not touch the log. */
aif_err
aif_broker_open(const aif_broker_options *o, aif_broker **out, aif_error *e)
{
    aif_broker *b = aif_zalloc(sizeof *b);
    aif_err err;

    *out = NULL;
    if (b == NULL) {
        return aif_fail(e, AIF_ENOMEM, "a broker at %s", o->bind);
    }
    aif_guard_init(&b->guard);
    aif_gate_init(b);
    aif_seen_init(b, o->log);
    b->stop = -1;
    err = aif_port_room(AIF_PORT_BROKER, e);
    if (err == AIF_OK) {
        b->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        err = b->stop < 0 ? aif_port_failed("an eventfd", e) : err;
    }
    if (err == AIF_OK) {
        err = aif_match_new(&b->index, e);
    }
    if (err == AIF_OK) {
        err = open_router(b, e);
    }
    if (err == AIF_OK) {
        err = aif_gate_open(b, o->bind, o->secret, e);
    }
    if (err == AIF_OK) {
        err = aif_listen_bind(&b->endpoint, b->router, o->bind,
                              o->insecure || b->gate.zap != NULL, e);
    }
    if (err == AIF_OK) {
        err = open_log(b, o->log, e);
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

void
aif_broker_free(aif_broker *b)
{
    if (b != NULL && !aif_guard_forked(&b->guard)) {
        shut(b);
    }
}
