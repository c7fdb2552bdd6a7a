"""What AI Flow's own tests ask of its notification service, and each defect of 0.3.1 shown absent."""

import inspect
import logging
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from aiflow_ext import Event, _core
from aiflow_ext.broker import keys
from aiflow_ext.compat.notification_service import client as module
from aiflow_ext.compat.notification_service import listener
from aiflow_ext.compat.notification_service.base_notification import (
    ANY_CONDITION,
    DEFAULT_NAMESPACE,
    UNDEFINED_EVENT_TYPE,
    BaseEvent,
    EventWatcher,
    EventWatcherHandle,
    SenderEventCount,
)
from aiflow_ext.compat.notification_service.client import NotificationClient
from aiflow_ext.errors import AccessError, ClosedError, ConflictError


class Watcher(EventWatcher):
    """Keeps what it is given, and lets a test wait for it."""

    def __init__(self):
        self.events = []
        self.batches = queue.Queue()

    def process(self, events):
        self.events.extend(events)
        self.batches.put(events)

    def wait_for(self, n):
        while len(self.events) < n:
            self.batches.get(timeout=60)
        return [event.value for event in self.events]


@pytest.fixture
def connect(broker, monkeypatch):
    """Make a client of the broker, that is as patient as a slow machine needs; all are closed in the end."""
    monkeypatch.setattr(module, "STOP_SEC", 60.0)
    monkeypatch.setattr(listener, "DRAIN_SEC", 60.0)
    made = []

    def connect(*args, **kwargs):
        made.append(NotificationClient(broker.uri, *args, retry_timeout_ms=60_000, **kwargs))
        return made[-1]

    yield connect
    for one in made:
        one.close()


@pytest.fixture
def client(connect):
    return connect()


def send(client, key="key", value="v", event_type=UNDEFINED_EVENT_TYPE, **fields):
    return client.send_event(BaseEvent(key, value, event_type, **fields))


def values(events):
    return [event.value for event in events]


# --- its API, argument by argument

