import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from aiflow_ext import Event, EventLog, _core
from aiflow_ext.errors import ClosedError, ConflictError, CorruptError, RetentionError, StoreError

EVERY_FIELD = Event("clé", "1\n2", "T", "run 7", "ns", "me")


def append(log, *events, sequence=1):
    return log.append(events, "p", sequence)


def test_offsets_count_from_one(mem_log):
    assert append(mem_log, Event("a"), Event("b")) == [1, 2]
    assert mem_log.head() == 2


def test_what_is_read_is_what_was_appended(mem_log):
    before = time.time_ns() // 1_000_000
    append(mem_log, EVERY_FIELD)
    (event,) = mem_log.read(0)
    assert type(event) is Event
    assert event == EVERY_FIELD._replace(offset=1, create_time=event.create_time)
    assert before <= event.create_time <= time.time_ns() // 1_000_000


def test_none_is_filled_in(mem_log):
    mem_log.append([Event("a")], "p", 1, create_time=42)
    assert mem_log.read(0) == [Event("a", namespace="default", sender="", offset=1, create_time=42)]


def test_texts_that_repeat_are_one_object_and_others_are_not_mixed_up(mem_log):
    given = [Event("k", str(i), f"t{i // 2}", None, f"n{i // 3}", f"s{i // 5}") for i in range(12)]
    append(mem_log, *given)
    read = mem_log.read(0)
    assert [e[:6] for e in read] == [e[:6] for e in given]
    assert read[0].type is read[1].type
    assert read[0].namespace is read[2].namespace


def test_a_second_append_of_the_same_is_not_a_second_event(mem_log):
    assert append(mem_log, Event("a"), Event("b"), sequence=1) == [1, 2]
    assert append(mem_log, Event("b"), Event("c"), sequence=2) == [2, 3]
    assert mem_log.count() == 3


def test_read_pages_and_filters(mem_log):
    append(mem_log, *(Event("ab"[i % 2], str(i), sender="x") for i in range(10)))
    assert [e.value for e in mem_log.read(2, 3)] == ["2", "3", "4"]
    assert [e.value for e in mem_log.read(after=4, max=2, patterns=("*", "b", "*", "x"))] == ["5", "7"]
    assert mem_log.count(after=4, patterns=("default", "a*", "*", "*")) == 3
    assert mem_log.read(10) == []


def test_several_patterns_and_an_end(mem_log):
    append(mem_log, *(Event("abc"[i % 3], str(i), context="xy"[i % 2]) for i in range(12)))
    either = [("*", "a", "*", "*"), ("*", "*", "*", "*", "x")]
    assert [e.value for e in mem_log.read(0, patterns=either, upto=8)] == ["0", "2", "3", "4", "6"]
    assert mem_log.count(0, either, upto=8) == 5
    assert mem_log.last(patterns=either, upto=8) == 7
    assert mem_log.last() == 12
    assert mem_log.last(12) == 0


def test_who_said_how_much_and_what_comes_next(mem_log):
    append(mem_log, *(Event("k", sender=s) for s in ("b", "a", "é", "b", None)))
    assert mem_log.senders() == {"": 1, "a": 1, "b": 2, "é": 1}
    assert list(mem_log.senders(1, ("*", "k", "*", "*"), upto=4)) == ["a", "b", "é"]
    assert mem_log.sequence("p") == 5
    assert mem_log.sequence("nobody") == 0


def test_a_time_is_an_offset(mem_log):
    for i, ms in enumerate([5, 5, 9, 7, 20]):  # the clock went back once
        mem_log.append([Event("k")], "p", i, create_time=ms)
    assert [e.create_time for e in mem_log.read(0)] == [5, 5, 9, 9, 20]
    assert [mem_log.at(ms) for ms in (-1, 5, 6, 9, 10, 20, 2**63 - 1)] == [0, 0, 2, 2, 4, 4, 5]


