/* sub.c - the happy path: streams are added, each a SUBSCRIBE; frames come for
 * any of them, and each call of next takes those of one.
 *
 * What a stream can lose, it asks for again (sub_stream.c).  A frame that a
 * call cannot take, because it is another stream's or one is just being added,
 * is kept for the next; credit bounds how many there are.  When the broker is
 * gone, every stream subscribes at the next one, from its own cursor.
 */
#include "client/sub_in.h"

#include "base/clock.h"
#include "base/mem.h"
#include "net/port.h"

#include <string.h>

#define END_LINGER_MS 100 /* for UNSUBSCRIBE to leave */
#define TAKE_EVENTS 1000  /* one aif_sub_next takes no more, the last frame */
#define TAKE_BYTES (1u << 20) /* apart */

static int64_t
ms_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static aif_stream *
sub_stream_by_id(const aif_sub *s, uint64_t id)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->streams[i]->id == id) {
            return s->streams[i];
        }
    }
    return NULL;
}

static size_t
sub_stream_place(const aif_sub *s, uint64_t number)
{
    size_t i = 0;

    while (i < s->n && s->streams[i]->number != number) {
        i++;
    }
    return i;
}

/* s->msg is for a later call: the first that will be read again, or the last.
 * No memory: as if it were lost on the way, which its stream will see. */
static void
sub_keep(aif_sub *s, bool first)
{
    aif_kept *k = aif_zalloc(sizeof *k);

    if (k == NULL) {
        return;
    }
    aif_port_msg_init(&k->msg);
    aif_port_msg_move(&k->msg, &s->msg);
    if (first) {
        k->next = s->kept;
        s->kept = k;
        s->kept_end = k->next == NULL ? &k->next : s->kept_end;
    } else {
        *s->kept_end = k;
        s->kept_end = &k->next;
    }
}

/* The first that was kept, into s->msg. */
static bool
sub_take_kept(aif_sub *s)
{
    aif_kept *k = s->kept;

    if (k == NULL) {
        return false;
    }
    aif_port_msg_move(&s->msg, &k->msg);
    s->kept = k->next;
    if (s->kept == NULL) {
        s->kept_end = &s->kept;
    }
    aif_port_msg_fini(&k->msg);
    aif_free(k);
    return true;
}

/* The next frame; while one opens a stream, others keep their place. */
static aif_err
sub_next_frame(aif_sub *s, const aif_taking *t, aif_frame *f, bool *got,
               aif_error *e)
{
    aif_str bytes;

    *got = t->opens == NULL && sub_take_kept(s);
    if (!*got) {
        return aif_dealer_recv(&s->dealer, &s->msg, f, got, e);
    }
    bytes = aif_port_msg_bytes(&s->msg);
    return aif_frame_decode(bytes.p, bytes.n, f, e);
}

static void
sub_on_hint(const aif_frame *f, aif_taking *t)
{
    if (t->hint != NULL) {
        memcpy(t->hint, f->text.p, f->text.n); /* decode checked its length */
        t->hint[f->text.n] = '\0';
    }
    t->hinted = true;
}

/* A frame of a stream that is gone, or of its earlier SUBSCRIBE, is dropped. */
static aif_err
sub_on_frame(aif_sub *s, const aif_frame *f, aif_taking *t, aif_error *e)
{
    aif_stream *st = sub_stream_by_id(s, f->id);
    aif_err err;

    if (st == NULL) {
        return AIF_OK;
    }
    if (t->opens != NULL && st != t->opens) {
        sub_keep(s, false);
        return AIF_OK;
    }
    if (f->kind == AIF_K_HINTED) {
        sub_on_hint(f, t);
        return AIF_OK;
    }
    err = aif_stream_take(s, st, f, aif_port_msg_bytes(&s->msg).n, t, e);
    if (t->full) {
        sub_keep(s, true);
    }
    return err;
}

static bool
taking_is_enough(const aif_taking *t)
{
    if (t->opens != NULL) {
        return t->opens->live;
    }
    return t->full || t->hinted || t->out->n - t->events >= TAKE_EVENTS ||
           t->out->bytes - t->bytes >= TAKE_BYTES;
}

/* Take what is there, but not beyond `enough`; *empty when all was. */
static aif_err
sub_receive(aif_sub *s, aif_taking *t, bool *empty, aif_error *e)
{
    aif_frame f;
    bool got = true;
    aif_err err = AIF_OK;

    while (err == AIF_OK && got && !taking_is_enough(t)) {
        err = sub_next_frame(s, t, &f, &got, e);
        if (err == AIF_OK && got) {
            err = sub_on_frame(s, &f, t, e);
        }
    }
    *empty = !got;
    return err;
}

