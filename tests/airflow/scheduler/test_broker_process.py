"""The embedded broker under a real scheduler: its end is no other's, and the scheduler's end is its end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from airflows import DATABASES, Deploy
from deployment import Deployment, kill_session, sessions

from aiflow_ext import Event, EventClient

DAGS = Path(__file__).parents[2] / "crash" / "dags"
BORN = "SELECT run_id FROM dag_run WHERE dag_id = 'born' ORDER BY id"


@pytest.fixture(scope="module", params=DATABASES)
def airflow(request: pytest.FixtureRequest, deploy: Deploy) -> Deployment:
    made: Deployment = deploy(request.param, DAGS, event_mode=True)
    made.wait_for_dag("born")
    made.rest.unpause("born")
    return made


@pytest.fixture
def client(airflow: Deployment) -> Iterator[EventClient]:
    with EventClient(f"ipc://{airflow.home}/aiflow/broker.sock") as client:
        yield client


def broker_pid(client: EventClient) -> int:
    """Whoever serves now; it may have to start first."""
    return int(client.status(timeout=240)["pid"])


def born(airflow: Deployment) -> list[str]:
    """The runs that events made."""
    return [run_id for (run_id,) in airflow.sql(BORN)]


def end(airflow: Deployment) -> None:
    """SIGTERM until it has ended: Airflow's LocalExecutor may wait for idle workers for ever, and the exception of
    Airflow's handler may be lost in a callback, also without event mode; both end with a further signal."""
    scheduler, told = airflow.pid("scheduler"), 0.0

    def ended() -> bool:
        nonlocal told
        if airflow.alive("scheduler") and time.monotonic() - told > 20:
            told = time.monotonic()
            os.kill(scheduler, signal.SIGTERM)
        return not airflow.alive("scheduler")

    airflow.wait_until(ended, what="the scheduler has ended")


def test_it_is_killed_and_the_scheduler_lives(airflow: Deployment, client: EventClient) -> None:
    """Three times, between events: each event that was acknowledged makes its run, and the log says what happened."""
    scheduler = airflow.pid("scheduler")
    before = born(airflow)
    made = []
    for _ in range(3):
        pid = broker_pid(client)
        assert pid != scheduler
        assert pid in sessions(scheduler)
        made.append(f"aiflow__born__{client.publish(Event('birth'), timeout=240)}")
        os.kill(pid, signal.SIGKILL)
        made.append(f"aiflow__born__{client.publish(Event('birth'), timeout=240)}")
    airflow.wait_until(lambda: born(airflow) == before + made, what="all are born")
    assert airflow.alive("scheduler")
    log = airflow.log("scheduler")
    assert log.count("the broker's process ended (killed by signal 9), it is started again") == 3
    assert log.count(f"aiflow broker: serving {client.uri}, log ") == 4


def test_the_scheduler_ends_and_leaves_nothing(airflow: Deployment, client: EventClient) -> None:
    scheduler, pid = airflow.pid("scheduler"), broker_pid(client)
    end(airflow)
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
    os.kill(airflow.pid("scheduler"), signal.SIGTERM)
    airflow.wait_until(lambda: "waiting for running tasks" in airflow.log("scheduler"), what="it is ending")
    before = client.count("tick")
    airflow.wait_until(lambda: client.count("tick") > before + 3, what="the task publishes all the same")
    (airflow.home / "parting.ends").touch()
    state = "SELECT state FROM task_instance WHERE dag_id = 'parting'"
    airflow.wait_until(lambda: airflow.sql(state) == [("success",)], what="it succeeds")
    end(airflow)
    airflow.launch("scheduler")
    assert client.list("tick", timeout=240)[-1].value == "last"


def test_the_scheduler_is_killed_and_its_workers_live(airflow: Deployment, client: EventClient) -> None:
    """They have what it had open when it forked them; its broker ends all the same, and another scheduler's serves."""
    scheduler, pid = airflow.pid("scheduler"), broker_pid(client)
    airflow.rest.trigger("born")
    airflow.wait_until(lambda: len(set(sessions(scheduler)) - {scheduler, pid}) > 0, what="a worker")
    airflow.kill("scheduler", tree=False)
    airflow.wait_until(lambda: pid not in sessions(scheduler), what="the broker has ended")
    assert sessions(scheduler)  # the workers, idle for ever
    airflow.launch("scheduler-2")
    assert broker_pid(client) in sessions(airflow.pid("scheduler-2"))
    run = f"aiflow__born__{client.publish(Event('birth'), timeout=240)}"
    kill_session(scheduler)  # they may have inherited a transaction of Airflow's, and hold its locks
    airflow.wait_until(lambda: run in born(airflow), what="it reacts")
