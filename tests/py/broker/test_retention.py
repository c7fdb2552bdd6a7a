"""What a log lets go, and what it keeps, on real logs."""

import contextlib
import logging
import os
import sqlite3
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest

from aiflow_ext import Event, EventClient, EventLog, _core
from aiflow_ext.broker import retention
from aiflow_ext.broker.retention import Cut, Keeper, Policy, apply, parse, parse_all, plan, time_of
from aiflow_ext.errors import RetentionError
from aiflow_ext.events import times

NOW = 1_700_000_000_000
HOUR = 3_600_000


@pytest.fixture
def postgres():
    """The URI of a schema of its own."""
    uri = os.environ.get("AIF_TEST_PG")
    if not uri:
        pytest.skip("no PostgreSQL: tests/with_postgres gives one")
    connection = psycopg2.connect(uri)
    connection.autocommit = True
    with contextlib.closing(connection), connection.cursor() as cursor:
        name = f"retention_{uuid.uuid4().hex}"
        cursor.execute(f"CREATE SCHEMA {name}")
        yield f"{uri}{'&' if '?' in uri else '?'}options=-csearch_path%3D{name}"
        cursor.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture(params=["mem", "sqlite", "postgres"])
def log(request, tmp_path):
    uris = {"mem": lambda: "mem:", "sqlite": lambda: f"sqlite:{tmp_path}/events.db"}
    uri = uris.get(request.param, lambda: request.getfixturevalue("postgres"))()
    with EventLog(uri) as log:
        yield log


def fill(log, *namespaces, hours=None):
    """An event an hour, the last one now."""
    hours = range(len(namespaces) - 1, -1, -1) if hours is None else hours
    for i, (namespace, ago) in enumerate(zip(namespaces, hours, strict=True), 1):
        log.append([Event("k", str(i), namespace=namespace)], "p", i, NOW - ago * HOUR)


def left(log):
    return [event.offset for event in log.read(0)]


def run(log, *policies, limit=None, chunk=1000):
    cuts = plan(log, policies, NOW, limit)
    gone = sum(n for _, n in apply(log, cuts, chunk))
    assert gone == sum(cut.events for cut in cuts)
    return left(log)


def until(keeper, so):
    for _ in range(6000):
        if so():
            return
        keeper.join(0.01)
    pytest.fail("it did not come to that")


# --- how it is written


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("airflow=7d", Policy("airflow", timedelta(days=7))),
        ("*=1000000", Policy("*", None, 1_000_000)),
        ("metrics*=1d12h,0", Policy("metrics*", timedelta(hours=36), 0)),
        (" a=5, 90s ", Policy("a", timedelta(seconds=90), 5)),
        ("a=b=1h", Policy("a=b", timedelta(hours=1))),
    ],
)
def test_policies(text, policy):
    assert parse(text) == policy


@pytest.mark.parametrize("text", ["", "a", "a=", "=1d", "a=1d,", "a=1,2", "a=1d,2d", "a=-1", "a=1.5", "a=1d,2,3"])
def test_what_is_no_policy(text):
    with pytest.raises(ValueError, match=r"is no retention: write NAMESPACE=AGE,COUNT, as 'airflow=7d'|is no duration"):
        parse(text)


def test_policies_that_contradict_each_other():
    assert len(parse_all(["*=30d", "airflow=7d", "audit=100"])) == 3
    with pytest.raises(ValueError, match="two retentions of the namespace 'a'"):
        parse_all(["a=1d", "a=5"])
    with pytest.raises(ValueError, match=r"'audit' would keep events for 365 days.*, which '\*' lets go after 30 days"):
        parse_all(["*=30d", "audit=365d"])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("2h", 7200), ("1d12h", 129_600), ("4w", 2_419_200), ("5ms", 0.005)],
)
def test_durations(text, seconds):
    assert times.duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "d", "5 d", "5y", "-5d", "1d!", "9" * 30 + "w"])
