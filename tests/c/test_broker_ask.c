/* Questions to a broker: what it looks at, and how much of it at once. */
#define _GNU_SOURCE /* memmem */
#include "broker_fixture.h"

#include "broker/ask.h"
#include "base/clock.h"

#include <sqlite3.h>
#include <string.h>

static const aif_pattern rare = {AIF_STR("*"), AIF_STR("rare"), AIF_STR("*"),
                                 AIF_STR("*"), AIF_STR("*")};

/* n events of a producer, in frames of a batch. */
static void
publish(raw *r, const char *producer, size_t n)
{
    aif_frame publish = {.kind = AIF_K_PUBLISH, .id = 1};

    for (size_t i = 0, some; i < n; i += some) {
        aif_buf tail = {0};

        some = n - i < AIF_BATCH_MAX ? n - i : AIF_BATCH_MAX;
        put_events(&tail, producer, i + 1, some);
        raw_frame(r, &publish, &tail);
        assert_int_equal(raw_next(r).kind, AIF_K_PUBLISHED);
        aif_buf_fini(&tail);
    }
}

static aif_frame
ask(raw *r, aif_frame f, const aif_pattern *p)
{
    aif_buf tail = {0};
    aif_error e;

    f.id = 7;
    if (p != NULL) {
        assert_int_equal(aif_wire_put_pattern(p, &tail, &e), AIF_OK);
    }
    raw_frame(r, &f, &tail);
    aif_buf_fini(&tail);
    f = raw_next(r);
    assert_int_equal(f.id, 7);
    return f;
}

static void
list_count_and_head_ask_the_log(void **state)
{
    served *s = *state;
    const aif_frame count = {.kind = AIF_K_COUNT};
    const aif_frame list = {.kind = AIF_K_LIST, .max = 2};
    const aif_frame none = {.kind = AIF_K_LIST};
    const aif_frame head = {.kind = AIF_K_HEAD};
    aif_frame f;
    raw r;

    raw_open(&r, s->bind);
    publish(&r, "p", 3);
    f = ask(&r, count, NULL);
    assert_int_equal(f.kind, AIF_K_COUNTED);
    assert_int_equal(f.to, 3);
    assert_int_equal(f.from, 3);
    assert_int_equal(f.flag, 0);
    assert_int_equal(ask(&r, count, &rare).to, 0);
    f = ask(&r, list, NULL);
    assert_int_equal(f.kind, AIF_K_LISTED);
    assert_int_equal(f.flag, 1); /* 2 of 3 */
    assert_int_equal(f.to, 2);
    f = ask(&r, list, &rare);
    assert_int_equal(f.flag, 0);
    assert_int_equal(f.to, 3); /* all was looked at */
    f = ask(&r, none, NULL);
    assert_int_equal(f.flag, 1); /* asked for nothing, looked at nothing */
    assert_int_equal(f.to, 0);
    f = ask(&r, head, NULL);
    assert_int_equal(f.kind, AIF_K_HEADED);
    assert_int_equal(f.to, 3);
    raw_close(&r);
}

static void
to_is_the_last_that_is_looked_at(void **state)
{
    served *s = *state;
    aif_frame f;
    raw r;

    raw_open(&r, s->bind);
    publish(&r, "p", 5);
    f = ask(&r, (aif_frame){.kind = AIF_K_COUNT, .from = 1, .to = 4}, NULL);
    assert_int_equal(f.to, 3);
    assert_int_equal(f.flag, 0);
    f = ask(&r, (aif_frame){.kind = AIF_K_LIST, .from = 1, .to = 4, .max = 3},
            NULL);
    assert_int_equal(f.to, 4);
    assert_int_equal(f.flag, 0); /* a full page, and the last one */
    f = ask(&r, (aif_frame){.kind = AIF_K_COUNT, .from = 4, .to = 2}, NULL);
    assert_int_equal(f.to, 0);
    assert_int_equal(f.flag, 0);
    f = ask(&r, (aif_frame){.kind = AIF_K_COUNT, .to = UINT64_MAX}, NULL);
    assert_int_equal(f.to, 5);
    raw_close(&r);
}

