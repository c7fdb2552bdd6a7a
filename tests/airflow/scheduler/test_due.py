"""When a run begins for which it is time: nobody tells of that, so the scheduler knows when it is."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from airflows import DATABASES, On

from scheduler.test_fallbacks import client, restarted

# In a process with Airflow's configuration: by a clock that is so many seconds ahead of a run's time, when is it due?
DUE = """if True:
    import sys
    from datetime import datetime, timedelta
    from airflow.utils.session import create_session
    from aiflow_ext.provider.scheduler.due import next_due
    at = datetime.fromisoformat(sys.argv[1])
    with create_session() as session:
        for ahead in map(int, sys.argv[2:]):
            due = next_due(session, None, at + timedelta(seconds=ahead))
            print((due - at).total_seconds())
"""


@pytest.mark.parametrize("database", DATABASES)
def test_a_run_that_a_user_makes_begins_at_once(on: On, database: str) -> None:
    """Airflow compares its time with the database's now(), which had whole seconds on SQLite and MySQL: then only the
    next full pass began it."""
    airflow = on(database)
    airflow.wait_for_dag("while_each")
    airflow.rest.unpause("while_each")
    made: list[str] = []
    with restarted(airflow, safety_pass_sec="100000"):
        airflow.launch("scheduler")
        with client(airflow) as events:
            events.head(1200)  # its broker is there
        airflow.rest.unpause("while_each")  # the api-server goes to it: this hint may be lost
        for _ in range(5):
            run_id = airflow.rest.trigger("while_each")
            airflow.wait_until(lambda run_id=run_id: airflow.rest.run_state("while_each", run_id) == "running")
            made.append(run_id)
        airflow.end("scheduler")
        for run_id in made:
            airflow.rest.call("PATCH", f"dags/while_each/dagRuns/{run_id}", {"state": "failed"})


@pytest.mark.parametrize("database", DATABASES)
def test_a_run_is_due_by_the_databases_clock(on: On, database: str) -> None:
    """It was never due where the scheduler's clock was ahead of the database's."""
    airflow = on(database)
    airflow.wait_for_dag("while_each")
    airflow.rest.unpause("while_each")
    at = datetime.now(UTC) + timedelta(days=1)
    made = airflow.rest.call("POST", "dags/while_each/dagRuns", {"logical_date": None, "run_after": at.isoformat()})
    seconds = ["-60", "0", "10", "20"]
    asked = subprocess.run(
        [sys.executable, "-c", DUE, at.isoformat(), *seconds],
        env=airflow.env,
        check=True,
        capture_output=True,
        text=True,
    )
    airflow.rest.call("PATCH", f"dags/while_each/dagRuns/{made['dag_run_id']}", {"state": "failed"})
    airflow.rest.call("DELETE", f"dags/while_each/dagRuns/{made['dag_run_id']}")
    assert [float(line) for line in asked.stdout.splitlines()[-4:]] == [0.0, 0.05, 20.0, 40.0]
