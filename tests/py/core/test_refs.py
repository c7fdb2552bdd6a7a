"""No call keeps memory: Python's allocator, which the core uses too, counts every byte."""

import contextlib
import gc
import tracemalloc
from pathlib import Path

import pytest

from aiflow_ext import Event, EventClient, EventLog, _core

EVENTS = [Event(f"key {i}", "v" * i, "T", "c", "n", "s") for i in range(20)]
SPEC = [("start", [("all", 2), ("event", "n", "k*", "*", "*", None, False, 1, 0, False), ("every", 10)])]


def append_and_read(broker):
    with EventLog("mem:") as log:
        log.append(EVENTS, "p", 1)
        log.read(0, 100, ("n", "*", "*", "*"))
        log.read(0, 100, [("n", "*", "*", "*"), ("m", "*", "*", "*", "c")], 9, kept=True)
        log.count()
        log.last(1, upto=3)
        log.senders()
        log.sequence("p")
        log.at(5)
        log.keep("n", 2)
        log.purge("n*", 5)
        log.purged()


def refused(broker):
    log = EventLog("mem:")
    for call in (
        lambda: log.append([*EVENTS, Event("")], "p", 1),
        lambda: log.append([*EVENTS, Event("k", 3)], "p", 1),
        lambda: log.append(EVENTS, "p", 1, when=2),
        lambda: log.read(0, 1, ("a", "b", "c", 4)),
        lambda: log.senders(0, [("a", "b", "c", "d"), 4]),
        lambda: log.purge("n", -1),
        lambda: log.append([Event("other")], "p", 2),
        lambda: _core.Subscription(broker.uri, curve=("*",)),
        lambda: _core.Subscription(broker.uri).add([("*",)], None, 0),
        lambda: _core.Client("ipc://" + "x" * 300),
        lambda: EventLog("no:"),
    ):
        with contextlib.suppress(ValueError, TypeError):
            call()


def match(broker):
    m = _core.Match()
    for i, event in enumerate(EVENTS):
        m.add((event.namespace, event.key, "*", "*"), i)
        m.find(event)
    m.remove(3)


def rules(broker):
    r = _core.Rules(SPEC)
    state = r.start(0, 0)
    for i, event in enumerate(EVENTS):
        state, _ = r.feed(state, event._replace(offset=i + 1))
        state, _ = r.tick(state, i)
    r.due(state)
    r.heard(state)
    with contextlib.suppress(ValueError):
        _core.Rules([*SPEC, ("start", [("all", 3)])])


def publish_and_list(broker):
    with EventClient(broker.uri, namespace="n") as client:
        client.publish_many(EVENTS)
        client.list(limit=50)
        client.count()


def subscribe(broker):
    with EventClient(broker.uri, namespace="n") as client, client.subscribe() as subscription:
        client.publish(EVENTS[0])
        client.hint("x")
        next(subscription)
        subscription._core.skip()


@pytest.mark.parametrize(
    ("work", "times"),
    [(append_and_read, 100), (refused, 100), (match, 100), (rules, 100), (publish_and_list, 20), (subscribe, 20)],
)
def test_memory_is_flat(tmp_path, work, times):
    """Every growth of at least a few bytes a call shows; the broker's own log is a file."""
    with _core.Broker(f"ipc://{tmp_path}/b", f"sqlite:{tmp_path}/log.db") as broker:
        broker.start()
        tracemalloc.start()
        try:
            work(broker)
            work(broker)
            grown = min(growth(work, broker, times) for _ in range(4))
        finally:
            tracemalloc.stop()
    assert grown < 16 * times


def growth(work, broker, times):
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(times):
        work(broker)
    gc.collect()
    return tracemalloc.get_traced_memory()[0] - before


def test_descriptors_and_threads_are_given_back(tmp_path, until):
    def opened(kind):
        return len(list(Path("/proc/self", kind).iterdir()))

    def work():
        with _core.Broker(f"ipc://{tmp_path}/b", f"sqlite:{tmp_path}/log.db") as broker:
            broker.start()
            subscribe(broker)

    work()
    before = opened("fd"), opened("task")
    for _ in range(10):
        work()
    assert opened("fd") == before[0]
    until(lambda: opened("task") <= before[1])


def test_what_libraries_keep_is_flat_too(tmp_path):
    """SQLite's and libzmq's memory is not Python's: look at the process."""

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    with _core.Broker(f"ipc://{tmp_path}/b", f"sqlite:{tmp_path}/log.db") as broker:
        broker.start()
        for _ in range(30):
            publish_and_list(broker)
        before = resident()
        for _ in range(60):
            publish_and_list(broker)
    assert resident() - before < 4 << 20
