"""Event mode with Airflow on MySQL beside PostgreSQL: the same machine, the same Dags, taking turns.

    tests/with_postgres tests/with_airflow_mysql .venv/bin/python bench/on_mysql.py [--rounds 2] [--idle 20] [--again 5]

event -> user code     from just before publish() to the first line of the task that waited for it
success -> user code   of a chain of ten tasks: from the end of one to the first line of the next
at rest                CPU of the scheduler while 20 tasks wait for events
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import report  # noqa: E402
from stock_vs_event import Side  # noqa: E402

DAGS = ["chain10", "warm", "parked", "again"]


def servers() -> dict[str, str]:
    """Where both are."""
    if not (mysql := os.environ.get("AIF_TEST_AIRFLOW_MYSQL")):
        sys.exit("AIF_TEST_AIRFLOW_MYSQL is not set: run this by tests/with_postgres tests/with_airflow_mysql")
    return {"postgresql": report.server(), "mysql": mysql}


def main(rounds: int, idle: float, again: int) -> None:
    where = report.machine(report.server())
    print(report.describe(where), flush=True)
    with tempfile.TemporaryDirectory(prefix="aiflow-bench.") as folder:
        sides = {name: Side("event", Path(folder) / name, uri) for name, uri in servers().items()}
        try:
            for name, side in sides.items():
                print(f"  starting {name}", flush=True)
                side.prepare(DAGS)
            for number in range(rounds):
                for name in sorted(sides, reverse=bool(number % 2)):
                    print(f"  round {number + 1}: {name}", flush=True)
                    sides[name].warm()
                    sides[name].measured_run("chain10")
                    sides[name].events(idle, again)
                    sides[name].airflow.end("scheduler")
        finally:
            for side in sides.values():
                side.airflow.close()
    found = {name: side.found for name, side in sides.items()}
    report.write(report.RESULTS / "on_mysql.json", {"machine": where, "rounds": rounds, "ms": found})
    rows = []
    for metric in found["mysql"]:
        values = [found[name][metric] for name in ("postgresql", "mysql")]
        cells = [f"{report.median(v):.0f} ({report.percentile(v, 90):.0f})" for v in values]
        rows.append([f"{metric} [{'ms/s' if 'idle' in metric else 'ms'}]", *cells, str(len(values[0]))])
    print(report.table(["median (p90)", "PostgreSQL", "MySQL", "n"], rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--idle", type=float, default=20.0, help="seconds of a scheduler at rest")
    parser.add_argument("--again", type=int, default=5, help="starts of one task, one after another")
    args = parser.parse_args()
    main(args.rounds, args.idle, args.again)
