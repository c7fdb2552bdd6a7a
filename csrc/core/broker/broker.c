/* broker.c - one thread, one turn after the other:
 *
 *   wait   until there is a frame, a stop, or something is due
 *   drain  what is ready, within bounds; questions are answered at once
 *          (ask.c), subscribers are noted (subs.c), publishes are collected
 *   commit all publishes in one append; then answer each; then push (turn.c,
 *          push.c)
 *   tend   subscribers that are behind (catch.c), leases, and appends of other
 *          processes (head.c); once a second the socket's file (listen.c)
 *
 * A frame that the protocol does not allow is counted and refused.  A failure
 * of the store is told to the client whose request failed.  A peer that does
 * not read loses answers, and costs the broker no time.  aif_broker_run ends
 * only by aif_broker_stop, when zmq itself fails, or when its address cannot be
 * served any more.
 */
#include "broker/broker.h"

#include "base/clock.h"
#include "base/mem.h"
#include "broker/cursors.h"
#include "broker/whole.h"
#include "net/port.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A turn takes no more frames, and no more events, than EVENTS.  It ends with
 * the frame with which it has BYTES. */
#define TURN_EVENTS AIF_BATCH_MAX
#define TURN_BYTES (8u << 20)
#define LOOK_MS 1000 /* for a socket's file that somebody deleted */

enum { ROUTER, STOP, GATE, NEWS, ITEMS }; /* waited for; then ZAP's socket */

/* --- what a frame asks for ---------------------------------------------- */

static aif_err
broker_answer_status(aif_broker *b, const aif_route *from, const aif_frame *f,
                     aif_error *e)
{
    aif_frame answer = {.kind = AIF_K_STATUSED, .id = f->id};
    aif_buf text = {0};
    aif_err err;

    aif_subs_show(&b->subs, true);
    err = aif_broker_status(b, &text, e);
    if (err == AIF_OK) {
        answer.text = (aif_str){(const char *)text.p, text.n};
        aif_out_answer(&b->out, from, &answer);
    }
    aif_buf_fini(&text);
    return err;
}

/* *cost: how many events the frame weighs in this turn, without those that it
 * publishes. */
static aif_err
broker_dispatch(aif_broker *b, aif_message *m, const aif_frame *f,
                size_t *cost, aif_error *e)
{
    switch (f->kind) {
    case AIF_K_PUBLISH:
        return aif_turn_add(&b->turn, m, f, e);
    case AIF_K_LIST:
    case AIF_K_COUNT:
    case AIF_K_HEAD:
    case AIF_K_SENDERS:
    case AIF_K_AT:
    case AIF_K_LAST:
    case AIF_K_SEQUENCE:
        return aif_ask_answer(&b->ask, &m->from, f, cost, e);
    case AIF_K_TAKE:
    case AIF_K_MOVE:
    case AIF_K_FORGET:
    case AIF_K_CURSORS:
        *cost = AIF_READ_COST;
        return aif_cursors_answer(&b->ask, &m->from, f, e);
    case AIF_K_STATUS:
        *cost = AIF_LOOK_COST;
        return broker_answer_status(b, &m->from, f, e);
    case AIF_K_SUBSCRIBE:
        *cost = AIF_LOOK_COST;
        return aif_subs_add(&b->subs, &m->from, f, e);
    case AIF_K_UNSUBSCRIBE:
        aif_subs_remove(&b->subs, &m->from, f->id);
        return AIF_OK;
    case AIF_K_CREDIT:
        return aif_subs_credit(&b->subs, &m->from, f, e);
    case AIF_K_HINT:
        aif_subs_hint(&b->subs, f->text);
        return AIF_OK;
    case AIF_K_PING:
        aif_out_answer(&b->out, &m->from,
                       &(aif_frame){.kind = AIF_K_PONG, .id = f->id});
        return AIF_OK;
    default:
        return aif_fail(e, AIF_EPROTO, "%s is an answer, not a request",
                        aif_kind_name(f->kind));
    }
}

static void
broker_handle(aif_broker *b, aif_message *m, size_t *cost)
{
    aif_reader bytes = aif_message_bytes(m);
    aif_frame f;
    aif_error e = {.sqlstate = ""};
    aif_err err = aif_frame_decode(bytes.p, bytes.n, &f, &e);

    if (aif_gate_take(&b->gate)) {
        aif_subs_recheck(&b->subs);
    }
    if (err == AIF_OK) {
        err = aif_gate_check(&b->gate, m, &f, &e);
    }
    if (err == AIF_OK) {
        err = broker_dispatch(b, m, &f, cost, &e);
    }
    if (err == AIF_EPROTO) {
        aif_status_count(&b->status, AIF_N_REJECTED, 1);
    } else if (err == AIF_EDENIED) {
        aif_status_count(&b->status, AIF_N_DENIED, 1);
    }
    if (err != AIF_OK) {
        aif_status_refused(&b->status, m, &e);
    }
    if (err != AIF_OK && f.kind != AIF_K_HINT) { /* a HINT has no answer */
        aif_out_refuse(&b->out, &m->from, f.id, &e);
    }
}

/* --- a turn ------------------------------------------------------------- */

