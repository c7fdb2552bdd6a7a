import contextlib
import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from aiflow_ext import Event, EventClient, _core, events
from aiflow_ext.errors import ClosedError


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


def test_threads_share_a_client(client):
    offsets = []

    def work():
        offsets.extend([client.publish(Event("a")) for _ in range(25)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(offsets) == list(range(1, 101))
    assert client.count() == 100


@pytest.mark.parametrize(
    ("event", "error", "text"),
    [
        (Event(""), ValueError, "key"),
        (Event("k" * 1025), ValueError, "key.*1025"),
        (Event("k", "v" * (2**20 + 1)), ValueError, "value.*1048577"),
        (Event("a\0"), ValueError, "key.*NUL"),
        (Event("\udfff"), UnicodeEncodeError, "surrogates"),
        ("key", TypeError, r'expected an Event, not str: Event\("key", "value"\)'),
        (Event("k", 3), TypeError, "value must be str, not int|object of type 'int'"),
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


def test_a_hint_is_bounded(client):
    client.hint("x" * 255)
    with pytest.raises(ValueError, match="256"):
        client.hint("x" * 256)


def test_no_broker_is_a_timeout_that_says_what_must_run(tmp_path):
    uri = f"ipc://{tmp_path}/nobody"
    with EventClient(uri) as client:
        text = f"no answer from {uri} in 0.05 s: `airflow scheduler --event-mode` or `aiflow broker` must run"
        for call in (
            lambda: client.publish(Event("a"), timeout=0.05),
            lambda: client.list(timeout=0.05),
            lambda: client.count(timeout=0.05),
            lambda: client.subscribe(timeout=0.05),
        ):
            with pytest.raises(TimeoutError) as caught:
                call()
            assert str(caught.value) == text


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
    before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    EventClient(f"ipc://{tmp_path}/b")
    assert (len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))) == before


def test_repr_has_no_secrets():
    client = EventClient("tcp://user:secret@host:1?password=secret", namespace="n")
    assert repr(client) == "EventClient('tcp://host:1', namespace='n', sender=None)"


@pytest.mark.parametrize(
    "waiting",
    [
        "client.publish(Event('a'))",
        "client.subscribe(timeout=1e9)",
        "[client.list(timeout=1e9)]",
    ],
)
def test_ctrl_c_while_no_broker_answers(tmp_path, waiting):
    program = f"""if True:
        from aiflow_ext import Event, EventClient
        client = EventClient("ipc://{tmp_path}/b")
        print("ready", flush=True)
        {waiting}
    """
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[1].endswith("KeyboardInterrupt\n")


def test_a_locked_database_is_waited_for(client, tmp_path):
    """For longer than one call of the core takes: the same request is waited on by the next."""
    other = sqlite3.connect(tmp_path / "events.db", isolation_level=None, check_same_thread=False)
    with contextlib.closing(other):
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(1.3 * events.SLICE, other.execute, ["ROLLBACK"])
        release.start()
        assert client.publish(Event("a")) == 1
        release.join()
    assert client.count() == 1


def test_a_full_disk_is_ridden_out_or_named(tmp_path):
    """A file-size limit stands for the full disk: writes fail while it is there, and work again after."""
    program = f"""if True:
        import resource, signal, threading
        from aiflow_ext import Event, EventClient, _core, events
        from aiflow_ext.errors import StoreError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        broker = _core.Broker("ipc://{tmp_path}/b", "sqlite:{tmp_path}/log.db")
        broker.start()
        client = EventClient(broker.uri)
        client.publish(Event("before"))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            client.publish(Event("full", "x" * 1_000_000), timeout=0.5)
        except StoreError as e:
            print(e)
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
