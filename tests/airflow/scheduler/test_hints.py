"""Which runs the api-server's hints mean."""

from __future__ import annotations

import subprocess
import sys

import pytest
from airflows import DATABASES, On

from scheduler.test_fallbacks import begin

LOOK_UP = """if True:  # in a process with Airflow's configuration
    import sys, uuid
    from airflow.models.asset import AssetEvent
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select
    from aiflow_ext.provider.scheduler.hints import RunsOfTasks
    from aiflow_ext.provider.scheduler.wake import Wake
    named, key = RunsOfTasks(), ("templates", sys.argv[1])

    def ask(*tasks):
        wake = Wake(tasks={*tasks})
        wake.add_runs(named.look_up(wake.tasks, session))
        return wake

    with create_session() as session:
        (task,) = session.scalars(select(TaskInstance.id).where(TaskInstance.run_id == key[1]))
        assert ask(("status", task)) == Wake(status={key})
        assert ask(("dirty", task)) == Wake(full=True), "what assets there are is new"
        assert ask(("dirty", task)) == Wake(dirty={key})
        assert ask(("dirty", task), ("status", uuid.uuid4())) == Wake(full=True), "a task that has another id now"
        assert ask(*(("status", uuid.uuid4()) for _ in range(501))) == Wake(full=True)
        session.add(AssetEvent(asset_id=1))
        session.flush()
        assert ask(("dirty", task)) == Wake(full=True), "it may start runs"
        assert ask(("dirty", task)) == Wake(dirty={key})
        session.rollback()
"""


@pytest.mark.parametrize("database", DATABASES)
def test_the_runs_of_tasks_are_looked_up(on: On, database: str) -> None:
    airflow = on(database)
    run_id = begin(airflow, "templates")
    airflow.wait_until(lambda: airflow.states("templates", run_id).get("shell") == "deferred")
    subprocess.run([sys.executable, "-c", LOOK_UP, run_id], env=airflow.env, check=True)
