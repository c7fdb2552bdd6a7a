"""A Dag in a file of its own: a test takes it away while its run waits, and brings it back."""

from __future__ import annotations

from airflow.sdk import DAG
from noting import mark

from aiflow_ext import event, start_on

with DAG("away", schedule=None, max_active_runs=50):
    a = mark.override(task_id="a")()
    start_on(a, event("go"))
