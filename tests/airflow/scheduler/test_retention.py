"""[aiflow] retention: the scheduler lets events go, and none that it has not read."""

from __future__ import annotations

import pytest
from airflows import Deploy
from deployment import Deployment

from aiflow_ext import Event, EventClient, EventLog


@pytest.fixture(scope="module")
def airflow(deploy: Deploy) -> Deployment:
    """An Airflow that keeps nothing of one namespace."""
    return deploy("sqlite", event_mode=True, config={"aiflow.retention": "short=0"})


def client(airflow: Deployment) -> EventClient:
    """A client of its broker."""
    return EventClient(f"ipc://{airflow.home}/aiflow/broker.sock")


def until_read(airflow: Deployment, offset: int) -> None:
    """Wait until the scheduler has read the event at offset."""
    read = "SELECT 1 FROM aiflow_consumer WHERE name = 'scheduler' AND \"offset\" >= ?"
    airflow.wait_until(lambda: airflow.sql(read, offset), what=f"{offset} is read")


def test_what_the_scheduler_has_read_goes(airflow: Deployment) -> None:
    """A new scheduler looks at once, and then each minute."""
    with client(airflow) as events:
        kept = events.publish(Event("k"))
        *_, last = events.publish_many([Event("k", namespace="short")] * 1500)
        until_read(airflow, last)
        airflow.restart("scheduler")
        airflow.wait_until(lambda: events.count(namespace="short") == 0, what="they are gone")
        assert kept in [event.offset for event in events.list()]
    said = "retention: 1500 events of short are gone"
    airflow.wait_until(lambda: said in airflow.log("scheduler"), what="it is said")


def test_a_rule_fires_though_one_of_its_events_is_gone(airflow: Deployment) -> None:
    """Its state does not need the event; the task is told of those that are still there."""
    airflow.wait_for_dag("conditions")
    airflow.rest.unpause("conditions")
    run_id = airflow.rest.trigger("conditions")
    airflow.wait_until(lambda: airflow.rest.states("conditions", run_id).get("both") == "deferred")
    with client(airflow) as events:
        gone = events.publish(Event("y"))
        until_read(airflow, gone)
        with EventLog(f"sqlite:{airflow.home}/aiflow/events.db") as log:
            assert log.purge("default", gone, 1000) > 0
        events.publish(Event("x", "1"))
        airflow.wait_until(lambda: airflow.rest.states("conditions", run_id).get("both") == "success")
    assert "an event that started it is no longer in the log" in airflow.log("scheduler")
