"""What the scheduler remembers of runs that wait, and what it tells of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from airflows import Deployment

from aiflow_ext import Event
from react.test_rules import Runs

UNKNOWN = "what is known of a run was not what the database has"


@pytest.fixture(scope="module")
def runs(shared: Deployment) -> Iterator[Runs]:
    made = Runs(shared, ("waits", "statuses"))
    yield made
    made.client.close()


def test_a_row_that_changes_without_a_hint_is_found(runs: Runs) -> None:
    airflow, run = runs.airflow, runs.begin("waits")
    run.reach(free="deferred", up="running")  # nothing else changes then
    known = "SELECT 1 FROM aiflow_run WHERE dag_id = ? AND run_id = ?"
    run.until(lambda: airflow.sql(known, run.dag_id, run.run_id), "it is known")
    acted = "SELECT 1 FROM aiflow_consumer WHERE name = 'scheduler' AND \"offset\" >= ?"
    for _ in range(2):  # a run that is new is read twice
        offset = runs.client.publish(Event("nobody's"))
        run.until(lambda offset=offset: airflow.sql(acted, offset), "the hints until now are taken")
    tells = airflow.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("postgresql")
    if tells:
        airflow.sql("SET session_replication_role = replica")  # no trigger fires in this session
    airflow.sql("UPDATE dag_run SET state = 'failed' WHERE dag_id = ? AND run_id = ?", run.dag_id, run.run_id)
    if tells:
        airflow.sql("SET session_replication_role = origin")
    run.until(lambda: not airflow.sql(known, run.dag_id, run.run_id), "its end is seen")
    said = [line for line in airflow.log("scheduler").splitlines() if UNKNOWN in line and run.run_id in line]
    assert bool(said) == tells  # SQLite remembers nothing


def test_only_states_that_somebody_asks_for_are_told(runs: Runs) -> None:
    run = runs.begin("waits")
    run.reach(free="deferred", up="running")
    asks = runs.begin("statuses")
    asks.until(lambda: runs.client.list("statuses.a", namespace="airflow"), "its states are told")
    assert not runs.client.list("waits.up", namespace="airflow")
