"""The broker that a scheduler has as its child: `aiflow_ext.provider.scheduler.embedded`, without Airflow."""

import contextlib
import logging
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aiflow_ext import Event, EventClient
from aiflow_ext.provider.scheduler import embedded
from aiflow_ext.provider.scheduler.embedded import Embedded

# A scheduler: says the pid of its broker, tends it until that serves, and then until a line comes.
SCHEDULER = """
import os, select, sys
from aiflow_ext import Event, EventClient
from aiflow_ext.provider.scheduler.embedded import Embedded

said = []
broker = Embedded(sys.argv[1], sys.argv[2], said.append)

def tend_until(so):
    while not so():
        broker.tend()
        select.select(broker.pipes(), [], [], 0.1)

broker.tend()
print(open(f"/proc/self/task/{os.getpid()}/children").read(), flush=True)
tend_until(lambda: said)
print("serves", flush=True)
"""
UNTIL_A_LINE = """
tend_until(lambda: select.select([0], [], [], 0)[0])
"""


@contextlib.contextmanager
def scheduler(folder, body=UNTIL_A_LINE, log=None, **options):
    """Run it; its process and its broker's pid."""
    command = [sys.executable, "-c", SCHEDULER + body, f"ipc://{folder}/b", log or f"sqlite:{folder}/log.db"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes, **options) as process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def serves(process):
    """Wait until its broker does."""
    return process.stdout.readline() == "serves\n"


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Tended:
    """One that this process supervises, and what it has told."""

    def __init__(self, folder, log=None):
        self.uri, self.told = f"ipc://{folder}/b", []
        self.broker = Embedded(self.uri, log or f"sqlite:{folder}/log.db", self.told.append)

    def until(self, so):
        deadline = time.monotonic() + 120
        while not (found := so()):
            assert time.monotonic() < deadline, "it did not come to that"
            self.broker.tend()
            select.select(self.broker.pipes(), [], [], 0.1)
        return found

    def serves(self, besides=None):
        """Wait until one does, another one than that; its pid."""
        self.until(lambda: self.told and self.told[-1]["pid"] != besides)
        return self.told[-1]["pid"]