/* What was taken is not the caller's: as if it had never come. */
static void
sub_put_back(aif_sub *s, const aif_taking *t)
{
    t->out->n = t->events;
    t->out->bytes = t->bytes;
    if (t->of != NULL && t->of->cursor != t->cursor) {
        t->of->cursor = t->cursor;
        aif_stream_begin(s, t->of);
    }
}

/* To the next broker.  Without memory: later, the dealer says when. */
static void
sub_move(aif_sub *s)
{
    aif_error e;

    aif_sub_unwatch(s);
    if (aif_dealer_move(&s->dealer, &e) == AIF_OK &&
        aif_sub_watch(s, &e) != AIF_OK) {
        aif_dealer_disconnect(&s->dealer);
    }
    for (size_t i = 0; i < s->n; i++) {
        s->streams[i]->id = 0; /* nobody to unsubscribe at */
        aif_stream_begin(s, s->streams[i]);
    }
}

/* Do what is due: move, renew leases, subscribe. */
static aif_err
sub_tend(aif_sub *s, aif_error *e)
{
    int64_t now = aif_now_ms();

    if (aif_dealer_gone(&s->dealer, now)) {
        sub_move(s);
    }
    for (size_t i = 0; i < s->n; i++) {
        aif_stream_tend(s, s->streams[i], now);
    }
    if (aif_dealer_denied(&s->dealer, e) == AIF_OK) {
        return AIF_OK;
    }
    aif_sub_unwatch(s); /* until the dealer says that it is time again */
    aif_dealer_disconnect(&s->dealer);
    s->dealer.denied = 0;
    return e->code;
}

static bool
taking_is_satisfied(const aif_taking *t)
{
    return t->opens != NULL ? t->opens->live
                            : t->out->n > t->events || t->hinted;
}

/* Collect until there is something, or the broker has answered who opens a
 * stream, or the time is over. */
static aif_err
sub_collect(aif_sub *s, aif_taking *t, int64_t end, aif_error *e)
{
    bool empty;
    aif_err err;

    for (;;) {
        err = sub_receive(s, t, &empty, e);
        if (err == AIF_OK && empty) {
            err = sub_tend(s, e);
        }
        if (err != AIF_OK) {
            sub_put_back(s, t);
            return err;
        }
        if (taking_is_satisfied(t) || aif_now_ms() >= end) {
            return AIF_OK;
        }
        if (!aif_dealer_wait(&s->dealer,
                             ms_min(end, aif_sub_due(s)) - aif_now_ms()) &&
            t->opens == NULL) {
            return AIF_OK; /* a signal: the caller will want to know */
        }
    }
}

/* --- the table of streams */

static aif_err
sub_put_stream(aif_sub *s, aif_stream *st, aif_error *e)
{
    size_t cap = s->cap == 0 ? 8 : 2 * s->cap;
    aif_stream **streams = s->streams;

    if (s->n == s->cap) {
        streams = aif_realloc(NULL, cap * sizeof(aif_stream *));
        if (streams == NULL) {
            return aif_fail(e, AIF_ENOMEM, "%zu streams", cap);
        }
    }
    (void)pthread_mutex_lock(&s->table);
    if (streams != s->streams) {
        if (s->n > 0) {
            memcpy(streams, s->streams, s->n * sizeof(aif_stream *));
        }
        aif_free(s->streams);
        s->streams = streams;
        s->cap = cap;
    }
    st->number = ++s->last;
    s->streams[s->n++] = st;
    (void)pthread_mutex_unlock(&s->table);
    return AIF_OK;
}

static void
sub_drop_stream(aif_sub *s, uint64_t number)
{
    size_t i = sub_stream_place(s, number);
    aif_stream *st;

    if (i == s->n) {
        return;
    }
    st = s->streams[i];
    (void)pthread_mutex_lock(&s->table);
    s->streams[i] = s->streams[--s->n];
    (void)pthread_mutex_unlock(&s->table);
    aif_stream_end(s, st);
    aif_stream_free(st);
}

/* Subscribe and wait for the answer. */
static aif_err
sub_open_stream(aif_sub *s, aif_stream *st, int64_t end, aif_error *e)
{
    aif_batch none = {0};
    aif_taking t = {.out = &none, .opens = st};
    aif_err err;

    aif_stream_begin(s, st);
    err = sub_collect(s, &t, end, e);
    if (err == AIF_OK && !st->live) {
        err =
            aif_fail(e, AIF_ETIMEOUT, "no answer to SUBSCRIBE from %s in time",
                     s->dealer.uris.names);
    }
    return err;
}

