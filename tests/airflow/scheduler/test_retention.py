"""[aiflow] retention: the scheduler lets events go, and none that it has not read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from airflows import Deployment, On

from aiflow_ext import Event, EventClient, EventLog

KEEPS = """if True:
    import dataclasses, sys
    from airflow import settings
    from airflow.utils.session import create_session
    from aiflow_ext import Event, EventLog
    from aiflow_ext.provider.config import Config
    from aiflow_ext.provider.db import models
    from aiflow_ext.provider.db.consumers import Place, begin_at
    from aiflow_ext.provider.scheduler.retention import chores
    models.metadata.create_all(settings.engine)
    for name, n in (("read", 5), ("other", 9)):
        with EventLog(f"sqlite:{sys.argv[1]}/{name}") as log:
            log.append([Event("k")] * n, "p", 1)
            place = Place(*log.head_and_id())
        if name == "read":
            with create_session() as session:
                begin_at(session, "scheduler", place)
        config = dataclasses.replace(Config.from_airflow(), log=f"sqlite:{sys.argv[1]}/{name}", retention=("*=0",))
        chores(config)[0].work()
        with EventLog(config.log) as log:
            print(name, log.count())
"""

FORK = """
import os
import sys
import threading
from airflow.utils.session import create_session
from sqlalchemy import text
from aiflow_ext.provider.scheduler.children import keep_connections_from_children, no_fork

def chore():
    with no_fork, create_session() as session:
        session.execute(text("SELECT 1 FROM dag_run"))
        inside.set()
        again.wait()
        for _ in range(1000):
            session.execute(text("SELECT 1 FROM dag_run"))

keep_connections_from_children()
inside, again = threading.Event(), threading.Event()
thread = threading.Thread(target=chore)
thread.start()
inside.wait()
again.set()
pid = os.fork()
if pid == 0:
    files = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    os._exit(any("airflow.db" in file for file in files) or no_fork.locked())
thread.join()
with no_fork:  # it was given back
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.fixture
def airflow(on: On) -> Deployment:
    return on("sqlite")


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
    said = r"retention: (\d+) events of short are gone"
    airflow.wait_until(lambda: sum(map(int, re.findall(said, airflow.log("scheduler")))) == 1500, what="it is said")


def test_a_rule_fires_though_one_of_its_events_is_gone(airflow: Deployment) -> None:
    """Its state does not need the event; the task is told of those that are still there."""
    airflow.wait_for_dag("conditions")
    airflow.rest.unpause("conditions")
    run_id = airflow.rest.trigger("conditions")
    airflow.wait_until(lambda: airflow.states("conditions", run_id).get("both") == "deferred")
    with client(airflow) as events:
        gone = events.publish(Event("y"))
        until_read(airflow, gone)
        with EventLog(f"sqlite:{airflow.home}/aiflow/events.db") as log:
            assert log.purge("default", gone, 1000) > 0
        events.publish(Event("x", "1"))
        airflow.wait_until(lambda: airflow.states("conditions", run_id).get("both") == "success")
    assert "an event that started it is no longer in the log" in airflow.log("scheduler")


def test_nothing_goes_of_a_log_that_the_scheduler_does_not_go_on_with(tmp_path: Path) -> None:
    """Its offset is of another one."""
    env = os.environ | {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    done = subprocess.run([sys.executable, "-c", KEEPS, str(tmp_path)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["read 0", "other 9"]


def test_no_child_has_a_connection_that_lets_something_go(airflow: Deployment) -> None:
    done = subprocess.run([sys.executable, "-c", FORK], env=airflow.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
