"""What happens without the scheduler's ears, without event mode, and with two schedulers."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from airflows import Deploy
from deployment import Deployment

from aiflow_ext import Event, EventClient

CRASH_DAGS = Path(__file__).parents[2] / "crash" / "dags"


def client(airflow: Deployment) -> EventClient:
    """A client of the broker that this Airflow's scheduler serves."""
    return EventClient(f"ipc://{airflow.home}/aiflow/broker.sock")


def begin(airflow: Deployment, dag_id: str) -> str:
    """A run of the Dag; its id."""
    airflow.wait_for_dag(dag_id)
    airflow.rest.unpause(dag_id)
    return airflow.rest.trigger(dag_id)


def test_all_hints_lost(deploy: Deploy) -> None:
    """Every wake-up source is off: slower, and still right."""
    airflow = deploy("postgresql", event_mode=True, config={"aiflow.wake_sources": "", "aiflow.safety_pass_sec": "1"})
    run_id = begin(airflow, "while_each")
    airflow.wait_until(lambda: airflow.rest.states("while_each", run_id).get("a") == "deferred")
    with client(airflow) as events:
        (airflow.home / f"{run_id}.a").touch()
        (airflow.home / f"{run_id}.keep").touch()
        for n in range(3):
            events.publish(Event("go", str(n)))
        airflow.wait_for_run("while_each", run_id)
    done = airflow.sql("SELECT count(*) FROM aiflow_action WHERE run_id = ? AND action = 'start'", run_id)
    assert done == [(3,)]


def test_under_a_stock_scheduler_the_triggerer_waits(deploy: Deploy) -> None:
    """Event mode off, an `aiflow broker` alone: a parked task starts all the same."""
    airflow = deploy("sqlite", event_mode=False, triggerer=True)
    assert "aiflow: SchedulerJobRunner (stock) runs: [aiflow] event_mode is off" in airflow.log("scheduler")
    folder = airflow.home / "aiflow"
    folder.mkdir(mode=0o700)
    command = ["-m", "aiflow_ext.cli", "broker", "--bind", f"ipc://{folder}/broker.sock"]
    broker = subprocess.Popen([sys.executable, *command, "--log", f"sqlite:{folder}/events.db"])
    try:
        run_id = begin(airflow, "templates")
        airflow.wait_until(lambda: airflow.rest.states("templates", run_id).get("shell") == "deferred")
        parked = "SELECT 1 FROM task_instance WHERE run_id = ? AND trigger_id IS NOT NULL"
        assert airflow.sql(parked, run_id)  # the triggerer has it, not we
        with client(airflow) as events:

            def listening() -> bool:
                events.publish(Event("go", "4711"))  # heard once the trigger has subscribed
                return airflow.rest.run_state("templates", run_id) == "success"

            airflow.wait_until(listening, poll=1)
        assert (airflow.home / f"{run_id}.value").read_text() == "4711\n"
    finally:
        broker.terminate()
        broker.wait(60)


def test_two_event_schedulers_do_nothing_twice(deploy: Deploy) -> None:
    """Both react; one acts.  Then the one that serves the broker is killed, and the other goes on."""
    airflow = deploy("postgresql", CRASH_DAGS, event_mode=True)
    airflow.launch("scheduler-2")
    run_id = begin(airflow, "counted")
    begin(airflow, "born")
    airflow.wait_until(lambda: airflow.rest.states("counted", run_id).get("count") == "deferred")
    offsets: list[int] = []

    def publish() -> None:
        with client(airflow) as events:
            for _ in range(20):
                offsets.append(events.publish(Event("birth"), timeout=240))
                time.sleep(0.01)  # pace: the kill shall fall between two

    threads = [threading.Thread(target=publish) for _ in range(2)]
    for thread in threads:
        thread.start()
    airflow.wait_until(lambda: len(offsets) > 10)
    airflow.kill("scheduler")
    for thread in threads:
        thread.join()
    born = "SELECT run_id FROM dag_run WHERE dag_id = 'born' AND substr(run_id, 1, 8) = 'aiflow__'"
    airflow.wait_until(lambda: len(airflow.sql(born)) >= 40)
    runs = airflow.sql(born)
    assert sorted(r for (r,) in runs) == sorted(f"aiflow__born__{offset}" for offset in offsets)
