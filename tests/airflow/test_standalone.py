"""Other ways to run event mode: `airflow standalone`, and a broker and a log of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from airflows import Broker, Deployment
from deployment import kill_session, sessions

from aiflow_ext import Event, EventClient

DAGS = Path(__file__).parents[1] / "crash" / "dags"
BORN = "SELECT run_id FROM dag_run WHERE dag_id = 'born' ORDER BY id"


def born(airflow: Deployment) -> list[str]:
    """The runs that events made."""
    return [run_id for (run_id,) in airflow.sql(BORN)]


def unpause(airflow: Deployment) -> None:
    """Without an API server; the scheduler has begun to listen, too."""
    airflow.wait_until(lambda: airflow.sql("SELECT 1 FROM serialized_dag WHERE dag_id = 'born'"))
    airflow.sql("UPDATE dag SET is_paused = FALSE")
    airflow.wait_until(lambda: airflow.sql("SELECT 1 FROM aiflow_consumer WHERE name = 'scheduler'"))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.end()


def test_standalone(tmp_path: Path) -> None:
    """One command runs it all, an event makes a run that succeeds, and Ctrl-C ends it all."""
    airflow = Deployment(tmp_path / "af", DAGS, event_mode=True)
    airflow._write_folders()
    with (airflow.home / "logs" / "standalone.log").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", "standalone"],
            env=airflow.env,
            cwd=airflow.home,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            # A shell starts background commands with SIGINT ignored, and Python then leaves it so: no Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        airflow.wait_until(lambda: "Airflow is ready" in airflow.log("standalone"))
        airflow.wait_until(airflow._server_answers)  # the first answer takes the api-server seconds
        unpause(airflow)
        assert "EventSchedulerJobRunner runs" in airflow.log("standalone")
        with EventClient(f"ipc://{airflow.home}/aiflow/broker.sock") as client:
            offset = client.publish(Event("birth"))
        airflow.wait_until(lambda: born(airflow) == [f"aiflow__born__{offset}"])
        airflow.wait_for_run("born", f"aiflow__born__{offset}")
        process.send_signal(signal.SIGINT)
        assert process.wait(1200) == 0
    finally:
        kill_session(process.pid)
        process.wait()


def test_daemon(tmp_path: Path) -> None:
    """`airflow scheduler --daemon` has its broker, too, and takes it along when it ends."""
    airflow = Deployment(tmp_path / "af", DAGS, event_mode=True)
    airflow.names = ["dag-processor"]
    airflow.start()
    pid_file = airflow.home / "scheduler.pid"
    airflow.run_airflow("scheduler", "--daemon", "--skip-serve-logs", "--pid", str(pid_file))
    pid = airflow.wait_until(lambda: pid_file.exists() and int(pid_file.read_text() or 0), what="a pid file")
    session = os.getsid(pid)
    try:
        unpause(airflow)
        with EventClient(f"ipc://{airflow.home}/aiflow/broker.sock") as client:
            offset = client.publish(Event("birth"), timeout=1200)
            assert client.status()["pid"] in set(sessions(session)) - {pid}
        airflow.wait_until(lambda: born(airflow) == [f"aiflow__born__{offset}"])
        os.kill(pid, signal.SIGTERM)
        airflow.wait_until(lambda: not sessions(session), what="all have ended")
        assert not (airflow.home / "aiflow" / "broker.sock").exists()
    finally:
        kill_session(session)
        airflow.close()


def test_a_broker_and_a_log_of_their_own(tmp_path: Path, broker: Broker) -> None:
    """tcp, another log; the broker is killed, and what is published once it is back has its effect, too."""
    config = {"aiflow.broker": broker.uri, "aiflow.log": broker.log}
    airflow = Deployment(tmp_path / "af", DAGS, event_mode=True, config=config)
    airflow.names = ["dag-processor", "scheduler"]
    airflow.start()
    try:
        unpause(airflow)
        offsets = []
        with EventClient(broker.uri) as client:
            for _ in range(2):
                offsets.append(client.publish(Event("birth"), timeout=1200))
                airflow.wait_until(lambda: born(airflow) == [f"aiflow__born__{o}" for o in offsets])
                broker.end()
                broker.start()
        assert not (airflow.home / "aiflow").exists()  # nothing embedded
    finally:
        airflow.close()