def test_no_durations(text):
    with pytest.raises(ValueError, match=r"is no duration: write 90s, 15m|is too long"):
        times.duration(text)


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("2026-05-01", datetime(2026, 5, 1, tzinfo=UTC)),
        ("2026-05-01 12:30:00.250", datetime(2026, 5, 1, 12, 30, 0, 250_000, UTC)),
        ("2026-05-01T12:30+02:00", datetime(2026, 5, 1, 10, 30, tzinfo=UTC)),
        ("2h", datetime(2026, 1, 1, 22, tzinfo=UTC)),
        ("-1d", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_moments(text, when):
    assert times.moment(text, datetime(2026, 1, 2, tzinfo=UTC)) == when


@pytest.mark.parametrize("text", ["", "now", "2026-13-01", "2x", "99999999w"])
def test_no_moments(text):
    with pytest.raises(ValueError, match="is no time: write 2026-05-01"):
        times.moment(text, datetime(2026, 1, 2, tzinfo=UTC))


# --- what goes


def test_by_age(log):
    fill(log, *"aaaaa")
    assert plan(log, [parse("a=2h")], NOW) == [Cut("a", 2, 2)]
    assert left(log) == [1, 2, 3, 4, 5]  # a plan changes nothing
    assert run(log, parse("a=2h")) == [3, 4, 5]  # two hours old is not older
    assert run(log, parse("a=2h")) == [3, 4, 5]


def test_by_count(log):
    fill(log, *"abababab")
    assert run(log, parse("a=2")) == [2, 4, 5, 6, 7, 8]
    assert run(log, parse("*=3")) == [6, 7, 8]
    assert run(log, parse("b=0")) == [7]


def test_either_is_enough(log):
    fill(log, *"aaaaaa")
    assert plan(log, [parse("a=1h,3"), parse("a*=4h,2")], NOW) == [Cut("a", 4, 4), Cut("a*", 4, 4)]


def test_by_namespace(log):
    fill(log, "a", "ab", "b", "ab", "a")
    assert run(log, parse("ab=0s,0")) == [1, 3, 5]
    assert run(log, parse("a*=1h")) == [3, 5]


def test_what_a_consumer_has_not_had_stays(log):
    fill(log, *"aaaaa")
    assert run(log, parse("a=0"), limit=3) == [4, 5]
    assert run(log, parse("a=0"), limit=0) == [4, 5]


def test_nothing_to_do(log):
    assert plan(log, [parse("*=0")], NOW) == [Cut("*", 0, 0)]
    fill(log, "a")
    assert run(log, parse("b=0"), parse("a=1h"), parse("*=5")) == [1]


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_in_steps(log, n):
    fill(log, *"aaaaaaa")
    steps = [gone for _, gone in apply(log, plan(log, [parse("a=1")], NOW), n)]
    assert sum(steps) == 6
    assert max(steps) <= n
    assert left(log) == [7]


def test_who_was_not_there_is_told(log):
    fill(log, *"aaab")
    run(log, parse("a=0"))
    with pytest.raises(RetentionError, match=r"offset"):
        log.read(1)
    assert [e.offset for e in log.read(1, 10, ("b", "*", "*", "*", "*"))] == [4]  # nothing of it was let go
    assert left(log) == [4]


def test_the_time_of_an_offset(log):
    fill(log, *"ababab")
    at = [event.create_time for event in log.read(0)]
    run(log, parse("a=0"))
    assert [time_of(log, offset, NOW + 1) for offset in (2, 4, 6)] == [at[1], at[3], at[5]]


# --- all the time


def test_a_log_is_held_to_its_policies(tmp_path, caplog):
    caplog.set_level(logging.INFO, "aiflow_ext.broker.retention")
    uri = f"sqlite:{tmp_path}/events.db"
    with EventLog(uri) as log:
        log.append([Event("k", namespace="a")] * 2500, "p", 1)
        keeper = Keeper(uri, [parse("a=10")])
        keeper.start()
        until(keeper, lambda: log.count() == 10)
        keeper.stop()
        assert left(log) == list(range(2491, 2501))
    assert not keeper.is_alive()
    assert caplog.messages[0] == "retention: 2490 events of a are gone, up to offset 2490"


def test_it_keeps_what_a_consumer_needs(tmp_path):
    uri = f"sqlite:{tmp_path}/events.db"
    asked = threading.Event()

    def offset(event_log):
        assert event_log.head() == 5
        asked.set()
        return 3

    with EventLog(uri) as log:
        log.append([Event("k", namespace="a")] * 5, "p", 1)
        keeper = Keeper(uri, [parse("a=0")], offset)
        keeper.start()
        assert asked.wait(60)
        until(keeper, lambda: log.count() == 2)
        keeper.stop()
        assert left(log) == [4, 5]


def test_it_goes_on_when_the_log_fails(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(retention, "EVERY", 0.01)
    uri = f"sqlite:{tmp_path}/not there/events.db"
    keeper = Keeper(uri, [parse("a=0")])
    keeper.start()
    until(keeper, lambda: caplog.records)
    (tmp_path / "not there").mkdir()
    with EventLog(uri) as log:
        log.append([Event("k", namespace="a")], "p", 1)
        until(keeper, lambda: log.count() == 0)
    keeper.stop()
    assert len(caplog.records) == 1  # said once
    assert caplog.messages[0].startswith(f"retention of {uri} failed, trying again: StoreError: ")


def take(log_uri, tmp_path, name, after, namespace="a"):
    """A cursor at that offset, taken now."""
    with _core.Broker(f"ipc://{tmp_path}/b", log_uri) as broker:
        broker.start()
        with EventClient(broker.uri) as client:
            client.subscribe(resume=name, after=after, namespace=namespace).close()


@pytest.mark.parametrize(
    ("theirs", "policy", "left_over"),
    [
        ("a", "a", [3, 4]),
        ("a", "*", [3, 4]),
        ("*", "a", [3, 4]),
        ("a*", "ab*", [3, 4]),
        ("b", "a", [4]),
        ("ab", "a", [4]),
    ],
)
def test_a_cursor_keeps_what_lies_beyond_it(tmp_path, theirs, policy, left_over):
    uri = f"sqlite:{tmp_path}/events.db"
    with EventLog(uri) as log:
        names = [policy.replace("*", "") or "a"] * 4
        fill(log, *names)
        take(uri, tmp_path, "c", 2, theirs)
        (cut,) = plan(log, [Policy(policy, count=1)], now_ms())
        list(apply(log, [cut]))
        assert left(log) == left_over
        assert len(cut.notes) == (left_over == [3, 4])
        assert all("cursor 'c' of namespace" in note and "keeps events" in note for note in cut.notes)


def test_an_abandoned_cursor_keeps_nothing_and_is_told(tmp_path, caplog, until):
    uri = f"sqlite:{tmp_path}/events.db"
    with EventLog(uri) as log:
        fill(log, *"aaaa")
        take(uri, tmp_path, "old", 1)
        take(uri, tmp_path, "new", 2)
        week = int(retention.ABANDONED.total_seconds() * 1000)
        with sqlite3.connect(tmp_path / "events.db") as db:
            db.execute("UPDATE aiflow_cursor SET moved_ms = moved_ms - ? WHERE name = 'old'", (week + HOUR,))
        keeper = Keeper(uri, parse_all(["a=1"]))
        keeper.start()
        until(lambda: left(log) == [3, 4])
        keeper.stop()
    assert "cursor 'old' of namespace 'a' was not moved for 7 days, and keeps no events of 'a' any more" in caplog.text
    assert "cursor 'new' of namespace 'a' keeps events of 'a' that would go" in caplog.text


def now_ms():
    return time.time_ns() // 1_000_000
