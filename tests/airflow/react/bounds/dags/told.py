"""Runs that end, and one that does not; and one that an event starts."""

from __future__ import annotations

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from aiflow_ext import event, start_on, stop_on

with DAG("told", schedule=None):
    a, b = EmptyOperator(task_id="a"), EmptyOperator(task_id="b")
    start_on(a, event("a"))
    start_on(b, event("b"))

with DAG("born", schedule=None) as born:
    EmptyOperator(task_id="a")
start_on(born, event("birth"), name="born")
stop_on(born, event("death"), name="died")