@pytest.mark.parametrize("field", ["key", "value", "type", "namespace"])
def test_another_event_by_the_same_identity_is_a_conflict(mem_log, field):
    append(mem_log, Event("a"), Event("b"))
    with pytest.raises(ConflictError, match=r"^sequence 2 of producer p is in the log already.*\(offset 2\)$"):
        append(mem_log, Event("b")._replace(**{field: "other"}), Event("c"), sequence=2)
    assert [e.key for e in mem_log.read(0)] == ["a", "b", "c"]  # what was beside it is there
    assert append(mem_log, Event("b", context="other", sender="other"), sequence=2) == [2]


def test_the_oldest_go_and_who_is_behind_is_told(mem_log):
    append(mem_log, *(Event(str(i), namespace="ab"[i % 2]) for i in range(1, 11)))
    assert mem_log.keep("a", 2) == 6
    assert [mem_log.purge("a", 6, max=2), mem_log.purge("a", 6, 2), mem_log.purge("a", 6)] == [2, 1, 0]
    assert mem_log.purged() == [("a", 6, 3)]
    assert [e.offset for e in mem_log.read(0)] == [1, 3, 5, 7, 8, 9, 10]
    with pytest.raises(RetentionError, match="'a' up to offset 6, 3 in all; begin again from offset 6"):
        mem_log.read(4)
    assert [e.offset for e in mem_log.read(4, kept=True)] == [5, 7, 8, 9, 10]
    assert [e.offset for e in mem_log.read(4, patterns=("b", "*", "*", "*"))] == [5, 7, 9]
    assert [e.offset for e in mem_log.read(6)] == [7, 8, 9, 10]
    assert mem_log.purge("*", 10) == 7
    assert mem_log.read(0) == []
    assert append(mem_log, Event("next"), sequence=99) == [11]


def test_a_log_of_version_1_is_converted_and_goes_on(tmp_path):
    with EventLog(f"sqlite:{tmp_path}/log.db") as log:
        append(log, Event("a"), Event("b"), Event("c"))
    with contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as other:
        other.executescript(
            "ALTER TABLE aiflow_log_head DROP COLUMN purged; ALTER TABLE aiflow_log_head DROP COLUMN create_time;"
            "DROP TABLE aiflow_log_purged; UPDATE aiflow_log_head SET version = 1;"
            "DELETE FROM aiflow_event WHERE offset = 1"
        )
    with EventLog(f"sqlite:{tmp_path}/log.db") as log:
        assert log.purged() == [("*", 1, 1)]
        assert append(log, Event("d"), sequence=4) == [4]
        assert [e.key for e in log.read(0)] == ["b", "c", "d"]
    with contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as other:
        other.executescript("UPDATE aiflow_log_head SET version = 7")
    with pytest.raises(CorruptError, match="version 7, this is version 2"):
        EventLog(f"sqlite:{tmp_path}/log.db")


def test_a_log_is_found_again(tmp_path):
    uri = f"sqlite:{tmp_path}/log.db"
    with EventLog(uri) as log:
        append(log, EVERY_FIELD)
    with EventLog(uri) as log:
        assert log.read(0)[0][:6] == EVERY_FIELD[:6]


@pytest.mark.parametrize(
    ("events", "error", "text"),
    [
        ([Event("")], ValueError, "key"),
        ([Event("k" * 1025)], ValueError, "key.*1025"),
        ([Event("a\0b")], ValueError, "key.*NUL"),
        ([Event("k", "x" * (2**20 + 1))], ValueError, "value.*1048577"),
        ([Event("k", "é" * 2**19 + "x")], ValueError, "value.*1048577"),
        ([Event("k", type="")], ValueError, "type"),
        ([Event("k", namespace="n" * 256)], ValueError, "namespace.*256"),
        ([Event("k", context="c" * 1025)], ValueError, "context.*1025"),
        ([Event("good"), Event("k", sender="s" * 256)], ValueError, "sender.*256"),
        ([Event("\ud800")], UnicodeEncodeError, "surrogates"),
        ([Event(3)], TypeError, "event key must be str, not int"),
        ([Event("k", b"bytes")], TypeError, "event value must be str, not bytes"),
        ([Event("k", type=None)], TypeError, "event type must be str, not NoneType"),
        (["k"], TypeError, r'expected an Event, not str: Event\("key", "value"\)'),
        ([("k", "v")], TypeError, "expected an Event, not tuple"),
        ([Event("k", offset=-1)], ValueError, "event offset must be from 0 to 9223372036854775807, not -1"),
        ([Event("k", offset="1")], TypeError, "event offset must be int, not str"),
        (7, TypeError, "not iterable"),
        ([Event("k")] * 10_001, ValueError, "10001 events in one call, at most 10000"),
    ],
)
def test_a_bad_event_is_named_and_nothing_is_appended(mem_log, events, error, text):
    with pytest.raises(error, match=text):
        mem_log.append(events, "p", 1)
    assert mem_log.head() == 0


