/* broker/status.c - what people see of a broker: lines for the host's log, and
 * one JSON text with everything that is counted.
 *
 * The broker's thread notes; any other thread reads, and waits for no turn:
 * numbers are atomics, the rest is copied under a lock that is held for
 * microseconds.  Lines are bounded twice: the ring, and so many in a while,
 * so that a peer that does nothing but wrong fills no disk.
 */
#include "broker/in.h"

#include "base/clock.h"
#include "base/hash.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LINES 50        /* in */
#define LINES_MS 10000  /* this time */
#define SUBS_MS 1000    /* between two looks at all subscribers */
#define SLOW_US 1000000 /* a turn that people should hear of */

void
aif_status_init(aif_broker *b, const char *log_uri)
{
    pthread_mutex_init(&b->status.lock, NULL);
    aif_trace_init(&b->status.trace);
    b->opened = aif_now_ms();
    b->status.lines_since = b->opened;
    (void)snprintf(b->log_kind, sizeof b->log_kind, "%.*s",
                   (int)strcspn(log_uri, ":"), log_uri);
}

void
aif_status_fini(aif_broker *b)
{
    aif_trace_fini(&b->status.trace);
    pthread_mutex_destroy(&b->status.lock);
}

static bool
may_say(aif_status *s, int64_t now)
{
    if (now - s->lines_since >= LINES_MS) {
        s->lines_since = now;
        s->lines = 0;
    }
    return s->lines++ < LINES;
}

void
aif_status_say(aif_broker *b, aif_level level, const char *fmt, ...)
{
    char text[AIF_TRACE_TEXT];
    va_list ap;

    if (!may_say(&b->status, aif_now_ms())) {
        aif_count(&b->status.hushed, 1);
        return;
    }
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    aif_trace_say(&b->status.trace, level, "%s", text);
}

static void
note_failure(aif_status *s, const char *what, const char *text)
{
    pthread_mutex_lock(&s->lock);
    if (s->store_what == NULL) {
        s->store_since = aif_now_ms();
        s->store_failures = 0;
    }
    s->store_what = what;
    s->store_failures++;
    (void)snprintf(s->store_text, sizeof s->store_text, "%s", text);
    pthread_mutex_unlock(&s->lock);
}

/* It is mended when what failed last works again. */
void
aif_status_store(aif_broker *b, const char *what, aif_err err,
                 const aif_error *e)
{
    aif_status *s = &b->status;

    if (err != AIF_OK && err != AIF_ESTORE && err != AIF_ECORRUPT) {
        return; /* not the store's fault */
    }
    if (err != AIF_OK) {
        if (s->store_what == NULL) {
            aif_status_say(b, AIF_ERROR,
                           "store failed what=%s sqlstate=%s error=\"%s\"",
                           what, e->sqlstate, e->text);
        }
        note_failure(s, what, e->text);
    } else if (s->store_what == what) {
        aif_status_say(b, AIF_INFO,
                       "store works again after_ms=%lld failures=%llu",
                       (long long)(aif_now_ms() - s->store_since),
                       (unsigned long long)s->store_failures);
        pthread_mutex_lock(&s->lock);
        s->store_what = NULL;
        pthread_mutex_unlock(&s->lock);
    }
}

void
aif_status_refused(aif_broker *b, const aif_route *from, zmq_msg_t *frame,
                   const aif_error *why)
{
    const uint8_t code = (uint8_t)why->code;
    const aif_str key[] = {{(const char *)from->p, from->n},
                           {(const char *)&code, 1}};
    const char *address = zmq_msg_gets(frame, "Peer-Address");

    aif_count(&b->status.refused[why->code], 1);
    if (aif_trace_first(&b->status.trace, aif_hash_strs(key, 2).lo)) {
        aif_status_say(b, AIF_WARNING,
                       "frame refused peer=%s address=%s why=\"%s\" (once; "
                       "further ones are counted)",
                       aif_route_text(b, from).text,
                       address == NULL || *address == '\0' ? "-" : address,
                       why->text);
    }
}

void
aif_status_turn(aif_broker *b, uint64_t since)
{
    uint64_t took = aif_now_us() - since;

    aif_hist_add(&b->status.turn, took);
    if (took > SLOW_US) {
        aif_status_say(b, AIF_WARNING, "slow turn ms=%llu",
                       (unsigned long long)took / 1000);
    }
}

