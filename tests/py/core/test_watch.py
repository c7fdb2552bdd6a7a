"""Watch as a Python object, and what a poll(2) over it and its like is told; what it hears is tested in C."""

import os
import select
import sqlite3
import threading

import pytest

from aiflow_ext import Event, _core


def test_a_commit_of_another_is_told_once(tmp_path):
    with sqlite3.connect(tmp_path / "w.db") as other:
        other.execute("CREATE TABLE t (x)")
    with _core.Watch(f"sqlite:{tmp_path}/w.db", "") as watch:
        assert (watch.poll(), watch.fileno(), watch.interval_ms()) == ((False, []), -1, 5)
        with sqlite3.connect(tmp_path / "w.db") as other:
            other.execute("INSERT INTO t VALUES (1)")
        assert [watch.poll(), watch.poll()] == [(True, []), (False, [])]


@pytest.mark.skipif("AIF_TEST_PG" not in os.environ, reason="no PostgreSQL: tests/with_postgres gives one")
def test_a_thousand_payloads_a_poll():
    """More come with the next, and no descriptor tells of them: who waits polls first."""
    import psycopg2

    with _core.Watch(os.environ["AIF_TEST_PG"], "aif_test") as watch:
        poller = select.poll()
        poller.register(watch, select.POLLIN)
        other = psycopg2.connect(os.environ["AIF_TEST_PG"])
        with other, other.cursor() as cursor:
            cursor.execute("SELECT pg_notify('aif_test', n::text) FROM generate_series(1, 1001) n")
        other.close()
        heard = []
        while len(heard) < 1000:
            assert poller.poll(60_000)
            changed, payloads = watch.poll()
            heard += payloads
            assert changed or not payloads
        while len(heard) < 1001:
            heard += watch.poll()[1]
        assert heard == [str(n) for n in range(1, 1002)]


def test_a_poll_is_told_of_an_event_that_was_pushed(broker, client):
    with _core.Subscription(broker.uri) as subscription:
        poller = select.poll()
        poller.register(subscription, select.POLLIN)
        subscription.add([("*", "*", "*", "*")], None, 60_000)
        while subscription.next(0) != (None, [], None):
            pass
        client.publish(Event("a"))
        while not (got := subscription.next(0)[1]):
            assert poller.poll(60_000)
        assert [e.key for e in got] == ["a"]


def test_a_watch_of_nothing_it_knows():
    with pytest.raises(ValueError, match="mysql"):
        _core.Watch("mysql://x", "c")
    with pytest.raises(TypeError, match="missing required argument 'channel'"):
        _core.Watch("sqlite:x")


@pytest.mark.skipif("AIF_TEST_PG" not in os.environ, reason="no PostgreSQL: tests/with_postgres gives one")
def test_what_was_committed_before_something_was_seen_is_told_by_then():
    """A run is committed, then an event is published: whoever reads the event, and syncs, has heard of the run."""
    import psycopg2

    pairs, published = 10_000, [0]

    def run_and_publish():
        other = psycopg2.connect(os.environ["AIF_TEST_PG"])
        other.autocommit = True
        with other.cursor() as cursor:
            for n in range(1, pairs + 1):
                cursor.execute("SELECT pg_notify('aif_test', %s)", [str(n)])
                published[0] = n
        other.close()

    with _core.Watch(os.environ["AIF_TEST_PG"], "aif_test") as watch:
        thread = threading.Thread(target=run_and_publish)
        thread.start()
        heard, upto = 0, 0
        while upto < pairs:
            upto = published[0]
            assert watch.sync() == 1
            while payloads := watch.poll()[1]:
                heard = int(payloads[-1])
            assert heard >= upto
        thread.join()