def test_events_at_their_limits_go_in(mem_log):
    big = Event("k" * 1024, "x" * 2**20, "t" * 255, "c" * 1024, "n" * 255, "s" * 255)
    append(mem_log, big)
    assert mem_log.read(0)[0][:6] == big[:6]
    assert len(append(mem_log, *[Event("k")] * 10_000, sequence=2)) == 10_000


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, r"append\(\) needs the argument 'events'"),
        (([], "p"), {}, r"append\(\) needs the argument 'sequence'"),
        (([], "p", 1, None, 5), {}, r"append\(\) takes at most 4 arguments, not 5"),
        (([], "p", 1), {"events": []}, r"append\(\) got a second argument 'events'"),
        (([], "p", 1), {"when": 1}, r"append\(\) got an unexpected argument 'when'"),
        (([], 1, 1), {}, "producer must be str, not int"),
        (([], "p", 1.5), {}, "sequence must be int, not float"),
        (([], "p", 1, "now"), {}, "create_time must be int, not str"),
    ],
)
def test_wrong_arguments(mem_log, args, kwargs, text):
    with pytest.raises(TypeError, match=text):
        mem_log.append(*args, **kwargs)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda log: log.read(-1), ValueError, "after must be from 0"),
        (lambda log: log.read(2**63), ValueError, "after must be from 0 .* not 9223372036854775808"),
        (lambda log: log.read(0, -1), ValueError, "max must be from 0"),
        (lambda log: log.read(0, 1, ("a", "b", "c")), TypeError, "a pattern is a tuple .namespace, key, type, sender."),
        (lambda log: log.read(0, 1, ("a", "b", "c", 4)), TypeError, "pattern sender must be str, not int"),
        (lambda log: log.count(0, ("*", "", "*", "*")), ValueError, "key"),
        (lambda log: log.count(0, [("*",) * 5] * 65), ValueError, "65 patterns: 64 are the most"),
        (lambda log: log.last(upto=-1), ValueError, "upto must be from 0"),
        (lambda log: log.sequence(""), ValueError, "producer is empty"),
        (lambda log: log.sequence("p" * 65), ValueError, "producer"),
        (lambda log: log.at(2**63), ValueError, "ms must be from"),
        (lambda log: log.at(1.5), TypeError, "ms must be int, not float"),
        (lambda log: log.purge("", 1), ValueError, "namespace is empty"),
        (lambda log: log.purge("n" * 256, 1), ValueError, "namespace"),
        (lambda log: log.purge("*"), TypeError, r"purge\(\) needs the argument 'upto'"),
        (lambda log: log.keep("*", -1), ValueError, "n must be from 0"),
        (lambda log: EventLog("mem:\0"), ValueError, "null character"),
        (lambda log: EventLog("file:x"), ValueError, "no such kind of log: .file.; there are mem:"),
        (lambda log: EventLog("sqlite:/no/such/folder/log.db"), StoreError, "/no/such/folder"),
        (lambda log: EventLog(), TypeError, "missing required argument 'uri'"),
    ],
)
def test_other_bad_input(mem_log, call, error, text):
    with pytest.raises(error, match=text):
        call(mem_log)


