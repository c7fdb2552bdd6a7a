/* status.c - notes what a broker does, and shows it.
 *
 * The happy path: the broker's thread adds to numbers and says lines; another
 * thread takes the lines, and asks for the JSON text.
 *
 * Lines are bounded twice, so that a peer that only sends what is wrong fills
 * no disk: the ring of base/trace.h has room for 128, and 50 may be said in 10
 * seconds.  It fails only where there is no memory for the text.
 */
#include "broker/status.h"

#include "base/clock.h"
#include "base/hash.h"
#include "net/wire.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define VERSION "0.1.0" /* pyproject.toml's */
#define LINES 50        /* may be said in */
#define LINES_MS 10000  /* this time */
#define SLOW_US 1000000 /* people should hear of a turn that took longer */

aif_err
aif_status_init(aif_status *s, const char *log_uri, aif_error *e)
{
    pthread_mutex_init(&s->lock, NULL);
    aif_trace_init(&s->trace);
    s->opened = aif_now_ms();
    s->lines_since = s->opened;
    (void)snprintf(s->log_kind, sizeof s->log_kind, "%.*s",
                   (int)strcspn(log_uri, ":"), log_uri);
    return aif_route_names_init(&s->names)
               ? AIF_OK
               : aif_fail(e, AIF_ENOMEM, "random names: %s", strerror(errno));
}

void
aif_status_fini(aif_status *s)
{
    aif_trace_fini(&s->trace);
    pthread_mutex_destroy(&s->lock);
}

/* --- numbers ------------------------------------------------------------ */

void
aif_status_count(aif_status *s, aif_number what, uint64_t n)
{
    atomic_fetch_add_explicit(&s->numbers[what], n, memory_order_relaxed);
}

void
aif_status_set(aif_status *s, aif_number what, uint64_t value)
{
    atomic_store(&s->numbers[what], value);
}

uint64_t
aif_status_get(const aif_status *s, aif_number what)
{
    return atomic_load_explicit(&s->numbers[what], memory_order_relaxed);
}

void
aif_status_took(aif_status *s, aif_timed what, uint64_t us)
{
    aif_hist_add(&s->times[what], us);
}

void
aif_status_turn_begins(aif_status *s)
{
    atomic_store(&s->busy_since, aif_now_us());
}

void
aif_status_turn_ends(aif_status *s)
{
    uint64_t took = aif_now_us() - atomic_load(&s->busy_since);

    aif_status_took(s, AIF_T_TURN, took);
    if (took > SLOW_US) {
        aif_status_say(s, AIF_WARNING, "slow turn ms=%llu",
                       (unsigned long long)took / 1000);
    }
    atomic_store(&s->busy_since, 0);
}

/* --- lines -------------------------------------------------------------- */

static bool
status_may_say(aif_status *s, int64_t now)
{
    if (now - s->lines_since >= LINES_MS) {
        s->lines_since = now;
        s->lines = 0;
    }
    return s->lines++ < LINES;
}

void
aif_status_say(aif_status *s, aif_level level, const char *fmt, ...)
{
    char text[AIF_TRACE_TEXT];
    va_list ap;

    if (!status_may_say(s, aif_now_ms())) {
        aif_status_count(s, AIF_N_HUSHED, 1);
        return;
    }
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    aif_trace_say(&s->trace, level, "%s", text);
}

bool
aif_status_first(aif_status *s, aif_str a, aif_str b)
{
    const aif_str both[] = {a, b};

    return aif_trace_first(&s->trace, aif_hash_strs(both, 2).lo);
}

aif_peer
aif_status_peer(const aif_status *s, const aif_route *r)
{
    return aif_route_text(&s->names, r);
}

bool
aif_status_line(aif_status *s, aif_trace_line *out)
{
    return aif_trace_take(&s->trace, out);
}

static void
status_note_failure(aif_status *s, const char *what, const char *text)
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

