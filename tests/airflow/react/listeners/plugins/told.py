"""Writes down what Airflow tells listeners."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin


def told(what: str, run_id: str, task_id: str = "") -> None:
    with (Path(os.environ["AIRFLOW_HOME"]) / "told.jsonl").open("a") as out:
        out.write(json.dumps([what, run_id, task_id]) + "\n")


class Told:
    @hookimpl
    def on_task_instance_success(self, previous_state: Any, task_instance: Any) -> None:
        told("success", task_instance.run_id, task_instance.task_id)

    @hookimpl
    def on_task_instance_skipped(self, previous_state: Any, task_instance: Any) -> None:
        told("skipped", task_instance.run_id, task_instance.task_id)

    @hookimpl
    def on_dag_run_success(self, dag_run: Any, msg: str) -> None:
        told("run success", dag_run.run_id)


class ToldPlugin(AirflowPlugin):
    name = "told"
    listeners = [Told()]  # noqa: RUF012