def test_closed_is_closed(mem_log):
    mem_log.close()
    mem_log.close()
    for call in (mem_log.head, mem_log.count, lambda: mem_log.read(0), lambda: append(mem_log, Event("a"))):
        with pytest.raises(ClosedError, match="this EventLog is closed"):
            call()


@pytest.mark.skipif("AIF_TEST_PG" not in os.environ, reason="no PostgreSQL: tests/with_postgres gives one")
def test_postgresql_goes_away_and_comes_back():
    import psycopg2

    uri = os.environ["AIF_TEST_PG"]
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with EventLog(uri) as log, contextlib.closing(psycopg2.connect(uri)) as other:
        log.append([EVERY_FIELD], "test_eventlog", 1)
        other.cursor().execute(f"SELECT pg_terminate_backend(pid, 60000) {others}")  # and wait until they are gone
        with pytest.raises(StoreError, match="terminat"):
            log.read(0)
        assert EVERY_FIELD[:6] in [e[:6] for e in log.read(0)]


@pytest.mark.skipif("AIF_TEST_PG" not in os.environ, reason="no PostgreSQL: tests/with_postgres gives one")
def test_postgresql_says_why_not():
    import psycopg2

    uri = os.environ["AIF_TEST_PG"]
    with EventLog(uri) as log, contextlib.closing(psycopg2.connect(uri)) as other:
        other.autocommit = True
        other.cursor().execute("ALTER TABLE aiflow_event ADD CONSTRAINT no CHECK (key <> 'refused') NOT VALID")
        try:
            with pytest.raises(StoreError, match="violates check constraint") as caught:
                log.append([Event("refused")], "test_eventlog", 2)
        finally:
            other.cursor().execute("ALTER TABLE aiflow_event DROP CONSTRAINT no")
        assert caught.value.sqlstate == "23514"
        assert len(log.append([Event("refused")], "test_eventlog", 2)) == 1


@pytest.fixture(params=["sqlite", "postgresql"])
def held(request, tmp_path):
    """A log to which nobody can append until somebody calls the function that comes with it."""
    if request.param == "sqlite":
        with (
            EventLog(f"sqlite:{tmp_path}/log.db") as log,
            contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as c,
        ):
            c.execute("BEGIN IMMEDIATE")
            yield log, c.rollback
        return
    psycopg2 = pytest.importorskip("psycopg2")
    uri = os.environ.get("AIF_TEST_PG") or pytest.skip("no PostgreSQL: tests/with_postgres gives one")
    with EventLog(uri) as log, contextlib.closing(psycopg2.connect(uri)) as other:
        other.cursor().execute("SELECT 1 FROM aiflow_log_head FOR UPDATE")
        yield log, other.rollback


def test_a_signal_is_handled_while_a_call_waits_for_a_lock(held, alarm):
    log, release = held
    head = log.head()
    alarm(release)
    assert log.append([Event("a")], "signal", head + 1) == [head + 1]


def test_a_signal_is_handled_while_a_call_waits_for_another_threads(held, alarm):
    log, release = held
    head = log.head()
    appended = []
    thread = threading.Thread(target=lambda: appended.extend(log.append([Event("a")], "thread", head + 1)))
    alarm(release)
    thread.start()
    while thread.is_alive():
        log.head()
    thread.join()
    assert appended == [head + 1]


def test_what_a_signals_handler_raises_ends_the_wait_and_nothing_is_appended(held, alarm):
    def interrupt():
        raise KeyboardInterrupt

    log, release = held
    head = log.head()

    def interrupted():  # it may come before the append
        alarm(interrupt)
        log.append([Event("a")] * 3, "raised", head + 1)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert log.head() == head
    release()
    assert log.append([Event("b")], "raised", head + 1) == [head + 1]


def test_a_signal_is_handled_while_a_log_is_made(tmp_path, alarm):
    with contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        alarm(other.rollback)
        with EventLog(f"sqlite:{tmp_path}/log.db") as log:
            assert log.head() == 0


def test_a_lock_that_is_never_given_back_ends_the_wait(held):
    log, release = held
    head = log.head()
    with pytest.raises(StoreError, match="lock"):
        log.append([Event("a")], "never", head + 1)
    release()
    assert log.append([Event("a")], "never", head + 1) == [head + 1]