SIGNATURES = {
    "__init__": "server_uri default_namespace enable_ha list_member_interval_ms retry_interval_ms retry_timeout_ms "
    "sender properties",
    "send_event": "event",
    "list_events": "key namespace version event_type start_time sender",
    "count_events": "key namespace version event_type start_time sender",
    "start_listen_event": "key watcher namespace version event_type start_time sender",
    "stop_listen_event": "key namespace event_type sender",
    "list_all_events": "start_time start_version end_version",
    "start_listen_events": "watcher start_time version",
    "stop_listen_events": "",
    "get_latest_version": "key namespace",
    "disable_high_availability": "",
    "close": "",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_arguments_are_ai_flows(name):
    parameters = list(inspect.signature(getattr(NotificationClient, name)).parameters)
    assert parameters[1:] == SIGNATURES[name].split()


def test_the_constants():
    assert (ANY_CONDITION, DEFAULT_NAMESPACE, UNDEFINED_EVENT_TYPE) == ("*", "default", "UNDEFINED")


def test_an_event_is_plain_data():
    class Mine(BaseEvent):
        pass

    event = BaseEvent("k", "v", "T", 1, 2, "c", "n", "s")
    assert str(event) == ("key:k, value:v, type:T, version:1, create_time:2, context: c, namespace: n, sender: s")
    assert event == Mine("k", "v", "T", 1, 2, "c", "n", "s") != BaseEvent("k", "v")
    assert event != "k"
    event.value = "w"
    assert event != BaseEvent("k", "v", "T", 1, 2, "c", "n", "s")
    assert str(SenderEventCount("s", 3)) == "sender:s, event_count:3"
    assert SenderEventCount("s", 3) == SenderEventCount("s", 3)
    with pytest.raises(TypeError, match="abstract"):
        EventWatcher()


# --- sending


def test_a_sent_event_has_its_version_and_time(client):
    first, second = send(client, value="1"), send(client, value="2", context="c")
    assert (first.version, second.version) == (1, 2)
    assert 0 < first.create_time <= second.create_time
    assert client.list_events("key") == [first, second]
    assert (first.context, second.context, first.event_type) == ("", "c", "UNDEFINED")


def test_namespace_and_sender_are_the_clients(connect):
    event = send(connect("mine", sender="me"), namespace="theirs", sender="you")
    assert (event.namespace, event.sender) == ("mine", "me")
    event = send(connect(), namespace="theirs", sender="you")
    assert (event.namespace, event.sender) == ("default", "")


def test_none_is_nothing_said(client):
    event = client.send_event(BaseEvent("key", None, None))
    assert (event.value, event.event_type) == ("", "UNDEFINED")


def test_a_bad_event_uses_no_number_up(client):
    with pytest.raises(ValueError, match="key"):
        client.send_event(BaseEvent("", "v"))
    assert client.sequence_number == 0
    assert send(client).version == 1


# --- listing and counting


def test_filters(connect):
    a, b = connect("a", sender="s"), connect("b", sender="p")
    first = send(a, "key", "1")
    send(b, "key", "2", "T")
    send(b, "key", "3")
    send(b, "key2", "4")

    def found(client, *args, **kwargs):
        events = client.list_events(*args, **kwargs)
        total, counts = client.count_events(*args, **kwargs)
        assert total == sum(c.event_count for c in counts) == len(events)
        return values(events)

    assert found(a, "key") == ["1"]
    assert found(b, "key") == ["2", "3"]
    assert found(b, ["key", "key2"]) == found(b, ("key2", "key")) == ["2", "3", "4"]
    assert found(b, ["key", "key2"], version=first.version + 1) == ["3", "4"]
    assert found(b, "key", event_type="T") == ["2"]
    assert found(b, "*", event_type="*", sender="p") == ["2", "3", "4"]
    assert found(b, "key", sender="s") == []
    assert found(b, "key", "a") == ["1"]
    assert found(b, "key", namespace="*") == found(connect(), "key") == ["1", "2", "3"]
    assert found(b, ["*", "key"], namespace="*", sender="*") == ["1", "2", "3", "4"]
    assert a.count_events("*", namespace="*")[1] == [SenderEventCount("p", 3), SenderEventCount("s", 1)]


def test_from_a_time_on(client):
    send(client, value="1")
    later = send(client, value="2")
    while later.create_time == client.list_events("key")[0].create_time:  # a new millisecond
        later = send(client, value="2")
    old = sum(event.create_time < later.create_time for event in client.list_events("key"))
    everything = values(client.list_events("key"))
    assert values(client.list_events("key", start_time=later.create_time)) == everything[old:]
    assert values(client.list_all_events(later.create_time)) == everything[old:]
    assert client.count_events("key", start_time=later.create_time)[0] == len(everything) - old
    assert values(client.list_events("key", start_time=0)) == values(client.list_all_events(None)) == everything
    assert client.list_events("key", start_time=later.create_time + 10**9) == []
    assert client.count_events("key", start_time=later.create_time + 10**9) == (0, [])


def test_all_events_in_a_range(client, connect):
    for i in range(1, 6):
        send(connect(f"n{i}"), value=str(i))
    assert values(client.list_all_events(start_version=1, end_version=3)) == ["2", "3"]
    assert values(client.list_all_events(start_version=3)) == ["4", "5"]
    assert values(client.list_all_events(end_version=2)) == ["1", "2"]  # AI Flow did not look at it
    time = client.list_all_events(start_version=1, end_version=2)[0].create_time
    assert values(client.list_all_events(time, 3)) == ["4", "5"]


def test_beyond_the_end_is_nothing(client):
    send(client)
    assert client.list_events("key", version=7) == client.list_all_events(start_version=7) == []
    assert client.count_events("key", version=7) == (0, [])


def test_no_key_is_refused(client):
    with pytest.raises(ValueError, match=r'which key. "\*" is any'):
        client.list_events([])


def test_any_number_of_keys(client):
    keys = [f"key {i}" for i in range(150)]
    for i in (149, 0, 70):
        send(client, keys[i], str(i))
    send(client, "other")
    assert values(client.list_events(keys)) == ["149", "0", "70"]
    assert client.count_events([*keys, "key 7*"])[0] == 3
    watcher = Watcher()
    client.start_listen_event(keys, watcher).stop()
    assert watcher.wait_for(3) == ["149", "0", "70"]


def test_the_latest_version_is_the_keys(client, connect):
    """AI Flow returned the whole log's."""
    assert client.get_latest_version() == client.get_latest_version("key") == 0
    send(client, "key")
    send(client, "other")
    send(connect("n"), "key")
    send(connect("n"), "last")
    assert [client.get_latest_version(k) for k in ("key", "other", None, "none")] == [3, 2, 4, 0]
    assert client.get_latest_version("key", "default") == connect("default").get_latest_version("key") == 1


# --- listening


def test_listen_from_a_version(connect):
    client = connect("a")
    first = send(client, value="1")
    watcher = Watcher()
    handle = client.start_listen_event("key", watcher, version=first.version)
    assert isinstance(handle, EventWatcherHandle)
    send(client, value="2")
    send(client, value="3")
    send(client, "other", "4")
    send(connect(), value="5")
    handle.stop()  # what was sent before it has been given, though nobody waited
    assert values(watcher.events) == ["2", "3"]
    send(client, value="6")
    assert values(watcher.events) == ["2", "3"]


def test_listen_from_the_beginning(client):
    """That is what no version means."""
    send(client, value="1")
    watcher = Watcher()
    client.start_listen_event("key", watcher)
    send(client, value="2")
    assert watcher.wait_for(2) == ["1", "2"]


@pytest.mark.parametrize(
    ("filters", "want"),
    [
        ({}, ["1", "2"]),
        ({"event_type": "T"}, ["2"]),
        ({"namespace": "a"}, ["1", "2"]),
        ({"namespace": "b"}, ["3"]),
        ({"namespace": "*"}, ["1", "2", "3"]),
        ({"namespace": "*", "sender": "p"}, ["3"]),
        ({"namespace": "*", "sender": "*", "event_type": "*"}, ["1", "2", "3"]),
        ({"start_time": 1}, ["1", "2"]),
        ({"start_time": 2**41}, []),
    ],
)
def test_listen_filters(connect, filters, want):
    a, b = connect("a", sender="s"), connect("b", sender="p")
    watcher = Watcher()
    handle = a.start_listen_event("key", watcher, **filters)
    send(a, value="1")
    send(a, value="2", event_type="T")
    send(b, value="3")
    handle.stop()
    assert values(watcher.events) == want


def test_several_keys_and_listeners(client):
    one, two, three = Watcher(), Watcher(), Watcher()
    client.start_listen_event(["a", "b"], one)
    client.start_listen_event("a", two)
    client.start_listen_event("*", three)
    for key in "abc":
        send(client, key, key)
    assert (one.wait_for(2), two.wait_for(1), three.wait_for(3)) == (["a", "b"], ["a"], ["a", "b", "c"])
    client.stop_listen_event(["b", "a"])
    client.stop_listen_event("a")
    send(client, "a", "again")
    client.stop_listen_event()
    send(client, "a", "too late")
    assert [values(w.events) for w in (one, two, three)] == [["a", "b"], ["a"], ["a", "b", "c", "again"]]


def test_everything_from_now_on(client, connect):
    """AI Flow's "now" was the moment of its import."""
    send(client, value="old")
    watcher = Watcher()
    handle = client.start_listen_events(watcher)
    send(client, "a", "1")
    send(connect("n"), "b", "2")
    handle.stop()
    assert values(watcher.events) == ["1", "2"]


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        ({"version": 1}, ["2", "3"]),
        ({"version": 0}, ["1", "2", "3"]),
        ({"start_time": None}, ["1", "2", "3"]),
        ({"start_time": 1}, ["1", "2", "3"]),
        ({"start_time": 2**41, "version": 1}, ["2", "3"]),
    ],
)
def test_everything_from_somewhere_on(client, arguments, want):
    send(client, value="1")
    send(client, value="2")
    watcher = Watcher()
    client.start_listen_events(watcher, **arguments)
    send(client, value="3")
    client.stop_listen_events()
    assert values(watcher.events) == want