@pytest.fixture
def tended(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    made = Tended(tmp_path)
    yield made
    made.broker.close()


def test_its_lines_and_its_status_arrive(tended, tmp_path, caplog):
    pid = tended.serves()
    assert pid != os.getpid()
    assert [said for said in caplog.record_tuples if "slow turn" not in said[2]] == [
        ("aiflow_ext.broker", logging.INFO, f"aiflow broker: serving {tended.uri}, log sqlite:{tmp_path}/log.db")
    ]
    with EventClient(tended.uri) as client:
        client.publish(Event("a"))
    assert tended.until(lambda: tended.told[-1]["counters"]["appended"] == 1)
    tended.broker.close()
    assert caplog.messages[-1].startswith("aiflow broker: stopped; 1 appended, ")


def test_one_that_is_killed_comes_back_and_nothing_is_lost(tended, caplog, monkeypatch):
    monkeypatch.setattr(embedded, "STEADY_SEC", 600.0)  # however slow this machine is
    offsets = []
    with EventClient(tended.uri) as client:
        for _ in range(3):
            pid = tended.serves()
            os.kill(pid, signal.SIGKILL)
            tended.serves(besides=pid)
            offsets.append(client.publish(Event("a"), timeout=120))
        assert [e.offset for e in client.list()] == offsets == [1, 2, 3]
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert said[0] == "aiflow: the broker's process ended (killed by signal 9), it is started again at once"
    assert said[1] == "aiflow: the broker's process ended (killed by signal 9), it is started again in 1 s"


def test_one_that_cannot_start_is_tried_again_and_says_why(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(embedded, "STEADY_SEC", 600.0)
    tended = Tended(tmp_path, f"sqlite:{tmp_path}/missing/log.db")
    pauses = re.compile(r"the broker's process ended \(exit code 1\), it is started again (.*)")
    tended.until(lambda: len(pauses.findall(caplog.text)) == 3)
    assert pauses.findall(caplog.text) == ["at once", "in 1 s", "in 2 s"]
    reasons = [r for r in caplog.records if r.name == "aiflow_ext.broker"]
    assert [r.levelno for r in reasons] == [logging.ERROR] * 3
    assert f"{tmp_path}/missing/log.db" in reasons[0].getMessage()
    (tmp_path / "missing").mkdir()
    tended.serves()
    tended.broker.close()


def test_a_python_that_is_none_is_no_end(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    tended = Tended(tmp_path)
    tended.until(lambda: "could not be started (" in caplog.text)
    assert tended.broker.pipes() == []
    tended.broker.close()


def test_its_end_is_an_end(tended, tmp_path):
    pid = tended.serves()
    tended.broker.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not (tmp_path / "b").exists()
    tended.broker.close()
    again = Tended(tmp_path)
    again.serves()
    again.broker.close()


def test_one_that_hangs_is_killed_at_the_end(tended):
    pid = tended.serves()
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)
    tended.broker.close()
    assert not Path(f"/proc/{pid}").exists()


def test_one_that_says_nothing_any_more_is_killed_and_started_again(tended, caplog, monkeypatch):
    """Stopped, as a hanging one; then it serves what it had."""
    with EventClient(tended.uri) as client:
        pid = tended.serves()
        client.publish(Event("a"))
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        with monkeypatch.context() as soon:
            soon.setattr(embedded, "SILENT_SEC", 0.5)
            tended.until(lambda: not lives(pid))
        assert tended.serves(besides=pid)
        assert client.publish(Event("b"), timeout=120) == 2
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert said == [
        "aiflow: the broker's process says nothing any more, it is killed",
        "aiflow: the broker's process ended (killed by signal 9), it is started again at once",
    ]


def test_the_second_one_waits_and_takes_over(tended, tmp_path, caplog):
    first = tended.serves()
    second = Tended(tmp_path)
    second.until(lambda: f"another process (pid {first}) serves {tmp_path}/b; this one takes over" in caplog.text)
    assert second.broker.up
    heard = second.broker._heard
    second.until(lambda: second.broker._heard > heard)  # else it would be taken for one that hangs
    tended.broker.close()
    assert second.serves() != first
    second.broker.close()


def test_the_second_one_may_end_while_it_waits(tended, tmp_path, caplog):
    tended.serves()
    second = Tended(tmp_path)
    second.until(lambda: second.broker.up)
    pids = children()
    second.broker.close()
    assert len(pids - children()) == 1
    assert "the broker's process" not in caplog.text


def children():
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_signals_are_for_the_scheduler(tended):
    pid = tended.serves()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(pid, number)
    with EventClient(tended.uri) as client:
        client.publish(Event("a"))
    tended.until(lambda: tended.told[-1]["counters"]["appended"] == 1)
    assert {status["pid"] for status in tended.told} == {pid}


def test_ctrl_c_is_for_the_scheduler(tmp_path):
    """To all processes of a terminal at once; the scheduler publishes a last event, and ends the broker."""
    last = """
try:
    print("waits", flush=True)
    tend_until(lambda: False)
except KeyboardInterrupt:
    with EventClient(sys.argv[1]) as client:
        print(client.publish(Event("last")), flush=True)
    broker.close()
"""
    with scheduler(tmp_path, last, process_group=0) as (process, pid):
        assert serves(process)
        assert process.stdout.readline() == "waits\n"
        os.killpg(process.pid, signal.SIGINT)
        assert (process.communicate(timeout=120)[0], process.returncode) == ("1\n", 0)
    assert not lives(pid)


def test_it_ends_with_a_scheduler_that_is_killed(tmp_path, until):
    with scheduler(tmp_path) as (process, pid):
        assert serves(process)
        assert lives(pid)
        process.kill()
        until(lambda: not lives(pid))
    with scheduler(tmp_path) as (process, again):
        assert serves(process)
        assert again != pid


def test_a_forked_worker_that_outlives_the_scheduler_does_not_keep_it(tmp_path, until):
    """A worker is forked while the broker runs; it lives on, and a new scheduler serves."""
    worker = """
if (child := os.fork()) == 0:
    sys.stdin.read()
    os._exit(0)
print(child, flush=True)
"""
    with scheduler(tmp_path, worker + UNTIL_A_LINE) as (process, pid):
        assert serves(process)
        child = int(process.stdout.readline())
        process.kill()
        until(lambda: not lives(pid))
        with scheduler(tmp_path) as (new, _):
            assert serves(new)
            assert lives(child)
        process.stdin.close()
        until(lambda: not lives(child))


def test_it_ends_with_its_scheduler_while_it_waits_for_a_database(tmp_path, until):
    """A server that takes connections and then says nothing; at a hundred addresses, each of which has its time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        log = f"postgresql://u@{','.join([f'127.0.0.1:{server.getsockname()[1]}'] * 100)}/d"
        with scheduler(tmp_path, log=log) as (process, pid):
            connection, _ = server.accept()
            assert lives(pid)
            process.kill()
            until(lambda: not lives(pid))
            connection.close()


def test_a_password_is_not_seen_and_descriptors_are_plenty(tmp_path):
    before = children()  # of earlier tests
    tended = Tended(tmp_path, "postgresql://u:seCret@127.0.0.1:1/d?connect_timeout=2")
    tended.broker.tend()
    (pid,) = children() - before
    assert "seCret" not in Path(f"/proc/{pid}/cmdline").read_text()
    tended.broker.close()
    tended = Tended(tmp_path)
    limits = Path(f"/proc/{tended.serves()}/limits").read_text()
    soft, hard = re.search(r"Max open files +(\d+) +(\d+)", limits).groups()
    assert soft == hard == str(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    tended.broker.close()


def test_one_that_has_served_for_a_while_is_started_again_at_once(tended, caplog, monkeypatch):
    monkeypatch.setattr(embedded, "STEADY_SEC", 0.0)
    pid = None
    for _ in range(3):
        pid = tended.serves(besides=pid)
        os.kill(pid, signal.SIGKILL)
    tended.serves(besides=pid)
    assert len(re.findall("started again at once", caplog.text)) == 3


def test_words_of_a_dying_library_are_lines(tended, caplog):
    """In the middle of a status, without an end, and of a process that no code of Python ends."""
    tended.broker._command = [sys.executable, "-c", DYING]
    tended.until(lambda: "killed by signal" in caplog.text)
    assert [r.getMessage() for r in caplog.records][:3] == [
        'aiflow broker: status {"pid": 1, "coAssertion failed: errno == 0 (src/ip.cpp:42)',
        "aiflow broker: 9999 is no level",
        f"aiflow broker: {'x' * 60_000}",
    ]
    assert {r.levelno for r in caplog.records} == {logging.ERROR}
    assert tended.told == []


DYING = """
import os, signal
print('status {"pid": 1, "coAssertion failed: errno == 0 (src/ip.cpp:42)')
print("9999 is no level")
print("x" * 60_000, end="", flush=True)
os.kill(os.getpid(), signal.SIGRTMIN + 3)
"""
