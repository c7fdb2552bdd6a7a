import json
import os
import select
import signal
import threading
from collections import deque

import pytest

from aiflow_ext import Event, EventClient, _core
from aiflow_ext.errors import ClosedError


def take(subscription, n):
    return [next(subscription) for _ in range(n)]


def test_only_what_is_published_from_now_on(client):
    client.publish(Event("old"))
    with client.subscribe() as subscription:
        client.publish(Event("new"))
        assert next(subscription).key == "new"
        assert subscription.cursor == 2


def test_who_closes_is_no_subscriber_any_more(broker, until):
    """Not one that is waited for until its lease ends, with a warning."""
    with EventClient(broker.uri) as client, client.subscribe(["a"]), client.subscribe(["b"]):
        assert broker.stats()["subscribers"] == 2
    until(lambda: broker.stats()["subscribers"] == 0)
    counters = json.loads(broker.status())["counters"]
    assert (counters["expired"], counters["gone"]) == (0, 0)


def test_a_signal_whose_handler_raises_loses_nothing(client):
    """Wherever it comes, but for the one event that is just being handed out."""

    def interrupt(*_):
        raise InterruptedError

    for _ in range(3):
        client.publish_many(Event("k") for _ in range(10_000))
    last = interrupts = 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with client.subscribe(after=0) as subscription:
            while last < 30_000 and subscription.cursor < 30_000:
                may_miss = 1 if interrupts else 0
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.001 + interrupts % 7 / 2000)
                    for event in subscription:
                        assert event.offset <= last + 1 + may_miss
                        last, may_miss = event.offset, 0
                        if last == 30_000:
                            break
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except InterruptedError:
                    interrupts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts > 0


def test_after_an_offset_old_ones_come_first(client):
    client.publish_many(Event(str(i)) for i in range(1, 6))
    with client.subscribe(after=2) as subscription:
        client.publish(Event("6"))
        assert [e.key for e in take(subscription, 4)] == ["3", "4", "5", "6"]


def test_filters(broker):
    with EventClient(broker.uri, namespace="n", sender="me") as client:
        with client.subscribe(["a", "b*"], type="T") as subscription:
            client.publish_many(Event(k, type=t) for k in ("a", "bb", "c") for t in ("T", "U"))
            client.publish(Event("a", type="T", namespace="other"))
            client.publish(Event("a", "last", "T"))
            assert [(e.key, e.value) for e in take(subscription, 3)] == [("a", ""), ("bb", ""), ("a", "last")]
        with client.subscribe(namespace="*", sender="you", after=0) as subscription:
            client.publish(Event("z", sender="you"))
            assert next(subscription).key == "z"


@pytest.mark.parametrize("n", [1, 64])
def test_up_to_64_keys(client, n):
    with client.subscribe([str(i) for i in range(n)]) as subscription:
        client.publish(Event(str(n - 1)))
        assert next(subscription).key == str(n - 1)


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"key": [str(i) for i in range(65)]}, ValueError, "65"),
        ({"key": []}, ValueError, "pattern"),
        ({"key": ""}, ValueError, "key"),
        ({"key": [3]}, TypeError, "pattern key must be str, not int"),
        ({"after": -1}, ValueError, "after must be from 0"),
        ({"type": "t" * 256}, ValueError, "type"),
    ],
)
def test_bad_input(client, kwargs, error, text):
    with pytest.raises(error, match=text):
        client.subscribe(**kwargs)


def test_poll_gives_what_came(client):
    with client.subscribe() as subscription:
        assert subscription.poll() == []
        assert subscription.poll(0.01) == []
        client.publish_many([Event("a"), Event("b")])
        got = []
        while len(got) < 2:
            got += subscription.poll(60)
        assert [e.key for e in got] == ["a", "b"]
        assert subscription.cursor == 2


def test_its_descriptor_wakes_a_select(client):
    with client.subscribe() as subscription:
        assert subscription.poll() == []
        client.publish(Event("a"))
        while not (got := subscription.poll()):
            assert select.select([subscription], [], [], 60)[0]
        assert got[0].key == "a"


def test_hints_come_beside_events(broker, client):
    with _core.Subscription(broker.uri, hints=True) as subscription:
        stream = subscription.add([("*", "*", "*", "*")], None, 60_000)
        client.hint("look é")
        assert subscription.next(60_000) == (None, [], "look é")
        client.publish(Event("a"))
        of, got, hint = subscription.next(60_000)
        assert (of, [e.key for e in got], hint) == (stream, ["a"], None)


def test_each_hint_is_told(broker, client, until):
    """They came as one, so that who hears them could not say what had changed."""
    with _core.Subscription(broker.uri, hints=True) as subscription:
        subscription.add([("*", "*", "*", "*")], None, 60_000)
        for n in range(3):
            client.hint(str(n))
        client.publish(Event("a"))
        until(lambda: client.head() == 1)
        assert [subscription.next(60_000)[2] for _ in range(3)] == ["0", "1", "2"]