/* --- who is behind ------------------------------------------------------ */

static aif_status_sub
status_sub(const aif_broker *b, const aif_subscriber *s)
{
    return (aif_status_sub){
        .to = s->to,
        .id = s->id,
        .cursor = s->cursor,
        .lag = b->head > s->cursor ? b->head - s->cursor : 0,
        .credit = aif_credit_left(&s->credit),
        .heard = s->heard,
    };
}

/* Into subs[0, n), the greatest lag first; what falls out at the end is lost. */
static size_t
insert(aif_status_sub *subs, size_t n, const aif_status_sub *one)
{
    size_t at = n;

    while (at > 0 && subs[at - 1].lag < one->lag) {
        at--;
    }
    if (at == AIF_STATUS_SUBS) {
        return n;
    }
    n += n < AIF_STATUS_SUBS;
    memmove(subs + at + 1, subs + at, (n - at - 1) * sizeof *subs);
    subs[at] = *one;
    return n;
}

void
aif_status_subs(aif_broker *b, bool must)
{
    aif_status *s = &b->status;
    int64_t now = aif_now_ms();

    if (!must && now - s->subs_at < SUBS_MS) {
        return;
    }
    pthread_mutex_lock(&s->lock);
    s->n_subs = 0;
    s->subs_at = now;
    for (size_t i = 0; i < b->n_subs; i++) {
        aif_status_sub one = status_sub(b, b->subs[i]);

        s->n_subs = insert(s->subs, s->n_subs, &one);
    }
    pthread_mutex_unlock(&s->lock);
}

/* --- as JSON ------------------------------------------------------------ */

typedef struct {
    aif_buf *out;
    aif_err err;
    aif_error *e;
} json;

static void put(json *j, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static void
put(json *j, const char *fmt, ...)
{
    char text[400];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (j->err == AIF_OK) {
        j->err = aif_buf_put(j->out, text, (size_t)n, j->e);
    }
}

/* ASCII only: a path or a message may be in any encoding. */
static void
put_string(json *j, const char *text)
{
    put(j, "\"");
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') {
            put(j, "\\%c", *text);
        } else if (*text >= ' ' && *text < 0x7f) {
            put(j, "%c", *text);
        } else {
            put(j, "?");
        }
    }
    put(j, "\"");
}

