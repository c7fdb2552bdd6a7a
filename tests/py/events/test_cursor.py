"""A stream does not lose events between its tries: subscribe(resume=)."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading

import pytest

from aiflow_ext import AsyncEventClient, Event, EventClient, EventLog, _core
from aiflow_ext.errors import ConflictError, ReplacedError, RetentionError
from aiflow_ext.events import cursor as cursors

MINUTE = 60


def publish(client, *values, key="k"):
    return client.publish_many(Event(key, v) for v in values)


def take(stream, n):
    """The next n values; the last one is not done."""
    return [next(stream).value for _ in range(n)]


def place(client, name="c"):
    return {c.name: c.offset for c in client.cursors()}.get(name)


def test_what_came_between_two_tries_is_not_lost(client):
    stream = client.subscribe("k", resume="c")
    publish(client, "1", "2", "3")
    with pytest.raises(ZeroDivisionError):
        work(stream)
    publish(client, "4", key="other")
    publish(client, "5")
    with client.subscribe("k", resume="c") as stream:
        assert take(stream, 3) == ["2", "3", "5"]  # the one that failed is not done


def work(stream):
    with stream:
        for event in stream:
            _ = 1 / (2 - int(event.value))


def test_without_a_name_it_is_lost(client):
    with client.subscribe("k"):
        publish(client, "1")
    publish(client, "2")
    with client.subscribe("k") as stream:
        publish(client, "3")
        assert take(stream, 1) == ["3"]


def test_a_new_name_begins_now_and_keeps_what_comes_before_it_is_read(client):
    publish(client, "old")
    client.subscribe("k", resume="c").close()
    publish(client, "new")
    with client.subscribe("k", resume="c") as stream:
        assert take(stream, 1) == ["new"]


def test_after_says_where_a_new_name_begins(client):
    publish(client, "1", "2", "3")
    with client.subscribe("k", resume="c", after=1) as stream:
        assert take(stream, 2) == ["2", "3"]  # and so 2 is done
    for after in (0, 3, 9):
        with client.subscribe("k", resume="c", after=after) as stream:
            assert take(stream, 1) == ["3"]
    with pytest.raises(ValueError, match="offset 9 is beyond the newest one, 3"):
        client.subscribe("k", resume="d", after=9)


def test_break_leaves_the_last_event_and_commit_takes_it(client):
    publish(client, "1", "2")
    with client.subscribe("k", resume="c", after=0) as stream:
        assert take(stream, 1) == ["1"]
    with client.subscribe("k", resume="c") as stream:
        assert take(stream, 1) == ["1"]
        stream.commit()
        assert place(client) == 1
    with client.subscribe("k", resume="c") as stream:
        assert take(stream, 1) == ["2"]
    with client.subscribe("k") as stream, pytest.raises(ValueError, match="resume='name'"):
        stream.commit()


def test_what_poll_returned_is_done_when_it_is_asked_again(client):
    publish(client, "1", "2")
    with client.subscribe("k", resume="c", after=0) as stream:
        assert [e.value for e in stream.poll(MINUTE)] == ["1", "2"]
    with client.subscribe("k", resume="c") as stream:
        assert [e.value for e in stream.poll(MINUTE)] == ["1", "2"]
        assert stream.poll(0) == []
    assert place(client) == 2


def test_an_idle_loop_tells_soon(client, until):
    publish(client, "1", "2")
    with client.subscribe("k", resume="c", after=0) as stream:
        thread = threading.Thread(target=lambda: list(stream))
        thread.start()
        until(lambda: place(client) == 2)
        stream.close()
        thread.join()


def test_many_events_are_one_move(client, monkeypatch):
    """A thousand, where the time between two moves is an hour."""
    monkeypatch.setattr(cursors, "MOVE", 3600.0)
    client.publish_many(Event("k", str(i)) for i in range(5000))
    with client.subscribe("k", resume="c", after=0) as stream:
        take(stream, 1000)
        assert place(client) == 0
        take(stream, 1)
        assert place(client) == 1000
        take(stream, 999)
        assert place(client) == 1000
        take(stream, 3000)
        assert place(client) == 4000
    assert place(client) == 4999


def test_a_quiet_stream_moves_with_the_log(client, monkeypatch):
    """Else it would seem abandoned, and hold up retention meanwhile."""
    monkeypatch.setattr(cursors, "BEAT", 0.05)
    with client.subscribe("k", resume="c") as stream:
        publish(client, "1", "2", key="other")
        for _ in range(MINUTE * 100):
            assert stream.poll(0.01) == []
            if place(client) == 2:
                break
        assert place(client) == 2


def test_at_a_stop_what_is_behind_it_stays(client):
    control = ("default", "stop", "*", "*", "*")
    publish(client, "1", "2")
    with client.subscribe("k", resume="c", after=0, control=[control]) as stream:
        publish(client, "now", key="stop")
        publish(client, "3")
        assert [e.value for e in stream] == ["1", "2"]
        assert stream.stopped
        assert (place(client), stream.cursor) == (2, 2)
    assert place(client) == 2
    with client.subscribe("k", resume="c") as stream:
        assert take(stream, 1) == ["3"]


def test_the_newest_has_it_and_the_older_one_is_told(broker, client):
    publish(client, "1", "2", "3")
    with EventClient(broker.uri) as other, client.subscribe("k", resume="c", after=0) as first:
        assert take(first, 1) == ["1"]
        with other.subscribe("k", resume="c") as second:
            with pytest.raises(ConflictError, match="cursor 'c' was taken by another subscription"):
                first.commit()
            assert list(first) == []  # closed
            assert take(second, 2) == ["1", "2"]
            second.commit()
    assert place(client) == 2


def test_a_loop_ends_when_another_takes_its_name(client, until):
    ended = []

    def loop():
        try:
            with client.subscribe("k", resume="c") as stream:
                for event in stream:
                    ended.append(event.value)
        except ConflictError as e:
            ended.append(str(e))

    thread = threading.Thread(target=loop)
    thread.start()
    until(lambda: place(client) is not None)
    with client.subscribe("k", resume="c"):
        publish(client, "1")
        thread.join(MINUTE)
        assert ended == ["1", "cursor 'c' was taken by another subscription"]


def test_a_deleted_name_ends_its_subscription(client):
    publish(client, "1")
    with client.subscribe("k", resume="c", after=0) as stream:
        take(stream, 1)
        assert client.delete_cursor("c")
        assert not client.delete_cursor("c")
        with pytest.raises(ConflictError, match="cursor 'c' was deleted"):
            stream.commit()
    assert client.cursors() == []


def test_a_name_belongs_to_a_namespace(client):
    client.subscribe("k", resume="c").close()
    client.publish(Event("k", namespace="team"))
    client.subscribe("k", resume="c", namespace="team*").close()
    found = client.cursors()
    assert [c[:3] for c in found] == [("default", "c", 0), ("team*", "c", 1)]
    assert all(abs(c.moved - client.list(namespace="*")[0].create_time) < 3_600_000 for c in found)
    assert [c.namespace for c in client.cursors("team*")] == ["team*"]
    assert not client.delete_cursor("c", "team")
    assert client.delete_cursor("c", "team*")
    assert [c.namespace for c in client.cursors()] == ["default"]


@pytest.mark.parametrize("name", ["", "n" * 256, "ä" * 128, "a\0b"])
def test_a_name_has_1_to_255_bytes(client, name):
    with pytest.raises(ValueError, match=r"^cursor "):
        client.subscribe("k", resume=name)
    client.subscribe("k", resume="ä" * 127 + "n").close()
    assert [len(c.name.encode()) for c in client.cursors()] == [255]


def test_it_outlives_its_client_and_the_brokers(broker_process, monkeypatch):
    monkeypatch.setattr(cursors, "CLOSE", 60.0)
    with EventClient(broker_process.uri) as client:
        stream = client.subscribe("k", resume="c")
        publish(client, "1", "2", "3")
    assert take(stream, 2) == ["1", "2"]
    broker_process.kill()
    broker_process.start()
    assert take(stream, 1) == ["3"]
    stream.close()
    with EventClient(broker_process.uri) as client:
        assert place(client) == 2


def test_a_broker_that_is_away_holds_up_what_is_not_told(broker_process, monkeypatch):
    """Else more would come again after a crash than was promised."""
    monkeypatch.setattr(cursors, "AT_ONCE", 2)
    monkeypatch.setattr(cursors, "MOVE", 3600.0)
    with EventClient(broker_process.uri) as client:
        publish(client, *"12345")
        with client.subscribe("k", resume="c", after=0) as stream:
            assert take(stream, 2) == ["1", "2"]
            broker_process.kill()
            assert stream.poll(0) == []
            broker_process.start()
            assert take(stream, 1) == ["3"]
            assert place(client) == 2


@pytest.fixture
def pg_uri():
    """A schema with a log of its own."""
    psycopg2 = pytest.importorskip("psycopg2")
    server = os.environ.get("AIF_TEST_PG") or pytest.skip("no PostgreSQL: tests/with_postgres gives one")
    schema = f"aiflow_cursor_{os.getpid()}"
    with contextlib.closing(psycopg2.connect(server)) as db:
        db.autocommit = True
        db.cursor().execute(f"CREATE SCHEMA {schema}")
        yield f"{server}{'&' if '?' in server else '?'}options=-csearch_path%3D{schema}"
        db.cursor().execute(f"DROP SCHEMA {schema} CASCADE")


def test_two_brokers_one_log(pg_uri, tmp_path):
    with (
        _core.Broker(f"ipc://{tmp_path}/a", pg_uri) as a,
        _core.Broker(f"ipc://{tmp_path}/b", pg_uri) as b,
    ):
        a.start()
        b.start()
        with EventClient(a.uri) as one, EventClient(b.uri) as two:
            with one.subscribe("k", resume="c") as stream:
                publish(two, "1", "2", "3")
                assert take(stream, 2) == ["1", "2"]
                with two.subscribe("k", resume="c") as other:
                    with pytest.raises(ConflictError):
                        stream.commit()
                    publish(one, "4")
                    assert take(other, 4) == ["1", "2", "3", "4"]
            assert place(one) == 3


def test_events_that_were_let_go_are_said(broker, tmp_path, client):
    publish(client, *"12345")
    client.subscribe("k", resume="c", after=1).close()
    with EventLog(f"sqlite:{tmp_path}/events.db") as log:
        assert log.purge("default", 3) == 3
    with pytest.raises(RetentionError, match=r"begin again from offset 3.*cursor 'c' is before it: delete it"):
        client.subscribe("k", resume="c")
    assert client.delete_cursor("c")
    with client.subscribe("k", resume="c", after=3) as stream:
        assert take(stream, 2) == ["4", "5"]
    assert place(client) == 4


def test_what_was_let_go_of_the_controls_namespace_is_no_loss(client, tmp_path):
    control = ("ours", "stop", "*", "*", "*")
    publish(client, "1")
    client.publish_many([Event("stop", namespace="other"), Event("noise", namespace="ours")] * 3)
    publish(client, "2")
    client.subscribe("k", resume="c", after=1).close()
    with EventLog(f"sqlite:{tmp_path}/events.db") as log:
        assert log.purge("ours", 7) == 3
    with client.subscribe("k", resume="c", control=[control]) as stream:
        assert take(stream, 1) == ["2"]
        client.publish(Event("stop", namespace="ours"))
        assert list(stream) == []
        assert stream.stopped


def test_a_log_that_was_replaced_is_said(tmp_path):
    """By a copy without events; the cursors' table was kept."""
    path = tmp_path / "events.db"
    with _core.Broker(f"ipc://{tmp_path}/b", f"sqlite:{path}") as broker:
        broker.start()
        with EventClient(broker.uri) as client:
            publish(client, *"123")
            with client.subscribe("k", resume="c", after=0) as stream:
                take(stream, 3)
                stream.commit()
                with subprocess.Popen([sys.executable, "-c", BACK, str(path)], stdin=subprocess.DEVNULL) as process:
                    assert process.wait(MINUTE) == 0
                with pytest.raises(ReplacedError, match=r"replaced by (another one, or )?an older copy"):
                    stream.commit()
            with pytest.raises(ReplacedError, match="delete the cursor to begin again"):
                client.subscribe("k", resume="c")
            assert client.delete_cursor("c")
            with client.subscribe("k", resume="c", after=0) as stream:
                assert take(stream, 1) == ["1"]


