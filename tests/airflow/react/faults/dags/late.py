"""A Dag whose deadline is over when its run is queued: a callback runs on an executor."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, DeadlineAlert, DeadlineReference, SyncCallback


def is_late(context: object) -> None:
    with (Path(os.environ["AIRFLOW_HOME"]) / "late").open("a") as out:
        out.write("late\n")


late = DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, timedelta(0), SyncCallback("late.is_late"))
with DAG("late", schedule=None, deadline=late):
    EmptyOperator(task_id="a")
