"""Runs that an event makes, which wait until another one stops all of them."""

from __future__ import annotations

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from aiflow_ext import event, start_on, stop_on

with DAG("halted", schedule=None, max_active_runs=1000) as halted:
    start_on(EmptyOperator(task_id="a"), event("halted.never"))
start_on(halted, event("halted.begin"), name="begin")
stop_on(halted, event("halted.end"), name="end")