/* The store works again when the same call that failed last succeeds. */
void
aif_status_store(aif_status *s, const char *what, aif_err err,
                 const aif_error *e)
{
    if (err != AIF_OK && err != AIF_ESTORE && err != AIF_ECORRUPT) {
        return; /* not the store's fault */
    }
    if (err != AIF_OK) {
        if (s->store_what == NULL) {
            aif_status_say(s, AIF_ERROR,
                           "store failed what=%s sqlstate=%s error=\"%s\"",
                           what, e->sqlstate, e->text);
        }
        status_note_failure(s, what, e->text);
    } else if (s->store_what == what) {
        aif_status_say(s, AIF_INFO,
                       "store works again after_ms=%lld failures=%llu",
                       (long long)(aif_now_ms() - s->store_since),
                       (unsigned long long)s->store_failures);
        pthread_mutex_lock(&s->lock);
        s->store_what = NULL;
        pthread_mutex_unlock(&s->lock);
    }
}

void
aif_status_refused(aif_status *s, const aif_message *m, const aif_error *why)
{
    const uint8_t code = (uint8_t)why->code;

    atomic_fetch_add_explicit(&s->refused[why->code], 1, memory_order_relaxed);
    if (aif_status_first(s, (aif_str){(const char *)m->from.p, m->from.n},
                         (aif_str){(const char *)&code, 1})) {
        aif_status_say(s, AIF_WARNING,
                       "frame refused peer=%s address=%s why=\"%s\" (once; "
                       "further ones are counted)",
                       aif_status_peer(s, &m->from).text,
                       aif_message_address(m), why->text);
    }
}

void
aif_status_subs(aif_status *s, const aif_status_sub *subs, size_t n)
{
    pthread_mutex_lock(&s->lock);
    memcpy(s->subs, subs, n * sizeof *subs);
    s->n_subs = n;
    pthread_mutex_unlock(&s->lock);
}

/* --- as JSON ------------------------------------------------------------ */

typedef struct {
    aif_buf *out;
    aif_err err;
    aif_error *e;
} json;

static void json_put(json *j, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static void
json_put(json *j, const char *fmt, ...)
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

/* JSON is UTF-8, and a path or a message may be in any encoding: everything
 * but ASCII becomes a question mark. */
static void
json_string(json *j, const char *text)
{
    json_put(j, "\"");
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') {
            json_put(j, "\\%c", *text);
        } else if (*text >= ' ' && *text < 0x7f) {
            json_put(j, "%c", *text);
        } else {
            json_put(j, "?");
        }
    }
    json_put(j, "\"");
}

static void
json_counters(json *j, const aif_status *s)
{
    static const char *const names[] = {
#define X(name, text) text,
        AIF_COUNTERS(X)
#undef X
    };

    json_put(j, ", \"counters\": {");
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++) {
        json_put(j, "%s\"%s\": %llu", i == 0 ? "" : ", ", names[i],
                 (unsigned long long)aif_status_get(s, (aif_number)i));
    }
    json_put(j, "}");
}

static void
json_refused(json *j, aif_status *s)
{
    static const char *const names[AIF_ERR_COUNT] = {"OK",
#define X(code, text) #code,
                                                     AIF_ERRORS(X)
#undef X
    };

    json_put(j, ", \"refused\": {");
    for (int i = 1; i < AIF_ERR_COUNT; i++) {
        json_put(j, "%s\"%s\": %llu", i == 1 ? "" : ", ", names[i],
                 (unsigned long long)atomic_load(&s->refused[i]));
    }
    json_put(j, "}");
}

static void
json_hist(json *j, const char *name, aif_hist *h)
{
    aif_hist_view v;
    int last = AIF_HIST_BUCKETS;

    aif_hist_get(h, &v);
    while (last > 0 && v.buckets[last - 1] == 0) {
        last--;
    }
    json_put(j, "\"%s\": {\"n\": %llu, \"sum\": %llu", name,
             (unsigned long long)v.n, (unsigned long long)v.sum);
    json_put(j, ", \"p50\": %llu, \"p90\": %llu, \"p99\": %llu, \"max\": %llu",
             (unsigned long long)aif_hist_percentile(&v, 50),
             (unsigned long long)aif_hist_percentile(&v, 90),
             (unsigned long long)aif_hist_percentile(&v, 99),
             (unsigned long long)v.max);
    json_put(j, ", \"buckets\": [");
    for (int i = 0; i < last; i++) {
        json_put(j, "%s%llu", i == 0 ? "" : ", ",
                 (unsigned long long)v.buckets[i]);
    }
    json_put(j, "]}");
}

