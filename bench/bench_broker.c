/* bench_broker LOG-URI [name=number]... : a broker in a process of its own,
 * producers and subscribers in this one.  Prints one line of JSON.
 *
 *   producers=1    threads with a connection each
 *   batch=1        events in a PUBLISH
 *   rate=0         events/s of all producers together; 0: as fast as it goes.
 *                  What is due when a producer comes to it goes as one PUBLISH
 *   subscribers=0  connections, each with a subscription to everything
 *   seconds=5      of publishing
 *   events=0       or until so many were published
 *   value=100      bytes of an event's value
 *   keys=0         subscriber i wants only key i of so many; 0: everything
 *   stalled=0      further subscribers that read nothing
 *   tcp=0          1: over tcp://127.0.0.1, else ipc
 *   second=0       1: subscribers are at a second broker over the same log
 *
 * delivery_ms is from the moment an event was due (with rate=0: from the call
 * of publish) until it was taken from a subscriber's socket; publish_ms is
 * the call's.  lost counts what did not come within 10 s, or out of order.
 */
#define _GNU_SOURCE /* wait4 */
#include "broker/broker.h"
#include "client/client.h"
#include "net/wire.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

enum { LIMIT_MS = 60000, PRODUCERS = 64, WINDOW = 4 << 20, BUCKETS = 64 * 64 };

static struct {
    long producers, batch, rate, subscribers, seconds, events, value, keys;
    long stalled, tcp, second;
} opt = {.producers = 1, .batch = 1, .seconds = 5, .value = 100};

static char uris[2][64];
static atomic_bool publishing = true;
static atomic_long published; /* events acknowledged */
static atomic_long begun;     /* events given a number */
static char run_name[32];

static double
now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void
die(const char *what)
{
    (void)fprintf(stderr, "bench_broker: %s\n", what);
    exit(1);
}

static void
must(aif_err err, const aif_error *e)
{
    if (err != AIF_OK) {
        die(e->text);
    }
}

/* --- a histogram: 64 steps for each factor of two ------------------------ */

typedef struct {
    long n;
    double max;
    unsigned counts[BUCKETS];
} hist;

static void
hist_add(hist *h, double seconds)
{
    uint64_t ns = seconds < 0 ? 0 : (uint64_t)(seconds * 1e9);
    unsigned bits = ns < 128 ? 0 : 57 - (unsigned)__builtin_clzll(ns);

    h->counts[bits * 64 + (unsigned)(ns >> bits)]++;
    h->n++;
    h->max = seconds > h->max ? seconds : h->max;
}

static void
hist_merge(hist *to, const hist *from)
{
    to->n += from->n;
    to->max = from->max > to->max ? from->max : to->max;
    for (int i = 0; i < BUCKETS; i++) {
        to->counts[i] += from->counts[i];
    }
}

static double
hist_ms(const hist *h, double share)
{
    long rank = (long)((double)h->n * share);

    for (int i = 0; i < BUCKETS; i++) {
        rank -= (long)h->counts[i];
        if (rank < 0) {
            int bits = i < 128 ? 0 : i / 64 - 1;

            return (double)((uint64_t)(i - bits * 64) << bits) / 1e6;
        }
    }
    return h->max * 1e3;
}

static void
hist_print(const char *name, const hist *h)
{
    (void)printf(", \"%s\": {\"n\": %ld, \"p50\": %.3f, \"p90\": %.3f, "
                 "\"p99\": %.3f, \"p999\": %.3f, \"max\": %.3f}",
                 name, h->n, hist_ms(h, .5), hist_ms(h, .9), hist_ms(h, .99),
                 hist_ms(h, .999), h->max * 1e3);
}

/* --- brokers, each a process --------------------------------------------- */

