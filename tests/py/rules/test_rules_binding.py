"""Match and Rules as Python objects; what they decide is tested in C and in test_rules.py."""

import gc

import pytest

from aiflow_ext import Event, _core
from aiflow_ext.errors import CorruptError

ANY = ("*", "*", "*", "*")


def on(key="k", value=None, *, repeated=False, count=1, within_ms=0, own_run=False):
    return ("event", "default", key, "*", "*", value, repeated, count, within_ms, own_run)


def at(offset, key="k", value=""):
    return Event(key, value, namespace="default", sender="", offset=offset, create_time=offset)


def test_match_finds_ids_once_and_ascending():
    match = _core.Match()
    match.add(ANY, 9)
    match.add(("default", "a", "*", "*"), 2)
    match.add(pattern=("default", "a*", "*", "*"), id=2)
    match.add(("default", "b", "*", "*"), 1)
    assert match.find(Event("a")) == [2, 9]
    assert match.find(Event("a", namespace="other")) == [9]
    match.remove(9)
    assert match.find(Event("c")) == []


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda m: m.add(None, 1), TypeError, "needs a pattern, not None"),
        (
            lambda m: m.add(("a",), 1),
            TypeError,
            r"tuple \(namespace, key, type, sender\) or \(..., context\), not \('a',\)",
        ),
        (lambda m: m.add(("", "a", "*", "*"), 1), ValueError, "namespace"),
        (lambda m: m.add(ANY, -1), ValueError, "id must be from 0"),
        (lambda m: m.remove("x"), TypeError, "id must be int, not str"),
        (lambda m: m.find(ANY), TypeError, "expected an Event, not tuple"),
    ],
)
def test_match_refuses(call, error, text):
    with pytest.raises(error, match=text):
        call(_core.Match())


def test_match_finds_the_same_when_a_destructor_asks_it_meanwhile():
    """To make the list of ids may run the garbage collector (up to Python 3.11), and so any __del__."""

    def fresh():
        match = _core.Match()
        for i in range(10):
            match.add(("default", "few", "*", "*"), 1000 + i)
        for i in range(500):  # more than the first answer had room for
            match.add(("default", "many", "*", "*"), 2000 + i)
        return match

    class Asks:
        def __init__(self):
            self.itself = self  # only the collector can free it

        def __del__(self):
            match.find(many)

    few, many = Event("few"), Event("many")
    before = gc.get_threshold()
    gc.disable()
    try:
        for _ in range(30):
            match = fresh()
            kept = [[] for _ in range(200)]  # Python reuses lists, and collects only when it makes a new one
            Asks()
            gc.set_threshold(1)
            gc.enable()
            found = match.find(few)
            gc.disable()
            assert found == list(range(1000, 1010))
            assert len(kept) == 200
    finally:
        gc.set_threshold(*before)
        gc.enable()


@pytest.mark.parametrize("flag", [1, 0, "yes"])
def test_a_flag_is_true_or_false(tmp_path, flag):
    """1 was once taken for False in some places, and for True in others."""
    rules = _core.Rules([("start", [on()])])
    for named, call in (
        ("repeated", lambda: _core.Rules([("start", [on(repeated=flag)])])),
        ("own_run", lambda: _core.Rules([("start", [on(own_run=flag)])])),
        ("own_run", lambda: rules.feed(rules.start(0, 0), at(1), flag)),
        ("kept", lambda: _core.EventLog("mem:").read(0, kept=flag)),
        ("kept", lambda: _core.Client(f"ipc://{tmp_path}/nobody").list(0, 1, None, 0, kept=flag)),
        ("argument 2", lambda: _core.Subscription(f"ipc://{tmp_path}/nobody", flag)),
        ("argument 4", lambda: _core.Broker(f"ipc://{tmp_path}/b", "mem:", insecure=flag)),
    ):
        with pytest.raises(TypeError, match=f"{named} must be bool, not {type(flag).__name__}"):
            call()


def test_rules_feed_and_fire():
    rules = _core.Rules([("start", [on("go")]), ("stop", [("any", 2), on("end"), on("k", "stop")])])
    assert len(rules) == 2
    state = rules.start(since=10, now_ms=0)
    same, fired = rules.feed(state, at(10, "go"))
    assert (same, fired) == (state, [])
    state, fired = rules.feed(state, at(11, "go"))
    assert fired == [(0, "start", [11])]
    state, fired = rules.feed(state, at(12, "k", "stop"))
    assert fired == [(1, "stop", [12])]


