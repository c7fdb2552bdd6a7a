"""A task that publishes until somebody lets it end, also while its scheduler is ending."""

from __future__ import annotations

import os
import time
from pathlib import Path

from airflow.sdk import DAG, task

from aiflow_ext import Event, EventClient

LET_GO = Path(os.environ["AIRFLOW_HOME"]) / "parting.ends"


@task
def tick() -> None:
    with EventClient() as client:
        while not LET_GO.exists():
            client.publish(Event("tick"), timeout=10)
            time.sleep(0.1)
        client.publish(Event("tick", "last"), timeout=10)


with DAG("parting", schedule=None):
    tick()