def test_everything_is_listened_to_once_at_a_time(client):
    handle = client.start_listen_events(Watcher())
    with pytest.raises(RuntimeError, match=r"already listening to all events: stop_listen_events\(\) first"):
        client.start_listen_events(Watcher())
    handle.stop()  # AI Flow went on to refuse
    client.start_listen_events(Watcher())
    client.stop_listen_event()  # is not about it; AI Flow forgot it here
    with pytest.raises(RuntimeError, match="already listening"):
        client.start_listen_events(Watcher())
    client.stop_listen_events()
    client.start_listen_events(Watcher())


def test_everything_is_listened_to_once_by_threads_too(client, monkeypatch):
    both, subscribe = threading.Barrier(2), client._events.subscribe

    def at_once(**arguments):
        both.wait(60)
        return subscribe(**arguments)

    def listen():
        try:
            return client.start_listen_events(Watcher())
        except RuntimeError as e:
            return e

    monkeypatch.setattr(client._events, "subscribe", at_once)
    with ThreadPoolExecutor(2) as pool:
        found = [future.result() for future in [pool.submit(listen) for _ in range(2)]]
    assert sorted(isinstance(one, RuntimeError) for one in found) == [False, True]


def test_a_listener_beyond_the_end_is_refused(client):
    send(client)
    with pytest.raises(ValueError, match="offset 7 is beyond the newest one, 1"):
        client.start_listen_event("key", Watcher(), version=7)


