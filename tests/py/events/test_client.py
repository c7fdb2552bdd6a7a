import contextlib
import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from aiflow_ext import Event, EventClient, _core
from aiflow_ext.errors import ClosedError, StoreError
from aiflow_ext.events import connection, subscription


def test_publish_tells_the_offset(client):
    assert client.publish(Event("a", "1")) == 1
    assert client.publish(Event("b", "2")) == 2
    assert [e[:2] for e in client.list()] == [("a", "1"), ("b", "2")]


def test_the_client_fills_in_and_the_event_goes_first(broker):
    with EventClient(broker.uri, namespace="mine", sender="me") as client:
        client.publish(Event("a"))
        client.publish(Event("a", namespace="theirs", sender="you"))
        client.publish(Event("a", sender=""))
        found = client.list(namespace="*")
    assert [(e.namespace, e.sender) for e in found] == [("mine", "me"), ("theirs", "you"), ("mine", "")]


def test_filters(broker):
    with EventClient(broker.uri, namespace="n") as client:
        for i, key in enumerate(["x", "xy", "z"]):
            client.publish(Event(key, type=f"T{i}", sender=f"s{i}"))
        client.publish(Event("x", namespace="other"))
        assert [e.offset for e in client.list("x*")] == [1, 2]
        assert [e.offset for e in client.list(type="T2")] == [3]
        assert [e.offset for e in client.list(sender="s1")] == [2]
        assert [e.offset for e in client.list("x", namespace="*")] == [1, 4]
        assert [e.offset for e in client.list(after=1, limit=1)] == [2]
        assert client.list(limit=0) == []
        assert (client.count(), client.count("x*", after=1), client.count(namespace="*")) == (3, 1, 4)


def test_many_keys_and_contexts(client):
    client.publish_many(Event(k, context=c) for k, c in [("a", None), ("b", "run 1"), ("bc", "run 2"), ("d", "other")])
    assert [e.key for e in client.list(["a", "b*"])] == ["a", "b", "bc"]
    assert [e.key for e in client.list(context="run*")] == ["b", "bc"]
    assert [e.key for e in client.list(context="")] == ["a"]
    assert [e.key for e in client.list([f"x{i}" for i in range(63)] + ["d"])] == ["d"]
    assert client.count(["a", "d"], context="other") == 1
    with pytest.raises(ValueError, match="65 patterns: 64 are the most"):
        client.list([str(i) for i in range(65)])
    with pytest.raises(ValueError, match="at least one"):
        client.count([])


def test_a_part_of_the_log(client):
    client.publish_many(Event(str(i)) for i in range(1, 11))
    assert [e.offset for e in client.list(after=3, upto=5)] == [4, 5]
    assert [e.offset for e in client.list(["4", "9"], upto=8)] == [4]
    assert client.count(after=3, upto=5) == 2
    assert (client.list(upto=0), client.list(after=5, upto=5), client.count(after=7, upto=2)) == ([], [], 0)
    assert client.head() == 10
    with pytest.raises(ValueError, match="after must be from 0"):
        client.count(after=-1, upto=3)


def test_many_more_events_than_one_frame_or_page(client):
    n = 25_000
    assert client.publish_many(Event("k", str(i)) for i in range(n)) == list(range(1, n + 1))
    assert [e.value for e in client.list()] == list(map(str, range(n)))
    assert client.count() == n


