import os
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from zmtp import Peer

from aiflow_ext import Event, EventClient, _core
from aiflow_ext.errors import ClosedError, ConflictError, CorruptError

PING, PONG = 0x09, 0x89


def broker_at(uri, log="mem:"):
    return _core.Broker(uri, log)


def test_a_port_is_picked_and_told():
    with broker_at("tcp://127.0.0.1:0") as broker:
        broker.start()
        assert not broker.uri.endswith(":0")
        with EventClient(broker.uri) as client:
            assert client.publish(Event("a")) == 1


def test_stop_gives_the_address_and_the_log_back(tmp_path):
    for offset in (1, 2, 3):
        with broker_at(f"ipc://{tmp_path}/b", f"sqlite:{tmp_path}/log.db") as broker:
            broker.start()
            with EventClient(broker.uri) as client:
                assert client.publish(Event("a")) == offset


def test_an_address_is_served_once(broker):
    with pytest.raises(ConflictError, match="broker"):
        broker_at(broker.uri)
    with EventClient(broker.uri) as client:
        assert client.publish(Event("the first one serves on")) == 1


@pytest.mark.parametrize("backlog", [8, 0])
def test_a_strangers_living_socket_is_left_alone(tmp_path, backlog):
    """Also one whose backlog is full: who connects to it waits, or is told to try again, but is not refused."""
    path = tmp_path / "b"
    with socket.socket(socket.AF_UNIX) as stranger, socket.socket(socket.AF_UNIX) as knocks:
        stranger.bind(str(path))
        stranger.listen(backlog)
        if backlog == 0:
            knocks.connect(str(path))
        file = path.stat().st_ino
        with pytest.raises(ConflictError, match=rf"pid {os.getpid()}|ss -xlp"):
            broker_at(f"ipc://{path}")
        assert path.stat().st_ino == file
        knocks.close()


def test_a_dead_ones_socket_file_is_replaced(tmp_path):
    """Also where it was put aside, for there were too many connections."""
    path = tmp_path / "b"
    for name in ("b", "b.full"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(f"{tmp_path}/{name}")
            dead.listen()
    with broker_at(f"ipc://{path}") as broker:
        broker.start()
        with EventClient(broker.uri) as client:
            assert client.publish(Event("a")) == 1
    assert not path.exists()
    assert not (tmp_path / "b.full").exists()


def test_a_strangers_lock_file_is_left_alone(tmp_path):
    lock = tmp_path / "b.lock"
    lock.write_text("4711\n/var/lib/other\n")
    with pytest.raises(ValueError, match="is no broker's"):
        broker_at(f"ipc://{tmp_path}/b")
    assert lock.read_text() == "4711\n/var/lib/other\n"


def test_what_somebody_put_in_the_place_of_its_socket_file_stays(tmp_path):
    path = tmp_path / "b"
    with broker_at(f"ipc://{path}"), socket.socket(socket.AF_UNIX) as stranger:
        path.unlink()
        stranger.bind(str(path))
    assert path.is_socket()


@pytest.mark.parametrize("gone", [["b"], ["b", "b.lock"]], ids=" ".join)
def test_a_deleted_socket_file_is_made_again(broker_process, tmp_path, gone):
    """And connections are kept."""
    with Peer(broker_process.uri) as kept, EventClient(broker_process.uri) as old:
        old.publish(Event("a"))
        for _ in range(2):
            broker_process.halt()
            for name in gone:
                (tmp_path / name).unlink()
            broker_process.go_on()
            broker_process.wait_for("the socket's file was deleted, it is made again: ipc://")
            assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
            kept.frame(PING, 7)
            assert kept.answer() == (PONG, 7, b"")
            with EventClient(broker_process.uri) as new:
                new.publish(Event("a"))
        assert old.publish(Event("a")) == 4
    with pytest.raises(ConflictError, match=f"pid {broker_process.process.pid}"):
        broker_at(broker_process.uri)


def test_a_deleted_lock_file_is_made_again(broker_process, tmp_path, until):
    (tmp_path / "b.lock").unlink()
    until((tmp_path / "b.lock").exists)
    with EventClient(broker_process.uri) as client:
        client.publish(Event("a"))


def test_a_failure_that_may_pass_ends_no_broker(broker_process, tmp_path):
    """It has no descriptor left for a while."""
    pid = broker_process.process.pid
    used = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with EventClient(broker_process.uri) as client:
        client.publish(Event("a"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(set(range(len(used) + 1)) - used), hard))
        (tmp_path / "b").unlink()
        broker_process.wait_for("the socket's file cannot be made again yet: .* Too many open files")
        assert client.publish(Event("a")) == 2
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        broker_process.wait_for("the socket's file was deleted, it is made again")
    with EventClient(broker_process.uri) as client:
        assert client.publish(Event("a")) == 3
    assert sum("made again yet" in line for line in broker_process.said) == 1


def test_a_broker_ends_where_something_else_has_the_place_of_its_socket_file(broker_process, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "mine").rename(tmp_path / "b")
    broker_process.wait_for("b is there already and is no socket")
    assert broker_process.process.wait(60) == 1
    assert (tmp_path / "b").read_text() == "mine"


def test_a_broker_ends_where_the_folder_of_its_socket_file_is_gone(broker_process, tmp_path):
    tmp_path.rename(tmp_path.with_name("moved"))
    broker_process.wait_for("cannot open .*b.lock: No such file")
    assert broker_process.process.wait(60) == 1


def test_a_broker_ends_where_another_one_took_its_place(broker_process, tmp_path):
    broker_process.halt()
    (tmp_path / "b").unlink()
    (tmp_path / "b.lock").unlink()
    with broker_at(broker_process.uri) as other:
        other.start()
        broker_process.go_on()
        broker_process.wait_for(rf"another process \(pid {os.getpid()}\) serves")
        assert broker_process.process.wait(60) == 1
        with EventClient(other.uri) as client:
            assert client.publish(Event("a")) == 1


def test_a_broker_whose_wal_was_deleted_acknowledges_nothing_more_and_loses_nothing(broker_process, tmp_path):
    with EventClient(broker_process.uri) as client:
        assert client.publish(Event("a")) == 1
        (tmp_path / "events.db-wal").unlink()
        (tmp_path / "events.db-shm").unlink()
        for _ in range(2):
            with pytest.raises(CorruptError, match="end all programs that have it open"):
                client.publish(Event("b"))
    broker_process.kill()
    broker_process.start()
    with EventClient(broker_process.uri) as client:
        assert client.publish(Event("c")) == 2
        assert [e.key for e in client.list()] == ["a", "c"]


def test_the_socket_is_the_users_own(broker, tmp_path):
    assert (tmp_path / "broker").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("uri", "log", "text"),
    [
        ("tcp://0.0.0.0:0", "mem:", "0.0.0.0"),
        ("tcp://127.0.0.1:70000", "mem:", "70000"),
        ("http://127.0.0.1", "mem:", "http://127.0.0.1"),
        ("tcp://127.0.0.1:0", "nosuch:", "no such kind of log: .nosuch."),
    ],
)
def test_a_bad_address_or_log_is_refused(uri, log, text):
    with pytest.raises(ValueError, match=text):
        broker_at(uri, log)