static void
beyond_the_newest_is_refused(void **state)
{
    served *s = *state;
    static const aif_kind kinds[] = {AIF_K_LIST, AIF_K_COUNT, AIF_K_SUBSCRIBE};
    aif_frame f;
    raw r;

    raw_open(&r, s->bind);
    publish(&r, "p", 3);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        f = (aif_frame){.kind = kinds[i], .from = 4, .max = 1000};
        f = ask(&r, f, &everything);
        assert_int_equal(f.kind, AIF_K_ERROR);
        assert_int_equal(f.code, AIF_EINVAL);
        assert_true(aif_str_eq(
            f.text, AIF_STR("offset 4 is beyond the newest one, 3")));
    }
    f = ask(&r, (aif_frame){.kind = AIF_K_COUNT, .from = 3}, NULL);
    assert_int_equal(f.kind, AIF_K_COUNTED);
    assert_int_equal(stats_of(s).rejected, 0);
    raw_close(&r);
}

/* Somebody else appended to the file: it is not beyond the newest then. */
static void
it_looks_before_it_refuses(void **state)
{
    served *s = *state;
    aif_event ev = numbered("other", 1);
    uint64_t offset;
    aif_log *log;
    aif_error e;
    raw r;

    assert_int_equal(aif_log_open(s->log, &log, &e), AIF_OK);
    assert_int_equal(aif_log_append(log, &ev, 1, &offset, NULL, &e), AIF_OK);
    raw_open(&r, s->bind);
    assert_int_equal(
        ask(&r, (aif_frame){.kind = AIF_K_LIST, .from = 1, .max = 1}, NULL)
            .kind,
        AIF_K_LISTED);
    aif_log_free(log);
    raw_close(&r);
}

/* A rare key in a log that one look does not see the end of. */
static void
a_long_look_is_cut(void **state)
{
    served *s = *state;
    enum { LOG = 2 * AIF_SCAN_EVENTS + 1 };
    aif_event ev = numbered("q", 1);
    aif_query q = {.patterns = &rare, .n = 1};
    aif_batch out = {0};
    uint64_t n;
    bool more = true;
    aif_client *c;
    aif_frame f;
    aif_error e;
    raw r;

    raw_open(&r, s->bind);
    publish(&r, "p", LOG);
    assert_int_equal(aif_client_open(s->bind, NULL, &c, &e), AIF_OK);
    ev.key = rare.key;
    assert_int_equal(aif_client_publish(c, &ev, 1, &n, SOON, &e), AIF_OK);
    assert_int_equal(n, LOG + 1);
    f = ask(&r, (aif_frame){.kind = AIF_K_COUNT, .from = 1}, &rare);
    assert_int_equal(f.from, 1 + AIF_SCAN_EVENTS);
    assert_int_equal(f.to, 0);
    assert_int_equal(f.flag, 1);
    f = ask(&r, (aif_frame){.kind = AIF_K_LIST, .max = 5}, &rare);
    assert_int_equal(f.to, AIF_SCAN_EVENTS);
    assert_int_equal(f.flag, 1);
    assert_int_equal(f.tail.n, 0);
    assert_int_equal(count_all(c, q), 1);
    assert_int_equal(count_all(c, *AIF_BEYOND(2)), LOG - 1);
    while (more) {
        assert_int_equal(aif_client_list(c, &q, 5, &out, &more, SOON, &e),
                         AIF_OK);
    }
    assert_int_equal(out.n, 1);
    assert_int_equal(out.events[0].offset, LOG + 1);
    aif_batch_fini(&out);
    aif_client_free(c);
    raw_close(&r);
}

