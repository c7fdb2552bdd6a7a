/* bench_log URI BATCH SECONDS: append to a log as fast as it goes; one line
 * of JSON with events/s and the milliseconds of an append. */
#include "log/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { SAMPLES = 1 << 20 };

static aif_error e;

static double
now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int
by_size(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;

    return d < 0 ? -1 : d > 0;
}

/* What a training job would say: a few keys, a short value. */
static void
fill(aif_event *events, char (*keys)[32], size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t len = (size_t)snprintf(keys[i], sizeof keys[i], "model-%d",
                                      rand() % 1000);
        events[i].key = (aif_str){keys[i], len};
    }
}

static aif_event *
new_events(size_t n)
{
    aif_event *events = calloc(n, sizeof *events);

    for (size_t i = 0; events != NULL && i < n; i++) {
        events[i].ns = AIF_STR("default");
        events[i].value = AIF_STR("{\"version\": 17, \"accuracy\": 0.9712}");
        events[i].type = AIF_STR("MODEL_GENERATED");
        events[i].sender = AIF_STR("train");
    }
    return events;
}

static size_t
appends(aif_log *log, size_t batch, double seconds, double *took)
{
    aif_event *events = new_events(batch);
    char(*keys)[32] = calloc(batch, sizeof *keys);
    uint64_t *offsets = calloc(batch, sizeof *offsets);
    char producer[AIF_PRODUCER_MAX];
    uint64_t sequence = 0;
    size_t turns = 0;
    size_t len =
        (size_t)snprintf(producer, sizeof producer, "bench-%d-%.0f-0123456789",
                         (int)getpid(), now() * 1e9);
    double start = now();

    while (turns < SAMPLES && now() - start < seconds) {
        fill(events, keys, batch);
        for (size_t i = 0; i < batch; i++) {
            events[i].producer = (aif_str){producer, len};
            events[i].sequence = sequence++;
            events[i].create_time = (int64_t)(now() * 1e3);
        }
        took[turns] = now();
        if (aif_log_append(log, events, batch, offsets, NULL, &e) != AIF_OK) {
            break;
        }
        took[turns] = now() - took[turns];
        turns++;
    }
    free(offsets);
    free(keys);
    free(events);
    return turns;
}

int
main(int argc, char **argv)
{
    double *took = calloc(SAMPLES, sizeof *took);
    aif_log *log = NULL;
    size_t batch = argc == 4 ? strtoul(argv[2], NULL, 10) : 0;
    size_t turns;
    double start;
    double wall;

    if (took == NULL || batch == 0) {
        fprintf(stderr, "usage: bench_log URI BATCH SECONDS\n");
        return 2;
    }
    e.code = aif_log_open(argv[1], &log, &e);
    start = now();
    turns = log == NULL ? 0 : appends(log, batch, atof(argv[3]), took);
    wall = now() - start;
    aif_log_free(log);
    if (e.code != AIF_OK || turns == 0) {
        fprintf(stderr, "bench_log: %s\n", e.text);
        return 1;
    }
    qsort(took, turns, sizeof *took, by_size);
    printf("{\"batch\": %zu, \"appends\": %zu, \"events_per_s\": %.0f, "
           "\"append_ms_p50\": %.3f, \"append_ms_p90\": %.3f, "
           "\"append_ms_p99\": %.3f}\n",
           batch, turns, (double)(turns * batch) / wall, took[turns / 2] * 1e3,
           took[turns * 9 / 10] * 1e3, took[turns * 99 / 100] * 1e3);
    free(took);
    return 0;
}
