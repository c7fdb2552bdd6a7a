"""A task that starts once for each event, and a run for each event of another key."""

from __future__ import annotations

from airflow.sdk import DAG, task

from aiflow_ext import event, start_on, stop_on, triggering_events


@task
def hold() -> None:
    """Never starts: a run whose other tasks have ended goes on."""


@task
def count() -> list[int]:
    return [e.offset for e in triggering_events()]


with DAG("counted", schedule=None):
    each = count()
    start_on(each, event("n"), while_running="each")
    stop_on(each, event("end"))
    held = hold()
    start_on(held, event("never"))
    stop_on(held, event("end"))

with DAG("born", schedule=None, max_active_runs=50) as born:
    count()
start_on(born, event("birth"), name="born")
