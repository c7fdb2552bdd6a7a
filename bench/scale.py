"""What event mode costs with many runs that wait: CPU and time of one scheduler, on PostgreSQL.

    bench/scale.py --runs 1 100 1000 10000

For each number of runs, each of which waits for an event with a context of its own:

rest      CPU of the scheduler while nothing happens, in ms a second
one       an event for one of them: ms from just before publish() to the commit of its task's row, and the CPU
noise     20,000 events that nobody waits for: ms until the scheduler has read them, and the CPU
all       an event that starts the task of all of them: CPU a start, and the oldest heartbeat of the scheduler
births    1,000 events, each makes a run: CPU a run, and the oldest heartbeat
behind    an event for a run of another Dag, published right behind these 1,000: ms to the commit of its task's row
stock     what Airflow itself uses to make such a run: CPU a run

One run is made by REST; the others are copies of its rows.  No task runs: its pool has no slot.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "examples"))

import report  # noqa: E402
from deployment import Deployment  # noqa: E402

from aiflow_ext import Event, EventClient  # noqa: E402

BIRTHS, NOISE = 1000, 20_000
ALL_SEC = 1800.0  # that all starts may take
SINGLE = 20  # events, each for one run
SETTLES = 45.0  # seconds until the scheduler is at rest: the time between its passes doubles up to 30 s
COPY_RUN = """
INSERT INTO dag_run ({columns}) SELECT {values} FROM dag_run, generate_series(%s, %s) AS i WHERE run_id = 'model'
"""
COPY_TASK = """
INSERT INTO task_instance ({columns}) SELECT {values} FROM task_instance, generate_series(%s, %s) AS i
WHERE run_id = 'model'
"""

STOCK = """if True:  # as Airflow's scheduler makes runs: ten in a transaction; none of these begins
    import sys, time
    from datetime import UTC, datetime, timedelta
    from airflow.models.dagbag import DBDagBag
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType
    with create_session() as session:
        dag = DBDagBag().get_latest_version_of_dag("born", session=session)
        kind = {"run_type": DagRunType.MANUAL, "triggered_by": DagRunTriggeredByType.TEST, "state": DagRunState.QUEUED}
        for n in range(-10, 200):
            if n == 0:
                began = time.process_time()
            at = datetime.now(UTC) + timedelta(days=1)
            dag.create_dagrun(run_id=f"stock{n}", run_after=at, conf={"n": n}, session=session, **kind)
            session.flush()
            if n % 10 == 9:
                session.commit()
        print((time.process_time() - began) * 1000 / 200)