static pid_t
serve(const char *log, const char *bind, char uri[64])
{
    aif_error e;
    aif_broker *b;
    int said[2];
    pid_t pid = -1;

    if (pipe(said) != 0 || (pid = fork()) < 0) {
        die("no process");
    }
    if (pid == 0) {
        const aif_broker_options o = {.bind = bind, .log = log};
        struct rlimit most;

        (void)getrlimit(RLIMIT_NOFILE, &most);
        most.rlim_cur = most.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &most);
        must(aif_broker_open(&o, &b, &e), &e);
        if (write(said[1], aif_broker_uri(b), 64) != 64) {
            _exit(1);
        }
        must(aif_broker_run(b, &e), &e);
        _exit(0);
    }
    (void)close(said[1]);
    if (read(said[0], uri, 64) != 64) {
        die("no broker");
    }
    (void)close(said[0]);
    return pid;
}

/* A line of /proc/PID/status, in MB. */
static double
megabytes(pid_t pid, const char *name)
{
    char path[64];
    char line[128];
    double kb = 0;
    FILE *f;

    (void)snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    f = fopen(path, "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, name, strlen(name)) == 0) {
            kb = strtod(line + strlen(name) + 1, NULL);
        }
    }
    if (f != NULL) {
        (void)fclose(f);
    }
    return kb / 1024;
}

/* --- producers ----------------------------------------------------------- */

typedef struct {
    int i;
    pthread_t thread;
    hist took;
    char *values;
} producer;

static char keys[1 << 16][16];

static void
wait_until(double at)
{
    double left = at - now();
    struct timespec t = {(time_t)left, 0};

    t.tv_nsec = (long)((left - (double)t.tv_sec) * 1e9);
    if (left > 0) {
        (void)nanosleep(&t, NULL);
    }
}

/* In one PUBLISH: 4 MB. */
static long
most_at_once(void)
{
    long n = (4 << 20) / opt.value;

    n = n < opt.batch ? opt.batch : n;
    return n < AIF_BATCH_MAX ? n : AIF_BATCH_MAX;
}

/* How many are due, and since when the first; waits for one. */
static long
due(const producer *p, double start, long done, double *since)
{
    double gap = (double)opt.producers / (double)opt.rate;
    double first =
        start + gap * ((double)done + (double)p->i / (double)opt.producers);
    long n;

    wait_until(first);
    n = 1 + (long)((now() - first) / gap);
    *since = first;
    return n < most_at_once() ? n : most_at_once();
}

/* The value begins with when the event was due, in ns. */
static void
fill(producer *p, aif_event *ev, long n, long done, double since, double gap)
{
    char name[48];
    int len = snprintf(name, sizeof name, "%s-%d", run_name, p->i);
    static __thread char names[64];
    long number = atomic_fetch_add(&begun, n);

    memcpy(names, name, (size_t)len + 1);
    for (long k = 0; k < n; k++) {
        char *value = p->values + k * (opt.value + 32);
        const char *key = keys[opt.keys == 0 ? 0 : (number + k) % opt.keys];

        (void)snprintf(value, 24, "%020.0f", (since + gap * (double)k) * 1e9);
        value[20] = ' ';
        ev[k] = (aif_event){.ns = AIF_STR("default"),
                            .key = {key, strlen(key)},
                            .value = {value, (size_t)opt.value},
                            .type = AIF_STR("UNDEFINED"),
                            .producer = {names, (size_t)len},
                            .sequence = (uint64_t)(done + k + 1)};
    }
}

