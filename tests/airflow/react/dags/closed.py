"""A Dag that events start, in a file of its own: a test takes it away, and brings it back."""

from __future__ import annotations

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from aiflow_ext import event, start_on, stop_on

with DAG("closed", schedule=None, max_active_runs=50) as closed:
    EmptyOperator(task_id="a")
start_on(closed, event("open"), name="open")
stop_on(closed, event("shut"), name="shut")
