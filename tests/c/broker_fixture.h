/* broker_fixture.h - a real broker in a thread, and a socket that may say
 * anything to it.
 */
#ifndef BROKER_FIXTURE_H
#define BROKER_FIXTURE_H

#include "cmocka_all.h"

#include "broker/broker.h"
#include "client/client.h"
#include "net/curve.h"
#include "net/wire.h"

#include <pthread.h>
#include <stdbool.h>
#include <zmq.h>

enum { SOON = 60000 }; /* ms; a limit for what takes no time */

typedef struct {
    char dir[64];
    char bind[128];
    char log[512];
    char secret[41]; /* "": no CURVE */
    aif_broker *broker;
    pthread_t thread;
} served;

/* A directory, ipc://DIR/s, sqlite:DIR/log; the broker runs. */
int served_sqlite(void **state);
int served_mem(void **state);
int served_teardown(void **state);

void serve(served *s);   /* open at bind over log, and run */
void unserve(served *s); /* stop and free */

/* The event number i of a producer, as a client publishes it. */
aif_event numbered(const char *producer, uint64_t i);
/* n events right into the log of a broker that does not run. */
void append(aif_broker *b, uint64_t from, size_t n);
aif_client *client_at(const char *uri);
/* All events beyond after, added to out. */
void list_all(aif_client *c, uint64_t after, aif_batch *out);
/* How many q means. */
uint64_t count_all(aif_client *c, aif_query q);
/* A subscription of one stream, its number 1. */
aif_err sub_one(const char *uri, const aif_pattern *p, size_t n,
                uint64_t after, bool hints, int timeout_ms, aif_sub **out,
                aif_error *e);
uint64_t cursor_of(aif_sub *s);
uint64_t publish_one(aif_client *c, const char *producer, uint64_t i);
/* A container may have none, whatever its kernel has. */
bool has_ipv6(void);
/* What every test of bad input ends with. */
void assert_it_lives(const served *s);
aif_broker_stats stats_of(const served *s);

/* A DEALER that sends what it likes. */
typedef struct {
    void *ctx;
    void *socket;
    zmq_msg_t msg;
} raw;

void raw_open(raw *r, const char *uri);
void raw_open_curve(raw *r, const char *uri, const aif_curve *keys);
void raw_close(raw *r);
void raw_send(raw *r, const void *p, size_t n);
void raw_frame(raw *r, const aif_frame *f, const aif_buf *tail);
/* The next frame that comes; fails after SOON. */
aif_frame raw_next(raw *r);
/* The same, but false when none came in ms. */
bool raw_poll(raw *r, int ms);
/* The next frame is an ERROR for id. */
aif_frame expect_error(raw *r, uint64_t id, aif_err code);
/* A PUBLISH's tail: n events of a producer. */
void put_events(aif_buf *out, const char *producer, uint64_t from, size_t n);

extern const aif_pattern everything;

#endif