static void
json_hists(json *j, aif_status *s)
{
    static const char *const names[AIF_T_COUNT] = {
#define X(name, text) text,
        AIF_TIMES(X)
#undef X
    };

    json_put(j, ", \"latency_us\": {");
    for (int i = 0; i < AIF_T_COUNT; i++) {
        json_put(j, "%s", i == 0 ? "" : ", ");
        json_hist(j, names[i], &s->times[i]);
    }
    json_put(j, "}");
}

static void
json_store(json *j, const aif_status *s, int64_t now)
{
    bool ok = s->store_what == NULL;

    json_put(j, ", \"store\": {\"ok\": %s", ok ? "true" : "false");
    if (!ok) {
        json_put(j, ", \"for_ms\": %lld, \"failures\": %llu, \"error\": ",
                 (long long)(now - s->store_since),
                 (unsigned long long)s->store_failures);
        json_string(j, s->store_text);
    }
    json_put(j, "}");
}

static void
json_subs(json *j, const aif_status *s, int64_t now)
{
    json_put(j, ", \"subscribers\": %llu, \"flight\": %llu, \"behind\": [",
             (unsigned long long)aif_status_get(s, AIF_N_SUBSCRIBERS),
             (unsigned long long)aif_status_get(s, AIF_N_FLIGHT));
    for (size_t i = 0; i < s->n_subs; i++) {
        const aif_status_sub *one = &s->subs[i];

        json_put(j, "%s{\"peer\": \"%s\", \"stream\": %llu",
                 i == 0 ? "" : ", ", aif_status_peer(s, &one->to).text,
                 (unsigned long long)one->id);
        json_put(j, ", \"cursor\": %llu, \"lag\": %llu, \"credit\": %llu",
                 (unsigned long long)one->cursor, (unsigned long long)one->lag,
                 (unsigned long long)one->credit);
        json_put(j, ", \"heard_ms\": %lld}", (long long)(now - one->heard));
    }
    json_put(j, "]");
}

static void
json_what_it_is(json *j, const aif_status *s, const char *uri, int64_t now)
{
    uint64_t since = atomic_load(&s->busy_since);

    json_put(j, "{\"version\": \"" VERSION "\", \"protocol\": %d, \"pid\": %d",
             AIF_WIRE_VERSION, (int)getpid());
    json_put(j, ", \"uri\": ");
    json_string(j, uri);
    json_put(j, ", \"log\": ");
    json_string(j, s->log_kind);
    json_put(
        j, ", \"uptime_ms\": %lld, \"busy_ms\": %llu",
        (long long)(now - s->opened),
        (unsigned long long)(since == 0 ? 0 : (aif_now_us() - since) / 1000));
    json_put(j, ", \"log_id\": %llu, \"head\": %llu, \"purged\": %llu",
             (unsigned long long)aif_status_get(s, AIF_N_LOG_ID),
             (unsigned long long)aif_status_get(s, AIF_N_HEAD),
             (unsigned long long)aif_status_get(s, AIF_N_PURGED));
}

aif_err
aif_status_json(aif_status *s, const char *uri, aif_buf *out, aif_error *e)
{
    json j = {.out = out, .e = e};
    int64_t now = aif_now_ms();

    json_what_it_is(&j, s, uri, now);
    json_counters(&j, s);
    json_refused(&j, s);
    json_hists(&j, s);
    pthread_mutex_lock(&s->lock);
    json_store(&j, s, now);
    json_subs(&j, s, now);
    pthread_mutex_unlock(&s->lock);
    json_put(&j, "}");
    return j.err;
}
