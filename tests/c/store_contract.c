#include "cmocka_all.h"

#include "store_contract.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

store_case *contract;

static aif_error e;

int
store_contract(store_case *c)
{
    contract = c;
    return store_contract_one() + store_contract_faults() +
           (c->sql == NULL ? 0 : store_contract_many());
}

int
contract_fresh(void **state)
{
    *state = NULL;
    contract->fresh();
    return 0;
}

aif_log *
open_again(void)
{
    aif_log *log;

    if (aif_log_open(contract->uri, &log, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    return log;
}

int
contract_open(void **state)
{
    contract->fresh();
    *state = open_again();
    return 0;
}

int
contract_close(void **state)
{
    aif_log_free(*state);
    return 0;
}

enum { EVENTS_MAX = AIF_BATCH_MAX + 1 };

const aif_event *
events_of(const char *producer, uint64_t first, size_t n)
{
    static aif_event events[EVENTS_MAX];

    assert_in_range(n, 0, EVENTS_MAX);
    for (size_t i = 0; i < n; i++) {
        events[i] = (aif_event){.create_time = 1000 + (int64_t)i,
                                .ns = AIF_STR("default"),
                                .key = AIF_STR("digits"),
                                .value = AIF_STR("17"),
                                .type = AIF_STR("UNDEFINED"),
                                .producer = {producer, strlen(producer)},
                                .sequence = first + i};
    }
    return events;
}

void
append_at(aif_log *log, const aif_event *events, size_t n, uint64_t from)
{
    uint64_t *offsets = calloc(n + 1, sizeof *offsets);

    if (aif_log_append(log, events, n, offsets, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(offsets[i], from + i);
    }
    assert_int_equal(offsets[n], 0);
    free(offsets);
}

uint64_t
count_of(aif_log *log)
{
    uint64_t n;

    if (aif_log_count(log, NULL, 0, &n, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    return n;
}

uint64_t
head_of(aif_log *log)
{
    uint64_t offset;

    if (aif_log_head(log, &offset, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    return offset;
}

void
assert_stored(uint64_t n)
{
    aif_log *log = open_again();

    assert_int_equal(count_of(log), n);
    assert_int_equal(head_of(log), n);
    aif_log_free(log);
}