def test_skip_says_that_something_came_and_makes_no_events(broker, client, until):
    with _core.Subscription(broker.uri, hints=True) as subscription:
        assert subscription.skip() == (0, None)
        stream = subscription.add([("*", "*", "*", "*")], None, 60_000)
        client.publish_many([Event("a")] * 3)
        until(lambda: subscription.skip() == (3, None))
        assert subscription.cursor(stream) == 3
        client.hint("look é")
        until(lambda: subscription.skip() == (0, "look é"))
        client.publish(Event("b"))
        _, (event,), _ = subscription.next(60_000)  # nothing comes twice
        assert (event.key, event.offset) == ("b", 4)
    with pytest.raises(ClosedError):
        subscription.skip()


def test_a_control_event_ends_the_iteration(client):
    control = [("aiflow", "try 7", "STOP", "*")]
    with client.subscribe(namespace="*", control=control) as subscription:
        client.publish(Event("a"))
        client.publish(Event("try 8", type="STOP", namespace="aiflow"))
        client.publish(Event("try 7", type="STOP", namespace="aiflow"))
        client.publish(Event("never seen"))
        assert [e.key for e in subscription] == ["a", "try 8"]
        assert subscription.stopped
        assert subscription.poll(60) == []


def test_a_control_event_that_came_before_ends_it_too(client):
    client.publish(Event("try 7", type="STOP", namespace="aiflow"))
    with client.subscribe(control=[("aiflow", "try 7", "STOP", "*")]) as subscription:
        assert subscription.stopped
        assert list(subscription) == []


def test_control_patterns_are_asked_for(client, monkeypatch):
    monkeypatch.setattr("aiflow_ext.events.client.control_patterns", lambda: [("aiflow", "me", "STOP", "*")])
    with client.subscribe() as subscription, client.subscribe(control=()) as other:
        client.publish(Event("me", type="STOP", namespace="aiflow"))
        client.publish(Event("a"))
        assert list(subscription) == []
        assert next(other).key == "a"
        assert not other.stopped


def test_what_fails_on_the_way_leaves_no_connection(client, monkeypatch, until):
    def fails(*args):
        raise TimeoutError("of the question")

    assert client.head() == 0
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(client, "_parts", fails)
    with pytest.raises(TimeoutError, match="of the question") as caught:
        client.subscribe(control=[("aiflow", "me", "STOP", "*")])
    assert caught.traceback
    until(lambda: len(os.listdir("/proc/self/fd")) <= before)  # the broker's end is in this process, too


def test_close_ends_an_iteration_in_another_thread(client):
    subscription = client.subscribe()
    got = []
    thread = threading.Thread(target=lambda: got.extend(subscription))
    thread.start()
    client.publish(Event("a"))
    while not got:
        thread.join(0.01)
    subscription.close()
    thread.join()
    assert [e.key for e in got] == ["a"]
    assert subscription.cursor == 1
    with pytest.raises(ClosedError, match="this Subscription is closed"):
        subscription.poll()


def test_it_lives_on_when_its_client_is_closed(broker):
    client = EventClient(broker.uri)
    subscription = client.subscribe(after=0)
    client.publish(Event("a"))
    client.close()
    with subscription:
        assert next(subscription).key == "a"


def test_a_lot_at_once_comes_once_and_in_order(client):
    n = 20_000
    with client.subscribe(after=0) as subscription:
        thread = threading.Thread(target=lambda: client.publish_many(Event("k", str(i)) for i in range(n)))
        thread.start()
        got = take(subscription, n)
        thread.join()
    assert [e.offset for e in got] == list(range(1, n + 1))
    assert [e.value for e in got] == list(map(str, range(n)))


def test_resuming_anywhere_gives_each_event_once(client):
    client.publish_many(Event("ab"[i % 2], str(i)) for i in range(100))
    seen, after = [], 0
    while len(seen) < 50:
        with client.subscribe("a", after=after) as subscription:
            for event in take(subscription, min(7, 50 - len(seen))):
                seen.append(event.value)
                after = event.offset
            assert after <= subscription.cursor < after + 2
    assert seen == [str(i) for i in range(0, 100, 2)]


def test_ctrl_c_while_nothing_comes(broker, interrupted):
    program = f"""if True:
        from aiflow_ext import EventClient
        with EventClient("{broker.uri}").subscribe() as subscription:
            print("ready", flush=True)
            for event in subscription:
                pass
    """
    interrupted(program)


def test_it_may_be_closed_between_a_look_and_the_next_event(client):
    class Emptied(deque):
        def __bool__(self):  # as it was a moment ago
            return True

    subscription = client.subscribe()
    subscription.close()
    subscription._ready = Emptied()
    assert list(subscription) == []
