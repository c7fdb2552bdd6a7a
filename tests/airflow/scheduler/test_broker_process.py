"""The embedded broker under a real scheduler: its end is no other's, and the scheduler's end is its end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from airflows import DATABASES, Deployment, On
from deployment import sessions

from aiflow_ext import Event, EventClient

BORN = "SELECT run_id FROM dag_run WHERE dag_id = 'born' ORDER BY id"


@pytest.fixture(scope="module", params=DATABASES)
def airflow(request: pytest.FixtureRequest, on: On) -> Deployment:
    made = on(request.param)
    made.wait_for_dag("born")
    made.rest.unpause("born")
    made.wait_until(lambda: "aiflow broker: serving" in made.log("scheduler"))
    return made


@pytest.fixture
def client(airflow: Deployment) -> Iterator[EventClient]:
    with EventClient(f"ipc://{airflow.home}/aiflow/broker.sock") as client:
        yield client


def broker_pid(client: EventClient) -> int:
    """Whoever serves now; it may have to start first."""
    return int(client.status(timeout=1200)["pid"])


def born(airflow: Deployment) -> list[str]:
    """The runs that events made."""
    return [run_id for (run_id,) in airflow.sql(BORN)]


def test_it_is_killed_and_the_scheduler_lives(airflow: Deployment, client: EventClient) -> None:
    """Three times, between events: each event that was acknowledged makes its run, and the log says what happened."""
    scheduler = airflow.pid("scheduler")
    before, logged = born(airflow), len(airflow.log("scheduler"))
    made = []
    for _ in range(3):
        pid = broker_pid(client)
        assert pid != scheduler
        assert pid in sessions(scheduler)
        made.append(f"aiflow__born__{client.publish(Event('birth'), timeout=1200)}")
        os.kill(pid, signal.SIGKILL)
        made.append(f"aiflow__born__{client.publish(Event('birth'), timeout=1200)}")
    airflow.wait_until(lambda: born(airflow) == before + made, what="all are born")
    assert airflow.alive("scheduler")
    ended = "the broker's process ended (killed by signal 9), it is started again"
    for line in (ended, f"aiflow broker: serving {client.uri}, log "):
        airflow.wait_until(lambda line=line: airflow.log("scheduler")[logged:].count(line) == 3, what=line)


def test_the_scheduler_ends_and_leaves_nothing(airflow: Deployment, client: EventClient) -> None:
    scheduler, pid = airflow.pid("scheduler"), broker_pid(client)
    os.kill(scheduler, signal.SIGTERM)
    airflow.wait_until(lambda: not airflow.alive("scheduler"), what="the scheduler has ended")
    assert pid not in sessions(scheduler)
    assert not (airflow.home / "aiflow" / "broker.sock").exists()
    assert "aiflow broker: stopped; " in airflow.log("scheduler")
    airflow.launch("scheduler")
    assert broker_pid(client) != pid


def test_a_task_publishes_while_its_scheduler_ends(airflow: Deployment, client: EventClient) -> None:
    """As Airflow's own, the scheduler waits for the tasks that run: the broker is there for them until then."""
    airflow.wait_for_dag("parting")
    airflow.rest.unpause("parting")
    airflow.rest.trigger("parting")
    airflow.wait_until(lambda: client.count("tick") > 0, what="the task publishes")
    logged = len(airflow.log("scheduler"))
    os.kill(airflow.pid("scheduler"), signal.SIGTERM)
    airflow.wait_until(lambda: "waiting for running tasks" in airflow.log("scheduler")[logged:], what="it is ending")
    before = client.count("tick")
    airflow.wait_until(lambda: client.count("tick") > before + 3, what="the task publishes all the same")
    (airflow.home / "parting.ends").touch()
    airflow.wait_until(lambda: not airflow.alive("scheduler"), what="the scheduler has ended")
    assert airflow.sql("SELECT state FROM task_instance WHERE dag_id = 'parting'") == [("success",)]
    airflow.launch("scheduler")
    assert client.list("tick", timeout=1200)[-1].value == "last"


def test_the_scheduler_is_killed_and_its_workers_live(airflow: Deployment, client: EventClient) -> None:
    """In the middle of its transaction.  They keep nothing that it had open: its broker ends, its locks are let go of,
    and another scheduler acts on the event while they live."""
    os.kill(airflow.pid("scheduler"), signal.SIGSTOP)  # so that the next one finds the event
    run = f"aiflow__born__{client.publish(Event('birth'), timeout=1200)}"
    airflow.kill("scheduler")
    airflow.env["AIF_CRASH_AT"] = "apply.acted"
    airflow.begin("scheduler")
    scheduler = airflow.pid("scheduler")
    airflow.wait_until(lambda: not airflow.alive("scheduler"), what="it is killed")
    del airflow.env["AIF_CRASH_AT"]
    airflow.launch("scheduler-2")
    airflow.wait_until(lambda: broker_pid(client) in sessions(airflow.pid("scheduler-2")), what="its broker serves")
    airflow.wait_until(lambda: run in born(airflow), what="the other one reacts")
    assert sessions(scheduler)  # the workers, idle for ever
    airflow.end("scheduler-2")
    airflow.launch("scheduler")