static void *
produce(void *arg)
{
    producer *p = arg;
    aif_event *ev = calloc(AIF_BATCH_MAX, sizeof *ev);
    uint64_t *offsets = calloc(AIF_BATCH_MAX, sizeof *offsets);
    const size_t bytes = (size_t)(most_at_once() * (opt.value + 32));
    double start;
    aif_client *c;
    aif_error e;
    long n = opt.batch;

    p->values = malloc(bytes);
    memset(p->values, 'x', bytes);
    must(aif_client_open(uris[0], NULL, &c, &e), &e);
    start = now();
    for (long done = 0; publishing; done += n) {
        double since = now();
        double gap = 0;
        double begin;

        if (opt.rate > 0) {
            n = due(p, start, done, &since);
            gap = (double)opt.producers / (double)opt.rate;
        }
        fill(p, ev, n, done, since, gap);
        begin = now();
        must(aif_client_publish(c, ev, (size_t)n, offsets, LIMIT_MS, &e), &e);
        hist_add(&p->took, now() - begin);
        if (atomic_fetch_add(&published, n) + n >= opt.events &&
            opt.events > 0) {
            publishing = false;
        }
    }
    aif_client_free(c);
    return NULL;
}

/* --- subscribers: plain sockets of one thread, so that 1,000 cost little - */

typedef struct {
    void *socket;
    uint64_t received; /* bytes of EVENTS */
    uint64_t granted;
    uint64_t cursor;
    long n;
    bool live;
} subscriber;

static subscriber *subs;
static void *ctx;
static atomic_long live;
static atomic_long delivered;
static atomic_long disorder;
static atomic_bool listening = true;
static hist took;

static void
say(const subscriber *s, const aif_frame *f, const aif_pattern *p)
{
    aif_buf out = {0};
    aif_error e;

    must(aif_frame_encode(f, &out, &e), &e);
    if (p != NULL) {
        must(aif_wire_put_pattern(p, &out, &e), &e);
    }
    (void)zmq_send(s->socket, out.p, out.n, ZMQ_DONTWAIT);
    aif_buf_fini(&out);
}

static void
credit(subscriber *s)
{
    s->granted = s->received + WINDOW;
    say(s, &(aif_frame){.kind = AIF_K_CREDIT, .id = 1, .to = s->granted},
        NULL);
}

static void
subscribe(subscriber *s, long i)
{
    const char *key = opt.keys == 0 ? "*" : keys[i % opt.keys];
    const aif_pattern p = {AIF_STR("default"),
                           {key, strlen(key)},
                           AIF_STR("*"),
                           AIF_STR("*"),
                           AIF_STR("*")};
    const int zero = 0;
    const int few = 64;

    s->socket = zmq_socket(ctx, ZMQ_DEALER);
    if (s->socket == NULL) {
        die("too many sockets");
    }
    (void)zmq_setsockopt(s->socket, ZMQ_LINGER, &zero, sizeof zero);
    if (i >= opt.subscribers) { /* stalled: nothing waits on this side */
        (void)zmq_setsockopt(s->socket, ZMQ_RCVHWM, &few, sizeof few);
    }
    if (zmq_connect(s->socket, uris[opt.second ? 1 : 0]) != 0) {
        die("cannot connect");
    }
    s->granted = WINDOW;
    say(s,
        &(aif_frame){.kind = AIF_K_SUBSCRIBE,
                     .id = 1,
                     .from = AIF_AFTER_NOW,
                     .max = WINDOW},
        &p);
}

static void
take(subscriber *s, const aif_frame *f, size_t bytes)
{
    double at = now();
    aif_reader in = f->tail;
    aif_event ev;
    aif_error e;
    long n = 0;

    if (f->kind == AIF_K_SUBSCRIBED) {
        s->live = true;
        s->cursor = f->to;
        live++;
        return;
    }
    if (f->kind != AIF_K_EVENTS) {
        die(f->kind == AIF_K_ERROR ? "a subscriber was refused" : "a frame?");
    }
    disorder += f->from > s->cursor;
    for (; in.n > 0; n++) {
        must(aif_event_decode(&in, &ev, &e), &e);
        disorder += ev.offset <= s->cursor;
        s->cursor = ev.offset;
        hist_add(&took, at - strtod(ev.value.p, NULL) / 1e9);
    }
    s->cursor = f->to > s->cursor ? f->to : s->cursor;
    s->n += n;
    delivered += n;
    s->received += bytes;
    if (s->granted - s->received < WINDOW / 2) {
        credit(s);
    }
}

