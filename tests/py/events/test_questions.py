"""What a client can ask about the log beside list and count, of a real broker over SQLite."""

from datetime import UTC, datetime, timedelta

import pytest

from aiflow_ext import Event, EventClient, EventLog, _core
from aiflow_ext.errors import ConflictError, RetentionError

NOW = datetime.now(UTC)
MS = 1_700_000_000_000


@pytest.fixture
def past(tmp_path):
    """Twelve events, one a second from MS on, of four senders; and a client of a broker over them."""
    with EventLog(f"sqlite:{tmp_path}/events.db") as log:
        for i in range(12):
            event = Event(f"k{i % 3}", str(i), "T", f"run {i % 2}", "n", "abcd"[i % 4] if i % 4 else "")
            log.append([event], "p", i + 1, MS + 1000 * i)
    with _core.Broker(f"ipc://{tmp_path}/broker", f"sqlite:{tmp_path}/events.db") as broker:
        broker.start()
        with EventClient(broker.uri, namespace="n") as client:
            yield client


def at(i):
    return datetime.fromtimestamp((MS + 1000 * i) / 1000, UTC)


def offsets(events):
    return [e.offset for e in events]


def test_the_offset_of_a_time(past):
    assert [past.offset_at(at(i)) for i in (0, 1, 5)] == [0, 1, 5]
    assert past.offset_at(MS + 500) == 1
    assert past.offset_at(at(4) + timedelta(microseconds=1)) == 4  # what came later in this millisecond is beyond it
    assert (past.offset_at(0), past.offset_at(datetime(1900, 1, 1, tzinfo=UTC)), past.offset_at(NOW)) == (
        0,
        0,
        12,
    )


def test_a_time_that_is_none(past):
    with pytest.raises(ValueError, match="has no time zone"):
        past.offset_at(datetime(2026, 1, 1))
    with pytest.raises(ValueError, match="is in the future"):
        past.offset_at(NOW + timedelta(days=1))
    with pytest.raises(ValueError, match="is in the future"):
        past.list(until=NOW + timedelta(days=1))
    with pytest.raises(ValueError, match="ms must be from 0"):
        past.offset_at(-1)
    for time in ("2h", 1.5):
        with pytest.raises(TypeError, match=r"a time is a datetime, or ms since the epoch as an int, not (str|float)"):
            past.list(since=time)


def test_since_and_until(past):
    assert offsets(past.list(since=at(3))) == list(range(4, 13))
    assert offsets(past.list(until=at(3))) == [1, 2, 3]
    assert offsets(past.list("k1", since=at(2), until=at(8), after=3, upto=7)) == [5]
    assert past.list(until=at(0)) == []
    assert past.count(since=at(10)) == 2
    assert past.count(since=at(6), until=at(6)) == 0
    with past.subscribe("k0", since=at(8)) as subscription:
        assert next(subscription).offset == 10


def test_pages(past):
    found, after = past.page(limit=5)
    assert (offsets(found), after) == ([1, 2, 3, 4, 5], 5)
    found, after = past.page("k1", limit=5, since=at(2), upto=9)
    assert (offsets(found), after) == ([5, 8], None)
    assert past.page(until=at(0)) == past.page(after=7, upto=7) == ([], None)


def test_count_by_sender(past):
    assert past.count_by_sender() == {"": 3, "b": 3, "c": 3, "d": 3}
    assert past.count_by_sender(["k0", "k1"], after=2, upto=9) == {"": 1, "c": 1, "d": 2}
    assert past.count_by_sender(sender="b", context="run 1") == {"b": 3}
    assert past.count_by_sender("nothing") == {}
    assert past.count_by_sender(until=at(0)) == {}


def test_the_latest(past):
    assert past.latest() == past.head() == 12
    assert [past.latest(f"k{i}") for i in range(4)] == [10, 11, 12, 0]
    assert past.latest(["k0", "k1"], upto=9) == 8
    assert past.latest("k0", after=10) == 0
    assert past.latest("k2", until=at(5)) == 3
    assert past.latest(sender="") == 9


def test_beyond_the_end_is_said(past):
    for ask in (past.list, past.page, past.count, past.latest, past.count_by_sender, past.subscribe):
        with pytest.raises(ValueError, match="offset 13 is beyond the newest one, 12"):
            ask(after=13)
    assert past.list(after=12) == []


def test_a_rare_key_in_a_long_log(tmp_path):
    """The broker looks at 50,000 offsets in one answer."""
    n = 120_000
    with EventLog(f"sqlite:{tmp_path}/events.db") as log:
        log.append([Event("rare", sender="s")], "q", 1)
        for i in range(0, n, 10_000):
            log.append([Event("k", sender="t")] * 10_000, "p", i + 1)
        log.append([Event("rare", sender="s")], "q", 2)
    with _core.Broker(f"ipc://{tmp_path}/broker", f"sqlite:{tmp_path}/events.db") as broker:
        broker.start()
        with EventClient(broker.uri) as client:
            assert offsets(client.list("rare")) == [1, n + 2]
            assert offsets(client.list("rare", limit=1)) == [1]
            assert len(client.page(limit=20_000)[0]) == 10_000
            found, after = client.page("rare", after=1)
            assert (found, after) == ([], 50_001)  # so much of the log was looked at
            assert (client.count("rare"), client.count()) == (2, n + 2)
            assert client.count_by_sender() == {"s": 2, "t": n}
            assert client.latest("rare", upto=n + 1) == 1
            assert client.latest("nothing") == 0


