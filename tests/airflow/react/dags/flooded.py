"""Two Dags for which many events come at once, and one for which one comes behind them."""

from __future__ import annotations

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from aiflow_ext import event, start_on, stop_on

for name, key in (("flooded", "flood"), ("soaked", "flood"), ("calm", "calm")):
    with DAG(name, schedule=None, max_active_runs=1000) as dag:
        start_on(EmptyOperator(task_id="a"), event("flood.never"))
    start_on(dag, event(f"{key}.begin"), name="begin")
    stop_on(dag, event("flood.end"), name="end")
    globals()[name] = dag
