/* Named cursors: taken, moved, and lost to whoever takes them next. */
#include "cmocka_all.h"

#include "fault.h"
#include "fault_store.h"
#include "store_contract.h"

#include <stdio.h>
#include <string.h>

static aif_error e;

static aif_cursor
cursor_of(const char *name, uint64_t offset, uint64_t holder)
{
    return (aif_cursor){.ns = AIF_STR("default"),
                        .name = {name, strlen(name)},
                        .offset = offset,
                        .holder = holder,
                        .moved_ms = 1000 + (int64_t)holder};
}

static uint64_t
take(aif_log *log, const char *name, uint64_t after, uint64_t holder)
{
    const aif_cursor c = cursor_of(name, after, holder);
    uint64_t offset = 99;
    uint64_t log_id = 0;
    aif_head head;

    if (aif_log_take(log, &c, &offset, &log_id, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    assert_int_equal(aif_log_head(log, &head, &e), AIF_OK);
    assert_true(log_id == head.log_id);
    return offset;
}

static aif_err
take_fails(aif_log *log, const char *name, uint64_t after)
{
    const aif_cursor c = cursor_of(name, after, 1);

    return aif_log_take(log, &c, &(uint64_t){0}, &(uint64_t){0}, &e);
}

static aif_err
move(aif_log *log, const char *name, uint64_t offset, uint64_t holder)
{
    const aif_cursor c = cursor_of(name, offset, holder);

    return aif_log_move(log, &c, &e);
}

static bool
forget_before(aif_log *log, const char *name, int64_t moved_ms)
{
    aif_cursor c = cursor_of(name, 0, 0);
    bool was;

    c.moved_ms = moved_ms;
    assert_int_equal(aif_log_forget(log, &c, &was, &e), AIF_OK);
    return was;
}

static bool
forget(aif_log *log, const char *name)
{
    return forget_before(log, name, INT64_MAX);
}

/* All as "ns/name offset moved;" each. */
static void
assert_cursors(aif_log *log, const char *want)
{
    char text[512] = "";
    aif_buf rows = {0};
    aif_reader in;
    aif_str ns;
    aif_str name;
    uint64_t offset;
    uint64_t moved;

    assert_int_equal(aif_log_cursors(log, &rows, &e), AIF_OK);
    in = (aif_reader){rows.p, rows.n};
    while (in.n > 0) {
        const size_t n = strlen(text);

        assert_int_equal(aif_read_str(&in, in.n, &ns, &e), AIF_OK);
        assert_int_equal(aif_read_str(&in, in.n, &name, &e), AIF_OK);
        assert_int_equal(aif_read_u64(&in, &offset, &e), AIF_OK);
        assert_int_equal(aif_read_u64(&in, &moved, &e), AIF_OK);
        (void)snprintf(text + n, sizeof text - n, "%.*s/%.*s %d %d;",
                       (int)ns.n, ns.p, (int)name.n, name.p, (int)offset,
                       (int)moved);
    }
    assert_string_equal(text, want);
    aif_buf_fini(&rows);
}

static void
a_new_cursor_begins_at_the_head_and_stays_there(void **state)
{
    assert_cursors(*state, "");
    assert_int_equal(take(*state, "none", AIF_AFTER_NOW, 1), 0);
    append_at(*state, events_of("p", 0, 3), 3, 1);
    assert_int_equal(take(*state, "some", AIF_AFTER_NOW, 2), 3);
    append_at(*state, events_of("p", 3, 3), 3, 4);
    assert_int_equal(take(*state, "some", AIF_AFTER_NOW, 3), 3);
    assert_cursors(*state, "default/none 0 1001;default/some 3 1003;");
}

static void
a_new_cursor_begins_where_it_is_told(void **state)
{
    append_at(*state, events_of("p", 0, 5), 5, 1);
    assert_int_equal(take(*state, "c", 2, 1), 2);
    assert_int_equal(take(*state, "c", 4, 2), 2); /* it is there */
    assert_int_equal(take(*state, "c", 6, 3), 2);
    assert_int_equal(take_fails(*state, "new", 6), AIF_EINVAL);
    assert_cursors(*state, "default/c 2 1003;");
}

static void
a_cursor_moves_on_and_never_back(void **state)
{
    append_at(*state, events_of("p", 0, 5), 5, 1);
    (void)take(*state, "c", 0, 7);
    assert_int_equal(move(*state, "c", 3, 7), AIF_OK);
    assert_int_equal(move(*state, "c", 3, 7), AIF_OK);
    assert_int_equal(move(*state, "c", 1, 7), AIF_OK);
    assert_cursors(*state, "default/c 3 1007;");
    assert_int_equal(move(*state, "c", 5, 7), AIF_OK);
    assert_cursors(*state, "default/c 5 1007;");
}

static void
the_newest_taker_has_it_and_the_older_one_is_told(void **state)
{
    append_at(*state, events_of("p", 0, 5), 5, 1);
    (void)take(*state, "c", 0, 1);
    assert_int_equal(move(*state, "c", 2, 1), AIF_OK);
    assert_int_equal(take(*state, "c", AIF_AFTER_NOW, 2), 2);
    assert_int_equal(move(*state, "c", 4, 1), AIF_ECONFLICT);
    assert_string_equal(e.text,
                        "cursor 'c' was taken by another subscription");
    assert_int_equal(move(*state, "c", 1, 1), AIF_ECONFLICT);
    assert_cursors(*state, "default/c 2 1002;");
    assert_int_equal(move(*state, "c", 3, 2), AIF_OK);
    assert_int_equal(move(*state, "c", 3, 1), AIF_ECONFLICT);
}

static void
a_deleted_cursor_is_gone(void **state)
{
    append_at(*state, events_of("p", 0, 5), 5, 1);
    assert_false(forget(*state, "c"));
    (void)take(*state, "b", 1, 1);
    (void)take(*state, "c", 2, 1);
    (void)take(*state, "d", 3, 1);
    assert_true(forget(*state, "c"));
    assert_false(forget(*state, "c"));
    assert_cursors(*state, "default/b 1 1001;default/d 3 1001;");
    assert_int_equal(move(*state, "c", 4, 1), AIF_ECONFLICT);
    assert_string_equal(e.text, "cursor 'c' was deleted");
    assert_int_equal(take(*state, "c", AIF_AFTER_NOW, 1), 5);
}

static void
a_cursor_that_was_moved_since_is_not_deleted(void **state)
{
    append_at(*state, events_of("p", 0, 5), 5, 1);
    (void)take(*state, "c", 2, 1);
    assert_false(forget_before(*state, "c", 1000));
    assert_int_equal(move(*state, "c", 3, 1), AIF_OK);
    (void)take(*state, "c", 0, 9);
    assert_false(forget_before(*state, "c", 1008));
    assert_cursors(*state, "default/c 3 1009;");
    assert_true(forget_before(*state, "c", 1009));
    assert_cursors(*state, "");
}

static void
cursors_of_other_namespaces_and_names_are_others(void **state)
{
    static const char *const names[] = {"a", "A", "a ", "\xc3\xa4"};
    aif_cursor c = cursor_of("a", 0, 9);
    uint64_t offset;
    uint64_t id;

    append_at(*state, events_of("p", 0, 5), 5, 1);
    for (size_t i = 0; i < 4; i++) {
        (void)take(*state, names[i], i, 1);
    }
    c.ns = AIF_STR("*");
    assert_int_equal(aif_log_take(*state, &c, &offset, &id, &e), AIF_OK);
    assert_cursors(*state, "*/a 0 1009;default/A 1 1001;default/a 0 1001;"
                           "default/a  2 1001;default/\xc3\xa4 3 1001;");
    assert_int_equal(move(*state, "a", 4, 1), AIF_OK);
    assert_cursors(*state, "*/a 0 1009;default/A 1 1001;default/a 4 1001;"
                           "default/a  2 1001;default/\xc3\xa4 3 1001;");
}

static void
a_name_has_1_to_255_bytes(void **state)
{
    char name[257];

    (void)memset(name, 'n', sizeof name);
    name[256] = '\0';
    assert_int_equal(take_fails(*state, name, 0), AIF_EINVAL);
    assert_int_equal(take_fails(*state, "", 0), AIF_EINVAL);
    assert_int_equal(take_fails(*state, "\xff", 0), AIF_EINVAL);
    name[255] = '\0';
    assert_int_equal(take(*state, name, 0, 1), 0);
    assert_int_equal(move(*state, name, 0, 1), AIF_OK);
    assert_true(forget(*state, name));
}

static void
a_cursor_beyond_the_head_says_that_the_log_was_replaced(void **state)
{
    append_at(*state, events_of("p", 0, 3), 3, 1);
    (void)take(*state, "c", AIF_AFTER_NOW, 1);
    contract->sql("DELETE FROM aiflow_event");
    contract->sql("UPDATE aiflow_log_head SET \"offset\" = 2");
    assert_int_equal(take_fails(*state, "c", AIF_AFTER_NOW), AIF_EREPLACED);
    assert_string_equal(e.text,
                        "cursor 'c' is at offset 3, and the log ends at 2: it "
                        "was replaced; delete the cursor to begin again "
                        "(aiflow cursors delete)");
    assert_true(forget(*state, "c"));
    assert_int_equal(take(*state, "c", AIF_AFTER_NOW, 1), 2);
}

/* As an earlier aiflow_ext made it; several open it at once. */
static void
a_log_without_cursors_is_given_their_table(void **state)
{
    append_at(*state, events_of("p", 0, 2), 2, 1);
    aif_log_free(*state);
    contract->sql("DROP TABLE aiflow_cursor");
    contract_open_in_children(3);
    *state = open_again();
    assert_int_equal(take(*state, "c", AIF_AFTER_NOW, 1), 2);
    aif_log_free(*state);
    *state = open_again();
    assert_cursors(*state, "default/c 2 1001;");
}

static void
a_new_log_has_no_cursors_of_the_old_one(void **state)
{
    append_at(*state, events_of("p", 0, 2), 2, 1);
    (void)take(*state, "c", AIF_AFTER_NOW, 1);
    aif_log_free(*state);
    contract->sql("DROP TABLE aiflow_event");
    contract->sql("DROP TABLE aiflow_log_purged");
    contract->sql("DROP TABLE aiflow_log_head");
    *state = open_again();
    assert_cursors(*state, "");
}

static void
handles_and_processes_share_cursors(void **state)
{
    aif_log *other = open_again();

    append_at(*state, events_of("p", 0, 5), 5, 1);
    (void)take(*state, "c", 0, 1);
    assert_int_equal(move(other, "c", 2, 1), AIF_OK);
    assert_int_equal(take(other, "c", AIF_AFTER_NOW, 2), 2);
    assert_int_equal(move(*state, "c", 3, 1), AIF_ECONFLICT);
    if (contract->kill != NULL) {
        contract->kill();
        (void)move(*state, "c", 3, 2); /* it notices */
        (void)move(other, "c", 3, 2);
    }
    assert_int_equal(move(*state, "c", 4, 2), AIF_OK);
    assert_cursors(other, "default/c 4 1002;");
    aif_log_free(other);
}

static void
a_take_survives_every_oom(void **state)
{
    const aif_cursor c = cursor_of("c", 0, 1);
    uint64_t offset;
    uint64_t id;
    aif_err err;
    int n = 0;

    do {
        assert_cursors(*state, "");
        fault_alloc_after(n++);
        err = aif_log_take(*state, &c, &offset, &id, &e);
        fault_off();
    } while (err == AIF_ENOMEM);
    assert_int_equal(err, AIF_OK);
    assert_in_range(n, 1, 100);
    assert_cursors(*state, "default/c 0 1001;");
}

/* What the n-th failing call did to a take and a move. */
static bool
take_with_fault(void (*fault)(int), int n)
{
    const aif_cursor c = cursor_of("c", 4, 2);
    uint64_t offset;
    uint64_t id;
    aif_err err;
    aif_log *log;
    bool fired;

    contract->fresh();
    log = open_again();
    append_at(log, events_of("p", 0, 5), 5, 1);
    (void)take(log, "c", 1, 1);
    fault(n);
    err = aif_log_take(log, &c, &offset, &id, &e);
    if (err == AIF_OK) {
        err = aif_log_move(log, &c, &e);
    }
    fault_store_off();
    fired = fault_store_fired();
    assert_true(err == AIF_OK || (err == AIF_ESTORE && fired));
    if (err != AIF_OK) { /* the same again */
        offset = take(log, "c", 1, 2);
        assert_true(offset == 1 || offset == 4);
        assert_int_equal(aif_log_move(log, &c, &e), AIF_OK);
    }
    assert_cursors(log, "default/c 4 1002;");
    assert_int_equal(move(log, "c", 5, 1), AIF_ECONFLICT);
    aif_log_free(log);
    return fired;
}

static void
a_take_and_a_move_survive_every_fault(void **state)
{
    int n;

    (void)state;
    for (n = 0; take_with_fault(contract->fault, n); n++) {
    }
    assert_in_range(n, 2, 1000);
    for (n = 0; contract->fault_lost != NULL &&
                take_with_fault(contract->fault_lost, n);
         n++) {
    }
    assert_in_range(n, contract->fault_lost != NULL, 1000);
}

int
store_contract_cursor(void)
{
    const struct CMUnitTest tests[] = {
        OPEN(a_new_cursor_begins_at_the_head_and_stays_there),
        OPEN(a_new_cursor_begins_where_it_is_told),
        OPEN(a_cursor_moves_on_and_never_back),
        OPEN(the_newest_taker_has_it_and_the_older_one_is_told),
        OPEN(a_deleted_cursor_is_gone),
        OPEN(a_cursor_that_was_moved_since_is_not_deleted),
        OPEN(cursors_of_other_namespaces_and_names_are_others),
        OPEN(a_name_has_1_to_255_bytes),
        OPEN(a_take_survives_every_oom),
    };
    const struct CMUnitTest of_stored[] = {
        OPEN(a_cursor_beyond_the_head_says_that_the_log_was_replaced),
        OPEN(a_log_without_cursors_is_given_their_table),
        OPEN(a_new_log_has_no_cursors_of_the_old_one),
        OPEN(handles_and_processes_share_cursors),
        cmocka_unit_test(a_take_and_a_move_survive_every_fault),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);

    return contract->sql == NULL
               ? failed
               : failed + cmocka_run_group_tests(of_stored, NULL, NULL);
}
