"""What the scheduler remembers of runs that wait, and what it tells of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from airflows import Deployment

from aiflow_ext import Event
from react.test_rules import Run, Runs

UNKNOWN = "what is known of a run was not what the database has"


@pytest.fixture(scope="module")
def runs(shared: Deployment) -> Iterator[Runs]:
    made = Runs(shared, ("waits", "statuses"))
    yield made
    made.client.close()


def known(runs: Runs, run: Run) -> bool:
    """Whether the scheduler remembers a run."""
    row = "SELECT 1 FROM aiflow_run WHERE dag_id = ? AND run_id = ?"
    return bool(runs.airflow.sql(row, run.dag_id, run.run_id))


def at_rest(runs: Runs) -> Run:
    """A run in which nothing is to be done, and of which all hints are taken."""
    run = runs.begin("waits")
    run.reach(free="deferred", up="running")  # nothing else changes then
    run.until(lambda: known(runs, run), "it is known")
    acted = "SELECT 1 FROM aiflow_consumer WHERE name = 'scheduler' AND \"offset\" >= ?"
    for _ in range(2):  # a run that is new is read twice
        offset = runs.client.publish(Event("nobody's"))
        run.until(lambda offset=offset: runs.airflow.sql(acted, offset), "the hints until now are taken")
    return run


def tells(runs: Runs) -> bool:
    """Whether the database tells of changes."""
    return runs.airflow.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("postgresql")


def change(runs: Runs, statement: str, run: Run) -> None:
    """Change rows of a run, of which nobody is told."""
    if tells(runs):
        runs.airflow.sql("SET session_replication_role = replica")  # no trigger fires in this session
    runs.airflow.sql(f"{statement} WHERE dag_id = ? AND run_id = ?", run.dag_id, run.run_id)
    if tells(runs):
        runs.airflow.sql("SET session_replication_role = origin")


def test_a_row_that_changes_without_a_hint_is_found(runs: Runs) -> None:
    run = at_rest(runs)
    change(runs, "UPDATE dag_run SET state = 'failed'", run)
    run.until(lambda: not known(runs, run), "its end is seen")
    said = [line for line in runs.airflow.log("scheduler").splitlines() if UNKNOWN in line and run.run_id in line]
    assert bool(said) == tells(runs)  # SQLite remembers nothing


def test_airflow_goes_on_in_a_quiet_run_that_changes_without_a_hint(runs: Runs) -> None:
    run = at_rest(runs)
    looked = "SELECT last_scheduling_decision FROM dag_run WHERE dag_id = ? AND run_id = ?"
    for _ in range(2):  # in a full pass, as one that need not be examined
        before = runs.airflow.sql(looked, run.dag_id, run.run_id)
        run.until(lambda before=before: runs.airflow.sql(looked, run.dag_id, run.run_id) != before, "its turn has come")
    number = "SELECT try_number FROM task_instance WHERE dag_id = ? AND run_id = ? AND task_id = 'free'"
    before = runs.airflow.sql(number, run.dag_id, run.run_id)
    change(runs, "UPDATE task_instance SET state = CASE task_id WHEN 'free' THEN NULL ELSE state END", run)
    run.until(lambda: runs.airflow.sql(number, run.dag_id, run.run_id) > before, "it is parked anew")
    run.reach(free="deferred", up="running")


def test_only_states_that_somebody_asks_for_are_told(runs: Runs) -> None:
    run = runs.begin("waits")
    run.reach(free="deferred", up="running")
    asks = runs.begin("statuses")
    asks.until(lambda: runs.client.list("statuses.a", namespace="airflow"), "its states are told")
    assert not runs.client.list("waits.up", namespace="airflow")
