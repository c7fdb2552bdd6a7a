"""What the broker itself can do, in C and without Python: each goal measured, and whether it is met.

One client connection for each producer and subscriber, over ipc, durable (fsync as the database is set); the stores
take turns in each round.  A latency is from the moment an event was due.

    make bench-broker                         everything, writes bench/results/broker_goals.json
    bench/peers/goals.py --rounds 1 --only "one at a time"
    bench/peers/goals.py --beside ../before/build/c/bench_broker    another commit's program takes turns with ours
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import report
import servers

PROGRAM = "build/c/bench_broker"
TEN_MILLION = 10_000_000


@dataclass(frozen=True)
class Goal:
    """Arguments of bench_broker, and for each figure what it should reach: at least, or at most where negative."""

    name: str
    arguments: dict[str, int]
    figures: dict[str, dict[str, float]] = field(default_factory=dict)  # figure -> store ("": all) -> goal
    stores: tuple[str, ...] = ("sqlite", "postgresql", "mysql")
    once: bool = False


GOALS = (
    Goal("publish, one at a time", {"seconds": 3}, {"events_per_s": {"": 5_000}}),
    Goal("publish, 8 producers", {"producers": 8, "seconds": 3}, {"events_per_s": {"": 15_000}}),
    Goal(
        "publish, 1,000 at a time",
        {"batch": 1000, "seconds": 3},
        {"events_per_s": {"sqlite": 150_000, "postgresql": 100_000}},
    ),
    Goal(
        "publish, 8 producers, 1,000 at a time",
        {"producers": 8, "batch": 1000, "seconds": 3},
        {"events_per_s": {"sqlite": 150_000, "postgresql": 100_000}},
    ),
    Goal("delivery at 100/s", {"rate": 100, "subscribers": 1, "seconds": 3}, {"p50": {}, "p99": {}}),
    Goal("delivery at 1,000/s", {"rate": 1000, "subscribers": 1, "seconds": 3}, {"p50": {}, "p99": {}}),
    Goal(
        "delivery at 10,000/s",
        {"rate": 10_000, "subscribers": 1, "seconds": 3},
        {"p50": {"": -0.5}, "p99": {"": -3.0}},
    ),
    Goal(
        "100 subscribers, 100/s",
        {"rate": 100, "subscribers": 100, "seconds": 3},
        {"p50": {}, "p99": {}, "lost": {"": -0.0}},
    ),
    Goal(
        "1,000 subscribers, 10/s",
        {"rate": 10, "subscribers": 1000, "seconds": 3},
        {"p50": {}, "p99": {}, "lost": {"": -0.0}},
    ),
    Goal(
        "ten million events",
        {"batch": 1000, "seconds": 600, "events": TEN_MILLION},
        {"events_per_s": {}, "broker_mb": {"": -100.0}},
        stores=("sqlite",),
        once=True,
    ),
)


def figure(found: dict[str, Any], name: str) -> float:
    return float(found["delivery_ms"][name] if name in {"p50", "p99"} else found[name])


def verdict(goal: Goal, name: str, store: str, value: float) -> str:
    limits = goal.figures[name]
    limit = limits.get(store, limits.get(""))
    if limit is None:
        return ""
    at_most = limit < 0 or str(limit).startswith("-")
    met = value <= abs(limit) if at_most else value >= limit
    return f"{'met' if met else 'MISSED'}: {'<=' if at_most else '>='} {abs(limit):,g}"


def run(program: str, log: str, arguments: dict[str, int]) -> dict[str, Any]:
    os.sync()
    command = [program, log, *(f"{name}={value}" for name, value in arguments.items())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[2:])}: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(rounds: int, only: str, beside: str | None, output: Path | None) -> None:
    where = report.machine(os.environ.get("AIF_TEST_PG"))
    print(report.describe(where), flush=True)
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    logs = stores()
    programs = {"": PROGRAM} | ({", before": beside} if beside else {})
    for turn in range(rounds):
        for goal in (g for g in GOALS if only in g.name and not (g.once and turn > 0)):
            for store, (which, program) in product((s for s in goal.stores if s in logs), programs.items()):
                with tempfile.TemporaryDirectory(prefix="aif.") as folder, logs[store](Path(folder)) as log:
                    runs.setdefault((goal.name, store + which), []).append(run(program, log, goal.arguments))
        print(f"round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    if output is not None:
        values = [{"goal": goal, "store": store, "runs": found} for (goal, store), found in runs.items()]
        report.write(output, {"machine": where, "values": values})
    print(report.table(["", "store", "", "median", "all", ""], rows(runs)))


def rows(runs: dict[tuple[str, str], list[dict[str, Any]]]) -> list[list[str]]:
    lines = []
    for goal in GOALS:
        for name in goal.figures:
            for (of, store), found in runs.items():
                if of != goal.name:
                    continue
                values = [figure(f, name) for f in found]
                middle = report.median(values)
                unit = {"p50": "p50 [ms]", "p99": "p99 [ms]", "events_per_s": "events/s", "broker_mb": "memory [MB]"}
                cells = [f"{v:,.0f}" if v >= 100 else f"{v:.2f}" for v in [middle, *values]]
                lines.append(
                    [
                        goal.name,
                        store,
                        unit.get(name, name),
                        cells[0],
                        " ".join(cells[1:]),
                        verdict(goal, name, store.partition(",")[0], middle),
                    ]
                )
    return lines


def stores() -> dict[str, Callable[[Path], Any]]:
    """For each store that is here, what gives the URI of an empty log."""
    found: dict[str, Callable[[Path], Any]] = {"sqlite": servers.sqlite_log}
    if os.environ.get("AIF_TEST_PG"):
        found["postgresql"] = lambda _: servers.postgresql_log()
    if os.environ.get("AIF_TEST_MYSQL"):
        found["mysql"] = lambda _: servers.mysql_log()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each is run (3)")
    parser.add_argument("--only", default="", metavar="TEXT", help="the goals with this in their name")
    parser.add_argument(
        "--beside", metavar="PROGRAM", help="bench_broker of another commit, which takes turns with ours"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    given = parser.parse_args()
    main(given.rounds, given.only, given.beside, given.output)
