"""kill -9 at each labelled point of the way an event takes, then count: acted on once, none lost.

Those of `broker` and `append` kill the scheduler's broker, which is a process of its own, the others the scheduler:
those of `apply` in its reaction to events, those of `pass` in the passes that follow.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest
from airflows import DATABASES, Deploy, Deployment, died

from aiflow_ext import Event, EventClient

DAGS = Path(__file__).parent / "dags"
POINTS = (
    "kept.made",  # runs of a Dag that was paused
    "apply.locked",
    "apply.acted",
    "apply.saved",
    "apply.committed",
    "pass.read",
    "pass.examined",
    "pass.queued",
    "pass.committed",  # no executor has it: the next scheduler resets it
    "broker.drained",
    "broker.appended",
    "broker.answered",
    "append.begin",
    "append.before_commit",
    "append.after_commit",
    "apply.acted",  # now it is a further start, which was pending
)
BROKERS = ("broker", "append")


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
    """How often the task really ran to its end.  In one statement: a further start moves a try between the tables."""
    rows = airflow.sql(
        "SELECT count(*) FROM (SELECT dag_id, task_id, run_id, state FROM task_instance UNION ALL "
        "SELECT dag_id, task_id, run_id, state FROM task_instance_history) AS t "
        "WHERE dag_id = 'counted' AND task_id = 'count' AND run_id = ? AND state = 'success'",
        run_id,
    )
    return int(rows[0][0])


@pytest.mark.core
def test_killed_at_every_point(airflow: Deployment) -> None:
    run_id = airflow.rest.trigger("counted", run_id="r")
    airflow.wait_until(lambda: airflow.states("counted", run_id).get("count") == "deferred", what="parked")
    client = EventClient(f"ipc://{airflow.home}/aiflow/broker.sock")
    publishers: list[threading.Thread] = []
    acknowledged: list[int] = []
    born: list[int] = []

    def publish() -> None:
        """Waits through the crash, and resends."""
        acknowledged.append(client.publish(Event("n", "x"), timeout=600))
        born.append(client.publish(Event("birth"), timeout=600))

    airflow.rest.pause("born")
    born += [client.publish(Event("birth")) for _ in range(2)]
    kept = "SELECT count(*) FROM aiflow_action WHERE after = 'kept'"
    airflow.wait_until(lambda: airflow.sql(kept) == [(2,)], what="kept")
    airflow.kill("scheduler")
    airflow.rest.unpause("born")
    for point in POINTS:  # each start finds what the kill before left behind, and dies at its own point
        airflow.env["AIF_CRASH_AT"] = point
        logged = len(airflow.log("scheduler"))
        airflow.begin("scheduler")
        publisher = threading.Thread(target=publish)
        publisher.start()
        airflow.wait_until(lambda n=logged: died(airflow, n), what=f"killed at {point}")
        if point.split(".")[0] in BROKERS:
            assert airflow.alive("scheduler")  # its broker's end is not its own
            # The tasks that it has begun since come to their end.
            os.kill(airflow.pid("scheduler"), signal.SIGTERM)
            airflow.wait_until(lambda: not airflow.alive("scheduler"), what=f"the end after {point}")
        airflow.kill("scheduler")  # what it left behind, too: its workers
        airflow.sql("UPDATE job SET latest_heartbeat = '2000-01-01 00:00:00' WHERE job_type = 'SchedulerJob'")
        del airflow.env["AIF_CRASH_AT"]
        publishers.append(publisher)
    airflow.launch("scheduler")
    for publisher in publishers:
        publisher.join(600)
        assert not publisher.is_alive(), "a publisher never got its answer"
    airflow.wait_until(lambda: len(starts(airflow, run_id)) >= len(POINTS), what="all acted on")
    airflow.wait_until(lambda: tries(airflow, run_id) >= len(POINTS), what="all run")

    assert Counter(o for offsets in starts(airflow, run_id) for o in offsets) == Counter(acknowledged)
    assert len(client.list("n")) == len(client.list("birth")) - 2 == len(POINTS)  # no resend became a second event
    runs = airflow.sql("SELECT run_id FROM dag_run WHERE dag_id = 'born'")
    assert sorted(run_id for (run_id,) in runs) == sorted(f"aiflow__born__{offset}" for offset in born)
    client.publish(Event("end"))
    airflow.wait_for_run("counted", run_id)
    assert tries(airflow, run_id) == len(POINTS)