BACK = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as db:
    db.execute('DELETE FROM aiflow_event WHERE "offset" > 1')
    db.execute('UPDATE aiflow_log_head SET "offset" = 1')
"""


def test_a_forked_child_leaves_it_to_its_parent(client):
    publish(client, "1", "2")
    with client.subscribe("k", resume="c", after=0) as stream:
        take(stream, 2)
        if (pid := os.fork()) == 0:
            stream.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert take_one_more(client, stream) == "3"
        stream.commit()
    assert place(client) == 3


def take_one_more(client, stream):
    publish(client, "3")
    return next(stream).value


def test_asyncio(broker):
    async def main():
        async with AsyncEventClient(broker.uri) as client:
            await client.publish_many(Event("k", str(i)) for i in range(4))
            async with await client.subscribe("k", resume="c", after=0) as stream:
                assert [(await anext(stream)).value for _ in range(3)] == ["0", "1", "2"]
            async with await client.subscribe("k", resume="c") as stream:
                assert [e.value for e in await stream.poll(MINUTE)] == ["2", "3"]
                other = await client.subscribe("k", resume="c")
                with pytest.raises(ConflictError):
                    await stream.commit()
                assert [e async for e in stream] == []
            assert (await anext(other)).value == "2"
            await other.commit()
            waiting = asyncio.create_task(anext(other))  # 3 comes, and is done only when more is asked for
            assert (await waiting).value == "3"
            waiting = asyncio.create_task(anext(other))
            async with asyncio.timeout(MINUTE):
                while [c.offset for c in await client.cursors()] != [4]:  # it tells while it waits
                    pass
            other.close()
            with pytest.raises(StopAsyncIteration):
                await waiting
            assert await client.delete_cursor("c")

    asyncio.run(main())


def test_a_signals_handler_may_raise_at_any_moment(client):
    """None of the events is lost, and none is done that was not handed out."""

    class Rung(Exception):
        pass

    def ring(*_):
        raise Rung

    n, chance = 3000, random.Random(1)
    client.publish_many(Event("k", str(i)) for i in range(n))
    seen = []
    was = signal.signal(signal.SIGALRM, ring)
    try:
        while len(seen) < n:
            stream = client.subscribe("k", resume="c", after=0)
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.001, 0.05))
                again = True
                for event in stream:
                    value = int(event.value)
                    if again and seen and value <= seen[-1]:
                        del seen[seen.index(value) :]
                    again = False
                    assert value == (seen[-1] + 1 if seen else 0)
                    seen.append(value)
                    if len(seen) == n:
                        break
            except Rung:
                pass
            finally:
                with contextlib.suppress(Rung):
                    signal.setitimer(signal.ITIMER_REAL, 0)
                stream.close()
    finally:
        signal.signal(signal.SIGALRM, was)


READER = """
import sys
from aiflow_ext import EventClient
for event in EventClient(sys.argv[1]).subscribe("k", resume="c", after=0):
    print(event.value, flush=True)
"""


def test_a_reader_that_is_killed_at_random_misses_nothing(broker_process):
    """Each event at least once, in order; after a crash no more than a batch comes again."""
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    n, seen = 20_000, -1
    with EventClient(broker_process.uri) as client:
        client.publish_many(Event("k", str(i)) for i in range(n))
    while seen < n - 1:
        with subprocess.Popen(
            [sys.executable, "-c", READER, broker_process.uri], stdout=subprocess.PIPE, text=True
        ) as process:
            lives, last = dice.randrange(1, 6000), None
            for line in process.stdout:
                value = int(line)
                if last is None:
                    assert seen - cursors.AT_ONCE <= value <= seen + 1, f"seed {seed}"
                else:
                    assert value == last + 1, f"seed {seed}"
                last = value
                seen = max(seen, value)
                lives -= 1
                if lives == 0:
                    process.kill()
                if seen == n - 1:
                    process.kill()