"""


class Scale:
    """One Airflow in event mode, and what was measured in it."""

    def __init__(self, home: Path, server: str) -> None:
        config = {"aiflow.asset_events": "False"}
        self.airflow = Deployment(home, HERE / "dags", database=server, event_mode=True, config=config)
        self.runs = 0  # and the model
        self.fresh: list[int] = []  # of these, some that no event has reached
        self.oldest = 0.0
        self.behind = 0.0

    def begin(self) -> None:
        self.airflow.start()
        self.airflow.rest.call("POST", "pools", {"name": "closed", "slots": 0})
        for dag_id in ("waits", "born"):
            self.airflow.wait_for_dag(dag_id)
            self.airflow.rest.unpause(dag_id)
        self.airflow.rest.trigger("waits", {"aiflow": {"context": "none"}}, "model")
        self.airflow.wait_until(lambda: self.airflow.states("waits", "model").get("nothing") == "deferred")
        self.airflow.end("dag-processor")
        self.client = EventClient(f"ipc://{self.airflow.home}/aiflow/broker.sock")

    def grow(self, runs: int) -> None:
        """Have as many runs that wait, and the scheduler know of them."""
        span = (self.runs, runs - 1)
        conf = "json_build_object('aiflow', json_build_object('context', 'c' || i))"
        other = {"run_id": "'run' || i", "conf": conf, "logical_date": "NULL", "last_scheduling_decision": "NULL"}
        fresh = {"id": "gen_random_uuid()", "run_id": "'run' || i"}
        copies = self._copy("dag_run", COPY_RUN, other, {"id"}), self._copy("task_instance", COPY_TASK, fresh, set())
        self.airflow.sql(";".join(copies), *span, *span)  # at once: Airflow would make tasks for a run without any
        step = max(1, (runs - self.runs) // SINGLE)
        self.fresh = [*range(self.runs, runs, step)][:SINGLE]
        self.runs = runs
        unknown = (
            "SELECT count(*) FROM dag_run WHERE dag_id = 'waits' AND state = 'running'"
            " AND run_id NOT IN (SELECT run_id FROM aiflow_run WHERE dag_id = 'waits')"
        )
        self.airflow.wait_until(lambda: self.airflow.sql(unknown)[0][0] == 0, ALL_SEC, "all are known", poll=1)
        # A run that Airflow begins is examined then.  The database tells of these copies, so they are, too.
        hint = "'dirty' || chr(31) || dag_id || chr(31) || run_id"
        self.airflow.sql(f"SELECT pg_notify('aiflow_wake', {hint}) FROM dag_run WHERE dag_id = 'waits'")
        left = "SELECT count(*) FROM dag_run WHERE dag_id = 'waits' AND last_scheduling_decision IS NULL"
        self.airflow.wait_until(lambda: self.airflow.sql(left)[0][0] == 0, ALL_SEC, "all are examined", poll=1)

    def _copy(self, table: str, sql: str, other: dict[str, str], left_out: set[str]) -> str:
        of = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = ?"
        names = [name for (name,) in self.airflow.sql(of, table) if name not in left_out]
        values = ", ".join(other.get(name, f'"{name}"') for name in names)
        statement = sql.format(columns=", ".join(f'"{name}"' for name in names), values=values)
        return statement.replace("%s", "?")

    def cpu(self) -> float:
        return self.airflow.cpu_seconds("scheduler") * 1000

    @contextmanager
    def heartbeats(self) -> Iterator[None]:
        """Note how old the scheduler's heartbeat becomes."""
        over = threading.Event()
        age = "SELECT extract(epoch FROM now() - max(latest_heartbeat)) FROM job WHERE job_type = 'SchedulerJob'"

        def look() -> None:
            while not over.wait(0.2):
                self.oldest = max(self.oldest, float(self.airflow.sql(age)[0][0]))

        self.oldest = 0.0
        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def until(self, sql: str, *values: object) -> None:
        """Look each 5 ms, on a connection that stays."""
        self.airflow.wait_until(lambda: self.airflow.sql(sql, *values), what=sql, poll=0.005)

    def rest(self, seconds: float) -> tuple[list[float], list[float]]:
        time.sleep(SETTLES)
        with self.heartbeats():
            before = self.cpu()
            time.sleep(seconds)
            return [(self.cpu() - before) / seconds], [self.oldest]

    def one(self) -> tuple[list[float], list[float]]:
        took, used = [], []
        started = "SELECT 1 FROM task_instance WHERE dag_id = 'waits' AND run_id = ? AND state = 'scheduled'"
        for n in self.fresh:
            before, cpu = time.monotonic(), self.cpu()
            self.client.publish(Event("scale.go", context=f"c{n}"))
            self.until(started, f"run{n}")
            took.append((time.monotonic() - before) * 1000)
            time.sleep(0.5)
            used.append(self.cpu() - cpu)
        # Their runs end, else Airflow would look in each pass whether there is a slot for them.
        self.airflow.sql("UPDATE task_instance SET state = 'success' WHERE dag_id = 'waits' AND state = 'scheduled'")
        return took, used

    def read(self, work: Callable[[], Any]) -> tuple[float, float]:
        """Until the scheduler has read all that work() publishes: ms, and ms of CPU."""
        before, cpu = time.monotonic(), self.cpu()
        work()
        self.until("SELECT 1 FROM aiflow_consumer WHERE name = 'scheduler' AND \"offset\" >= ?", self.client.head())
        return (time.monotonic() - before) * 1000, self.cpu() - cpu

    def noise(self) -> tuple[float, float]:
        return self.read(lambda: self.client.publish_many(Event("scale.noise", str(n)) for n in range(NOISE)))

    def all(self) -> tuple[float, float]:
        """Start the task of every run that waits."""
        states = "SELECT count(*) FROM task_instance WHERE dag_id = 'waits' AND state = 'deferred'"
        left = self.airflow.sql(states)[0][0]
        cpu = self.cpu()
        with self.heartbeats():
            self.client.publish(Event("scale.go"))
            self.airflow.wait_until(lambda: self.airflow.sql(states)[0][0] == 0, ALL_SEC, "all are started", poll=0.2)
        return (self.cpu() - cpu) / left, self.oldest

    def births(self) -> tuple[float, float]:
        """Also note when the event behind them is acted on, of a run of another Dag that waits."""
        self.airflow.rest.trigger("waits", {"aiflow": {"context": "late"}}, "late")
        self.airflow.wait_until(lambda: self.airflow.states("waits", "late").get("nothing") == "deferred")
        made = "SELECT count(*) FROM dag_run WHERE dag_id = 'born'"
        started = "SELECT 1 FROM task_instance WHERE dag_id = 'waits' AND run_id = 'late' AND state = 'scheduled'"
        last = Event("scale.go", context="late")
        cpu, before = self.cpu(), time.monotonic()
        with self.heartbeats():
            self.client.publish_many([*(Event("scale.birth", str(n)) for n in range(BIRTHS)), last])
            self.until(started)
            self.behind = (time.monotonic() - before) * 1000
            self.airflow.wait_until(lambda: self.airflow.sql(made)[0][0] >= BIRTHS, what="all are born", poll=0.2)
        return (self.cpu() - cpu) / BIRTHS, self.oldest

    def stock(self) -> float:
        done = subprocess.run([sys.executable, "-c", STOCK], env=self.airflow.env, check=True, capture_output=True)
        return float(done.stdout.split()[-1])