/* False when no message is ready. */
static bool
broker_drain_one(aif_broker *b, size_t *events, size_t *bytes)
{
    size_t before = b->turn.n;
    size_t cost = 0;
    aif_message m;
    bool got;

    aif_message_init(&m);
    got = aif_message_recv(&m, b->out.router);
    if (got) {
        aif_seats_took(&b->seats, &m);
    }
    if (got && m.ours) {
        size_t n = aif_message_bytes(&m).n;

        *bytes += n;
        aif_status_count(&b->status, AIF_N_FRAMES, 1);
        aif_status_count(&b->status, AIF_N_BYTES_IN, n);
        broker_handle(b, &m, &cost);
        *events += b->turn.n - before + cost;
    } else if (got) {
        aif_error e;

        (void)aif_fail(&e, AIF_EPROTO, "not a routing id and one frame");
        aif_status_count(&b->status, AIF_N_REJECTED, 1);
        aif_status_refused(&b->status, &m, &e);
    }
    aif_message_close(&m);
    return got;
}

/* True when nothing was left. */
static bool
broker_drain(aif_broker *b)
{
    size_t frames = 0;
    size_t events = 0;
    size_t bytes = 0;
    bool got = true;

    while (got && frames++ < TURN_EVENTS && events < TURN_EVENTS &&
           bytes < TURN_BYTES) {
        got = broker_drain_one(b, &events, &bytes);
    }
    return !got;
}

static void
broker_turn(aif_broker *b)
{
    int64_t now;
    bool dry;

    aif_status_turn_begins(&b->status);
    aif_subs_begin(&b->subs, aif_now_ms());
    if (aif_gate_tend(&b->gate)) {
        aif_subs_recheck(&b->subs);
    }
    aif_gate_let_in(&b->gate, &b->seats);
    dry = broker_drain(b);
    aif_seats_tend(&b->seats); /* after it: whoever left had its last words */
    aif_parts_look(&b->seats, dry);
    aif_turn_commit(&b->turn);
    now = aif_now_ms();
    if (b->subs.n > 0) {
        aif_head_poll(&b->head, now);
    }
    aif_subs_catch_up(&b->subs, now);
    aif_subs_expire(&b->subs, now);
    aif_subs_show(&b->subs, false);
    aif_status_turn_ends(&b->status);
}

/* --- its life ----------------------------------------------------------- */

/* For how many ms nothing is due; -1: for ever. */
static long
broker_idle_ms(const aif_broker *b)
{
    int64_t now = aif_now_ms();
    int64_t due = aif_subs_due(&b->subs, now);
    int64_t look = b->subs.n > 0 ? aif_head_due(&b->head) : INT64_MAX;

    if (b->seats.news) {
        return 0;
    }
    due = look < due ? look : due;
    due = b->look < due ? b->look : due;
    if (due == INT64_MAX) {
        return -1;
    }
    return due > now ? (long)(due - now) : 0;
}

/* Who cleans up a folder of temporary files takes the socket's file too, and
 * then nobody could connect any more.  Over tcp there is none. */
static aif_err
broker_look(aif_broker *b, aif_error *e)
{
    bool again;
    aif_err err;

    if (aif_now_ms() < b->look) {
        return AIF_OK;
    }
    err = aif_listen_keep(&b->listen, b->out.router, &again, e);
    b->look = b->listen.lock != NULL ? aif_now_ms() + LOOK_MS : INT64_MAX;
    if (err == AIF_EINVAL || err == AIF_ECONFLICT) {
        return err;
    }
    if (err != AIF_OK && !b->look_failed) {
        aif_status_say(&b->status, AIF_ERROR,
                       "the socket's file cannot be made again yet: %s",
                       e->text);
    }
    b->look_failed = err != AIF_OK;
    if (again) {
        b->seats.shielded = false; /* what was put aside is gone, too */
        aif_status_say(&b->status, AIF_WARNING,
                       "the socket's file was deleted, it is made again: %s",
                       b->listen.uri);
    }
    return AIF_OK;
}

