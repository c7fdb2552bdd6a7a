"""A log is replaced by another one, which is longer: what watches for assets skips nothing of it in silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from airflows import WATCHERS, Broker, Deploy, Deployment

from aiflow_ext import Event, EventClient, EventLog

DAGS = Path(__file__).parents[1] / "asset_dags"
SERVED = "SELECT name, \"offset\", log_id FROM aiflow_consumer WHERE name LIKE 'asset:%' AND log_id IS NOT NULL"


def stored(airflow: Deployment, asset: str) -> list[str]:
    """The values of the events that became events of this asset, in the order they did."""
    found = "SELECT e.extra FROM asset_event e JOIN asset a ON a.id = asset_id WHERE name = ? ORDER BY e.id"
    extras = [extra if isinstance(extra, dict) else json.loads(extra) for (extra,) in airflow.sql(found, asset)]
    return [extra["payload"]["value"] for extra in extras]


def other(path: Path, n: int = 20) -> int:
    """Make another log, of n events that watchers wait for; its id."""
    with EventLog(f"sqlite:{path}") as log:
        log.append([Event("n", f"other {i}") for i in range(n)], "other", 1)
        return log.head_and_id()[1]


def test_a_triggerer_waits_until_it_is_told_where_to_begin(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    airflow = Deployment(tmp_path / "af", DAGS, triggerer=True, config={"aiflow.broker": broker.uri} | WATCHERS)
    airflow.names = ["dag-processor", "triggerer"]
    try:
        with airflow, EventClient(broker.uri) as client:
            airflow.wait_until(lambda: len(airflow.sql(SERVED)) >= 3, what="the watchers have begun")
            client.publish_many([Event("n", f"one {i}") for i in range(3)])
            airflow.wait_until(lambda: len(stored(airflow, "n_all")) == 3, what="stored")
            broker.end()
            log_id = other(tmp_path / "other.db")
            for suffix in ("-wal", "-shm"):
                (tmp_path / f"events.db{suffix}").unlink(missing_ok=True)
            os.rename(tmp_path / "other.db", tmp_path / "events.db")
            broker.start()
            said = "The watcher's offset is of another log: delete its row of aiflow_consumer"
            airflow.wait_until(lambda: said in airflow.log("triggerer"), what="it says so")
            client.publish(Event("n", "while it waits"))
            airflow.restart("triggerer")
            logged = len(airflow.log("triggerer"))
            airflow.wait_until(lambda: said in airflow.log("triggerer")[logged:], what="it says so again")
            assert stored(airflow, "n_all") == ["one 0", "one 1", "one 2"]
            airflow.sql("DELETE FROM aiflow_consumer WHERE name LIKE 'asset:%'")
            begun = lambda: {found[2] for found in airflow.sql(SERVED)} == {log_id}  # noqa: E731
            airflow.wait_until(lambda: len(airflow.sql(SERVED)) >= 3 and begun(), what="they begin anew")
            client.publish(Event("n", "new"))
            airflow.wait_until(lambda: stored(airflow, "n_all")[3:] == ["new"], what="goes on")
    finally:
        broker.end()


def test_the_command_moves_the_watchers_of_the_log_and_no_others(deploy: Deploy, tmp_path: Path) -> None:
    airflow = deploy("sqlite", DAGS, event_mode=True, config=WATCHERS)
    uri = f"ipc://{airflow.home}/aiflow/broker.sock"
    for dag_id in ("counts", "of_elsewhere"):
        airflow.wait_for_dag(dag_id)
    airflow.wait_until(lambda: len(airflow.sql(SERVED)) >= 3, what="the watchers have begun")
    with EventClient(uri) as client:
        client.publish(Event("n", "one"))
        airflow.wait_until(lambda: stored(airflow, "n_all") == ["one"], what="stored")
    airflow.end("scheduler")
    elsewhere = ("asset:99:of another broker", 7, 4711)
    airflow.sql('INSERT INTO aiflow_consumer (name, "offset", log_id) VALUES (?, ?, ?)', *elsewhere)
    log_id = other(tmp_path / "other.db")
    airflow.env["AIRFLOW__AIFLOW__LOG"] = f"sqlite:{tmp_path}/other.db"
    airflow.launch("scheduler")
    airflow.wait_until(lambda: "aiflow events reset-consumer" in airflow.log("scheduler"), what="it says so")
    command = [sys.executable, "-m", "aiflow_ext.cli", "events", "reset-consumer", "--to", "18"]
    subprocess.run(command, env=airflow.env, cwd=airflow.home, check=True)
    airflow.wait_until(lambda: stored(airflow, "n_all") == ["one", "other 18", "other 19"], what="goes on")
    rows = airflow.sql(SERVED)
    assert elsewhere in rows
    assert {row[2] for row in rows if row != elsewhere} == {log_id}
