"""Inherited handles say so; dropping them harms nobody; a child opens its own."""

import contextlib
import gc
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import ExitStack

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


@pytest.fixture
def orphan(tmp_path):
    """Run a program, have it fork a child that lives on, and kill it."""
    with ExitStack() as stack:

        def run(program, before_the_fork=lambda: None):
            program = f"""if True:
                import os, sys
                from aiflow_ext import EventClient, _core
                def wait():
                    os.read(0, 1)
                {program}
                wait()
                if os.fork() == 0:
                    os.write(1, b"forked\\n")
                    wait()
                    wait()
                    os._exit(0)
                os.waitpid(-1, 0)
            """
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            said = process.stdout.readline()
            before_the_fork()
            process.stdin.write(b"x")
            process.stdin.flush()
            assert process.stdout.readline() == b"forked\n"
            process.kill()
            process.wait()
            return said

        yield run


@pytest.mark.parametrize("uri", ["ipc://{}/b", "tcp://127.0.0.1:0", "tcp://*:0", "tcp://[::1]:0"])
def test_a_child_of_a_killed_broker_holds_neither_address_nor_connections(tmp_path, orphan, uri):
    """The next broker serves at once, and who was connected is told at once."""
    where = tmp_path / "uri"
    peer = socket.socket(socket.AF_UNIX if "ipc" in uri else socket.AF_INET6 if "[" in uri else socket.AF_INET)
    peer.settimeout(60)

    def connect():
        bound = where.read_text()
        port = bound.rpartition(":")[2]
        peer.connect(bound[6:] if "ipc" in uri else ("::1" if "[" in uri else "127.0.0.1", int(port)))
        assert peer.recv(1) == b"\xff"  # of libzmq's greeting: it was accepted

    orphan(
        f"""
                broker = _core.Broker({uri.format(tmp_path)!r}, "mem:", insecure=True)
                broker.start()
                open({str(where)!r}, "w").write(broker.uri)
                print("up", flush=True)""",
        connect,
    )
    while peer.recv(1000):
        pass
    peer.close()
    with _core.Broker(where.read_text().replace("0.0.0.0", "*"), "mem:", insecure=True) as broker:
        broker.start()


def test_a_child_of_a_killed_client_does_not_hold_its_connection(tmp_path, broker, orphan):
    """Somebody between the two sees that the connection ends."""
    with socket.socket(socket.AF_UNIX) as between, socket.socket(socket.AF_UNIX) as up:
        between.bind(f"{tmp_path}/between")
        between.listen()
        up.connect(broker.uri.removeprefix("ipc://"))
        answers = threading.Thread(target=lambda: forward(up, client), daemon=True)

        def serve():
            nonlocal client
            client = between.accept()[0]
            answers.start()
            forward(client, up)

        client = None
        questions = threading.Thread(target=serve, daemon=True)
        questions.start()
        orphan(f"""
                client = _core.Client("ipc://{tmp_path}/between")
                print(client.head(60_000), flush=True)""")
        questions.join(60)
        assert not questions.is_alive()
        up.shutdown(socket.SHUT_RDWR)
        answers.join()
        client.close()


def forward(one, other):
    while some := one.recv(65536):
        other.sendall(some)


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


@pytest.fixture
def written(tmp_path):
    """A log in a file, which three threads append to for as long as the test goes on."""
    end = threading.Event()

    def append(log, producer):
        i = 1
        while not end.is_set():
            log.append([Event("a", "v" * 2000)] * 20, producer, i)
            i += 20

    uri = f"sqlite:{tmp_path}/log.db"
    with EventLog(uri) as log:
        threads = [threading.Thread(target=append, args=(log, f"p{k}")) for k in range(3)]
        for t in threads:
            t.start()
        try:
            yield uri
        finally:
            end.set()
            for t in threads:
                t.join()


def test_a_file_that_was_open_at_the_fork_is_refused(written, tmp_path, in_child):
    """SQLite would act on locks that are not the child's: it is said, and nothing of it is waited for."""

    def child(k):
        signal.alarm(120)
        for opened in (EventLog, lambda uri: _core.Watch(uri, ""), lambda uri: _core.Broker("tcp://127.0.0.1:0", uri)):
            with pytest.raises(ForkError, match=r"open it in a program of its own \(exec\), or use an EventClient: /"):
                opened(written)
        with EventLog(f"sqlite:{tmp_path}/own{k}.db") as own:
            assert own.append([Event("b")], "c", 1) == [1]
        with contextlib.closing(sqlite3.connect(tmp_path / f"theirs{k}.db")) as theirs:
            theirs.execute("CREATE TABLE t (x)")
        return True

    assert [in_child(lambda k=k: child(k)) for k in range(40)] == [0] * 40


def test_a_program_of_its_own_may_open_the_file(written):
    program = f"""if True:
        from aiflow_ext import Event, EventLog
        with EventLog({written!r}) as own:
            for i in range(1, 6):
                own.append([Event("b")], "c", i)
            print(own.sequence("c"), own.count(patterns=("default", "b", "*", "*")))
    """
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (out.stdout, out.stderr) == ("5 5\n", "")


def test_a_child_from_before_may_open_the_file(tmp_path):
    """So may one from after it was closed."""
    uri = f"sqlite:{tmp_path}/log.db"
    go_on = os.pipe()

    def fork():
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.alarm(120)
                os.read(go_on[0], 1)
                with EventLog(uri) as own:
                    code = int(len(own.append([Event("b")] * 5, "c", 1)) != 5)
            finally:
                os._exit(code)
        return pid

    before = fork()
    with EventLog(uri) as log:
        log.append([Event("a")], "p", 1)
        os.write(go_on[1], b"x")
        assert os.waitpid(before, 0)[1] == 0
        assert (log.append([Event("a")], "p", 2), log.count()) == ([7], 7)
    after = fork()
    os.write(go_on[1], b"x")
    assert os.waitpid(after, 0)[1] == 0
    for fd in go_on:
        os.close(fd)


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