@pytest.mark.parametrize("error", [KeyError, SystemExit])
def test_a_watcher_that_raises_goes_on(client, caplog, error):
    """In AI Flow its thread ended, and nobody knew."""

    class Fails(Watcher):
        def process(self, events):
            super().process(events)
            if events[0].value == "bad":
                raise error("bad")

    watcher = Fails()
    handle = client.start_listen_event("key", watcher)
    send(client, value="bad")
    watcher.wait_for(1)
    send(client, value="good")
    assert watcher.wait_for(2) == ["bad", "good"]
    handle.stop()
    assert isinstance(handle.error, error)
    (record,) = (r for r in caplog.records if r.levelno == logging.ERROR)
    assert record.getMessage() == (
        "aiflow: Fails failed with events of the versions 1 to 1; it goes on with those after them"
    )


def test_stopping_from_within_the_watcher(client):
    class Stops(Watcher):
        def process(self, events):
            super().process(events)
            handles.get(timeout=60).stop()
            done.set()

    handles, done, watcher = queue.Queue(), threading.Event(), Stops()
    handle = client.start_listen_event("key", watcher)
    handles.put(handle)
    send(client, value="1")
    assert done.wait(60)
    handle.stop()
    handle.stop()
    send(client, value="2")
    assert values(watcher.events) == ["1"]


def test_sending_from_within_the_watcher(client):
    class Answers(Watcher):
        def process(self, events):
            for event in events:
                send(client, "pong", event.value)

    pongs = Watcher()
    client.start_listen_event("pong", pongs)
    client.start_listen_event("ping", Answers())
    for i in range(50):  # AI Flow took up to 5 s for each
        send(client, "ping", str(i))
        assert pongs.wait_for(i + 1)[-1] == str(i)


def test_each_watcher_has_its_own_thread(client):
    """A slow one delays no other."""

    class Slow(Watcher):
        def process(self, events):
            go_on.wait(60)
            super().process(events)

    go_on, slow, quick = threading.Event(), Slow(), Watcher()
    client.start_listen_event("key", slow)
    client.start_listen_event("key", quick)
    send(client, value="1")
    assert quick.wait_for(1) == ["1"]
    assert slow.events == []
    go_on.set()
    assert slow.wait_for(1) == ["1"]


