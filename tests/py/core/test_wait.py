"""wait() and Watch as Python objects; what they hear is tested in C."""

import os
import signal
import sqlite3

import pytest

from aiflow_ext import Event, _core
from aiflow_ext.errors import ClosedError

ANY = [("*", "*", "*", "*")]


def test_which_of_them_is_ready(broker, client, tmp_path):
    sqlite3.connect(tmp_path / "w.db").executescript("CREATE TABLE t (x)")
    r, w = os.pipe()
    with (
        _core.Subscription(broker.uri) as subscription,
        _core.Watch(f"sqlite:{tmp_path}/w.db", "") as watch,
        open(r) as reader,
    ):
        watch.poll()
        subscription.add(ANY, None, 60_000)
        while subscription.next(0) != (None, [], None):
            pass
        assert not _core.wait([reader, r], 0)[0]
        os.write(w, b"x")
        assert _core.wait([reader, subscription, r], 60_000) == [True, False, True]
        client.publish(Event("a"))
        while not (got := subscription.next(0)[1]):
            assert True in _core.wait([subscription], 60_000)
        assert [e.key for e in got] == ["a"]
        with sqlite3.connect(tmp_path / "w.db") as other:
            other.execute("INSERT INTO t VALUES (1)")
        while not watch.poll()[0]:
            _core.wait(sources=(watch,), timeout_ms=60_000)
    os.close(w)


def test_nothing_comes_and_nothing_to_wait_for():
    r, w = os.pipe()
    assert _core.wait([r], 1) == [False]
    assert _core.wait([], 1) == []
    os.close(r)
    os.close(w)


def test_a_signal_handler_runs_and_its_exception_comes_out():
    def handler(number, frame):
        raise RuntimeError("from the handler")

    def wait():  # all of it where the exception is expected: it may come before the wait
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        _core.wait([], 60_000)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(RuntimeError, match="from the handler"):
            wait()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_bad_sources(broker):
    subscription = _core.Subscription(broker.uri)
    subscription.close()
    for source, error, text in (
        (subscription, ClosedError, "this Subscription is closed"),
        ("x", TypeError, "argument must be an int, or have a fileno"),
        (-1, ValueError, "file descriptor cannot be a negative integer"),
    ):
        with pytest.raises(error, match=text):
            _core.wait([0, source], 0)
    with pytest.raises(ValueError, match="timeout_ms must be from 0 to 2147483647, not -1"):
        _core.wait([], -1)


def test_a_watch_of_nothing_it_knows():
    with pytest.raises(ValueError, match="mysql"):
        _core.Watch("mysql://x", "c")
    with pytest.raises(TypeError, match="missing required argument 'channel'"):
        _core.Watch("sqlite:x")
