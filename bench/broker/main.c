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
#include "bench.h"

#include "broker/broker.h"
#include "event/event.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

options opt = {.producers = 1, .batch = 1, .seconds = 5, .value = 100};
char uris[2][64];
char keys[KEYS][16];
char run_name[32];

double
now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void
die(const char *what)
{
    (void)fprintf(stderr, "bench_broker: %s\n", what);
    exit(1);
}

void
must(aif_err err, const aif_error *e)
{
    if (err != AIF_OK) {
        die(e->text);
    }
}

void
wait_until(double at)
{
    double left = at - now();
    struct timespec t = {(time_t)left, 0};

    t.tv_nsec = (long)((left - (double)t.tv_sec) * 1e9);
    if (left > 0) {
        (void)nanosleep(&t, NULL);
    }
}

/* A broker in a process of its own; its address to uri. */
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

/* --- all together -------------------------------------------------------- */

static void
read_options(int argc, char **argv)
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
        opt.producers > PRODUCERS_MAX || opt.batch < 1 ||
        opt.batch > AIF_BATCH_MAX || opt.value < 24 || opt.keys > KEYS) {
        (void)fprintf(stderr, "usage: bench_broker LOG-URI [name=number]...: "
                              "see the file's first lines\n");
        exit(2);
    }
}

static void
report(const char *log, double used, const struct rusage *cpu,
       const hist *calls)
{
    long n = published;

    (void)printf(
        "{\"log\": \"%.*s\", \"producers\": %ld, \"batch\": %ld, \"rate\": "
        "%ld, \"subscribers\": %ld, \"stalled\": %ld, \"keys\": %ld, "
        "\"seconds\": %.2f, \"events\": %ld, \"events_per_s\": %.0f",
        (int)strcspn(log, ":"), log, opt.producers, opt.batch, opt.rate,
        opt.subscribers, opt.stalled, opt.keys, used, n, (double)n / used);
    hist_print("publish_ms", calls);
    listen_print();
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
    pid_t broker[2] = {0};
    static hist calls;
    struct rusage cpu;
    double used;
    double rss;
    double peak;

    read_options(argc, argv);
    if (mkdtemp(dir) == NULL) {
        die("no directory");
    }
    (void)snprintf(run_name, sizeof run_name, "%.0f", now() * 1e9);
    for (int i = 0; i < KEYS; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "key-%d", i);
    }
    for (int i = 0; i <= opt.second; i++) {
        (void)snprintf(path[i], sizeof path[i], "ipc://%s/%d", dir, i);
        broker[i] =
            serve(argv[1], opt.tcp ? "tcp://127.0.0.1:0" : path[i], uris[i]);
    }
    listen_begin();
    used = publish_all(&calls);
    listen_end();
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
    report(argv[1], used, &cpu, &calls);
    (void)printf(", \"broker_mb\": %.1f, \"broker_peak_mb\": %.1f}\n", rss,
                 peak);
    return 0;
}
