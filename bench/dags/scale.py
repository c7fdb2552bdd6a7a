"""Dags for bench/scale.py: what waits for events in thousands of runs, and a Dag whose runs events make."""

from __future__ import annotations

from airflow.sdk import DAG, task

from aiflow_ext import event, start_on


@task(pool="closed")
def nothing() -> None: ...


with DAG("waits", schedule=None, max_active_runs=1_000_000):
    start_on(nothing(), event("scale.go"))

with DAG("born", schedule=None, max_active_runs=1_000_000) as born:
    nothing()
start_on(born, event("scale.birth"))