def test_many_patterns_look_at_less_at_a_time(tmp_path):
    """The more there is to compare, the fewer offsets are looked at in one answer; the whole answer is the same."""
    prefixes = [("d*", "a*", "t*", "*", f"c{i}*") for i in range(64)]
    keys = [("default", f"key {i}", "*", "*", "*") for i in range(64)]
    apart = [(f"n{i}", f"key {i}", "*", "*", "*") for i in range(64)]
    with EventLog(f"sqlite:{tmp_path}/events.db") as log:
        log.append([Event(f"a{i}", type="t", context=f"c{i}" if i % 997 == 0 else "x") for i in range(2_000)], "p", 1)
        log.append([Event("key 63", sender="s")], "q", 1)
        log.append([Event("b", type="t", context="c1") for i in range(3_000)], "p", 2_001)
        want = [e.offset for e in log.read(0, 100, prefixes)]
        assert len(want) == 3
    with _core.Broker(f"ipc://{tmp_path}/broker", f"sqlite:{tmp_path}/events.db") as broker:
        broker.start()
        client = _core.Client(broker.uri)

        def parts(ask, **end):
            """All parts of an answer, and where each of them ended."""
            found, ends = [], [end.get("upto", 0)]
            while ends[-1] is not None:
                part, at = ask(ends[-1])
                found.append(part)
                ends.append(at)
            return found, ends[1:]

        counts, ends = parts(lambda at: client.count(at, prefixes, 60_000))
        assert (sum(counts), ends) == (3, [*range(518, 5_001, 518), None])
        pages, ends = parts(lambda at: client.list(at, 100, prefixes, 60_000))
        assert ([e.offset for page in pages for e in page], len(ends)) == (want, 10)
        senders, ends = parts(lambda at: client.senders(at, prefixes, 60_000))
        assert (sum(n for part in senders for n in part.values()), len(ends)) == (3, 10)
        last, ends = parts(lambda at: client.last(0, prefixes, 60_000, at), upto=5_001)
        assert (last, ends) == ([0] * 5 + [want[-1]], [5_001 - 518 * i for i in range(1, 6)] + [None])
        # exact keys are looked up together; not so where their namespaces differ
        assert client.count(0, keys, 60_000) == (1, None)
        assert client.count(0, apart, 60_000) == (0, 3_030)
        client.close()


def test_a_client_id_survives_a_restart(broker):
    for i in range(3):
        with EventClient(broker.uri, client_id="me") as client:
            assert client.publish(Event("k", str(i))) == i + 1
            assert client.sequence == i + 2
    with EventClient(broker.uri, client_id="me") as client:
        assert client.sequence == 4


def test_a_sequence_that_was_used_for_another_event_is_a_conflict(broker):
    with EventClient(broker.uri, client_id="me", sequence=1) as client:
        assert client.publish(Event("a")) == 1
    with EventClient(broker.uri, client_id="me", sequence=1) as client:
        with pytest.raises(ConflictError, match="sequence 1 of producer me is in the log already, as another event"):
            client.publish(Event("b"))
        assert client.publish(Event("c")) == 2


def test_status(broker, client):
    client.publish(Event("a"))
    status = client.status()
    assert isinstance(status, dict)
    assert status


def test_what_was_let_go_is_said(past, tmp_path):
    with EventLog(f"sqlite:{tmp_path}/events.db") as log:
        log.purge("n", 5)
    assert offsets(past.list(limit=1)) == [6]
    for ask in (past.list, past.page, past.subscribe, lambda after: past.listen(print, after=after)):
        with pytest.raises(RetentionError, match="begin again from"):
            ask(after=2)
    assert offsets(past.list(after=5, limit=1)) == [6]
    assert offsets(past.page(after=2, limit=1, kept=True)[0]) == [6]


def test_a_slow_subscriber_is_told_what_was_let_go(broker, client, tmp_path):
    """It reads nothing while more than its credit comes and goes; its error ends it, and no other."""
    with client.subscribe(after=0) as slow, client.subscribe(after=0) as quick:
        for _ in range(12):
            client.publish(Event("k", "v" * (1 << 20)))
            assert len(next(quick).value) == 1 << 20
        with EventLog(f"sqlite:{tmp_path}/events.db") as log:
            log.purge("default", 11)
        seen = []
        with pytest.raises(RetentionError):
            seen.extend(e.offset for e in slow)
        assert seen == list(range(1, len(seen) + 1))
        assert slow.cursor == len(seen) < 11
        client.publish(Event("after"))
        assert next(quick).key == "after"
