"""Two hosts with one Airflow database, and a log each: what notices it, and what it says."""

from __future__ import annotations

import re
from pathlib import Path

from airflows import DAGS, Broker, Deploy, Deployment

from aiflow_ext import Event, EventClient

BORN = "SELECT count(*) FROM dag_run WHERE dag_id = 'born' AND substr(run_id, 1, 6) = 'aiflow'"


def dags(folder: Path) -> Path:
    """A Dag that an event starts, and one that knows nothing of events."""
    for path in (DAGS.parents[1] / "crash" / "dags" / "counted.py", DAGS / "native_dag.py"):
        (folder / path.name).symlink_to(path)
    return folder


def second_host(airflow: Deployment, home: Path) -> None:
    """What is launched from now on runs on another host: it has an AIRFLOW_HOME and a name of its own."""
    home.mkdir()
    (home / "second_host.py").write_text('def name():\n    return "host-two"\n')
    airflow.env |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__AIFLOW__LOG": f"sqlite:{home}/events.db",
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "second_host.name",
        "PYTHONPATH": str(home),
    }


def test_the_scheduler_of_another_host_with_a_file_of_its_own_is_refused(deploy: Deploy, tmp_path: Path) -> None:
    """It acts on no event, of its own file or of the other one, and says why; the rest of its work goes on."""
    (folder := tmp_path / "dags").mkdir()
    config = {"aiflow.log": f"sqlite:{tmp_path}/one.db"}
    airflow = deploy("postgresql", dags(folder), event_mode=True, config=config)
    airflow.wait_for_dag("born")
    airflow.rest.unpause("born")
    second_host(airflow, tmp_path / "two")
    airflow.launch("scheduler-2")
    said = re.compile(
        r"it is another log\. It is a file of this host \(host-two\), and a scheduler runs on \S+, too, "
        r"which has a file of its own: set \[aiflow\] log to postgresql://"
    )
    airflow.wait_until(lambda: said.search(airflow.log("scheduler-2")), what="it says so")
    with EventClient(f"ipc://{airflow.home}/aiflow/broker.sock") as one:
        with EventClient(f"ipc://{tmp_path}/two/aiflow/broker.sock") as two:
            two.publish_many([Event("birth")] * 20)
        first = one.publish(Event("birth"))
        airflow.wait_for_run("born", f"aiflow__born__{first}")
        airflow.kill("scheduler")
        airflow.run_dag("native")  # by the other one
    assert airflow.sql(BORN) == [(1,)]
    assert "it is another log" not in airflow.log("scheduler")


def test_a_broker_with_another_log_than_the_scheduler_reads_is_named(tmp_path: Path) -> None:
    """As where [aiflow] broker is on another host, and [aiflow] log is the default file, which is not there yet."""
    broker = Broker(tmp_path)
    airflow = Deployment(tmp_path / "af", DAGS, event_mode=True, config={"aiflow.broker": broker.uri})
    airflow.names = ["scheduler"]
    try:
        with airflow:
            said = re.compile(rf"what is published to the broker has no effect: it serves another log.*{broker.uri}")
            airflow.wait_until(lambda: said.search(airflow.log("scheduler")), what="it says so")
    finally:
        broker.end()
