"""Dags for the bench that need event mode: tasks parked until their event.  Stock deployments do not get this file."""

from __future__ import annotations

import os
import time
from pathlib import Path

from airflow.sdk import dag, task

from aiflow_ext import event, start_on, triggering_events

PARKED = 20


@task
def react() -> None:
    now = time.time_ns()
    folder = Path(os.environ["AIFLOW_BENCH_OUT"]) / "reactions"
    folder.mkdir(parents=True, exist_ok=True)
    for e in triggering_events():
        (folder / str(e.offset)).write_text(str(now))


@dag(schedule=None, catchup=False)
def parked():
    """Each task waits for an event of its own; none ran before."""
    for i in range(PARKED):
        start_on(react.override(task_id=f"r{i:02}")(), event(f"bench.{i}"))


@dag(schedule=None, catchup=False)
def again():
    """One task that starts again, as a new try, at each event; `hold` keeps the run open."""
    start_on(react.override(task_id="again")(), event("bench.again"), while_running="each")
    start_on(react.override(task_id="hold")(), event("bench.end"))


parked()
again()
