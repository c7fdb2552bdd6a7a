/* Which log is it?  An id that no other has, and tables that are not made
 * again behind the back of who has the log open. */
#include "cmocka_all.h"

#include "store_contract.h"

static aif_error e;

static uint64_t
id_of(aif_log *log)
{
    aif_head head;

    if (aif_log_head(log, &head, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    assert_in_range(head.log_id, 1, INT64_MAX);
    return head.log_id;
}

/* New events, one and many, then some that are known. */
static void
every_append_tells_the_id(void **state)
{
    static const size_t some[] = {1, 3, 1, 5};
    const uint64_t id = id_of(*state);
    uint64_t offsets[5];
    aif_head before;

    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        assert_int_equal(aif_log_append(*state, events_of("p", i < 1, some[i]),
                                        some[i], offsets, &before, &e),
                         AIF_OK);
        assert_true(before.log_id == id);
    }
    assert_true(id_of(*state) == id);
}

static void
another_log_has_another_id(void **state)
{
    const uint64_t id = id_of(*state);

    aif_log_free(*state);
    contract_open(state);
    assert_true(id_of(*state) != id);
}

static void
an_id_is_renewed_once(void **state)
{
    const uint64_t first = id_of(*state);
    uint64_t second;
    uint64_t third;

    append_at(*state, events_of("p", 0, 2), 2, 1);
    assert_int_equal(aif_log_renew(*state, first, &second, &e), AIF_OK);
    assert_true(second != first && second == id_of(*state));
    assert_int_equal(aif_log_renew(*state, first, &third, &e), AIF_OK);
    assert_true(third == second && second == id_of(*state));
    append_at(*state, events_of("p", 0, 4), 4, 1); /* all else is as it was */
}

static void
a_log_has_its_id_when_it_is_opened_again(void **state)
{
    const uint64_t id = id_of(*state);
    aif_log *other = open_again();

    assert_true(id_of(other) == id);
    assert_int_equal(aif_log_renew(other, id, &(uint64_t){0}, &e), AIF_OK);
    assert_true(id_of(*state) == id_of(other));
    append_at(*state, events_of("p", 0, 1), 1, 1);
    append_at(other, events_of("p", 1, 1), 1, 2);
    aif_log_free(other);
}

/* As an earlier aiflow_ext made it; several open it at once. */
static void
a_log_without_an_id_is_given_one(void **state)
{
    uint64_t id;

    append_at(*state, events_of("p", 0, 2), 2, 1);
    aif_log_free(*state);
    contract->sql("ALTER TABLE aiflow_log_head DROP COLUMN log_id");
    contract_open_in_children(3);
    *state = open_again();
    id = id_of(*state);
    append_at(*state, events_of("p", 2, 2), 2, 3);
    aif_log_free(*state);
    *state = open_again();
    assert_true(id_of(*state) == id);
}

static void
assert_gone(aif_log *log)
{
    uint64_t offset;
    uint64_t n;

    assert_int_equal(
        aif_log_append(log, events_of("p", 9, 1), 1, &offset, NULL, &e),
        AIF_ECORRUPT);
    assert_int_equal(aif_log_head(log, &(aif_head){0}, &e), AIF_ECORRUPT);
    assert_int_equal(read_all(log, AIF_BEYOND(0), &e), AIF_ECORRUPT);
    assert_int_equal(aif_log_count(log, AIF_BEYOND(0), &n, &e), AIF_ECORRUPT);
    assert_int_equal(aif_log_purge(log, AIF_STR("*"), 1, 1, &n, &e),
                     AIF_ECORRUPT);
}

/* Not even on a new connection: idle has one to kill, whatever the other does
 * with its own.  Who opens the log makes a new one. */
static void
dropped_tables_are_said_and_not_made_again(void **state)
{
    const uint64_t id = id_of(*state);
    aif_log *idle = open_again();
    aif_log *other;

    append_at(*state, events_of("p", 0, 2), 2, 1);
    contract->sql("DROP TABLE aiflow_event");
    contract->sql("DROP TABLE aiflow_log_purged");
    contract->sql("DROP TABLE aiflow_log_head");
    assert_gone(*state);
    if (contract->kill != NULL) {
        contract->kill();
        assert_int_not_equal(aif_log_head(*state, &(aif_head){0}, &e), AIF_OK);
    }
    assert_gone(*state);
    other = open_again();
    assert_true(id_of(other) != id && id_of(*state) == id_of(other));
    append_at(*state, events_of("p", 1, 2), 2, 1);
    aif_log_free(other);
    aif_log_free(idle);
}

int
store_contract_id(void)
{
    const struct CMUnitTest tests[] = {
        OPEN(every_append_tells_the_id),
        OPEN(another_log_has_another_id),
        OPEN(an_id_is_renewed_once),
    };
    const struct CMUnitTest of_stored[] = {
        OPEN(a_log_has_its_id_when_it_is_opened_again),
        OPEN(a_log_without_an_id_is_given_one),
        OPEN(dropped_tables_are_said_and_not_made_again),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);

    return contract->sql == NULL
               ? failed
               : failed + cmocka_run_group_tests(of_stored, NULL, NULL);
}
