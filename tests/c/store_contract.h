/* store_contract.h - what every store must do, as tests.
 *
 * A program per store fills in a store_case and calls store_contract.
 */
#ifndef STORE_CONTRACT_H
#define STORE_CONTRACT_H

#include "log/log.h"

#include <pthread.h>
#include <stdbool.h>

typedef struct {
    char uri[512];
    /* Make uri the one of an empty log, never opened before. */
    void (*fresh)(void);
    bool file; /* that a child, which inherited it open, cannot open anew */
    /* Below: NULL for a log that nobody else can reach. */
    void (*sql)(const char *sql); /* run it behind the log's back */
    void (*hold)(bool on);        /* the lock that writers need */
    void (*fault)(int n);         /* the n-th call to the database fails */
    void (*fault_lost)(int n);    /* it works, and its answer is lost */
    /* Below: NULL without a server. */
    void (*kill)(void); /* end its side of every handle of this program */
    void (*wait_until_locked)(void); /* until an append waits for sql's lock */
    /* What an append says: its SQLSTATE ("" is any), and a part of its text */
    const char *lost[2];   /* when its connection is lost */
    const char *waited[2]; /* when it waited for the lock, and got none */
} store_case;

/* The number of tests that failed. */
int store_contract(store_case *c);

/* Its parts: one handle; what it is asked; what is let go; faults; which log
 * it is; cursors; more handles and processes. */
int store_contract_one(void);
int store_contract_ask(void);
int store_contract_purge(void);
int store_contract_purge_many(void);
int store_contract_faults(void);
int store_contract_id(void);
int store_contract_cursor(void);
int store_contract_many(void);
/* For a store's own tests: make a log as version 1 made it, with the events
 * p/first... p/5, as contract_converted has them. */
int store_contract_convert(void (*make)(int first));

/* What the parts share. */
extern store_case *contract;
int contract_fresh(void **state); /* a setup: nothing is open */
int contract_open(void **state);  /* a setup: *state is an open, empty log */
int contract_close(void **state); /* its teardown */
aif_log *open_again(void);
/* Events p/first, p/first+1...; views of static memory until the next call. */
const aif_event *events_of(const char *producer, uint64_t first, size_t n);
/* Append, which must work, at offsets from, from + 1... */
void append_at(aif_log *log, const aif_event *events, size_t n, uint64_t from);
/* Again while others have the lock: where the disk is slow, for more than the
 * 5 s that an append waits. */
aif_err append_among_others(aif_log *log, const aif_event *events, size_t n,
                            uint64_t *offsets, aif_error *why);
uint64_t count_of(aif_log *log);
uint64_t head_of(aif_log *log);
/* An append of the event p/2 in a thread of its own. */
typedef struct {
    aif_log *log;
    uint64_t offset;
    aif_error e; /* and its code, or AIF_OK */
    pthread_t thread;
} appending;

void appending_start(appending *a);
void appending_join(appending *a);
/* As many events as letters: each is one's namespace. */
void append_in(aif_log *log, const char *namespaces, uint64_t from);
/* How many went, which must work. */
uint64_t purge(aif_log *log, aif_str ns, uint64_t upto, size_t max);
/* The rows, as "ns upto events;" each. */
void assert_purged(aif_log *log, const char *want);
uint64_t purged_of(aif_log *log);
/* So many processes open the log at once, which must work. */
void contract_open_in_children(int n);
/* Read it, and forget it. */
aif_err read_all(aif_log *log, const aif_query *q, aif_error *why);
/* The offsets that a read gives, as "1 2 5", or "RETENTION, n kept". */
void assert_read(aif_log *log, const aif_query *q, const char *want);
/* Open the log in a child that AIF_CRASH_AT kills there. */
void contract_die_at(const char *point);
/* A process opens the log and forks; then it is killed at point, in act, and
 * its child lives on.  What is held for ever with it ends with the test. */
void contract_orphan(const char *point, void (*act)(aif_log *));
void contract_end_orphan(void);
/* Open what was version 1, with events p/first... p/5 at their own
 * offsets, created at the last at newest: nothing is lost, and it goes on. */
void contract_converted(uint64_t first, int64_t newest);
/* count and head through a handle of its own. */
void assert_stored(uint64_t n);

/* A test of the contract with a log that is open. */
#define OPEN(test)                                                            \
    cmocka_unit_test_setup_teardown(test, contract_open, contract_close)

#define MATCHING(p, offset)                                                   \
    (&(const aif_query){.patterns = (p), .n = 1, .after = (offset)})

#endif
