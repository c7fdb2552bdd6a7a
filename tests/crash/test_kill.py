"""kill -9 at each labelled point of the way an event takes, then count: acted on once, none lost.

Those of `apply` kill the scheduler, those of `broker` and `append` its broker, which is a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest
from airflows import DATABASES, Deploy, died
from deployment import Deployment

from aiflow_ext import Event, EventClient

DAGS = Path(__file__).parent / "dags"
POINTS = (
    "apply.locked",
    "apply.acted",
    "apply.saved",
    "apply.committed",
    "broker.drained",
    "broker.appended",
    "broker.answered",
    "append.begin",
    "append.before_commit",
    "append.after_commit",
)


@pytest.fixture(scope="module", params=DATABASES)
def airflow(request: pytest.FixtureRequest, deploy: Deploy) -> Deployment:
    made: Deployment = deploy(request.param, DAGS, event_mode=True)
    for dag_id in ("counted", "born"):
        made.wait_for_dag(dag_id)
        made.rest.unpause(dag_id)
    return made


def starts(airflow: Deployment, run_id: str) -> list[list[int]]:
    """The events of each start that our table has."""
    rows = airflow.sql(
        "SELECT offsets FROM aiflow_action WHERE dag_id = 'counted' AND run_id = ? AND action = 'start' ORDER BY id",
        run_id,
    )
    return [json.loads(offsets) for (offsets,) in rows]


def tries(airflow: Deployment, run_id: str) -> int:
    """How often the task really ran to its end."""
    states = (
        "SELECT count(*) FROM {} WHERE dag_id = 'counted' AND task_id = 'count' AND run_id = ? AND state = 'success'"
    )
    return sum(
        int(airflow.sql(states.format(table), run_id)[0][0]) for table in ("task_instance", "task_instance_history")
    )


def test_killed_at_every_point(airflow: Deployment) -> None:
    run_id = airflow.rest.trigger("counted", run_id="r")
    airflow.wait_until(lambda: airflow.rest.states("counted", run_id).get("count") == "deferred", what="parked")
    client = EventClient(f"ipc://{airflow.home}/aiflow/broker.sock")
    publishers: list[threading.Thread] = []
    acknowledged: list[int] = []
    born: list[int] = []

    def publish() -> None:
        """Waits through the crash, and resends."""
        acknowledged.append(client.publish(Event("n", "x"), timeout=600))
        born.append(client.publish(Event("birth"), timeout=600))

    airflow.kill("scheduler")
    for point in POINTS:  # each start finds what the kill before left behind, and dies at its own point
        airflow.env["AIF_CRASH_AT"] = point
        logged = len(airflow.log("scheduler"))
        airflow.begin("scheduler")
        publisher = threading.Thread(target=publish)
        publisher.start()
        airflow.wait_until(lambda n=logged: died(airflow, n), what=f"killed at {point}")
        if not point.startswith("apply."):
            assert airflow.alive("scheduler")  # its broker's end is not its own
            # The tasks that it has begun since come to their end.
            os.kill(airflow.pid("scheduler"), signal.SIGTERM)
            airflow.wait_until(lambda: not airflow.alive("scheduler"), what=f"the end after {point}")
        airflow.kill("scheduler")  # what it left behind, too: its workers
        del airflow.env["AIF_CRASH_AT"]
        publishers.append(publisher)
    airflow.launch("scheduler")
    for publisher in publishers:
        publisher.join(600)
        assert not publisher.is_alive(), "a publisher never got its answer"
    airflow.wait_until(lambda: len(starts(airflow, run_id)) >= len(POINTS), what="all acted on")
    airflow.wait_until(lambda: tries(airflow, run_id) >= len(POINTS), what="all run")

    assert Counter(o for offsets in starts(airflow, run_id) for o in offsets) == Counter(acknowledged)
    assert len(client.list("n")) == len(client.list("birth")) == len(POINTS)  # no resend became a second event
    runs = airflow.sql("SELECT run_id FROM dag_run WHERE dag_id = 'born'")
    assert sorted(run_id for (run_id,) in runs) == sorted(f"aiflow__born__{offset}" for offset in born)
    client.publish(Event("end"))
    airflow.wait_for_run("counted", run_id)
    assert tries(airflow, run_id) == len(POINTS)
