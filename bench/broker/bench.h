/* bench.h - what the parts of the bench share. */
#ifndef BENCH_H
#define BENCH_H

#include "base/err.h"

#include <stdatomic.h>
#include <stdbool.h>

enum { BUCKETS = 64 * 64, PRODUCERS_MAX = 64, KEYS = 1 << 16 };

typedef struct {
    long producers, batch, rate, subscribers, seconds, events, value, keys;
    long stalled, tcp, second;
} options;

typedef struct {
    long n;
    double max;
    unsigned counts[BUCKETS];
} hist;

extern options opt;
extern char uris[2][64];
extern char keys[KEYS][16];
extern char run_name[32];
extern atomic_long published; /* events acknowledged */

double now(void);
void wait_until(double at);
_Noreturn void die(const char *what);
void must(aif_err err, const aif_error *e);

void hist_add(hist *h, double seconds);
void hist_merge(hist *to, const hist *from);
void hist_print(const char *name, const hist *h);

/* Publish until it is time; return the seconds used, and how long the calls
 * took. */
double publish_all(hist *calls);

/* Subscribe all, and wait until each was answered. */
void listen_begin(void);
/* When what was published has come, or 10 s later. */
void listen_end(void);
void listen_print(void);

#endif
