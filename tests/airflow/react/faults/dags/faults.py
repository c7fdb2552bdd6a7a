"""Dags for faults in the middle of a reaction: of a database, of a file, of people."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from noting import hold, mark

from aiflow_ext import event, start_on, stop_on

with DAG("burst", schedule=None, max_active_runs=50):
    a = mark.override(task_id="a", retry_delay=timedelta(0))()
    start_on(a, event("go"), while_running="each")
    for n in range(3):
        s = EmptyOperator(task_id=f"s{n}")
        start_on(s, event("never"))
        stop_on(s, event("halt"))
        s >> EmptyOperator(task_id=f"after{n}", trigger_rule="all_done")
    keep = EmptyOperator(task_id="keep")
    start_on(keep, event("never"))
    stop_on(keep, event("done"))

with DAG("heard", schedule=None, max_active_runs=50):
    a = mark.override(task_id="a")()
    start_on(a, event("go"))

with DAG("stopped", schedule=None, max_active_runs=50):
    deaf = hold.override(task_id="deaf", retry_delay=timedelta(0))("deaf", deaf=True)
    start_on(deaf, event("go"))
    stop_on(deaf, event("stop"), state="skipped")

with DAG("patient", schedule=None, max_active_runs=50):
    late = hold.override(task_id="late", retry_delay=timedelta(hours=1))("late", deaf=True)
    start_on(late, event("go"))
    stop_on(late, event("stop"), state="skipped")
