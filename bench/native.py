"""What event mode costs who has no rule: 1,000 native Dags, stock Airflow and event mode, side by side.

    bench/native.py --dags 1000

rest     CPU of the scheduler, and its SQL statements, while nothing happens
fan100   one task, then 100: wall time, CPU of scheduler and api-server, and the scheduler's statements

Both have PostgreSQL and LocalExecutor; one scheduler runs at a time.  A plugin counts the statements, in both.
"""

from __future__ import annotations

import argparse
import shutil
import struct
import tempfile
import time
from pathlib import Path

import report
from scale import SETTLES
from stock_vs_event import HEAD, HERE, Side, rows

MANY = """
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

for n in range({dags}):
    with DAG(f"native{{n:05}}", schedule=None) as dag:
        EmptyOperator(task_id="a") >> EmptyOperator(task_id="b")
    globals()[dag.dag_id] = dag
"""
FANS, ROUNDS = 2, 2


class Native(Side):
    """One of the two, with Dags that have no rule."""

    def __init__(self, name: str, home: Path, database: str, dags: int) -> None:
        self.dags = dags
        folder = home.with_name(f"{name}-dags")
        shutil.copytree(HERE / "dags" / "native", folder)
        (folder / "many.py").write_text(MANY.format(dags=dags))
        config = {
            "core.plugins_folder": str(HERE / "plugins"),
            "dag_processor.dag_file_processor_timeout": "600",
        }
        super().__init__(name, home, database, config, folder)

    def prepare(self, dags: list[str]) -> None:
        self.airflow.start()
        there = "SELECT count(*) FROM serialized_dag WHERE dag_id LIKE 'native%'"
        self.airflow.wait_until(lambda: self.airflow.sql(there)[0][0] >= self.dags, 1200, "all are parsed", poll=1)
        for dag_id in dags:
            self.airflow.wait_for_dag(dag_id)
        self.airflow.sql("UPDATE dag SET is_paused = false")
        self.airflow.end("dag-processor")
        self.airflow.end("scheduler")

    def statements(self) -> int:
        """Those of the scheduler, so far."""
        data = (self.out / f"statements.{self.airflow.pid('scheduler')}").read_bytes()
        return int(struct.unpack("q", data)[0])

    def measured_run(self, dag_id: str) -> None:
        before = self.statements()
        super().measured_run(dag_id)
        self.add(f"{dag_id} times the scheduler asked", self.statements() - before)

    def rest(self, seconds: float) -> None:
        time.sleep(SETTLES)
        before = self.statements()
        self.measured_idle("CPU of an idle scheduler", seconds)
        self.add("times asked in a minute at rest", (self.statements() - before) * 60 / seconds)


def main(dags: int, idle: float, output: Path | None) -> str:
    server = report.server()
    where = report.machine(server)
    print(report.describe(where), flush=True)
    with tempfile.TemporaryDirectory(prefix="aiflow-bench.") as folder:
        sides = [Native(name, Path(folder) / name, server, dags) for name in ("stock", "event")]
        try:
            for side in sides:
                print(f"  starting {side.name}", flush=True)
                side.prepare(["warm", "fan100"])
            for number in range(ROUNDS):
                for side in sides if number % 2 == 0 else sides[::-1]:
                    print(f"  round {number + 1}: {side.name}", flush=True)
                    side.warm()
                    for _ in range(FANS):
                        side.measured_run("fan100")
                    side.rest(idle)
                    side.airflow.end("scheduler")
        finally:
            for side in sides:
                side.airflow.close()
    found = {side.name: side.found for side in sides}
    if output:
        report.write(output, {"machine": where, "dags": dags, "found": found})
    return report.table(HEAD, rows(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dags", type=int, default=1000, help="how many there are (default 1000)")
    parser.add_argument("--idle", type=float, default=30.0, metavar="SECONDS", help="how long each looks at rest")
    parser.add_argument("--output", type=Path, default=report.RESULTS / "native.json")
    args = parser.parse_args()
    print(main(args.dags, args.idle, args.output))
