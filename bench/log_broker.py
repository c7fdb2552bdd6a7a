"""The event log and the broker alone, through the Python binding: what a program of yours sees.

disk           4 KiB written and fdatasync'ed, one after the other: what the other figures stand on
log append     events/s of one writer, a transaction for each batch, durable (fsync as the database is set)
log read       events/s of one reader, 1,000 at a time
broker         events/s with 1 and with 4 publishing processes: the broker groups what waits into one transaction
latency        publish -> subscriber, one event at a time, between two processes on one clock: from just before
               publish() to the return of the subscriber's poll().  The event is durable before it is pushed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import report

from aiflow_ext import Event, EventClient
from aiflow_ext._core import Broker, EventLog

FULL = {"rounds": 5, "seconds": 1.0, "latency": 500}
QUICK = {"rounds": 1, "seconds": 0.5, "latency": 200}
BATCHES = (1, 100, 1000)
PUBLISHERS = (1, 4)
VALUE = "x" * 100
TARGETS = {1: 5_000, 1000: 100_000}
LATENCY_TARGET_MS = 1.0

Log = Callable[[], Any]


def settle() -> None:
    """What earlier measurements have left to write is written: it would slow the next one's fsync, tenfold here."""
    os.sync()


def append_rate(uri: str, batch: int, seconds: float) -> float:
    producer, n = uuid.uuid4().hex, 0
    events = [Event("bench", VALUE)] * batch
    with EventLog(uri) as log:
        began = time.perf_counter()
        while (used := time.perf_counter() - began) < seconds:
            log.append(events, producer, n + 1)
            n += batch
    return n / used


def disk_rate(folder: Path, seconds: float) -> float:
    """What the disk does at best: no log is durable one event at a time any faster."""
    with (folder / "disk").open("wb", buffering=0) as f:
        began, n = time.perf_counter(), 0
        while (used := time.perf_counter() - began) < seconds:
            f.write(b"x" * 4096)
            os.fdatasync(f.fileno())
            n += 1
    return n / used


def read_rate(uri: str, most: int) -> float:
    with EventLog(uri) as log:
        began, n, after = time.perf_counter(), 0, 0
        while n < most and (events := log.read(after, 1000)):
            n, after = n + len(events), events[-1].offset
        return n / (time.perf_counter() - began)


def publish_for(uri: str, batch: int, seconds: float, begin: Any, sent: Any) -> None:
    """A publishing process: how many events it got acknowledged in the time."""
    events, n = [Event("bench", VALUE)] * batch, 0
    with EventClient(uri) as client:
        client.publish_many(events)
        begin.wait()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            client.publish_many(events)
            n += batch
    sent.put(n)