static void
drain(subscriber *s)
{
    zmq_msg_t msg;
    aif_frame f;
    aif_error e;

    (void)zmq_msg_init(&msg);
    while (zmq_msg_recv(&msg, s->socket, ZMQ_DONTWAIT) >= 0) {
        must(aif_frame_decode(zmq_msg_data(&msg), zmq_msg_size(&msg), &f, &e),
             &e);
        take(s, &f, zmq_msg_size(&msg));
    }
    (void)zmq_msg_close(&msg);
}

/* Once a second all of them renew their leases, those that stall too. */
static void *
listen_all(void *arg)
{
    struct epoll_event found[256];
    long all = opt.subscribers + opt.stalled;
    int epoll = epoll_create1(0);
    double renew = now() + 1;

    (void)arg;
    for (long i = 0; i < opt.subscribers; i++) {
        struct epoll_event ev = {.events = EPOLLIN, .data.u64 = (uint64_t)i};
        size_t n = sizeof(int);
        int fd;

        (void)zmq_getsockopt(subs[i].socket, ZMQ_FD, &fd, &n);
        (void)epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev);
    }
    while (listening) {
        int n = epoll_wait(epoll, found, 256, 50);

        for (int k = 0; k < n; k++) {
            drain(&subs[found[k].data.u64]);
        }
        if (now() >= renew) {
            renew += 1;
            for (long i = 0; i < all; i++) {
                credit(&subs[i]);
                if (i < opt.subscribers) {
                    drain(&subs[i]); /* sending took the fd's edge */
                }
            }
        }
    }
    (void)close(epoll);
    return NULL;
}

/* --- all together -------------------------------------------------------- */

static void
options(int argc, char **argv)
{
    const struct {
        const char *name;
        long *value;
    } known[] = {
        {"producers=", &opt.producers},
        {"batch=", &opt.batch},
        {"rate=", &opt.rate},
        {"seconds=", &opt.seconds},
        {"subscribers=", &opt.subscribers},
        {"events=", &opt.events},
        {"value=", &opt.value},
        {"keys=", &opt.keys},
        {"stalled=", &opt.stalled},
        {"tcp=", &opt.tcp},
        {"second=", &opt.second},
    };
    int found = 2;

    for (int i = 2; i < argc; i++) {
        for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
            if (strncmp(argv[i], known[k].name, strlen(known[k].name)) == 0) {
                *known[k].value = strtol(strchr(argv[i], '=') + 1, NULL, 10);
                found++;
            }
        }
    }
    if (argc < 2 || found != argc || opt.producers < 1 ||
        opt.producers > PRODUCERS || opt.batch < 1 ||
        opt.batch > AIF_BATCH_MAX || opt.value < 24 || opt.keys > 1 << 16) {
        (void)fprintf(stderr, "usage: bench_broker LOG-URI [name=number]...: "
                              "see the file's first lines\n");
        exit(2);
    }
}

static void
wait_for(atomic_long *what, long n, double seconds)
{
    for (double end = now() + seconds; *what < n && now() < end;) {
        wait_until(now() + 0.01);
    }
}

/* Deliveries: an event's key is its number's, so each key is wanted by those
 * subscribers whose number is the same, modulo. */
static long
wanted(void)
{
    long n = 0;

    if (opt.keys == 0) {
        return opt.subscribers * published;
    }
    for (long i = 0; i < opt.subscribers; i++) {
        long key = i % opt.keys;

        n += published / opt.keys + (key < published % opt.keys);
    }
    return n;
}