@pytest.mark.parametrize("character", ["x", "é", "𝄞"])
def test_big_values_are_cut_into_frames_that_fit(client, character):
    value = character * (2**20 // len(character.encode()))
    assert client.publish_many([Event("k", value)] * 20) == list(range(1, 21))
    assert all(e.value == value for e in client.list())


def test_nothing_to_publish(client):
    assert client.publish_many([]) == []


def test_two_clients_are_two_producers(broker):
    with EventClient(broker.uri) as one, EventClient(broker.uri) as two:
        assert (one.publish(Event("a")), two.publish(Event("a")), one.publish(Event("a"))) == (1, 2, 3)


def test_a_resend_is_not_a_second_event(broker):
    with _core.Client(broker.uri) as core:
        assert core.publish([Event("a"), Event("b")], "p", 1, 5000) == [1, 2]
        assert core.publish([Event("a"), Event("b")], "p", 1, 5000) == [1, 2]
        assert core.head(5000) == 2


def test_a_client_id_is_kept_by_who_keeps_the_sequence(broker):
    with EventClient(broker.uri, client_id="me", sequence=7) as client:
        assert (client.client_id, client.sequence) == ("me", 7)
        assert client.publish_many([Event("a"), Event("b")]) == [1, 2]
        assert client.sequence == 9
    with EventClient(broker.uri, client_id="me", sequence=8) as client:
        assert (client.publish(Event("b")), client.publish(Event("c"))) == (2, 3)  # b: published before the crash
    with EventClient(broker.uri) as one, EventClient(broker.uri) as two:
        assert (one.client_id != two.client_id, one.sequence, two.sequence) == (True, 1, 1)


@pytest.mark.parametrize(
    ("client_id", "sequence", "text"),
    [
        ("", None, "a client_id of 0 bytes: 1 to 64 belong"),
        ("é" * 33, None, "a client_id of 66 bytes"),
        (None, 5, "sequence=5: it counts from 1, and belongs to a client_id"),
        ("p", 0, "sequence=0: it counts from 1"),
    ],
)
def test_a_wrong_client_id(client_id, sequence, text):
    with pytest.raises(ValueError, match=text):
        EventClient("ipc:///b", client_id=client_id, sequence=sequence)
    with pytest.raises(TypeError, match="a client_id is text, not 5"):
        EventClient("ipc:///b", client_id=5)


def test_an_event_with_an_identity_of_its_own_is_in_the_log_once(client):
    event, identities = Event("a", "1"), [("ce:1", 1), ("ce:2", 7)]
    assert client.publish(event, identity=identities[1]) == 1
    assert client.publish_many([Event("b"), event], identities=identities) == [2, 1]
    assert client.publish(Event("c")) == 3
    assert [e.key for e in client.list()] == ["a", "b", "c"]


def test_identities_that_are_none(client):
    with pytest.raises(ValueError, match="1 identities for 2 events"):
        client.publish_many([Event("a"), Event("b")], identities=[("p", 1)])
    with pytest.raises(ValueError, match="producer"):
        client.publish(Event("a"), identity=("x" * 65, 1))
    with pytest.raises(TypeError, match=r"expected \(producer, sequence\), not str"):
        client.publish(Event("a"), identity="p")
    assert client.count() == 0


def in_threads(n, work):
    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def test_threads_share_a_client(client, tmp_path):
    """Each event once, with a sequence of its own; other questions in between."""
    offsets = {}

    def work(n):
        for i in range(25):
            offsets[client.publish(Event(f"t{n}", str(i)))] = (f"t{n}", str(i))
            assert client.count(f"t{n}") == i + 1

    in_threads(8, work)
    assert {e.offset: (e.key, e.value) for e in client.list()} == offsets
    assert sorted(offsets) == list(range(1, 201))
    with contextlib.closing(sqlite3.connect(tmp_path / "events.db")) as db:
        identities = db.execute("SELECT producer, sequence FROM aiflow_event ORDER BY sequence").fetchall()
    assert identities == [(client.client_id, i) for i in range(1, 201)]
    assert client.sequence == 201


def test_threads_wait_for_each_other_while_the_database_is_locked(client, tmp_path):
    """Not longer than their own timeouts; who is served does not begin again because others ask."""
    said = []

    def work(n):
        try:
            said.append(client.publish(Event("a"), timeout=0.2 if n == 0 else 60))
        except TimeoutError as e:
            said.append(str(e).partition(" in ")[0])
            release.start()

    client.head()
    with contextlib.closing(
        sqlite3.connect(tmp_path / "events.db", isolation_level=None, check_same_thread=False)
    ) as db:
        db.execute("BEGIN IMMEDIATE")
        release = threading.Timer(1.3 * subscription.SLICE, db.execute, ["ROLLBACK"])
        in_threads(8, work)
        release.join()
    assert said[0] == f"no answer from {client.uri}"
    assert sorted(said[1:]) == sorted(set(said[1:]))


@pytest.mark.parametrize(
    ("event", "error", "text"),
    [
        (Event(""), ValueError, "key"),
        (Event("k" * 1025), ValueError, "key.*1025"),
        (Event("k", "v" * (2**20 + 1)), ValueError, "value.*1048577"),
        (Event("a\0"), ValueError, "key.*NUL"),
        (Event("\udfff"), UnicodeEncodeError, "surrogates"),
        ("key", TypeError, r'expected an Event, not str: Event\("key", "value"\)'),
        (Event("k", 3), TypeError, "value must be str, not int"),
        (Event("k", b"3"), TypeError, "value must be str, not bytes"),
        (Event(3), TypeError, "key must be str, not int"),
        (Event("k", type=None), TypeError, "type must be str, not NoneType"),
    ],
)
def test_a_bad_event_is_named_and_the_client_lives_on(client, event, error, text):
    with pytest.raises(error, match=text):
        client.publish(event)
    assert client.publish(Event("good")) == 1


def test_what_went_in_before_a_bad_event_is_said(client):
    with pytest.raises(ValueError, match="key") as caught:
        client.publish_many([Event("a")] * 10_000 + [Event("")])
    assert caught.value.__notes__ == ["the first 10000 events are in the log"]
    assert client.count() == 10_000


def test_bad_filters(client):
    with pytest.raises(ValueError, match="key"):
        client.list("")
    with pytest.raises(ValueError, match="type"):
        client.count(type="t" * 256)
    with pytest.raises(TypeError, match="pattern key must be str, not int"):
        client.list(3)
    with pytest.raises(ValueError, match="after must be from 0"):
        client.list(after=-1)
    for call in (client.list, client.page, client.count, client.count_by_sender, client.latest):
        with pytest.raises(ValueError, match="upto is an offset, 0 or more, not -1"):
            call(upto=-1)
    with pytest.raises(ValueError, match="limit is a number of events, 0 or more, not -1"):
        client.list(limit=-1)
    with pytest.raises(ValueError, match="max must be from 0 to"):
        client.page(limit=-1)


def test_a_hint_is_bounded(client):
    client.hint("x" * 255)
    with pytest.raises(ValueError, match="256"):
        client.hint("x" * 256)


def test_no_broker_is_a_timeout_that_says_what_must_run(tmp_path):
    uri = f"ipc://{tmp_path}/nobody"
    with EventClient(uri) as client:
        text = (
            f"no answer from {uri} in 0.05 s (there is no socket {tmp_path}/nobody): start `airflow scheduler "
            "--event-mode` or `aiflow broker`, or set AIFLOW_BROKER to the address of one, "
            "or AIRFLOW_HOME to its Airflow"
        )
        for call in (
            lambda: client.publish(Event("a"), timeout=0.05),
            lambda: client.list(timeout=0.05),
            lambda: client.count(timeout=0.05),
            lambda: client.subscribe(timeout=0.05),
        ):
            with pytest.raises(TimeoutError) as caught:
                call()
            assert str(caught.value) == text


def test_a_wait_is_logged_once_and_again_after_an_answer(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(connection, "TELL", 0.0)
    uri = f"ipc://{tmp_path}/nobody"

    def waits(times):
        for _ in range(times):
            with pytest.raises(TimeoutError):
                client.head(timeout=1.1 * subscription.SLICE)
        return [record.message for record in caplog.records if record.levelname == "WARNING"]

    with EventClient(uri) as client:
        (said,) = waits(2)
        assert said.startswith(f"aiflow: no answer from {uri} yet, waiting 1 s more at most (there is no socket ")
        with _core.Broker(uri, "mem:") as broker:
            broker.start()
            assert client.head() == 0
        assert len(waits(1)) == 2


def test_what_the_store_said_is_told_when_the_last_try_has_no_answer(client):
    errors = iter([StoreError("the disk is full"), TimeoutError()])

    def fail(ms):
        raise next(errors)

    with pytest.raises(StoreError, match="the disk is full"):
        client._connection.ask(fail, 0.5)


def test_the_broker_may_come_later(tmp_path):
    uri = f"ipc://{tmp_path}/b"
    with EventClient(uri) as client:
        with pytest.raises(TimeoutError):
            client.publish(Event("too early"), timeout=0)
        with _core.Broker(uri, "mem:") as broker:
            broker.start()
            client.publish(Event("a"))
            assert "a" in [e.key for e in client.list()]


def test_closed_is_closed(client):
    client.publish(Event("a"))
    client.close()
    client.close()
    for call in (lambda: client.publish(Event("a")), client.list, client.count, client.subscribe):
        with pytest.raises(ClosedError, match="this EventClient is closed"):
            call()


def test_it_opens_nothing_before_its_first_use(tmp_path):
    def opened():
        return {(kind, name) for kind in ("fd", "task") for name in os.listdir(f"/proc/self/{kind}")}

    before = opened()
    EventClient(f"ipc://{tmp_path}/b")
    assert opened() <= before  # a thread that has ended may be seen a moment longer


def test_repr_has_no_secrets():
    assert repr(EventClient("tcp://host:1", namespace="n")) == "EventClient('tcp://host:1', namespace='n', sender=None)"


@pytest.mark.parametrize(
    "uri",
    [
        "host:1",
        "http://host:1",
        "ipc://",
        "tcp://host",
        "tcp://:1",
        "tcp://host:0",
        "tcp://host:65536",
        "tcp://host:x",
        "tcp://user:secret@host:1",
        "tcp://host:1?password=secret",
        "ipc:///a,tcp://host",
    ],
)
def test_an_address_that_is_none_is_refused_at_once_and_shows_no_secret(uri):
    with pytest.raises(ValueError, match=r"a broker is at ipc://PATH or tcp://HOST:PORT, not '") as caught:
        EventClient(uri)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "waiting",
    [
        "client.publish(Event('a'))",
        "client.subscribe(timeout=1e9)",
        "[client.list(timeout=1e9)]",
    ],
)
def test_ctrl_c_while_no_broker_answers(tmp_path, interrupted, waiting):
    program = f"""if True:
        from aiflow_ext import Event, EventClient
        client = EventClient("ipc://{tmp_path}/b")
        print("ready", flush=True)
        {waiting}
    """
    interrupted(program)


def test_a_locked_database_is_waited_for(client, tmp_path):
    """For longer than one call of the core takes: the same request is waited on by the next."""
    other = sqlite3.connect(tmp_path / "events.db", isolation_level=None, check_same_thread=False)
    with contextlib.closing(other):
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(1.3 * subscription.SLICE, other.execute, ["ROLLBACK"])
        release.start()
        assert client.publish(Event("a")) == 1
        release.join()
    assert client.count() == 1


def test_a_full_disk_is_ridden_out_or_named(tmp_path):
    """A file-size limit stands for the full disk: writes fail while it is there, and work again after."""
    program = f"""if True:
        import resource, signal, threading
        from aiflow_ext import Event, EventClient, _core
        from aiflow_ext.errors import StoreError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        broker = _core.Broker("ipc://{tmp_path}/b", "sqlite:{tmp_path}/log.db")
        broker.start()
        client = EventClient(broker.uri)
        client.publish(Event("before"))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        said = None
        while said is None:
            try:
                client.publish(Event("full", "x" * 1_000_000), timeout=0.5)
            except TimeoutError:
                pass
            except StoreError as e:
                said = e
        print(said)
        timer = threading.Timer(0.3, resource.setrlimit, (resource.RLIMIT_FSIZE, (soft, hard)))
        timer.start()
        client.publish(Event("ridden out", "x" * 1_000_000))
        timer.join()
        print(broker.error(), [e.key for e in client.list()][-1])
    """
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert out.stderr == ""
    said, after = out.stdout.splitlines()
    assert after == "None ridden out"
    assert "full" in said or "disk" in said or os.strerror(errno.EFBIG) in said


@contextlib.contextmanager
def handler(function):
    """Have the handler of a signal call function; yields what makes the signal come, some time from now."""
    before = signal.signal(signal.SIGALRM, lambda *_: function())
    try:
        yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_signal_whose_handler_raises_leaves_the_client_as_it_was(client):
    """At any moment of a publish: the next one does not wait for it, and who was told an offset has one event there."""

    def interrupt():
        raise InterruptedError

    moments, told, interrupts = random.Random(1), {}, []
    client.publish(Event("first"))
    with handler(interrupt) as in_seconds:
        for i in range(4_000):
            try:
                in_seconds(moments.uniform(1e-6, 4e-4))
                offset = client.publish(Event("k", str(i)))
                told[str(i)] = offset
                in_seconds(0)
            except InterruptedError as e:
                interrupts.append(e)  # its traceback keeps everything that it went through
    assert interrupts
    with EventClient(client.uri) as other:
        found = other.list("k")
    assert len({e.value for e in found}) == len(found)
    assert told.items() <= {e.value: e.offset for e in found}.items()
    threads = [threading.Thread(target=client.publish, args=(Event("of a thread"),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.count("of a thread") == 2


def test_the_handler_of_a_signal_may_publish_with_the_client_that_it_interrupts(broker):
    """Each event is there once, also the interrupted one, which is sent again."""
    moments, sent = random.Random(2), []

    def publish():
        sent.append(client.publish(Event("handler")))
        client.listen(print, "none").stop()

    with EventClient(broker.uri, client_id="one") as client, handler(publish) as in_seconds:
        for i in range(1_000):
            in_seconds(moments.uniform(1e-6, 4e-4))
            client.publish(Event("k", str(i)))
        in_seconds(0)
        assert [e.value for e in client.list("k")] == list(map(str, range(1_000)))
        assert sent
        # A handler that comes late is interrupted by the next one, whose offset is then noted first.
        assert [e.offset for e in client.list("handler")] == sorted(sent)
        assert client.sequence == 1_001 + len(sent)