def broker_rate(uri: str, publishers: int, batch: int, seconds: float) -> float:
    context = multiprocessing.get_context("spawn")
    begin, sent = context.Barrier(publishers), context.Queue()
    arguments = (uri, batch, seconds, begin, sent)
    processes = [context.Process(target=publish_for, args=arguments) for _ in range(publishers)]
    for process in processes:
        process.start()
    total = sum(sent.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    return total / seconds


def hear(uri: str, n: int, ready: Any, heard: Any) -> None:
    """A subscribing process: when each event came."""
    client = EventClient(uri)
    subscription = client.subscribe(key="latency")
    ready.set()
    times: list[int] = []
    while len(times) < n:
        found = subscription.poll(10.0)
        times += [time.monotonic_ns()] * len(found)
    heard.put(times)


def latencies(uri: str, n: int) -> tuple[list[float], list[float]]:
    """Milliseconds from publish() to the subscriber, and from publish() to its acknowledgement."""
    context = multiprocessing.get_context("spawn")
    ready, heard = context.Event(), context.Queue()
    subscriber = context.Process(target=hear, args=(uri, n, ready, heard))
    subscriber.start()
    if not ready.wait(30):
        raise TimeoutError("no subscriber within 30 s")
    sent, acknowledged = [], []
    with EventClient(uri) as client:
        for _ in range(n):
            sent.append(time.monotonic_ns())
            client.publish(Event("latency", VALUE))
            acknowledged.append((time.monotonic_ns() - sent[-1]) / 1e6)
    came = heard.get(timeout=60)
    subscriber.join()
    return [(c - s) / 1e6 for c, s in zip(came, sent, strict=True)], acknowledged


@contextmanager
def stores(folder: Path, server: str) -> Iterator[dict[str, Log]]:
    """For each kind of store, what gives the URI of an empty log."""
    import psycopg2

    connection = psycopg2.connect(server)
    connection.autocommit = True
    made: list[str] = []

    def sqlite() -> str:
        return f"sqlite:{folder / uuid.uuid4().hex}.db"

    def postgresql() -> str:
        made.append(f"aif_{uuid.uuid4().hex[:12]}")
        connection.cursor().execute(f"CREATE DATABASE {made[-1]}")
        u = urlsplit(server)
        return f"postgresql://{u.netloc}/{made[-1]}"

    try:
        yield {"SQLite": sqlite, "PostgreSQL": postgresql}
    finally:
        for name in made:
            connection.cursor().execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.close()


def measure(found: dict[str, list[float]], kind: str, new: Log, plan: dict[str, Any], folder: Path) -> None:
    """One round of every figure for one kind of store."""

    def add(what: str, *values: float) -> None:
        found.setdefault(f"{kind}: {what}", []).extend(values)

    settle()
    found.setdefault("disk: write of 4 KiB and fdatasync [1/s]", []).append(disk_rate(folder, plan["seconds"]))
    for batch in BATCHES:
        uri = new()
        settle()
        add(f"log append, batch {batch} [events/s]", append_rate(uri, batch, plan["seconds"]))
    add("log read, batch 1000 [events/s]", read_rate(uri, 200_000))
    with Broker(f"ipc://{folder}/{uuid.uuid4().hex}.sock", new()) as broker:
        broker.start()
        for publishers in PUBLISHERS:
            for batch in (1, 100):
                settle()
                rate = broker_rate(broker.uri, publishers, batch, plan["seconds"])
                add(f"broker, {publishers} publishing, batch {batch} [events/s]", rate)
        settle()
        heard, acknowledged = latencies(broker.uri, plan["latency"])
        add("publish -> subscriber [ms]", *heard)
        add("publish -> acknowledged [ms]", *acknowledged)


def rows(found: dict[str, list[float]]) -> list[list[str]]:
    return [[what, *_numbers(what, values), str(len(values)), _verdict(what, values)] for what, values in found.items()]


def _numbers(what: str, values: list[float]) -> list[str]:
    p = [report.median(values), report.percentile(values, 90), report.percentile(values, 99)]
    if "[ms]" in what:
        return [f"{v:.2f}" for v in p]
    return [f"{p[0]:,.0f}", "", ""]


def _verdict(what: str, values: list[float]) -> str:
    if "subscriber" in what:
        return f"{'met' if report.median(values) <= LATENCY_TARGET_MS else 'MISSED'}: <= {LATENCY_TARGET_MS:.0f} ms"
    for batch, least in TARGETS.items():
        if f"append, batch {batch} " in what:
            return f"{'met' if report.median(values) >= least else 'MISSED'}: >= {least:,}"
    return ""


def main(quick: bool) -> None:
    server = report.server()
    plan = QUICK if quick else FULL
    where = report.machine(server)
    print(report.describe(where), flush=True)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="aif.") as name, stores(Path(name), server) as kinds:
        for _ in range(plan["rounds"]):  # the kinds take turns: what else the disk does then hits both
            for kind, new in kinds.items():
                measure(found, kind, new, plan, Path(name))
    if not quick:
        report.write(report.RESULTS / "log_broker.json", {"machine": where, "plan": plan, "values": found})
    print(report.table(["", "median", "p90", "p99", "n", "target"], rows(found)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short, and nothing is written")
    main(parser.parse_args().quick)