@pytest.mark.parametrize("kind", ["sqlite", "pg"])
def test_a_log_of_an_earlier_version_that_is_put_in_the_place_of_an_open_one_gets_what_it_lacks(tmp_path, kind):
    if kind == "sqlite":
        uri = f"sqlite:{tmp_path}/log"
        other = sqlite3.connect(tmp_path / "log")
    else:
        psycopg2 = pytest.importorskip("psycopg2")
        uri = os.environ.get("AIF_TEST_PG") or pytest.skip("no PostgreSQL: tests/with_postgres gives one")
        other = psycopg2.connect(uri)
    with contextlib.closing(other), EventLog(uri) as log:
        head = log.head()
        other.cursor().execute("ALTER TABLE aiflow_log_head DROP COLUMN log_id")
        other.commit()
        with pytest.raises(CorruptError, match="log_id"):
            log.head()
        assert log.head() == head
        assert log.append([Event("a")], "earlier", head + 1) == [head + 1]


def test_no_password_in_what_a_database_says():
    with pytest.raises(StoreError) as caught:
        EventLog("postgresql://me:secret@127.0.0.1:1/db?connect_timeout=1")
    assert "secret" not in str(caught.value)
    assert caught.value.sqlstate == "08006"


def test_threads_share_a_log(tmp_path):
    def work(name):
        for i in range(50):
            log.append([Event(name, str(i))], name, i + 1)

    with EventLog(f"sqlite:{tmp_path}/log.db") as log:
        threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        events = log.read(0)
    assert [e.offset for e in events] == list(range(1, 201))
    for n in range(4):
        assert [e.value for e in events if e.key == f"t{n}"] == [str(i) for i in range(50)]


def test_close_while_other_threads_are_inside(tmp_path):
    """Their calls end, with a result or with ClosedError; the last one out frees."""
    log = EventLog(f"sqlite:{tmp_path}/log.db")
    ended = []
    first = threading.Barrier(5)

    def work(n):
        log.append([Event("a")], str(n), 1)
        first.wait()
        try:
            for i in range(2, 100_000):
                log.append([Event("a")], str(n), i)
        except ClosedError:
            ended.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    first.wait()
    log.close()
    for t in threads:
        t.join()
    assert sorted(ended) == [0, 1, 2, 3]


def test_events_cannot_be_pulled_from_under_a_call(mem_log):
    """The list is emptied by its own iterator; what is appended was taken before."""
    events = [Event(f"key {i}", "v" * 100) for i in range(100)]

    class Emptying(list):
        def __iter__(self):
            yield from self[:]
            self.clear()

    given = Emptying(events)
    events.clear()
    assert len(mem_log.append(given, "p", 1)) == 100
    assert given == []
    assert {len(e.value) for e in mem_log.read(0)} == {100}


def test_the_types_are_final_and_cannot_be_made_without_opening():
    for kind in (_core.EventLog, _core.Broker, _core.Client, _core.Subscription, _core.Match, _core.Rules, _core.Watch):
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Sub", (kind,), {})
        with pytest.raises(TypeError, match=r"object.__new__|is not safe"):
            object.__new__(kind)


ELSEWHERE = """
import os, sys
from aiflow_ext import Event, EventLog
log = EventLog(sys.argv[1])
print(*log.append([Event("theirs")], "q", 1), flush=True)
log.close() if sys.argv[2] == "close" else os.kill(os.getpid(), 9)
"""


def append_elsewhere(uri, end):
    """Another process appends an event, and ends; return the offset that it got, or its error."""
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, uri, end], capture_output=True, text=True, timeout=120)
    return int(done.stdout) if done.stdout else done.stderr


def unlink_ends(path, ends):
    for end in ends:
        os.unlink(f"{path}{end}")