def test_the_time_out_of_the_environment_does_no_harm(client, monkeypatch):
    """AI Flow put the text into a number."""
    monkeypatch.setenv("NOTIFICATION_TIMEOUT_SECONDS", "1")
    watcher = Watcher()
    client.start_listen_event("key", watcher)
    send(client, value="1")
    assert watcher.wait_for(1) == ["1"]


def test_closing_ends_everything(connect):
    client = connect()
    before = set(threading.enumerate())
    client.start_listen_event("a", Watcher())
    client.start_listen_events(Watcher())
    listening = set(threading.enumerate()) - before
    assert len(listening) == 2
    client.close()
    client.close()
    assert not any(thread.is_alive() for thread in listening)
    with pytest.raises(ClosedError):
        send(client)


# --- each event once


def test_closed_while_a_listener_starts(client, monkeypatch):
    subscribe = client._events.subscribe

    def closed_meanwhile(**arguments):
        subscription = subscribe(**arguments)
        client.close()
        return subscription

    monkeypatch.setattr(client._events, "subscribe", closed_meanwhile)
    with pytest.raises(ClosedError, match="this NotificationClient is closed"):
        client.start_listen_event("key", Watcher())
    assert client._listeners == []


def test_clients_have_ids_of_their_own(connect):
    ids = [connect().client_id for _ in range(10)]
    assert all(isinstance(i, int) for i in ids)
    assert len(set(ids)) == 10


def test_the_sequence_counts_what_was_sent(client):
    assert client.sequence_number == 0
    send(client)
    send(client)
    assert client.sequence_number == 2


def test_a_producer_goes_on_with_its_id_and_number(connect):
    one = connect()
    first, second = send(one, value="1"), send(one, value="2")
    one.close()
    two = connect(properties={"client.id": str(one.client_id), "initial.sequence.number": "1"})
    assert send(two, value="2") == second  # with its version, which AI Flow left out
    assert two.sequence_number == 2
    assert send(two, value="2").version == 3
    assert two.sequence_number == 3
    assert values(two.list_events("key")) == ["1", "2", "2"]
    assert first.version == 1


def test_a_producer_goes_on_with_its_id_alone(connect):
    """AI Flow began at 0 again, and dropped what came."""
    one = connect()
    send(one, value="1")
    send(one, value="2")
    two = connect(properties={"client.id": str(one.client_id)})
    assert two.sequence_number == 2
    send(two, value="3")
    assert values(two.list_events("key")) == ["1", "2", "3"]


def test_another_event_under_a_used_number_is_an_error(connect):
    """AI Flow dropped it, and called that success."""
    one = connect()
    send(one, value="1")
    two = connect(properties={"client.id": str(one.client_id), "initial.sequence.number": "0"})
    with pytest.raises(ConflictError, match=f"number 0 of client {one.client_id} was another event's"):
        send(two, value="another")
    assert values(two.list_events("key")) == ["1"]


def test_without_idempotence(connect):
    client = connect(properties={"enable.idempotence": "False"})
    assert (client.client_id, client.sequence_number) == (None, None)
    assert (send(client).version, send(client).version) == (1, 2)


def test_threads_lose_nothing(client):
    """In AI Flow two threads could get the same number, and one event was dropped."""
    versions = []

    def work(name):
        versions.extend(send(client, value=f"{name} {i}").version for i in range(25))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == list(range(1, 201))
    assert len(set(values(client.list_events("key")))) == client.sequence_number == 200


@pytest.fixture
def stuck(broker_process):
    """A client whose first event is in the log though it was told nothing: its broker was halted meanwhile."""
    with NotificationClient(broker_process.uri) as client:
        broker_process.halt()
        client._timeout = 0.5
        try:
            with pytest.raises(TimeoutError, match="no answer from"):
                send(client, value="1")
        finally:
            broker_process.go_on()
        with NotificationClient(broker_process.uri) as other:
            watcher = Watcher()
            other.start_listen_event("*", watcher)
            watcher.wait_for(1)
            client._timeout = 60
            yield client