/* LAST looks from the end on, in parts. */
static void
the_last_is_found_from_the_end(void **state)
{
    served *s = *state;
    enum { LOG = AIF_SCAN_EVENTS + 10 };
    aif_event ev = numbered("q", 1);
    aif_frame last = {.kind = AIF_K_LAST};
    uint64_t n;
    aif_client *c;
    aif_frame f;
    aif_error e;
    raw r;

    raw_open(&r, s->bind);
    f = ask(&r, last, NULL);
    assert_int_equal(f.kind, AIF_K_HEADED);
    assert_int_equal(f.to, 0);
    assert_int_equal(f.flag, 0);
    assert_int_equal(aif_client_open(s->bind, NULL, &c, &e), AIF_OK);
    ev.key = rare.key;
    assert_int_equal(aif_client_publish(c, &ev, 1, &n, SOON, &e), AIF_OK);
    publish(&r, "p", LOG);
    f = ask(&r, last, NULL);
    assert_int_equal(f.to, LOG + 1);
    assert_int_equal(f.flag, 0);
    f = ask(&r, last, &rare);
    assert_int_equal(f.to, 0);
    assert_int_equal(f.from, LOG + 1 - AIF_SCAN_EVENTS);
    assert_int_equal(f.flag, 1);
    last.to = f.from;
    f = ask(&r, last, &rare);
    assert_int_equal(f.to, 1);
    assert_int_equal(f.flag, 0);
    last.from = 1;
    f = ask(&r, last, &rare);
    assert_int_equal(f.to, 0);
    assert_int_equal(f.flag, 0);
    aif_client_free(c);
    raw_close(&r);
}

static void
senders_are_counted_in_parts(void **state)
{
    served *s = *state;
    aif_frame senders = {.kind = AIF_K_SENDERS};
    aif_str name;
    uint64_t n;
    aif_frame f;
    aif_error e;
    raw r;

    raw_open(&r, s->bind);
    f = ask(&r, senders, NULL);
    assert_int_equal(f.kind, AIF_K_COUNTS);
    assert_int_equal(f.tail.n, 0);
    publish(&r, "p", AIF_SCAN_EVENTS + 1);
    f = ask(&r, senders, NULL);
    assert_int_equal(f.from, AIF_SCAN_EVENTS);
    assert_int_equal(f.flag, 1);
    assert_int_equal(aif_read_u64(&f.tail, &n, &e), AIF_OK);
    assert_int_equal(n, AIF_SCAN_EVENTS);
    assert_int_equal(aif_read_str(&f.tail, 255, &name, &e), AIF_OK);
    assert_int_equal(name.n, 0);
    assert_int_equal(f.tail.n, 0);
    senders.from = f.from;
    f = ask(&r, senders, NULL);
    assert_int_equal(f.flag, 0);
    assert_int_equal(aif_read_u64(&f.tail, &n, &e), AIF_OK);
    assert_int_equal(n, 1);
    raw_close(&r);
}

static void
a_time_is_an_offset_but_none_in_the_future(void **state)
{
    served *s = *state;
    const uint64_t now = (uint64_t)aif_wall_ms();
    aif_frame at = {.kind = AIF_K_AT, .to = now - 60000};
    aif_frame f;
    raw r;

    raw_open(&r, s->bind);
    publish(&r, "p", 3);
    f = ask(&r, at, NULL);
    assert_int_equal(f.kind, AIF_K_HEADED);
    assert_int_equal(f.to, 0);
    at.to = now + 60000;
    f = ask(&r, at, NULL);
    assert_int_equal(f.kind, AIF_K_ERROR);
    assert_int_equal(f.code, AIF_EINVAL);
    assert_non_null(memmem(f.text.p, f.text.n, " is in the future", 17));
    at.to = UINT64_MAX;
    assert_int_equal(ask(&r, at, NULL).kind, AIF_K_ERROR);
    at.to = now + 1;
    assert_int_equal(ask(&r, at, NULL).kind, AIF_K_HEADED);
    raw_close(&r);
}