static double
publish_all(producer *p)
{
    double begin = now();
    double used;

    for (int i = 0; i < opt.producers; i++) {
        p[i].i = i;
        (void)pthread_create(&p[i].thread, NULL, produce, &p[i]);
    }
    while (publishing &&
           (opt.events > 0 || now() < begin + (double)opt.seconds)) {
        wait_until(now() + 0.01);
    }
    publishing = false;
    for (int i = 0; i < opt.producers; i++) {
        (void)pthread_join(p[i].thread, NULL);
    }
    used = now() - begin;
    for (int i = 1; i < opt.producers; i++) {
        hist_merge(&p[0].took, &p[i].took);
    }
    return used;
}

static void
report(const char *log, double used, const struct rusage *cpu,
       const hist *calls)
{
    long n = published;
    long want = wanted();

    (void)printf(
        "{\"log\": \"%.*s\", \"producers\": %ld, \"batch\": %ld, \"rate\": "
        "%ld, \"subscribers\": %ld, \"stalled\": %ld, \"keys\": %ld, "
        "\"seconds\": %.2f, \"events\": %ld, \"events_per_s\": %.0f",
        (int)strcspn(log, ":"), log, opt.producers, opt.batch, opt.rate,
        opt.subscribers, opt.stalled, opt.keys, used, n, (double)n / used);
    hist_print("publish_ms", calls);
    if (opt.subscribers > 0) {
        hist_print("delivery_ms", &took);
        (void)printf(", \"delivered\": %ld, \"lost\": %ld", (long)delivered,
                     want - delivered + disorder);
    }
    (void)printf(", \"broker_cpu_s\": %.2f",
                 (double)(cpu->ru_utime.tv_sec + cpu->ru_stime.tv_sec) +
                     (double)(cpu->ru_utime.tv_usec + cpu->ru_stime.tv_usec) /
                         1e6);
}

int
main(int argc, char **argv)
{
    char dir[] = "/tmp/aif-bench-XXXXXX";
    char path[2][80];
    producer *p = calloc(PRODUCERS, sizeof *p);
    long all;
    pid_t broker[2] = {0};
    pthread_t listener;
    struct rusage cpu;
    double used;
    double rss;
    double peak;

    options(argc, argv);
    all = opt.subscribers + opt.stalled;
    if (mkdtemp(dir) == NULL || p == NULL) {
        die("no directory");
    }
    (void)snprintf(run_name, sizeof run_name, "%.0f", now() * 1e9);
    for (int i = 0; i < 1 << 16; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "key-%d", i);
    }
    for (int i = 0; i <= opt.second; i++) {
        (void)snprintf(path[i], sizeof path[i], "ipc://%s/%d", dir, i);
        broker[i] =
            serve(argv[1], opt.tcp ? "tcp://127.0.0.1:0" : path[i], uris[i]);
    }
    ctx = zmq_ctx_new();
    (void)zmq_ctx_set(ctx, ZMQ_MAX_SOCKETS, 20000);
    subs = calloc((size_t)all + 1, sizeof *subs);
    for (long i = 0; i < all; i++) {
        subscribe(&subs[i], i);
    }
    (void)pthread_create(&listener, NULL, listen_all, NULL);
    wait_for(&live, opt.subscribers, 60);
    used = publish_all(p);
    wait_for(&delivered, wanted(), 10);
    listening = false;
    (void)pthread_join(listener, NULL);
    rss = megabytes(broker[0], "VmRSS");
    peak = megabytes(broker[0], "VmHWM");
    for (int i = 0; i <= opt.second; i++) {
        (void)kill(broker[i], SIGKILL);
        (void)wait4(broker[i], NULL, 0, i == 0 ? &cpu : NULL);
        (void)snprintf(path[i], sizeof path[i], "%s/%d", dir, i);
        (void)unlink(path[i]);
        (void)strncat(path[i], ".lock", 6);
        (void)unlink(path[i]);
    }
    (void)rmdir(dir);
    report(argv[1], used, &cpu, &p[0].took);
    (void)printf(", \"broker_mb\": %.1f, \"broker_peak_mb\": %.1f}\n", rss,
                 peak);
    return 0;
}