def test_another_event_after_a_failed_one_is_not_dropped(stuck):
    """AI Flow gave it the number of the one before."""
    assert stuck.sequence_number == 0
    send(stuck, value="2")
    assert stuck.sequence_number == 2
    assert values(stuck.list_events("*")) == ["1", "2"]


def test_the_same_event_after_it_failed_comes_once(stuck):
    assert send(stuck, value="1").version == 1
    assert stuck.sequence_number == 1
    send(stuck, value="1")
    assert values(stuck.list_events("*")) == ["1", "1"]


def test_a_failed_event_in_another_process(stuck, broker_process):
    number = {"client.id": str(stuck.client_id), "initial.sequence.number": str(stuck.sequence_number)}
    with NotificationClient(broker_process.uri, properties=number) as heir:
        send(heir, value="1")
        assert values(heir.list_events("*")) == ["1"]


# --- servers


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("localhost:50051", "tcp://localhost:50051"),
        ("a:1, b:2", "tcp://a:1,tcp://b:2"),
        ("tcp://a:1,b:2", "tcp://a:1,tcp://b:2"),
        ("ipc:///a/b", "ipc:///a/b"),
        (None, None),
        ("", None),
    ],
)
def test_addresses(given, ours):
    assert module._uris(given) == ours


def test_host_and_port(tmp_path):
    with _core.Broker("tcp://127.0.0.1:0", "mem:") as broker:
        broker.start()
        with NotificationClient(broker.uri.removeprefix("tcp://")) as client:
            assert send(client).version == 1


def test_the_default_is_ours(broker, monkeypatch):
    monkeypatch.setenv("AIFLOW_BROKER", broker.uri)
    with NotificationClient(None) as client:
        assert send(client).version == 1
        assert broker.uri in str(client)


@pytest.mark.parametrize("may_read", [True, False])
def test_a_server_with_keys(tmp_path, may_read):
    key, _ = keys.new_key("till", ["shop"], ["shop"] if may_read else [], tmp_path / "keys")
    with _core.Broker("tcp://127.0.0.1:0", "mem:", keys.load_broker_key(tmp_path / "keys")) as broker:
        broker.set_access([grant.row() for grant in keys.load_access(tmp_path / "keys")])
        broker.start()
        server = broker.uri.removeprefix("tcp://")
        with NotificationClient(server, "shop", properties={"key.file": str(key)}) as client:
            event = send(client)
            assert (event.version, event.create_time is not None) == (1, may_read)
            with pytest.raises(AccessError):
                client.list_events("*", namespace="other")
        with (
            NotificationClient(server, "other", properties={"key.file": str(key)}) as client,
            pytest.raises(AccessError),
        ):
            send(client)


def test_several_servers_of_one_log(tmp_path):
    def serve(name):
        broker = _core.Broker(f"ipc://{tmp_path}/{name}", f"sqlite:{tmp_path}/events.db")
        broker.start()
        return broker

    with serve("1") as one, serve("2") as two:
        uris = f"{one.uri},{two.uri}"
        with NotificationClient(uris, enable_ha=True, list_member_interval_ms=1000) as client:
            watcher = Watcher()
            client.start_listen_event("key", watcher)
            send(client, value="1")
            watcher.wait_for(1)
            one.stop()
            send(client, value="2")
            watcher.wait_for(2)
            with serve("1"):
                two.stop()
                send(client, value="3")
                assert watcher.wait_for(3) == values(client.list_events("key")) == ["1", "2", "3"]
            client.disable_high_availability()


def test_no_server_is_seen_at_once(tmp_path):
    with pytest.raises(TimeoutError, match=f"no answer from ipc://{tmp_path}/nobody in 0.05 s"):
        NotificationClient(f"ipc://{tmp_path}/nobody", retry_timeout_ms=50)


def test_it_sees_what_others_publish(client, broker):
    from aiflow_ext import EventClient

    with EventClient(broker.uri) as other:
        other.publish(Event("key", "v", "T", "c", "n", "s"))
    (event,) = client.list_events("key")
    assert event == BaseEvent("key", "v", "T", 1, event.create_time, "c", "n", "s")
