/* store_contract.h - what every store must do, as tests.
 *
 * A program per store fills in a store_case and calls store_contract.
 */
#ifndef STORE_CONTRACT_H
#define STORE_CONTRACT_H

#include "log.h"

#include <stdbool.h>

typedef struct {
    char uri[512];
    /* Make uri the one of an empty log, never opened before. */
    void (*fresh)(void);
    /* Below: NULL for a log that nobody else can reach. */
    void (*sql)(const char *sql); /* run it behind the log's back */
    void (*fault)(int n);         /* the n-th call to the database fails */
    void (*fault_lost)(int n);    /* it works, and its answer is lost */
} store_case;

/* The number of tests that failed. */
int store_contract(store_case *c);

/* Its parts: one handle; faults; more handles and processes. */
int store_contract_one(void);
int store_contract_faults(void);
int store_contract_many(void);

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
uint64_t count_of(aif_log *log);
uint64_t head_of(aif_log *log);
/* count and head through a handle of its own. */
void assert_stored(uint64_t n);

#endif