def measure(scale: Scale, numbers: list[int], idle: float) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for runs in numbers:
        scale.grow(runs)
        of = found[str(runs)] = {}
        of["rest [ms/s]"], of["rest, oldest heartbeat [s]"] = scale.rest(idle)
        of["one [ms]"], of["one, CPU [ms]"] = scale.one()
        print(f"  {runs} runs: { ({k: round(report.median(v), 1) for k, v in of.items()}) }", flush=True)
    last = found[str(numbers[-1])]
    for name, (first, second), unit in (
        ("noise", scale.noise(), ("ms", "CPU ms")),
        ("all, a start", scale.all(), ("CPU ms", "oldest heartbeat s")),
        ("births, a run", scale.births(), ("CPU ms", "oldest heartbeat s")),
    ):
        last[f"{name} [{unit[0]}]"], last[f"{name} [{unit[1]}]"] = [first], [second]
        print(f"  {name}: {first:.1f} {unit[0]}, {second:.1f} {unit[1]}", flush=True)
    last["behind [ms]"] = [scale.behind]
    last["stock, a run [CPU ms]"] = [scale.stock()]
    return found


def main(numbers: list[int], idle: float, output: Path | None) -> str:
    server = report.server()
    where = report.machine(server)
    print(report.describe(where), flush=True)
    with tempfile.TemporaryDirectory(prefix="aiflow-bench.") as folder:
        scale = Scale(Path(folder) / "af", server)
        try:
            scale.begin()
            found = measure(scale, numbers, idle)
        finally:
            scale.airflow.close()
    if output:
        report.write(output, {"machine": where, "runs": numbers, "found": found})
    names = dict.fromkeys(name for of in found.values() for name in of)
    rows = [[n, *(f"{report.median(of[n]):.1f}" if n in of else "" for of in found.values())] for n in names]
    return report.table(["", *(f"{runs} runs" for runs in found)], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=int, default=[1, 100, 1000], help="how many wait, ascending")
    parser.add_argument(
        "--idle", type=float, default=20.0, metavar="SECONDS", help="how long the CPU at rest is measured"
    )
    parser.add_argument("--output", type=Path, default=report.RESULTS / "scale.json")
    args = parser.parse_args()
    print(main(args.runs, args.idle, args.output))
