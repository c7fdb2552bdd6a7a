"""The same as stock_vs_event.py with CeleryExecutor, and how often its result backend is asked.

One worker with 16 processes, and a Redis server of its own for each side, which is Celery's broker and its backend.

asked    calls of MGET on that server, which only the executor makes: one for each time that it asks about its tasks
long     one task that runs for 40 s while nothing else happens
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import redis
import report
import stock_vs_event
from stock_vs_event import HEAD, Side, measure, rows

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from servers import free_port, running

PLAN = {"rounds": 2, "dags": ["chain10", "chain10", "fan100"], "idle": 30.0, "again": 10}
stock_vs_event.TARGETS.clear()  # they are LocalExecutor's
LONG_SEC = 30.0


class OnCelery(Side):
    """One side, with its worker and its Redis."""

    def __init__(self, name: str, home: Path, database: str, port: int) -> None:
        address = f"redis://127.0.0.1:{port}"
        backend = {"celery.broker_url": f"{address}/0", "celery.result_backend": f"{address}/1"}
        super().__init__(name, home, database, {"core.executor": "CeleryExecutor", **backend})
        self.airflow.names.append("worker")
        self._redis = redis.Redis(port=port)

    def measured_run(self, dag_id: str) -> None:
        before = self._asked()
        super().measured_run(dag_id)
        self.add(f"{dag_id} asked", self._asked() - before)

    def measured_idle(self, metric: str, seconds: float) -> None:
        """Not a process of the scheduler's works for a task, so none is waited for."""
        before = self._cpu()
        time.sleep(seconds)
        self.add(metric, (self._cpu()["scheduler"] - before["scheduler"]) * 1000 / seconds)

    def long(self) -> None:
        run_id = self.airflow.rest.trigger("long")
        self._until_all("long", run_id, "running")
        before = self._asked()
        self.measured_idle("CPU of an idle scheduler, one task runs", LONG_SEC)
        self.add("long asked in 30 s", self._asked() - before)
        self.airflow.wait_for_run("long", run_id)

    def idle_with_native_run(self, seconds: float) -> None:
        super().idle_with_native_run(seconds)
        self.long()

    def _asked(self) -> int:
        return int(self._redis.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"])


def main() -> str:
    server = report.server()
    where = report.machine(server)
    print(report.describe(where), flush=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aiflow-bench.")))
        sides = []
        for name in ("stock", "event"):
            port = free_port()
            command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
            stack.enter_context(running(command, folder, port))
            sides.append(OnCelery(name, folder / name, server, port))
            stack.callback(sides[-1].airflow.close)
        native = sorted({*PLAN["dags"], "warm", "waiting", "long"})  # type: ignore[misc]
        for side in sides:
            print(f"  starting {side.name}", flush=True)
            side.prepare(native + (["parked", "again"] if side.name == "event" else []))
        measure(list(sides), PLAN)
    found = {side.name: side.found for side in sides}
    report.write(report.RESULTS / "on_celery.json", {"machine": where, "plan": PLAN, "ms": found})
    return report.table(HEAD, rows(found))


if __name__ == "__main__":
    print(main())
