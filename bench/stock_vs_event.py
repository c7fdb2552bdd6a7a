"""Stock `airflow scheduler` and event mode, side by side: the same machine, the same Dags, taking turns.

Two deployments on one PostgreSQL server, both with LocalExecutor, parallelism 8.  Both api-servers stay up;
only one scheduler runs at a time.  After each start, a Dag that is not counted warms the executor's workers.

success -> running     from the end_date of a task to the start_date of the next: what Airflow writes down
success -> user code   from that end_date to the first line of the next task's function, by its own clock
event -> user code     from just before publish() to that first line
wall                   from the creation of a run to its end, as Airflow writes them down
CPU                    of the scheduler and everything below it (its tasks too), from /proc

end_date is taken in the task, before the api-server commits success: so gaps look longer than they are, for both.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "examples"))

import report  # noqa: E402
from deployment import Deployment, sessions  # noqa: E402

PARALLELISM = 8
CHAINS = {"chain10": 10, "windmill40": 40}
FULL = {"rounds": 2, "dags": ["chain10", "chain10", "windmill40", "fan100"], "idle": 30.0, "again": 10}
QUICK = {"rounds": 1, "dags": ["chain10"], "idle": 10.0, "again": 3}
TARGETS = {  # the most milliseconds the event mode may take, and the most of stock's
    "chain10 success -> user code": (350.0, 1 / 3),
    "windmill40 wall": (None, 1 / 3),
    "event -> parked task's user code": (250.0, None),
    "CPU of an idle scheduler, one waiting run": (None, 1.0),
}


class Side:
    """One of the two deployments, with what was measured in it: metric -> values, in milliseconds."""

    def __init__(
        self, name: str, home: Path, database: str, config: dict[str, str] | None = None, dags: Path | None = None
    ) -> None:
        self.name = name
        self.out = home / "out"
        dags = dags or (HERE / "dags" if name == "event" else HERE / "dags" / "native")
        self.airflow = Deployment(
            home,
            dags,
            database=database,
            event_mode=name == "event",
            config={"core.parallelism": str(PARALLELISM)} | (config or {}),
            env={"AIFLOW_BENCH_OUT": str(self.out)},
        )
        self.found: dict[str, list[float]] = {}

    def add(self, metric: str, *values: float) -> None:
        self.found.setdefault(metric, []).extend(values)

    def prepare(self, dags: list[str]) -> None:
        """Start; have every Dag parsed; leave only the api-server running."""
        self.airflow.start()
        for dag_id in dags:
            self.airflow.wait_for_dag(dag_id)
            self.airflow.rest.unpause(dag_id)
        self.airflow.end("dag-processor")
        self.airflow.end("scheduler")

    def measured_run(self, dag_id: str) -> None:
        before = self._cpu()
        run_id = self.airflow.rest.trigger(dag_id)
        self.airflow.wait_for_run(dag_id, run_id, timeout=300)
        used = self._cpu()
        run = self.airflow.rest.run(dag_id, run_id)
        began, ended = _ms(run["queued_at"]), _ms(run["end_date"])
        self.add(f"{dag_id} wall", ended - began)
        for service, seconds in used.items():
            self.add(f"{dag_id} CPU of the {service}", (seconds - before[service]) * 1000)
        tis = self.airflow.rest.tasks(dag_id, run_id)
        for name, ti in tis.items():
            if ti["try_number"] != 1 or ti["state"] != "success":
                raise RuntimeError(f"{dag_id} {run_id} {name}: try {ti['try_number']}, {ti['state']}")
        self._gaps(dag_id, run_id, tis, began)

    def _gaps(self, dag_id: str, run_id: str, tis: dict[str, Any], began: float) -> None:
        code = {p.name: int(p.read_text()) / 1e6 for p in (self.out / dag_id / run_id).iterdir()}
        self.add(f"{dag_id} run created -> user code", code["t000"] - began)
        if dag_id in CHAINS:
            names = sorted(tis)
            for before, after in pairwise(names):
                ended = _ms(tis[before]["end_date"])
                self.add(f"{dag_id} success -> running", _ms(tis[after]["start_date"]) - ended)
                self.add(f"{dag_id} success -> user code", code[after] - ended)

    def measured_idle(self, metric: str, seconds: float) -> None:
        # The last task's CPU is counted when its process is reaped: only then is the scheduler at rest.
        pid, others = self.airflow.pid("scheduler"), 1 + (self.name == "event")  # the scheduler, and its broker
        self.airflow.wait_until(lambda: len(sessions(pid)) <= others + PARALLELISM, 60, "the executor is idle")
        before = self._cpu()
        time.sleep(seconds)
        self.add(metric, (self._cpu()["scheduler"] - before["scheduler"]) * 1000 / seconds)

    def _cpu(self) -> dict[str, float]:
        return {name: self.airflow.cpu_seconds(name) for name in ("scheduler", "api-server")}

    def warm(self) -> None:
        self.airflow.launch("scheduler")
        run_id = self.airflow.rest.trigger("warm")
        self.airflow.wait_for_run("warm", run_id)

    def idle_with_native_run(self, seconds: float) -> None:
        run_id = self.airflow.rest.trigger("waiting")
        self._until_all("waiting", run_id, "deferred")
        self.measured_idle("CPU of an idle scheduler, one waiting run", seconds)

    def events(self, idle: float, again: int) -> None:
        """Event mode only: 20 parked tasks, each started by its event; one task started again and again."""
        from aiflow_ext import EventClient

        os.environ["AIRFLOW_HOME"] = str(self.airflow.home)
        client = EventClient(sender="bench")
        run_id = self.airflow.rest.trigger("parked")
        tis = self._until_all("parked", run_id, "deferred")
        self.measured_idle("CPU of an idle scheduler, 20 tasks wait for events", idle)
        for i in range(len(tis)):
            self._fire(client, f"bench.{i}", "event -> parked task's user code")
        self.airflow.wait_for_run("parked", run_id)
        run_id = self.airflow.rest.trigger("again")
        self._until_all("again", run_id, "deferred")
        for _ in range(again):
            self._fire(client, "bench.again", "event -> user code of a task that ran before")
        self._fire(client, "bench.end", None)
        self.airflow.wait_for_run("again", run_id)

    def _until_all(self, dag_id: str, run_id: str, state: str) -> dict[str, str | None]:
        def reached() -> dict[str, str | None]:
            states = self.airflow.states(dag_id, run_id)
            return states if states and set(states.values()) == {state} else {}

        return self.airflow.wait_until(reached, 60, f"{dag_id}: every task is {state}")

    def _fire(self, client: Any, key: str, metric: str | None) -> None:
        """Publish one event and wait for the file its reaction writes."""
        from aiflow_ext import Event

        before = time.time_ns()
        offset = client.publish(Event(key))
        path = self.out / "reactions" / str(offset)
        self.airflow.wait_until(lambda: path.exists() and path.read_text(), 60, f"a reaction to {key}", poll=0.02)
        if metric:
            self.add(metric, (int(path.read_text()) - before) / 1e6)
        time.sleep(0.3)  # the try before has ended, so that this is the wait for a task at rest


def _ms(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() * 1000


def measure(sides: list[Side], plan: dict[str, Any]) -> None:
    for number in range(plan["rounds"]):
        # The order turns round each time, so that what grows with time grows for both.
        for side in sides if number % 2 == 0 else sides[::-1]:
            side.warm()
            for dag_id in plan["dags"]:
                print(f"  round {number + 1}: {side.name} {dag_id}", flush=True)
                side.measured_run(dag_id)
            if number == 0:
                print(f"  idle and events: {side.name}", flush=True)
                if side.name == "event":
                    side.events(plan["idle"], plan["again"])
                side.idle_with_native_run(plan["idle"])
            side.airflow.end("scheduler")


def rows(found: dict[str, dict[str, list[float]]]) -> list[list[str]]:
    """For each metric, a row: stock, event mode, and what the one is of the other."""
    stock, event = found.get("stock", {}), found.get("event", {})
    table = []
    for metric in dict.fromkeys([*stock, *event]):
        unit = "ms/s" if "idle" in metric else "times" if "asked" in metric else "ms"
        a, b = stock.get(metric), event.get(metric)
        ratio = report.median(b) / report.median(a) if a and b else None
        table.append(
            [f"{metric} [{unit}]", *_cells(a), *_cells(b), f"{ratio:.2f}" if ratio else "", _verdict(metric, b, ratio)]
        )
    return table


def _cells(values: list[float] | None) -> list[str]:
    if not values:
        return ["", "", ""]
    return [f"{report.median(values):.0f}", f"{report.percentile(values, 90):.0f}", str(len(values))]


def _verdict(metric: str, values: list[float] | None, ratio: float | None) -> str:
    if metric not in TARGETS or not values:
        return ""
    most_ms, most_ratio = TARGETS[metric]
    checks = []
    if most_ms is not None:
        checks.append((report.median(values) <= most_ms, f"<= {most_ms:.0f} ms"))
    if most_ratio is not None:
        checks.append((ratio is not None and ratio <= most_ratio, f"<= {most_ratio:.2f} x"))
    return ", ".join(f"{'met' if met else 'MISSED'}: {wanted}" for met, wanted in checks)


HEAD = ["", "stock median", "p90", "n", "event median", "p90", "n", "event/stock", "target"]


def main(quick: bool = False, names: tuple[str, ...] = ("stock", "event")) -> str:
    server = report.server()
    plan = QUICK if quick else FULL
    where = report.machine(server)
    print(report.describe(where), flush=True)
    with tempfile.TemporaryDirectory(prefix="aiflow-bench.") as folder:
        sides = [Side(name, Path(folder) / name, server) for name in names]
        native = sorted({*plan["dags"], "warm", "waiting"})
        try:
            for side in sides:
                print(f"  starting {side.name}", flush=True)
                side.prepare(native + (["parked", "again"] if side.name == "event" else []))
            measure(sides, plan)
        finally:
            for side in sides:
                side.airflow.close()
    found = {side.name: side.found for side in sides}
    if not quick and len(sides) == 2:
        report.write(report.RESULTS / "stock_vs_event.json", {"machine": where, "plan": plan, "ms": found})
    return report.table(HEAD, rows(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of chain10, and a few events")
    parser.add_argument("--only", choices=["stock", "event"], help="one of the two, to look at it alone")
    args = parser.parse_args()
    print(main(args.quick, (args.only,) if args.only else ("stock", "event")))
