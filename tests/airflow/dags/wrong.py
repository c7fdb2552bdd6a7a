"""A Dag with a rule that cannot be: its import fails, and says what to write."""

from __future__ import annotations

from airflow.sdk import DAG, task

from aiflow_ext import event, start_on, status

with DAG("wrong", schedule=None):

    @task
    def a() -> None: ...

    start_on(a(), status("b", "success") & event("go"))