def checked(path):
    """Return the keys of a log's events, by offset, when the file is sound."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with EventLog(f"sqlite:{path}") as log:
        return {e.offset: e.key for e in log.read(0)}


GONE = pytest.mark.parametrize("gone", [["-wal"], ["-shm"], ["-wal", "-shm"]], ids=" ".join)


@GONE
def test_without_its_wal_or_shm_a_log_takes_nothing_more_and_keeps_what_it_had(tmp_path, gone):
    path = tmp_path / "log"
    with EventLog(f"sqlite:{path}") as log:
        append(log, Event("a"), Event("a"))
        unlink_ends(path, gone)
        for _ in range(2):
            with pytest.raises(CorruptError, match=r"the -wal or the -shm file of .* end all programs"):
                append(log, Event("a"), sequence=3)
        with pytest.raises(CorruptError):
            log.head()
    assert checked(path) == {1: "a", 2: "a"}
    with EventLog(f"sqlite:{path}") as log:
        assert append(log, Event("a"), sequence=3) == [3]


@GONE
def test_a_log_that_was_only_opened_knows_its_wal_and_shm(tmp_path, gone):
    """SQLite makes them at the first read, which must not be after the check."""
    path = tmp_path / "log"
    with EventLog(f"sqlite:{path}") as log:
        unlink_ends(path, gone)
        with pytest.raises(CorruptError):
            append(log, Event("a"))


@pytest.mark.parametrize("end", ["close", "kill"])
@GONE
def test_two_processes_do_not_both_acknowledge_what_only_one_log_keeps(tmp_path, gone, end):
    """Whoever finds no -wal or -shm makes one: what it has acknowledged is there when we have ended."""
    path = tmp_path / "log"
    with EventLog(f"sqlite:{path}") as log:
        append(log, Event("a"))
    with EventLog(f"sqlite:{path}") as log:
        append(log, Event("a"), sequence=2)
        unlink_ends(path, gone)
        theirs = append_elsewhere(f"sqlite:{path}", end)
        with pytest.raises(CorruptError):
            append(log, Event("a"), sequence=3)
    kept = checked(path)
    assert kept[1] == "a"
    if gone == ["-wal"]:  # they cannot read the log without it, so they add nothing, and ours is saved
        assert "disk I/O error" in theirs
        assert kept == {1: "a", 2: "a"}
    elif gone == ["-shm"]:  # made from -wal, which has all
        assert kept == {1: "a", 2: "a", theirs: "theirs"}
    else:
        assert kept == {1: "a", theirs: "theirs"}


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_log_that_is_closed_unused_does_not_overwrite_what_others_wrote(tmp_path, end):
    path = tmp_path / "log"
    with EventLog(f"sqlite:{path}") as log:
        append(log, Event("a"))
    with EventLog(f"sqlite:{path}") as log:
        append(log, Event("a"), sequence=2)
        unlink_ends(path, ["-wal", "-shm"])
        theirs = append_elsewhere(f"sqlite:{path}", end)
    assert checked(path) == {1: "a", theirs: "theirs"}


def test_a_second_log_of_a_process_does_not_begin_with_a_deleted_shm(tmp_path):
    """All of one process share it."""
    uri = f"sqlite:{tmp_path}/log"
    with EventLog(uri) as log:
        append(log, Event("a"))
    with EventLog(uri):
        unlink_ends(tmp_path / "log", ["-wal", "-shm"])
        with pytest.raises(CorruptError), EventLog(uri) as second:
            append(second, Event("a"), sequence=2)
    assert checked(tmp_path / "log") == {1: "a"}


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_second_log_of_a_process_does_not_begin_with_the_shm_that_another_process_replaced(tmp_path, end):
    """It would get the deleted one with the new -wal, and overwrite there what the other one wrote."""
    path = tmp_path / "log"
    uri = f"sqlite:{path}"
    with EventLog(uri) as log:
        append(log, Event("a"))
    with EventLog(uri):
        unlink_ends(path, ["-wal", "-shm"])
        theirs = append_elsewhere(uri, end)
        for _ in range(2):
            with pytest.raises(CorruptError, match="end all programs"), EventLog(uri) as second:
                append(second, Event("a"), sequence=2)
    assert checked(path) == {1: "a", theirs: "theirs"}
