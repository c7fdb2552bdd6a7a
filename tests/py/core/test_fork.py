"""Inherited handles say so; dropping them harms nobody; a child opens its own."""

import gc
import os
import subprocess
import sys
import threading

import pytest

from aiflow_ext import Event, EventClient, EventLog, _core
from aiflow_ext.errors import ForkError

pytestmark = pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""), reason="a fork may inherit a lock that ASan's allocator holds"
)
NEW_ONE = "open a new one in this process|make a new EventClient\\(\\) in this process"


def refused(*calls):
    for call in calls:
        with pytest.raises(ForkError, match=NEW_ONE):
            call()
    return True


def test_inherited_handles_are_refused(tmp_path, broker, client, in_child):
    log = EventLog(f"sqlite:{tmp_path}/other.db")
    core = _core.Client(broker.uri)
    watch = _core.Watch(f"sqlite:{tmp_path}/other.db", "")
    subscription = client.subscribe(after=0)
    client.publish(Event("a"))

    assert (
        in_child(
            lambda: refused(
                log.head,
                lambda: log.append([Event("a")], "p", 1),
                broker.stats,
                broker.start,
                broker.stop,
                lambda: core.head(1000),
                lambda: core.hint("x"),
                lambda: client.publish(Event("a")),
                client.list,
                client.subscribe,
                lambda: next(subscription),
                subscription.poll,
                subscription.fileno,
                lambda: subscription.cursor,
                watch.poll,
                lambda: _core.wait([watch], 0),
            )
        )
        == 0
    )
    assert (client.publish(Event("b")), core.head(60_000), log.head()) == (2, 2, 0)
    assert [next(subscription).key, next(subscription).key] == ["a", "b"]


def test_dropping_what_was_inherited_harms_nobody(broker, in_child):
    handles = [EventLog("mem:"), EventClient(broker.uri), _core.Broker("tcp://127.0.0.1:0", "mem:")]
    handles[2].start()
    handles[1].publish(Event("a"))
    handles.append(handles[1].subscribe(after=0))

    def drop():
        handles[0].close()
        handles[1].close()
        handles[3].close()
        handles.clear()
        return gc.collect() >= 0

    assert in_child(drop) == 0
    assert handles[1].publish(Event("b")) == 2
    assert [e.key for e in (next(handles[3]), next(handles[3]))] == ["a", "b"]
    with EventClient(handles[2].uri) as client:
        assert client.publish(Event("c")) == 1
    handles[2].stop()


def test_a_hundred_children_publish_with_clients_of_their_own(broker, client):
    client.publish(Event("parent"))
    subscription = client.subscribe("child")
    gc.freeze()
    try:
        pids = []
        for n in range(100):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    with EventClient(broker.uri) as own:
                        own.publish(Event("child", str(n)), timeout=120)
                    code = 0
                finally:
                    os._exit(code)
            pids.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 100
    finally:
        gc.unfreeze()
    with subscription:
        assert sorted(int(next(subscription).value) for _ in range(100)) == list(range(100))
    assert client.publish(Event("parent")) == 102


def test_fork_while_other_threads_are_inside(broker, in_child):
    """Whatever the others hold at that moment, the child neither waits for it nor frees it."""
    client = EventClient(broker.uri)
    log = EventLog("mem:")
    end = threading.Event()

    def publish():
        while not end.is_set():
            client.publish(Event("a"))

    def append():
        i = 0
        while not end.is_set():
            i += 1
            log.append([Event("a")] * 100, "p", 100 * i)

    threads = [threading.Thread(target=f) for f in (publish, append, append)]
    for t in threads:
        t.start()
    try:

        def child():
            refused(lambda: client.publish(Event("a")), log.head)
            with EventClient(broker.uri) as own, EventLog("mem:") as mine:
                return own.publish(Event("b"), timeout=120) > 0 and mine.append([Event("a")], "p", 1) == [1]

        assert [in_child(child) for _ in range(10)] == [0] * 10
    finally:
        end.set()
        for t in threads:
            t.join()
    assert client.count("b") == 10


def test_a_child_that_exits_normally_leaves_the_parent_alone(tmp_path):
    """Interpreter shutdown in the child finalizes everything it inherited."""
    program = f"""if True:
        import os, sys
        from aiflow_ext import Event, EventClient, _core
        broker = _core.Broker("ipc://{tmp_path}/b", "sqlite:{tmp_path}/log.db")
        broker.start()
        client = EventClient(broker.uri)
        client.publish(Event("a"))
        subscription = client.subscribe()
        pid = os.fork()
        if pid == 0:
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        client.publish(Event("b"))
        print(next(subscription).key, broker.error())
    """
    out = subprocess.run([sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True)
    assert (out.stdout, out.stderr) == ("b None\n", "")


def test_exit_without_closing_anything(tmp_path):
    program = f"""if True:
        from aiflow_ext import Event, EventClient, EventLog, _core
        broker = _core.Broker("ipc://{tmp_path}/b", "mem:")
        broker.start()
        client = EventClient(broker.uri)
        subscription = client.subscribe()
        log = EventLog("sqlite:{tmp_path}/log.db")
        print(client.publish(Event("a")))
    """
    out = subprocess.run([sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True)
    assert (out.returncode, out.stdout, out.stderr) == (0, "1\n", "")