static void
a_producers_sequence_is_asked(void **state)
{
    served *s = *state;
    aif_frame f = {.kind = AIF_K_SEQUENCE, .text = AIF_STR("p")};
    raw r;

    raw_open(&r, s->bind);
    assert_int_equal(ask(&r, f, NULL).to, 0);
    publish(&r, "p", 3);
    assert_int_equal(ask(&r, f, NULL).kind, AIF_K_COUNTED);
    assert_int_equal(ask(&r, f, NULL).to, 3);
    f.text = AIF_STR("q");
    assert_int_equal(ask(&r, f, NULL).to, 0);
    raw_close(&r);
}

static aif_frame
cursor_frame(aif_kind kind, uint64_t from, uint64_t log_id, uint64_t holder)
{
    return (aif_frame){.kind = kind,
                       .from = from,
                       .to = log_id,
                       .text = AIF_STR("c"),
                       .holder = holder};
}

static void
assert_refused(aif_frame f, aif_err code, const char *why)
{
    assert_int_equal(f.kind, AIF_K_ERROR);
    assert_int_equal(f.code, code);
    assert_non_null(memmem(f.text.p, f.text.n, why, strlen(why)));
}

static void
a_cursor_is_taken_moved_and_deleted(void **state)
{
    served *s = *state;
    uint64_t id;
    aif_frame f;
    raw r;

    raw_open(&r, s->bind);
    publish(&r, "p", 3);
    f = ask(&r, cursor_frame(AIF_K_TAKE, AIF_AFTER_NOW, 0, 5), &rare);
    assert_int_equal(f.kind, AIF_K_TAKEN);
    assert_int_equal(f.to, 3);
    id = f.from;
    publish(&r, "q", 3);
    f = ask(&r, cursor_frame(AIF_K_MOVE, 4, id, 5), &rare);
    assert_int_equal(f.kind, AIF_K_TAKEN);
    assert_int_equal(f.to, 4);
    assert_refused(ask(&r, cursor_frame(AIF_K_MOVE, 4, id + 1, 5), &rare),
                   AIF_EREPLACED, "the log was replaced by another one");
    assert_refused(ask(&r, cursor_frame(AIF_K_MOVE, 7, id, 5), &rare),
                   AIF_EREPLACED, "the log was replaced by an older copy");
    assert_refused(ask(&r, cursor_frame(AIF_K_MOVE, 5, id, 6), &rare),
                   AIF_ECONFLICT, "taken by another subscription");
    assert_refused(ask(&r, cursor_frame(AIF_K_TAKE, 0, 0, 5), NULL),
                   AIF_EPROTO, "too few patterns: 1 to 1 belong");
    f = ask(&r, cursor_frame(AIF_K_TAKE, 0, 0, 6), &rare);
    assert_int_equal(f.to, 4);
    f = ask(&r, cursor_frame(AIF_K_CURSORS, 0, 0, 0), &everything);
    assert_int_equal(f.kind, AIF_K_CURSORED);
    assert_int_equal(f.tail.n, 4 + 1 + 4 + 1 + 8 + 8);
    assert_int_equal(ask(&r, cursor_frame(AIF_K_FORGET, 0, 0, 0), &rare).to,
                     1);
    assert_int_equal(ask(&r, cursor_frame(AIF_K_FORGET, 0, 0, 0), &rare).to,
                     0);
    f = ask(&r, cursor_frame(AIF_K_CURSORS, 0, 0, 0), NULL);
    assert_int_equal(f.tail.n, 0);
    raw_close(&r);
}

/* What was let go is missed by who begins behind it, but not by who goes on
 * with the next page, nor by who begins with the oldest. */