def test_every_action_and_all():
    rules = _core.Rules([(a, [("all", 2), on("a"), on("b")]) for a in ("none", "start", "restart", "stop")])
    state = rules.start(0, 0)
    state, fired = rules.feed(state, at(1, "a"))
    assert fired == []
    state, fired = rules.feed(state, at(2, "b"))
    assert fired == [(i, a, [1, 2]) for i, a in enumerate(("none", "start", "restart", "stop"))]


def test_count_within_and_own_run():
    rules = _core.Rules([("start", [on("k", count=2, within_ms=10)]), ("stop", [on("s", own_run=True)])])
    state = rules.start(0, 0)
    for offset, expected in ((1, []), (20, []), (25, [(0, "start", [20, 25])])):
        state, fired = rules.feed(state, at(offset))
        assert fired == expected
    state, fired = rules.feed(state, at(30, "s"))
    assert fired == []
    state, fired = rules.feed(state, at(31, "s"), own_run=True)
    assert fired == [(1, "stop", [31])]


def test_an_unchanged_state_is_the_same_object():
    rules = _core.Rules([("start", [("every", 1000)])])
    state = rules.start(0, 5)
    assert rules.tick(state, 6)[0] is state


def test_periods():
    rules = _core.Rules([("start", [("every", 1000)])])
    state = rules.start(0, 0)
    assert rules.due(state) == 1000
    state, fired = rules.tick(state, 3500)
    assert fired == [(0, "start", [])]
    assert rules.due(state) == 4000
    assert _core.Rules([("start", [on()])]).due(_core.Rules([("start", [on()])]).start(0, 0)) is None


def test_a_state_says_how_far_its_rules_have_heard():
    """Any Rules can be asked, such as those that an edit has made of them."""
    rules, edited = _core.Rules([("start", [on()])]), _core.Rules([("stop", [on("other")])])
    assert edited.heard(rules.start(7, 0)) == 7
    state, _ = rules.feed(rules.start(7, 0), at(9))
    assert edited.heard(state) == 9
    with pytest.raises(CorruptError, match="is cut"):
        edited.heard(state[:16])
    with pytest.raises(TypeError, match="must be bytes"):
        edited.heard("x")


def test_state_of_other_rules_is_refused():
    state = _core.Rules([("start", [on("a")])]).start(0, 0)
    other = _core.Rules([("start", [on("a")]), ("stop", [on("b")])])
    with pytest.raises(CorruptError):
        other.feed(state, at(1))
    for bad in (b"", b"\xff" * 100, state[:-1], state + b"x"):
        with pytest.raises(CorruptError):
            _core.Rules([("start", [on("a")])]).due(bad)
    with pytest.raises(TypeError, match="state must be bytes, not str"):
        other.feed("state", at(1))


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        (7, TypeError, "not iterable"),
        ([[]], TypeError, r"a rule is a tuple \(action, conditions\), not \[\]"),
        ([("begin", [on()])], ValueError, 'an action is "start", "restart", "stop" or "none", not \'begin\''),
        ([("start", [])], ValueError, "condition"),
        ([("start", 3)], TypeError, "not iterable"),
        ([("start", [()])], ValueError, 'a tuple that begins with "event", "all", "any" or "every", not'),
        ([("start", [("some", 1)])], ValueError, "begins with"),
        ([("start", [("event", "k")])], ValueError, "an event condition has 10 fields, not 2"),
        ([("start", [("all",)])], ValueError, "condition 'all' has 2 fields, not 1"),
        ([("start", [("all", -1), on()])], ValueError, "children must be from 0"),
        ([("start", [("all", 2), on()])], ValueError, "a group of 2 conditions has only 1"),
        ([("start", [("every", 0)])], ValueError, "a period is 0 ms, must be positive"),
        ([("start", [("every", 1.5)])], TypeError, "every must be int, not float"),
        ([("start", [on("")])], ValueError, "key"),
        ([("start", [on(3)])], TypeError, "key must be str, not int"),
        ([("start", [on(value=1)])], TypeError, "value must be str, not int"),
        ([("start", [on(count=0)])], ValueError, "count"),
        ([("start", [on(count=2**40)])], ValueError, "count must be from 0 to 4294967295, not 1099511627776"),
        ([("start", [on()])] * 65, ValueError, "64"),
        ([("start", [("all", 256), *[on()] * 256])], ValueError, "256"),
    ],
)
def test_a_bad_spec_is_named(spec, error, text):
    with pytest.raises(error, match=text):
        _core.Rules(spec)
