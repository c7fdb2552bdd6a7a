"""What it costs that the scheduler's broker is a process of its own, and no thread: the two in turns, on SQLite.

start       from nothing until the first event is durable and answered
latency     publish -> subscriber and publish -> acknowledged, one event at a time, as bench/log_broker.py has it; the
            publisher is in the process that has the broker, the subscriber in another one
memory      of the process that has the broker, by how much it grew, and of the broker's own: PSS shares what is shared
            (Python and the libraries, with each other Python of this machine), RSS counts it in full
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import report
from log_broker import VALUE, latencies, settle

from aiflow_ext import Event, EventClient
from aiflow_ext._core import Broker
from aiflow_ext.provider.scheduler.embedded import Embedded

FULL = {"rounds": 5, "latency": 1000, "events": 100_000}
QUICK = {"rounds": 2, "latency": 300, "events": 10_000}
KINDS = ("a thread", "a process")


@contextmanager
def broker(kind: str, folder: Path) -> Iterator[str]:
    """Its address; the broker has a new log."""
    name = folder / uuid.uuid4().hex
    uri, log = f"ipc://{name}.sock", f"sqlite:{name}.db"
    if kind == "a thread":
        with Broker(uri, log) as thread:
            thread.start()
            yield uri
        return
    child = Embedded(uri, log, lambda status: None)
    try:
        child.tend()
        yield uri
    finally:
        child.close()


def memory(pid: int | str) -> dict[str, float]:
    """MiB of a process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: int(kib) / 1024 for name, kib in re.findall(r"^(Rss|Pss): +(\d+) kB", text, re.M)}


def host(kind: str, folder: Path, events: int, told: Any) -> None:
    """A process that has a broker which takes events; tells how long the first one took, and the memory."""
    with EventClient(f"ipc://{folder}/none") as client:  # what every scheduler has loaded anyway
        before = memory("self")
        client.close()
    began = time.perf_counter()
    with broker(kind, folder) as uri, EventClient(uri) as client:
        client.publish(Event("first"))
        start = (time.perf_counter() - began) * 1000
        for _ in range(events // 1000):
            client.publish_many([Event("bench", VALUE)] * 1000)
        pid, after = client.status()["pid"], memory("self")
        told.put((start, {k: after[k] - before[k] for k in after}, memory(pid) if kind == "a process" else None))


def measure(found: dict[str, list[float]], kind: str, plan: dict[str, Any], folder: Path) -> None:
    """One round of every figure for one kind of broker."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    process = context.Process(target=host, args=(kind, folder, plan["events"], told))
    settle()
    process.start()
    start, grew, own = told.get(timeout=300)
    process.join()

    def add(what: str, *values: float) -> None:
        found.setdefault(f"{kind}: {what}", []).extend(values)

    add("start -> first event acknowledged [ms]", start)
    for name, value in grew.items():
        add(f"its host grows, {name.upper()} [MiB]", value)
    for name, value in (own or {}).items():
        add(f"the broker's own, {name.upper()} [MiB]", value)
    with broker(kind, folder) as uri:
        settle()
        heard, acknowledged = latencies(uri, plan["latency"])
    add("publish -> subscriber [ms]", *heard)
    add("publish -> acknowledged [ms]", *acknowledged)


def rows(found: dict[str, list[float]]) -> list[list[str]]:
    percentiles = {what: [report.percentile(values, p) for p in (50, 99)] for what, values in found.items()}
    return [
        [what, f"{p50:.2f}", f"{p99:.2f}" if "publish" in what else "", str(len(found[what]))]
        for what, (p50, p99) in percentiles.items()
    ]


def main(quick: bool) -> None:
    plan = QUICK if quick else FULL
    where = report.machine()
    print(report.describe(where), flush=True)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="aif.") as name:
        for i in range(plan["rounds"]):
            for kind in KINDS if i % 2 == 0 else KINDS[::-1]:
                measure(found, kind, plan, Path(name))
    if not quick:
        rounded = {what: [round(value, 3) for value in values] for what, values in found.items()}
        report.write(report.RESULTS / "embedded.json", {"machine": where, "plan": plan, "values": rounded})
    print(report.table(["the broker is", "p50", "p99", "n"], rows(found)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short, and nothing is written")
    main(parser.parse_args().quick)
