"""A Dag that is deleted."""

from __future__ import annotations

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from aiflow_ext import event, start_on

with DAG("gone", schedule=None) as gone:
    EmptyOperator(task_id="a")
start_on(gone, event("birth"), name="gone")
