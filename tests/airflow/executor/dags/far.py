"""Tasks that run on another host, for test_celery.py.  Each returns what the test wants to know."""

from __future__ import annotations

import time
from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, get_current_context, task

from aiflow_ext import event, restart_on, start_on, stop_on, stop_requested, triggering_events


def where() -> str:
    """The host, as Airflow calls it."""
    return str(get_current_context()["ti"].hostname)


with DAG("far", schedule=None):

    @task
    def starts() -> list[str]:
        return [where(), *(e.value for e in triggering_events())]

    @task
    def follows() -> str:
        return where()

    @task
    def serves() -> list[str]:
        while not stop_requested():
            time.sleep(0.02)
        return [where(), *(e.value for e in triggering_events())]

    begin, serve = starts(), serves()
    begin >> follows()
    start_on(begin, event("go"))
    restart_on(serve, event("version"))
    stop_on(serve, event("end"))

with DAG("told", schedule=None):
    # Its subprocess ends by on_kill() alone, which SIGTERM calls.
    stop_on(BashOperator(task_id="hears_sigterm", bash_command="sleep 36000"), event("sigterm"))

with DAG("deaf", schedule=None):

    @task(retry_delay=timedelta(seconds=1))  # what a RESTART had to end by force, and a dead worker had, is a retry
    def forever() -> None:
        while True:
            time.sleep(0.05)

    stopped, restarted = forever.override(task_id="stopped")(), forever.override(task_id="restarted")()
    stop_on(stopped, event("deaf.stop"))
    stop_on(restarted, event("deaf.end"))
    restart_on(restarted, event("deaf.again"))

with DAG("many", schedule=None):

    @task
    def quick() -> None:
        """Ends at once."""

    first, second, *rest = (quick.override(task_id=f"quick_{n}")() for n in range(14))
    first >> second >> rest