aif_err
aif_sub_add(aif_sub *s, const aif_pattern *p, size_t n, aif_place after,
            int timeout_ms, uint64_t *stream, aif_error *e)
{
    int64_t end = aif_now_ms() + timeout_ms;
    aif_stream *st;
    aif_err err = aif_guard_enter(&s->guard, e);

    *stream = 0;
    if (err != AIF_OK) {
        return err;
    }
    err = aif_stream_new(p, n, after, &st, e);
    if (err == AIF_OK) {
        err = sub_put_stream(s, st, e);
        if (err != AIF_OK) {
            aif_stream_free(st);
        }
    }
    if (err == AIF_OK) {
        *stream = st->number;
        err = sub_open_stream(s, st, end, e);
    }
    if (err != AIF_OK) {
        sub_drop_stream(s, *stream);
        *stream = 0;
    }
    aif_sub_arm(s);
    aif_guard_leave(&s->guard);
    return err;
}

aif_err
aif_sub_remove(aif_sub *s, uint64_t stream, aif_error *e)
{
    aif_err err = aif_guard_enter(&s->guard, e);

    if (err == AIF_OK) {
        sub_drop_stream(s, stream);
        aif_guard_leave(&s->guard);
    }
    return err;
}

/* --- the handle */

static void
sub_shut(aif_sub *s)
{
    while (s->n > 0) { /* else the broker would wait for its lease to end */
        aif_stream_end(s, s->streams[--s->n]);
        aif_stream_free(s->streams[s->n]);
    }
    aif_free(s->streams);
    while (sub_take_kept(s)) {
    }
    aif_port_msg_fini(&s->msg);
    aif_dealer_fini(&s->dealer, s->dealer.up ? END_LINGER_MS : 0);
    aif_buf_fini(&s->out);
    aif_sub_close_fds(s);
    (void)pthread_mutex_destroy(&s->table);
    aif_free(s);
}

aif_err
aif_sub_open(const char *uris, const aif_curve *curve, bool hints,
             aif_sub **out, aif_error *e)
{
    aif_sub *s = aif_zalloc(sizeof *s);
    aif_err err;

    *out = NULL;
    if (s == NULL) {
        return aif_fail(e, AIF_ENOMEM, "a subscription to %s", uris);
    }
    aif_guard_init(&s->guard);
    (void)pthread_mutex_init(&s->table, NULL);
    aif_port_msg_init(&s->msg);
    s->kept_end = &s->kept;
    s->epoll = s->timer = -1;
    s->hints = hints;
    err = aif_dealer_init(&s->dealer, uris, curve, e);
    if (err == AIF_OK) {
        err = aif_port_room(AIF_PORT_CLIENT + 2, e);
    }
    if (err == AIF_OK) {
        err = aif_sub_open_fds(s, e);
    }
    if (err == AIF_OK) {
        err = aif_dealer_connect(&s->dealer, e);
    }
    if (err == AIF_OK) {
        err = aif_sub_watch(s, e);
    }
    if (err != AIF_OK) {
        sub_shut(s);
        return err;
    }
    *out = s;
    return AIF_OK;
}

void
aif_sub_free(aif_sub *s)
{
    if (s != NULL && !aif_guard_forked(&s->guard)) {
        sub_shut(s);
    }
}

aif_err
aif_sub_next(aif_sub *s, int timeout_ms, aif_batch *out, uint64_t *stream,
             char *hint, bool *hinted, aif_error *e)
{
    aif_taking t = {
        .out = out, .events = out->n, .bytes = out->bytes, .hint = hint};
    uint64_t unwanted;
    aif_err err = aif_guard_enter(&s->guard, e);

    stream = stream == NULL ? &unwanted : stream;
    *stream = 0;
    *hinted = false;
    if (hint != NULL) {
        hint[0] = '\0';
    }
    if (err != AIF_OK) {
        return err;
    }
    err = sub_collect(s, &t, aif_now_ms() + timeout_ms, e);
    *hinted = err == AIF_OK && t.hinted;
    if (err == AIF_OK && t.of != NULL) {
        *stream = t.of->number;
    } else if (t.ended != 0) {
        *stream = t.ended;
        sub_drop_stream(s, t.ended);
    }
    aif_sub_arm(s);
    aif_guard_leave(&s->guard);
    return err;
}

aif_err
aif_sub_cursor(aif_sub *s, uint64_t stream, aif_place *cursor, aif_error *e)
{
    size_t i;
    aif_err err = AIF_OK;

    *cursor = (aif_place){0};
    if (aif_guard_forked(&s->guard)) {
        return aif_fail(e, AIF_EFORKED, "opened in another process");
    }
    (void)pthread_mutex_lock(&s->table);
    i = sub_stream_place(s, stream);
    if (i < s->n) {
        *cursor = (aif_place){s->streams[i]->cursor, s->streams[i]->log_id};
    } else {
        err = aif_fail(e, AIF_EINVAL, "there is no stream %llu",
                       (unsigned long long)stream);
    }
    (void)pthread_mutex_unlock(&s->table);
    return err;
}

int
aif_sub_fd(aif_sub *s)
{
    return s->epoll;
}
