"""Listeners: callbacks, one thread and one connection for all of a client."""

import logging
import os
import queue
import threading

import pytest

from aiflow_ext import Event, EventClient, _core
from aiflow_ext.errors import ClosedError


def threads():
    return [t for t in threading.enumerate() if t.name == "aiflow-listen"]


def put_all(where):
    def callback(events):
        for event in events:
            where.put(event)

    return callback


def take(where, n):
    return [where.get(timeout=60) for _ in range(n)]


def test_a_callback_gets_what_matches(client):
    got = queue.Queue()
    client.publish(Event("old"))
    listener = client.listen(put_all(got), ["a", "b*"])
    client.publish_many(Event(k) for k in ("a", "c", "bb"))
    assert [e.key for e in take(got, 2)] == ["a", "bb"]
    listener.stop()
    assert (listener.error, listener.cursor, threads()) == (None, 4, [])
    client.publish(Event("a"))
    listener.stop()
    assert got.empty()


def test_many_listeners_share_a_thread_and_a_connection(broker, client):
    got = {key: queue.Queue() for key in "abcde"}
    listeners = {key: client.listen(put_all(where), key, after=0) for key, where in got.items()}
    assert len(threads()) == 1
    assert broker.stats()["subscribers"] == 5
    client.publish_many(Event(key, str(i)) for i in range(200) for key in "abcde")
    for where in got.values():
        assert [e.value for e in take(where, 200)] == list(map(str, range(200)))
    listeners.pop("a").stop()
    client.publish_many([Event("a", "unheard"), Event("b", "last")])
    assert take(got["b"], 1)[0].value == "last"
    assert got["a"].empty()
    for listener in listeners.values():
        listener.stop()
    assert threads() == []
    again = client.listen(put_all(got["a"]), "a", after=0)
    assert len(take(got["a"], 201)) == 201
    again.stop()


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_what_a_callback_raises_ends_its_listener_only(client, caplog, error):
    good, bad = queue.Queue(), queue.Queue()

    def raises(events):
        bad.put(events)
        if "bad" in [e.value for e in events]:
            raise error("of the callback")

    listeners = client.listen(raises, "a"), client.listen(put_all(good), "b")
    for event in (Event("a", "1"), Event("a", "bad"), Event("b", "1"), Event("a", "unheard"), Event("b", "2")):
        client.publish(event)
    assert [e.value for e in take(good, 2)] == ["1", "2"]
    listeners[1].stop()
    assert isinstance(listeners[0].error, error)
    assert listeners[1].error is None
    heard = [e.value for events in take(bad, bad.qsize()) for e in events]
    assert heard[0] == "1"
    assert "bad" in heard
    assert listeners[0].cursor < 2
    assert [r.levelno for r in caplog.records] == [logging.ERROR]
    assert "of the callback" in caplog.text


def test_a_callback_may_publish_listen_and_stop(client):
    got = queue.Queue()
    inner = []

    def callback(events):
        client.publish(Event("answer", events[0].value))
        inner.append(client.listen(put_all(got), "answer", after=0))
        outer.stop()

    outer = client.listen(callback, "question")
    client.publish(Event("question", "1"))
    assert take(got, 1)[0].value == "1"
    client.publish(Event("question", "2"))
    assert len(inner) == 1
    inner[0].stop()
    assert threads() == []


def test_stop_waits_for_the_callback(client):
    begun, go_on, done = threading.Event(), threading.Event(), []

    def callback(events):
        begun.set()
        go_on.wait(60)
        done.append(events)

    listener = client.listen(callback)
    client.publish(Event("a"))
    assert begun.wait(60)
    stopping = threading.Thread(target=listener.stop)
    stopping.start()
    assert listener.cursor == 0  # the callback has not had it
    go_on.set()
    stopping.join()
    assert len(done) == 1
    assert listener.cursor == 1


def test_the_cursor_is_where_to_go_on(client):
    got = queue.Queue()
    listener = client.listen(put_all(got), "a", after=0)
    client.publish_many([Event("a"), Event("b"), Event("a"), Event("b")])
    take(got, 2)
    listener.stop()
    assert listener.cursor == 3
    with client.subscribe("*", after=listener.cursor, log_id=listener.log_id) as rest:
        assert next(rest).offset == 4


def test_closing_the_client_ends_them(broker):
    client = EventClient(broker.uri)
    got = queue.Queue()
    listener = client.listen(put_all(got))
    client.publish(Event("a"))
    take(got, 1)
    client.close()
    assert threads() == []
    listener.stop()
    assert listener.cursor == 1
    with pytest.raises(ClosedError):
        client.listen(print)


def test_no_broker_is_a_timeout_and_leaves_no_thread(tmp_path):
    with EventClient(f"ipc://{tmp_path}/nobody") as client:
        with pytest.raises(TimeoutError):
            client.listen(print, timeout=0.05)
        assert threads() == []
        with _core.Broker(client.uri, "mem:") as broker:
            broker.start()
            got = queue.Queue()
            client.listen(put_all(got))
            client.publish(Event("a"))
            take(got, 1)


def test_bad_filters(client):
    with pytest.raises(ValueError, match="key"):
        client.listen(print, "")
    with pytest.raises(ValueError, match="beyond the newest one"):
        client.listen(print, after=100)
    assert threads() == []


def test_it_rides_out_a_broker_that_is_killed(broker_process):
    got = queue.Queue()
    with EventClient(broker_process.uri) as client:
        listeners = [client.listen(put_all(got), key, after=0) for key in "ab"]
        for i in range(3):
            client.publish_many([Event("a", str(i)), Event("b", str(i))])
            broker_process.kill()
            broker_process.start()
        found = [(e.key, e.value) for e in take(got, 6)]
        for listener in listeners:
            listener.stop()
    assert sorted(found) == [(k, str(i)) for k in "ab" for i in range(3)]


def test_added_and_stopped_while_events_come(client):
    """From several threads; each listener hears, once and in order, all that came after it was added."""
    end = threading.Event()

    def publish():
        while not end.is_set():
            client.publish_many([Event("k")] * 20)

    def listen():
        for _ in range(20):
            got = queue.Queue()
            after = other.head()
            listener = other.listen(put_all(got), after=after)
            heard = [e.offset for e in take(got, 50)]
            listener.stop()
            problems.extend([heard] if heard != list(range(after + 1, after + 51)) else [])

    problems = []
    with EventClient(client.uri) as other:
        publisher = threading.Thread(target=publish)
        listening = [threading.Thread(target=listen) for _ in range(3)]
        for t in (publisher, *listening):
            t.start()
        for t in listening:
            t.join()
        end.set()
        publisher.join()
    assert problems == []
    assert threads() == []


def test_its_descriptor_is_open_until_it_has_been_told_to_end(client, monkeypatch):
    write, written = os.eventfd_write, []

    def slow(fd, n):
        write(fd, n)
        threads()[0].join(0.5)  # as long as the thread may take to end
        written.append(os.fstat(fd))

    monkeypatch.setattr(os, "eventfd_write", slow)
    client.listen(print).stop()
    assert len(written) == 1
    assert threads() == []


def test_closed_while_its_thread_starts(client, monkeypatch):
    start = threading.Thread.start
    closing = threading.Thread(target=client.close)

    def slow(thread):
        if thread.name == "aiflow-listen":
            start(closing)
            closing.join(0.5)  # as long as it may take to close
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", slow)
    listener = client.listen(print)
    closing.join()
    assert threads() == []
    listener.stop()