static void
what_was_let_go_is_missed_once(void **state)
{
    served *s = *state;
    aif_frame list = {.kind = AIF_K_LIST, .from = 2, .max = 3};
    uint64_t gone;
    aif_log *log;
    aif_frame f;
    aif_error e;
    raw r;

    raw_open(&r, s->bind);
    publish(&r, "p", 9);
    assert_int_equal(aif_log_open(s->log, &log, &e), AIF_OK);
    assert_int_equal(aif_log_purge(log, AIF_STR("*"), 5, 9, &gone, &e),
                     AIF_OK);
    assert_int_equal(gone, 5);
    f = ask(&r, list, NULL);
    assert_int_equal(f.kind, AIF_K_ERROR);
    assert_int_equal(f.code, AIF_ERETENTION);
    list.flag = 1;
    f = ask(&r, list, NULL);
    assert_int_equal(f.kind, AIF_K_LISTED);
    assert_int_equal(f.to, 8);
    list.flag = 0;
    list.from = 0;
    f = ask(&r, list, NULL);
    assert_int_equal(f.kind, AIF_K_LISTED);
    assert_int_equal(f.to, 8);
    f = ask(&r, (aif_frame){.kind = AIF_K_HEAD}, NULL);
    assert_int_equal(f.to, 9);
    assert_int_equal(f.from, 5);
    f = (aif_frame){.kind = AIF_K_SUBSCRIBE, .from = 4, .max = 1000};
    f = ask(&r, f, &everything);
    assert_int_equal(f.kind, AIF_K_ERROR);
    assert_int_equal(f.code, AIF_ERETENTION);
    assert_int_equal(stats_of(s).subscribers, 0);
    aif_log_free(log);
    raw_close(&r);
}

/* Whoever is the first to come back to an older copy of the log is told, too,
 * although what it names is the id of both. */
static void
who_finds_that_the_log_is_an_older_copy_is_told(void **state)
{
    static const char older[] =
        "DELETE FROM aiflow_event WHERE \"offset\" > 2;"
        "UPDATE aiflow_log_head SET \"offset\" = 2";
    served *s = *state;
    aif_frame again = {.kind = AIF_K_SUBSCRIBE, .from = 2, .max = 1000};
    aif_error e;
    aif_head head;
    aif_log *log;
    sqlite3 *db;
    raw r;

    raw_open(&r, s->bind);
    publish(&r, "p", 5);
    assert_int_equal(aif_log_open(s->log, &log, &e), AIF_OK);
    assert_int_equal(aif_log_head(log, &head, &e), AIF_OK);
    aif_log_free(log);
    assert_int_equal(sqlite3_open(s->log + strlen("sqlite:"), &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, older, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    again.to = head.log_id;
    assert_refused(ask(&r, again, &everything), AIF_EREPLACED,
                   "the log was replaced by");
    raw_close(&r);
}

static void
too_many_patterns_are_the_peers_fault(void **state)
{
    served *s = *state;
    const aif_frame count = {.kind = AIF_K_COUNT, .id = 9};
    aif_buf tail = {0};
    aif_error e;
    raw r;

    raw_open(&r, s->bind);
    for (int i = 0; i <= AIF_PATTERNS_MAX; i++) {
        assert_int_equal(aif_wire_put_pattern(&rare, &tail, &e), AIF_OK);
    }
    raw_frame(&r, &count, &tail);
    (void)expect_error(&r, 9, AIF_EPROTO);
    aif_buf_fini(&tail);
    raw_close(&r);
}

int
main(void)
{
#define SERVED(test, how)                                                     \
    cmocka_unit_test_setup_teardown(test, served_##how, served_teardown)
    const struct CMUnitTest tests[] = {
        SERVED(list_count_and_head_ask_the_log, sqlite),
        SERVED(to_is_the_last_that_is_looked_at, mem),
        SERVED(beyond_the_newest_is_refused, mem),
        SERVED(it_looks_before_it_refuses, sqlite),
        SERVED(a_long_look_is_cut, mem),
        SERVED(the_last_is_found_from_the_end, mem),
        SERVED(senders_are_counted_in_parts, mem),
        SERVED(a_time_is_an_offset_but_none_in_the_future, sqlite),
        SERVED(a_producers_sequence_is_asked, sqlite),
        SERVED(a_cursor_is_taken_moved_and_deleted, sqlite),
        SERVED(what_was_let_go_is_missed_once, sqlite),
        SERVED(who_finds_that_the_log_is_an_older_copy_is_told, sqlite),
        SERVED(too_many_patterns_are_the_peers_fault, mem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