static uint64_t
get(_Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static void
put_counters(json *j, aif_status *s)
{
    const struct {
        const char *name;
        _Atomic uint64_t *value;
    } counters[] = {
        {"appended", &s->appended}, {"pushed", &s->pushed},
        {"turns", &s->turns},       {"rejected", &s->rejected},
        {"retries", &s->retries},   {"frames", &s->frames},
        {"bytes_in", &s->bytes_in}, {"bytes_out", &s->bytes_out},
        {"lost", &s->lost},         {"expired", &s->expired},
        {"gone", &s->gone},         {"retention", &s->retention},
        {"denied", &s->denied},     {"strangers", &s->strangers},
        {"endless", &s->endless},   {"hushed", &s->hushed},
    };

    put(j, ", \"counters\": {");
    for (size_t i = 0; i < sizeof counters / sizeof *counters; i++) {
        put(j, "%s\"%s\": %llu", i == 0 ? "" : ", ", counters[i].name,
            (unsigned long long)get(counters[i].value));
    }
    put(j, "}");
}

static void
put_refused(json *j, aif_status *s)
{
    static const char *const names[AIF_ERR_COUNT] = {"OK",
#define X(code, text) #code,
                                                     AIF_ERRORS(X)
#undef X
    };

    put(j, ", \"refused\": {");
    for (int i = 1; i < AIF_ERR_COUNT; i++) {
        put(j, "%s\"%s\": %llu", i == 1 ? "" : ", ", names[i],
            (unsigned long long)get(&s->refused[i]));
    }
    put(j, "}");
}

static void
put_hist(json *j, const char *name, aif_hist *h)
{
    aif_hist_view v;
    int last = AIF_HIST_BUCKETS;

    aif_hist_get(h, &v);
    while (last > 0 && v.buckets[last - 1] == 0) {
        last--;
    }
    put(j, "\"%s\": {\"n\": %llu, \"sum\": %llu", name,
        (unsigned long long)v.n, (unsigned long long)v.sum);
    put(j, ", \"p50\": %llu, \"p90\": %llu, \"p99\": %llu, \"max\": %llu",
        (unsigned long long)aif_hist_percentile(&v, 50),
        (unsigned long long)aif_hist_percentile(&v, 90),
        (unsigned long long)aif_hist_percentile(&v, 99),
        (unsigned long long)v.max);
    put(j, ", \"buckets\": [");
    for (int i = 0; i < last; i++) {
        put(j, "%s%llu", i == 0 ? "" : ", ", (unsigned long long)v.buckets[i]);
    }
    put(j, "]}");
}

static void
put_hists(json *j, aif_status *s)
{
    put(j, ", \"latency_us\": {");
    put_hist(j, "turn", &s->turn);
    put(j, ", ");
    put_hist(j, "append", &s->append);
    put(j, ", ");
    put_hist(j, "answer", &s->answer);
    put(j, ", ");
    put_hist(j, "push", &s->push);
    put(j, "}");
}

static void
put_store(json *j, const aif_status *s, int64_t now)
{
    bool ok = s->store_what == NULL;

    put(j, ", \"store\": {\"ok\": %s", ok ? "true" : "false");
    if (!ok) {
        put(j, ", \"for_ms\": %lld, \"failures\": %llu, \"error\": ",
            (long long)(now - s->store_since),
            (unsigned long long)s->store_failures);
        put_string(j, s->store_text);
    }
    put(j, "}");
}

static void
put_subs(json *j, const aif_broker *b, aif_status *s, int64_t now)
{
    put(j, ", \"subscribers\": %llu, \"flight\": %llu, \"behind\": [",
        (unsigned long long)get(&s->subscribers),
        (unsigned long long)get(&s->flight));
    for (size_t i = 0; i < s->n_subs; i++) {
        const aif_status_sub *one = &s->subs[i];

        put(j, "%s{\"peer\": \"%s\", \"stream\": %llu", i == 0 ? "" : ", ",
            aif_route_text(b, &one->to).text, (unsigned long long)one->id);
        put(j, ", \"cursor\": %llu, \"lag\": %llu, \"credit\": %llu",
            (unsigned long long)one->cursor, (unsigned long long)one->lag,
            (unsigned long long)one->credit);
        put(j, ", \"heard_ms\": %lld}", (long long)(now - one->heard));
    }
    put(j, "]");
}

static void
put_what_it_is(json *j, const aif_broker *b, aif_status *s, int64_t now)
{
    uint64_t since = get(&s->busy_since);

    put(j, "{\"version\": \"" AIF_VERSION "\", \"protocol\": %d, \"pid\": %d",
        AIF_WIRE_VERSION, (int)getpid());
    put(j, ", \"uri\": ");
    put_string(j, b->endpoint.uri);
    put(j, ", \"log\": ");
    put_string(j, b->log_kind);
    put(j, ", \"uptime_ms\": %lld, \"busy_ms\": %llu",
        (long long)(now - b->opened),
        (unsigned long long)(since == 0 ? 0 : (aif_now_us() - since) / 1000));
    put(j, ", \"head\": %llu, \"purged\": %llu",
        (unsigned long long)get(&s->head),
        (unsigned long long)get(&s->purged));
}

aif_err
aif_broker_status(aif_broker *b, aif_buf *out, aif_error *e)
{
    json j = {.out = out, .e = e};
    aif_status *s = &b->status;
    int64_t now = aif_now_ms();

    put_what_it_is(&j, b, s, now);
    put_counters(&j, s);
    put_refused(&j, s);
    put_hists(&j, s);
    pthread_mutex_lock(&s->lock);
    put_store(&j, s, now);
    put_subs(&j, b, s, now);
    pthread_mutex_unlock(&s->lock);
    put(&j, "}");
    return j.err;
}

bool
aif_broker_trace(aif_broker *b, aif_trace_line *out)
{
    return aif_trace_take(&b->status.trace, out);
}

void
aif_broker_get_stats(aif_broker *b, aif_broker_stats *out)
{
    *out = (aif_broker_stats){
        .appended = get(&b->status.appended),
        .pushed = get(&b->status.pushed),
        .turns = get(&b->status.turns),
        .rejected = get(&b->status.rejected),
        .retries = get(&b->status.retries),
        .subscribers = get(&b->status.subscribers),
        .denied = get(&b->status.denied),
        .strangers = get(&b->status.strangers),
        .flight = get(&b->status.flight),
    };
}
