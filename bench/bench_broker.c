/* bench_broker LOG-URI SECONDS: a broker in a thread, a client and a
 * subscriber over ipc.  One line of JSON for each: events/s at batch 1, 100
 * and 1000, and ms from publish to subscriber, one event at a time.
 */
#include "broker.h"
#include "client.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SAMPLES = 1 << 16, BATCH = 1000, LIMIT_MS = 30000 };

static aif_error e;
static uint64_t sequence;
static char producer[32];

static double
now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void
must(aif_err err)
{
    if (err != AIF_OK) {
        (void)fprintf(stderr, "bench_broker: %s\n", e.text);
        exit(1);
    }
}

static void *
run(void *broker)
{
    aif_error own;

    return aif_broker_run(broker, &own) == AIF_OK ? NULL : broker;
}

static void
publish(aif_client *c, aif_event *events, size_t n)
{
    static uint64_t offsets[BATCH];
    static const char value[101] = "The value of an event: here 100 bytes. ";

    for (size_t i = 0; i < n; i++) {
        events[i] = (aif_event){.ns = AIF_STR("default"),
                                .key = AIF_STR("bench"),
                                .value = {value, strlen(value)},
                                .type = AIF_STR("UNDEFINED"),
                                .producer = {producer, strlen(producer)},
                                .sequence = ++sequence};
    }
    must(aif_client_publish(c, events, n, offsets, LIMIT_MS, &e));
}

static void
throughput(aif_client *c, size_t batch, double seconds)
{
    static aif_event events[BATCH];
    double begin = now();
    double used;
    size_t n = 0;

    do {
        publish(c, events, batch);
        n += batch;
        used = now() - begin;
    } while (used < seconds);
    (void)printf("{\"batch\": %zu, \"events_per_s\": %.0f}\n", batch,
                 (double)n / used);
}

static int
by_size(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;

    return d < 0 ? -1 : d > 0;
}

typedef struct {
    aif_sub *sub;
    pthread_mutex_t lock;
    pthread_cond_t came;
    double at; /* when the last event came */
    size_t n;
    size_t want;
} listener;

static void *
listen_for(void *arg)
{
    listener *l = arg;
    aif_error own;
    bool hinted;
    size_t n = 0;

    while (n < l->want) {
        aif_batch batch = {0};

        if (aif_sub_next(l->sub, 1000, &batch, NULL, &hinted, &own) !=
            AIF_OK) {
            return l;
        }
        n += batch.n;
        pthread_mutex_lock(&l->lock);
        l->at = now();
        l->n = n;
        pthread_cond_signal(&l->came);
        pthread_mutex_unlock(&l->lock);
        aif_batch_fini(&batch);
    }
    return NULL;
}

static void
latency(aif_client *c, const char *uri, size_t n)
{
    static double ms[SAMPLES];
    const aif_pattern all = {AIF_STR("*"), AIF_STR("*"), AIF_STR("*"),
                             AIF_STR("*")};
    listener l = {.lock = PTHREAD_MUTEX_INITIALIZER,
                  .came = PTHREAD_COND_INITIALIZER,
                  .want = n};
    pthread_t thread;
    aif_event ev;

    must(aif_sub_open(uri, &all, 1, AIF_AFTER_NOW, false, LIMIT_MS, &l.sub,
                      &e));
    if (pthread_create(&thread, NULL, listen_for, &l) != 0) {
        exit(1);
    }
    for (size_t i = 0; i < n; i++) {
        double begin = now();

        publish(c, &ev, 1);
        pthread_mutex_lock(&l.lock);
        while (l.n <= i) {
            pthread_cond_wait(&l.came, &l.lock);
        }
        ms[i] = (l.at - begin) * 1e3;
        pthread_mutex_unlock(&l.lock);
    }
    pthread_join(thread, NULL);
    aif_sub_free(l.sub);
    qsort(ms, n, sizeof *ms, by_size);
    (void)printf("{\"latency_ms\": {\"n\": %zu, \"p50\": %.3f, \"p90\": %.3f, "
                 "\"p99\": %.3f, \"max\": %.3f}}\n",
                 n, ms[n / 2], ms[n * 9 / 10], ms[n * 99 / 100], ms[n - 1]);
}

int
main(int argc, char **argv)
{
    char dir[] = "/tmp/aif-bench-XXXXXX";
    char path[64];
    aif_broker *broker;
    aif_client *c;
    pthread_t thread;

    if (argc != 3 || mkdtemp(dir) == NULL) {
        (void)fprintf(stderr, "usage: bench_broker LOG-URI SECONDS\n");
        return 2;
    }
    (void)snprintf(path, sizeof path, "ipc://%s/s", dir);
    (void)snprintf(producer, sizeof producer, "%.0f", now() * 1e9);
    must(aif_broker_open(path, argv[1], &broker, &e));
    must(aif_client_open(path, &c, &e));
    if (pthread_create(&thread, NULL, run, broker) != 0) {
        return 1;
    }
    latency(c, path, (size_t)(500 * atof(argv[2])) + 1);
    for (size_t batch = 1; batch <= BATCH; batch *= batch == 1 ? 100 : 10) {
        throughput(c, batch, atof(argv[2]));
    }
    aif_client_free(c);
    aif_broker_stop(broker);
    pthread_join(thread, NULL);
    aif_broker_free(broker);
    (void)snprintf(path, sizeof path, "%s/s.lock", dir);
    (void)unlink(path);
    return rmdir(dir);
}
