"""Three brokers over one log, killed with -9 and started again at random, and so are their clients.

Each of four subscribers gets every event of four producers once, in offset order: nothing lost, doubled or reordered.
``AIF_SOAK_EVENTS`` (10,000; ``make soak``: 100,000) says how many.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from airflows import free_tcp

from aiflow_ext import EventLog

EVENTS = int(os.environ.get("AIF_SOAK_EVENTS", "10000"))
LIMIT_SEC = 300 + EVENTS / 100
SCRIPT = Path(__file__).with_name("brokers.py")


class Process:
    """A process that is started again when it was killed, until it ends by itself."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.arguments = [sys.executable, *arguments]
        self.env = {**os.environ, **(env or {})}
        self.kills = 0
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.arguments, env=self.env, stderr=subprocess.PIPE, text=True)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
        self.kills += 1

    def failed(self) -> str | None:
        """What it said when it ended otherwise than by us."""
        return self.process.communicate()[1] if self.process.poll() not in (None, 0) else None

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def trouble(brokers: list[Process], clients: list[Process], stop: threading.Event, seed: int) -> None:
    """Kill one at random, a broker and a client in turns, and start it again a moment later.

    A machine on which a broker needs long to start has more time between two kills: else none would ever serve.
    """
    chance = random.Random(seed)
    victims = itertools.cycle((brokers, clients))
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "aiflow_ext.cli", "version"], check=True, stdout=subprocess.DEVNULL)
    slow = max(1.0, (time.monotonic() - began) / 0.5)
    while not stop.wait(slow * chance.uniform(0.1, 0.5)):
        victim = chance.choice(next(victims))
        if victim.process.poll() is None:
            victim.kill()
            stop.wait(chance.uniform(0.0, 0.3))
            victim.start()


def wait_for(processes: list[Process], brokers: list[Process], deadline: float) -> None:
    """Until each has ended well; a broker or a client that ends badly is a failure."""
    while any(p.process.poll() in (None, -signal.SIGKILL) for p in processes):
        for process in [*processes, *brokers]:
            if process.process.poll() not in (None, 0, -signal.SIGKILL):
                pytest.fail(f"{process.arguments[1:4]}: {process.failed()}")
        if time.monotonic() > deadline:
            pytest.fail(f"not done in {LIMIT_SEC:.0f} s")
        time.sleep(0.1)  # pace


def servers() -> list[str]:
    return [name for name in ("AIF_TEST_PG", "AIF_TEST_MYSQL") if os.environ.get(name)]


@pytest.mark.parametrize("server", servers())
def test_killed_brokers_lose_double_and_reorder_nothing(tmp_path: Path, server: str) -> None:
    log = os.environ[server]
    seed = int(os.environ.get("AIF_SOAK_SEED", time.time_ns() % 1_000_000))
    print(f"AIF_SOAK_SEED={seed}")
    with EventLog(log) as before:
        start = before.head()
    bound = [free_tcp() for _ in range(3)]
    addresses = ",".join(bound)
    each = EVENTS // 4
    files = [tmp_path / f"heard{i}" for i in range(4)]
    names = [f"{tmp_path.name}-{i}" for i in range(4)]
    stop = threading.Event()
    with ExitStack() as stack:
        brokers = [Process("-m", "aiflow_ext.cli", "broker", "--bind", uri, env={"AIFLOW_LOG": log}) for uri in bound]
        for process in brokers:
            stack.callback(process.end)
        clients = [Process(str(SCRIPT), "publish", addresses, name, str(each)) for name in names]
        clients += [Process(str(SCRIPT), "subscribe", addresses, str(file), str(4 * each)) for file in files]
        for process in clients:
            stack.callback(process.end)
        killer = threading.Thread(target=trouble, args=(brokers, clients, stop, seed))
        killer.start()
        stack.callback(killer.join)
        stack.callback(stop.set)
        wait_for(clients, brokers, time.monotonic() + LIMIT_SEC)
    print(f"killed: brokers {[p.kills for p in brokers]}, clients {[p.kills for p in clients]}")
    assert sum(p.kills for p in brokers) > 1  # it takes seconds, whatever the machine: the producers are paced
    check(log, start, names, each, files)


def check(log: str, start: int, names: list[str], each: int, files: list[Path]) -> None:
    """The log has each event once, each producer's in its order; each subscriber heard just the log."""
    with EventLog(log) as after:
        kept = []
        while events := after.read(kept[-1].offset if kept else start, 10_000):
            kept += events
    assert [event.offset for event in kept] == list(range(start + 1, start + 4 * each + 1))
    for name in names:
        assert [e.value for e in kept if e.sender == name] == [f"{name}:{i}" for i in range(1, each + 1)]
    for file in files:
        assert file.read_text().splitlines() == [f"{event.offset} {event.value}" for event in kept]