def test_start_twice_and_stop_twice(tmp_path):
    broker = broker_at(f"ipc://{tmp_path}/b")
    broker.start()
    with pytest.raises(RuntimeError, match="started already"):
        broker.start()
    broker.stop()
    broker.stop()
    with pytest.raises(ClosedError, match="this Broker is closed"):
        broker.start()


def test_what_was_never_started_can_be_stopped_or_forgotten(tmp_path):
    broker_at(f"ipc://{tmp_path}/a").stop()
    broker = broker_at(f"ipc://{tmp_path}/a")
    del broker
    broker_at(f"ipc://{tmp_path}/a").stop()


def test_one_that_is_forgotten_while_it_serves_ends(tmp_path):
    broker = broker_at(f"ipc://{tmp_path}/a")
    broker.start()
    del broker
    with broker_at(f"ipc://{tmp_path}/a") as broker:
        assert broker.error() is None


def test_stats_count_and_outlive_it(broker, client):
    with client.subscribe(after=0) as events:
        assert broker.stats()["subscribers"] == 1
        client.publish_many(Event("a") for _ in range(10))
        got = []
        while len(got) < 10:
            got += events.poll(5)
    broker.stop()
    stats = broker.stats()
    assert stats.keys() == {"appended", "pushed", "turns", "rejected", "retries", "subscribers", "denied", "strangers"}
    assert (stats["appended"], stats["pushed"], stats["rejected"]) == (10, 10, 0)
    assert broker.error() is None
    assert broker.uri.startswith("ipc://")


@pytest.mark.parametrize("asks", ["status", "trace"])
def test_who_asks_lets_other_threads_run(broker, asks):
    """It takes locks that the broker's thread may have.  A thread runs here only where the call lets go of the GIL."""
    go, done = threading.Lock(), threading.Lock()
    go.acquire(), done.acquire()
    other = threading.Thread(target=lambda: go.acquire() and done.release())
    other.start()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        deadline = time.monotonic() + 60
        go.release()
        while done.locked():
            assert time.monotonic() < deadline, f"{asks}() keeps the GIL"
            getattr(broker, asks)()
    finally:
        sys.setswitchinterval(before)
        other.join()


def test_its_thread_takes_no_signals():
    """All are blocked in it, so they reach Python's main thread, and a broken pipe reaches nobody."""
    before = set(Path("/proc/self/task").iterdir())  # others' threads, and what is left of them
    with broker_at("tcp://127.0.0.1:0") as broker:
        broker.start()
        with EventClient(broker.uri) as client:
            client.publish(Event("a"))
            others = set(Path("/proc/self/task").iterdir()) - before
            texts = [(task / "status").read_text() for task in others]
    blocked = [int(line.split()[1], 16) for text in texts for line in text.splitlines() if line.startswith("SigBlk:")]
    wanted = sum(1 << (s - 1) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE))
    assert len(blocked) == len(others) > 1
    assert all(mask & wanted == wanted for mask in blocked)


def test_many_publishers_share_its_transactions(broker):
    def work(name):
        with EventClient(broker.uri) as client:
            for i in range(25):
                client.publish(Event(name, str(i)))

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    with EventClient(broker.uri) as client:
        events = client.list()
    assert [e.offset for e in events] == list(range(1, 101))
    for n in range(4):
        assert [e.value for e in events if e.key == f"t{n}"] == [str(i) for i in range(25)]
    assert broker.stats()["turns"] <= 100
