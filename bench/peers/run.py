"""The event service beside its peers, side by side in one run: rates, latencies, many subscribers, memory.

Every client is a Python process of its own (each service's own Python client), every server a process of our own on
this machine.  The kinds take turns in each round, so that what else the machine does hits all of them.

publish        events/s that were acknowledged, with 1 and 8 publishing processes, one at a time and in batches
delivery       ms from the moment an event was due to the subscriber's hands, at 100, 1,000 and 10,000 events/s
subscribers    1, 100 and 1,000 of them, each gets every event; what is lost is counted
memory         the server's resident memory at the end of all that (a database server's own is not in it)

    make bench-broker                     everything, writes bench/results/peers.json
    bench/peers/run.py --quick --only SQLite
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import report
import servers

FULL = {"rounds": 3, "seconds": 3.0}
QUICK = {"rounds": 1, "seconds": 1.0}
BATCH = 1000
PUBLISHERS = (1, 8)
RATES = (100, 1_000, 10_000)
SUBSCRIBERS = {1: 1000, 100: 100, 1000: 10}  # and at how many events/s
WORKER = str(Path(__file__).with_name("worker.py"))
PATIENCE_SEC = 120
RECORDED = {"publish, 1 at a time [events/s]": 106, "publish, 8 processes, 1 at a time [events/s]": 142}

Values = dict[str, list[float]]


class Worker:
    """A process that publishes or subscribes."""

    def __init__(self, peer: servers.Peer, role: str, **arguments: Any) -> None:
        text = json.dumps({"address": peer.address, **arguments})
        command = [peer.python, WORKER, peer.adapter, role, text]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_ready(self) -> None:
        if self._line() != "ready\n":
            raise RuntimeError(f"{self.process.args!r} is not ready")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def result(self) -> Any:
        found = json.loads(self._line())
        self.end()
        return found

    def end(self) -> None:
        """It has told all that it will; what its client still does is not waited for."""
        self.process.kill()
        self.process.wait()

    def _line(self) -> str:
        import select

        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], PATIENCE_SEC)[0]:
            self.end()
            raise TimeoutError(f"{self.process.args!r} said nothing for {PATIENCE_SEC} s")
        return self.process.stdout.readline()


def together(workers: list[Worker]) -> list[Any]:
    for worker in workers:
        worker.wait_ready()
    for worker in workers:
        worker.go()
    return [worker.result() for worker in workers]


def publish_rate(peer: servers.Peer, processes: int, batch: int, seconds: float) -> float:
    found = together([Worker(peer, "publish", batch=batch, seconds=seconds) for _ in range(processes)])
    return sum(f["n"] / f["seconds"] for f in found)


def deliver(peer: servers.Peer, subscribers: int, rate: int, seconds: float) -> Any:
    """What the subscribers heard while events were published at a rate."""
    n = int(rate * seconds)
    hearing = Worker(peer, "subscribe", n=subscribers, expect=n)
    hearing.wait_ready()
    hearing.go()
    (told,) = together([Worker(peer, "pace", rate=rate, seconds=seconds)])
    heard = hearing.result()
    return {"lost": n * subscribers - heard["came"], "seconds": told["seconds"], **heard}


def measure(kind: servers.Kind, plan: dict[str, Any], found: Values, folder: Path) -> None:
    def add(what: str, *values: float) -> None:
        found.setdefault(what, []).extend(values)

    with kind.serve(folder) as peer:
        seconds = plan["seconds"]
        for processes in PUBLISHERS:
            for batch in (1, BATCH) if kind.batches else (1,):
                os.sync()
                many = f"publish, {processes} processes, " if processes > 1 else "publish, "
                how = "1 at a time" if batch == 1 else f"{batch} at a time"
                add(f"{many}{how} [events/s]", publish_rate(peer, processes, batch, seconds))
        for rate in (rate for rate in RATES if rate <= kind.most_rate):
            os.sync()
            heard = deliver(peer, 1, rate, seconds)
            add(f"delivery at {rate}/s [ms]", *heard["ms"])
            add(f"delivery at {rate}/s: lost", heard["lost"])
        for subscribers, rate in SUBSCRIBERS.items():
            if subscribers > kind.most_subscribers or rate > kind.most_rate:
                continue
            heard = deliver(peer, subscribers, rate, seconds)
            add(f"{subscribers} subscribers, {rate}/s [ms]", *heard["ms"])
            add(f"{subscribers} subscribers, {rate}/s: lost", heard["lost"])
        add("memory of the server [MiB]", servers.rss_mib(peer.pid))


def summary(values: dict[str, Values]) -> dict[str, dict[str, Any]]:
    """Medians, and p50 p90 p99 of latencies; the raw rates are all kept, of latencies these."""
    return {
        kind: {
            what: {f"p{p}": round(report.percentile(v, p), 3) for p in (50, 90, 99)} | {"n": len(v)}
            if "[ms]" in what
            else v
            for what, v in found.items()
        }
        for kind, found in values.items()
    }


def rows(values: dict[str, Values]) -> list[list[str]]:
    what = list(dict.fromkeys(w for found in values.values() for w in found))
    return [[w, *(cell(w, found.get(w, [])) for found in values.values())] for w in what]


def cell(what: str, values: list[float]) -> str:
    if not values:
        return "-"
    if "[ms]" in what:
        return f"{report.median(values):.2f} / {report.percentile(values, 99):.2f}"
    if ": lost" in what:
        return f"{sum(values):.0f}"
    return f"{report.median(values):,.0f}"


def main(quick: bool, rounds: int, only: str, output: Path | None) -> None:
    plan = QUICK if quick else FULL | {"rounds": rounds}
    where = report.machine(report.server())
    print(report.describe(where), flush=True)
    kinds = [kind for kind in servers.KINDS if only in kind.name]
    left_out = {kind.name: kind.missing() for kind in kinds if kind.missing()}
    values: dict[str, Values] = {kind.name: {} for kind in kinds if kind.name not in left_out}
    with tempfile.TemporaryDirectory(prefix="aif.") as name:
        for turn in range(plan["rounds"]):
            for kind in kinds:
                if kind.name in left_out:
                    continue
                began = time.monotonic()
                measure(kind, plan, values[kind.name], Path(name))
                print(f"round {turn + 1}: {kind.name}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    for name, why in left_out.items():
        print(f"not measured: {name}: {why}")
        if name.startswith("notification-service"):
            print(f"  recorded on another day, not in this run: {RECORDED}")
    if output is not None:
        content = {
            "machine": where,
            "plan": plan,
            "durable": {k.name: k.durable for k in kinds},
            "values": summary(values),
        }
        report.write(output, content)
    print(report.table(["median; latency p50 / p99", *values], rows(values)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each is measured (3)")
    parser.add_argument("--only", default="", metavar="TEXT", help="the kinds with this in their name")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    given = parser.parse_args()
    main(given.quick, given.rounds, given.only, given.output)
