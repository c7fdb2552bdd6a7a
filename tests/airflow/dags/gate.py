"""A Dag without a word about events, for tests of what must stay as it was."""

from __future__ import annotations

import time
from pathlib import Path

from airflow.sdk import dag, task


@dag(schedule=None, catchup=False)
def gate():
    """Runs until the file named in its conf is there."""

    @task
    def wait(params: dict | None = None, dag_run=None) -> None:
        path = Path(dag_run.conf["file"])
        while not path.exists():
            time.sleep(0.05)

    @task
    def after() -> None:
        pass

    wait() >> after()


gate()