static aif_err
broker_serve(aif_broker *b, aif_error *e)
{
    aif_port_item items[ITEMS + 1] = {
        [ROUTER] = {.socket = b->out.router},
        [STOP] = {.fd = b->stop},
        [GATE] = {.fd = b->gate.wake},
        [NEWS] = {.fd = aif_port_fd(b->seats.monitor)},
        [ITEMS] = {.socket = b->gate.zap},
    };
    size_t n = b->gate.zap != NULL ? ITEMS + 1 : ITEMS;

    for (;;) {
        long due;
        long tick;
        int ready;
        aif_err err = broker_look(b, e);

        if (err != AIF_OK) {
            return err;
        }
        due = broker_idle_ms(b);
        tick = aif_parts_wait(&b->seats, due);
        err = aif_port_poll(items, n, tick, &ready, e);
        if (err != AIF_OK) {
            return err;
        }
        if (items[STOP].ready) {
            return AIF_OK;
        }
        aif_seats_begin(&b->seats, items[NEWS].ready || ready < 0);
        if (ready == 0 && tick != due) {
            aif_parts_look(&b->seats, true);
        } else {
            broker_turn(b);
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
    err = broker_serve(b, e);
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

/* The sockets, bound.  The gate, because libzmq lets everybody in while nobody
 * asks it, and the seats, which are to hear of every connection, come before
 * the bind.
 *
 * The context is the broker's own.  libzmq asks one ZAP server a context who
 * is let in, so two brokers with keys could not share one.  Nor would it
 * always be faster.  With 300 subscriptions in the broker's process, of which
 * 30 get each event, 3,000 publishes take 3.5 to 4.2 s, and 4.2 to 5.9 s in a
 * shared context; where none gets it 1.8 to 2.3 s, and 0.5 to 1.5 s. */
static aif_err
broker_bind(aif_broker *b, const aif_broker_options *o, aif_error *e)
{
    const char *secret = aif_address_is_tcp(o->bind) ? o->secret : NULL;
    aif_err err = aif_port_new(&b->ctx, e);
    void *router;

    if (err == AIF_OK) {
        err = aif_out_open(&b->out, b->ctx, &b->status, e);
    }
    router = b->out.router;
    if (err == AIF_OK) {
        err = aif_gate_open(&b->gate, b->ctx, router, secret, e);
    }
    if (err == AIF_OK) {
        err = aif_seats_open(&b->seats, b->ctx, router, e);
    }
    if (err == AIF_OK) {
        err = aif_listen_bind(&b->listen, router, o->bind,
                              o->insecure || b->gate.zap != NULL, e);
    }
    return err;
}

/* The log, and those that work with it. */
static aif_err
broker_compose(aif_broker *b, const char *log, aif_error *e)
{
    aif_err err = aif_head_open(&b->head, log, &b->status, e);

    if (err == AIF_OK) {
        err = aif_subs_init(&b->subs, &b->out, &b->head, &b->gate, &b->status,
                            e);
    }
    aif_turn_init(&b->turn, &b->gate, &b->head, &b->out, &b->subs, &b->status);
    aif_ask_init(&b->ask, &b->head, &b->out);
    return err;
}

static void
broker_shut(aif_broker *b)
{
    aif_subs_fini(&b->subs);
    aif_turn_fini(&b->turn);
    aif_out_close(&b->out);
    aif_gate_close(&b->gate);
    aif_seats_close(&b->seats);
    if (b->ctx != NULL) {
        aif_port_end(b->ctx);
    }
    aif_listen_fini(&b->listen);
    aif_head_close(&b->head);
    if (b->stop >= 0) {
        (void)close(b->stop);
    }
    aif_status_fini(&b->status);
    aif_free(b);
}

/* The address is bound before the log is opened: a broker that did not get the
 * address must not touch the log of the one that did. */
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
    aif_gate_init(&b->gate);
    aif_seats_init(&b->seats, &b->listen, aif_address_is_tcp(o->bind),
                   &b->status);
    b->stop = -1;
    err = aif_status_init(&b->status, o->log, e);
    if (err == AIF_OK) {
        err = aif_port_room(AIF_PORT_BROKER, e);
    }
    if (err == AIF_OK) {
        b->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        err = b->stop < 0 ? aif_port_failed("an eventfd", e) : AIF_OK;
    }
    if (err == AIF_OK) {
        err = broker_bind(b, o, e);
    }
    if (err == AIF_OK) {
        err = broker_compose(b, o->log, e);
    }
    if (err != AIF_OK) {
        broker_shut(b);
        return err;
    }
    *out = b;
    return AIF_OK;
}

void
aif_broker_free(aif_broker *b)
{
    if (b != NULL && !aif_guard_forked(&b->guard)) {
        broker_shut(b);
    }
}

/* --- what other threads ask --------------------------------------------- */

const char *
aif_broker_uri(const aif_broker *b)
{
    return b->listen.uri;
}

void
aif_broker_set_access(aif_broker *b, aif_access *access)
{
    if (aif_guard_forked(&b->guard)) {
        aif_access_free(access);
    } else {
        aif_gate_set(&b->gate, access);
    }
}

void
aif_broker_get_stats(aif_broker *b, aif_broker_stats *out)
{
    const aif_status *s = &b->status;

    *out = (aif_broker_stats){
        .appended = aif_status_get(s, AIF_N_APPENDED),
        .pushed = aif_status_get(s, AIF_N_PUSHED),
        .turns = aif_status_get(s, AIF_N_TURNS),
        .rejected = aif_status_get(s, AIF_N_REJECTED),
        .retries = aif_status_get(s, AIF_N_RETRIES),
        .subscribers = aif_status_get(s, AIF_N_SUBSCRIBERS),
        .denied = aif_status_get(s, AIF_N_DENIED),
        .strangers = aif_status_get(s, AIF_N_STRANGERS),
        .flight = aif_status_get(s, AIF_N_FLIGHT),
    };
}

aif_err
aif_broker_status(aif_broker *b, aif_buf *out, aif_error *e)
{
    return aif_status_json(&b->status, b->listen.uri, out, e);
}

bool
aif_broker_trace(aif_broker *b, aif_trace_line *out)
{
    return aif_status_line(&b->status, out);
}
