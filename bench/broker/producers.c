/* producers.c - threads with a connection each. */
#include "bench.h"

#include "client/client.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIMIT_MS = 60000 };

atomic_long published;
static atomic_long begun; /* events given a number */
static atomic_bool publishing = true;

typedef struct {
    int i;
    pthread_t thread;
    hist took;
    char *values;
} producer;

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

double
publish_all(hist *calls)
{
    producer *p = calloc((size_t)opt.producers, sizeof *p);
    double begin = now();
    double used;

    if (p == NULL) {
        die("no memory");
    }
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
    for (int i = 0; i < opt.producers; i++) {
        hist_merge(calls, &p[i].took);
    }
    free(p);
    return used;
}
