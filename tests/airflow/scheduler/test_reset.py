"""Another log in the place of the one whose events were acted on, and `aiflow events reset-consumer`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from airflows import DAGS, Deploy, Deployment

from aiflow_ext import Event, EventClient, EventLog

CRASH_DAGS = Path(__file__).parents[2] / "crash" / "dags"
COUNTED = "SELECT count(*) FROM aiflow_action WHERE dag_id = 'counted' AND run_id = ? AND after <> ''"
BORN = "SELECT conf FROM dag_run WHERE dag_id = 'born' AND substr(run_id, 1, 6) = 'aiflow'"


def reset(airflow: Deployment, *args: str) -> list[dict[str, object]]:
    """The command, with the settings of this Airflow; what it says is skipped."""
    done = run_reset(airflow, *args)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def run_reset(airflow: Deployment, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aiflow_ext.cli", "events", "reset-consumer", "-o", "json", *args]
    return subprocess.run(
        command, env=airflow.env | env, cwd=airflow.home, capture_output=True, text=True, timeout=1800, check=False
    )


@pytest.fixture(scope="module")
def airflow(deploy: Deploy, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    dags = tmp_path_factory.mktemp("dags")
    for path in (CRASH_DAGS / "counted.py", DAGS / "native_dag.py"):
        (dags / path.name).symlink_to(path)
    made: Deployment = deploy("sqlite", dags, event_mode=True)
    for dag_id in ("counted", "born"):
        made.wait_for_dag(dag_id)
        made.rest.unpause(dag_id)
    return made


@pytest.mark.parametrize("there", [0, 50], ids=["shorter", "longer"])
def test_another_log_is_gone_on_with_by_the_command(airflow: Deployment, there: int) -> None:
    """A shorter one is noticed also where the row has no log's id, a longer one by the id."""
    broker = f"ipc://{airflow.home}/aiflow/broker.sock"
    before = len(airflow.sql(BORN))
    run_id = airflow.rest.trigger("counted")
    airflow.wait_until(lambda: airflow.states("counted", run_id).get("count") == "deferred")
    with EventClient(broker) as client:
        client.publish(Event("n"), timeout=1200)
        for _ in range(10):
            client.publish(Event("filler"))
        birth = client.publish(Event("birth"))
        airflow.wait_for_run("born", f"aiflow__born__{birth}")
        airflow.rest.pause("born")
        kept = client.publish(Event("birth"))
    said = "SELECT 1 FROM aiflow_action WHERE after = 'kept' AND cause = ?"
    airflow.wait_until(lambda: airflow.sql(said, str(kept)))
    airflow.wait_until(lambda: airflow.states("counted", run_id).get("count") == "success")

    airflow.end("scheduler")
    if not there:  # as the row of an earlier version
        airflow.sql("UPDATE aiflow_consumer SET log_id = NULL")
    logged = len(airflow.log("scheduler"))
    other = f"sqlite:{airflow.home}/of_{there}.db"
    with EventLog(other) as log:
        log.append([Event("birth")] * there, "before", 1)
    airflow.env["AIRFLOW__AIFLOW__LOG"] = other
    airflow.launch("scheduler")
    with EventClient(broker) as client:
        skipped = client.publish(Event("birth"), timeout=1200)  # while nobody acts
        airflow.wait_until(lambda: "aiflow events reset-consumer" in airflow.log("scheduler")[logged:])
        airflow.run_dag("native")  # stock scheduling goes on
        assert len(airflow.sql(BORN)) == before + 1
        told: list[dict[str, object]] = [
            {"skipped": "events", "where": f"1 to {skipped}", "events": skipped},
            {"skipped": "start", "where": "born", "events": 1},
        ]
        assert reset(airflow, "--dry-run") == told
        killed = run_reset(airflow, AIF_CRASH_AT="reset.moved")
        assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "")
        assert reset(airflow, "--dry-run") == told  # nothing of it was done
        assert reset(airflow) == told
        assert reset(airflow, "--dry-run") == []
        airflow.rest.unpause("born")
        births: list[int] = []
        while not births or births[-1] <= birth:  # also an offset at which the other log had one
            births.append(client.publish(Event("birth")))
        client.publish(Event("n"))
    airflow.wait_until(lambda: len(airflow.sql(BORN)) == before + 1 + len(births), what="a run for each event")
    airflow.wait_until(lambda: airflow.sql(COUNTED, run_id) == [(2,)], what="the rules of a run go on")
