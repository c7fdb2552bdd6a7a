"""Listeners that do as they like: they write in Airflow's session of the thread, raise, and take long."""

from __future__ import annotations

import time
from typing import Any

from airflow.listeners import hookimpl
from airflow.models.log import Log
from airflow.plugins_manager import AirflowPlugin
from airflow.utils.session import create_session


def write(*what: str) -> None:
    with create_session() as session:
        session.add(Log("heard", extra=" ".join(what)))


class Writes:
    @hookimpl
    def on_task_instance_skipped(self, previous_state: Any, task_instance: Any) -> None:
        write("skipped", task_instance.dag_run.run_id, task_instance.task_id)
        if task_instance.task_id == "raises":
            raise RuntimeError("a mistake of this listener's")
        if task_instance.task_id == "slow":
            time.sleep(1.5)  # pace: it takes long

    @hookimpl
    def on_dag_run_success(self, dag_run: Any, msg: str) -> None:
        if dag_run.dag_id == "ended":  # the others end in a transaction of the stock scheduler's
            write("ended", dag_run.run_id)

    @hookimpl
    def on_asset_event_emitted(self, asset_event: Any) -> None:
        write("asset", asset_event.asset.name)


class WritesPlugin(AirflowPlugin):
    name = "writes"
    listeners = [Writes()]  # noqa: RUF012
