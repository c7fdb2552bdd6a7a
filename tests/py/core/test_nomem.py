"""Each allocation of a call fails once: the call raises MemoryError or its own error, or does without."""

import pytest

from aiflow_ext import Event, EventLog, _core
from aiflow_ext.errors import ConflictError, RetentionError

testcapi = pytest.importorskip("_testcapi", reason="this Python was built without _testcapi")

EVENTS = [Event(f"k{i}", "v" * i, "T", "c", "n", "é") for i in range(5)]
SPEC = [("start", [("all", 2), ("event", "n", "k*", "*", "*", None, False, 1, 0, False), ("every", 10)])]
PATTERN = ("n", "k*", "*", "*")

purged = EventLog("mem:")
purged.append(EVENTS, "p", 1)
purged.purge("n", 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    log = EventLog("mem:")
    log.append(EVENTS, "p", 1)
    rules = _core.Rules(SPEC)
    with _core.Broker(f"ipc://{tmp_path_factory.mktemp('b')}/b", "mem:") as broker:
        yield log, broker, rules, rules.start(0, 0), _core.Match()


CALLS = {
    "append": lambda log, b, r, s, m: log.append(events=EVENTS, producer="p", sequence=1),
    "append a bad one": lambda log, b, r, s, m: log.append([*EVENTS, Event("k", 3)], "p", 1),
    "read": lambda log, b, r, s, m: log.read(0, 100, PATTERN),
    "senders": lambda log, b, r, s, m: log.senders(0, [PATTERN, (*PATTERN, "c")], 9),
    "purge": lambda log, b, r, s, m: log.purge("m", 4),
    "purged": lambda log, b, r, s, m: purged.purged(),
    "missed": lambda log, b, r, s, m: purged.read(1, 9, PATTERN),
    "conflict": lambda log, b, r, s, m: log.append([Event("other")], "p", 2),
    "refuse": lambda log, b, r, s, m: log.append([Event("")], "p", 9),
    "open": lambda log, b, r, s, m: EventLog("mem:"),
    "client": lambda log, b, r, s, m: _core.Client("tcp://127.0.0.1:1"),
    "broker": lambda log, b, r, s, m: _core.Broker("tcp://127.0.0.1:0", "mem:"),
    "subscription": lambda log, b, r, s, m: _core.Subscription("tcp://127.0.0.1:1").add([PATTERN], None, 0),
    "stats": lambda log, b, r, s, m: b.stats(),
    "rules": lambda log, b, r, s, m: _core.Rules(SPEC),
    "start": lambda log, b, r, s, m: r.start(0, 0),
    "feed": lambda log, b, r, s, m: r.feed(s, EVENTS[1]._replace(offset=3)),
    "tick": lambda log, b, r, s, m: r.tick(s, 100),
    "match": lambda log, b, r, s, m: (m.add(PATTERN, 1), m.find(EVENTS[1]), m.remove(1)),
}
ERRORS = {
    "missed": RetentionError,
    "conflict": ConflictError,
    "append a bad one": TypeError,
    "refuse": ValueError,
    "subscription": TimeoutError,
}


@pytest.mark.parametrize("name", CALLS)
def test_every_allocation_fails_once(made, name):
    raised = set()
    for n in range(1, 150):
        caught = None
        testcapi.set_nomemory(n, n + 1)
        try:
            CALLS[name](*made)
        except Exception as e:
            caught = e
        finally:
            testcapi.remove_mem_hooks()
        raised.add(type(caught))
    assert raised == {MemoryError, ERRORS.get(name, type(None))}
    assert made[0].head() == 5
