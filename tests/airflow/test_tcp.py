"""A whole Airflow over tcp with keys: all that its processes know of them is in airflow.cfg."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import rest
from airflows import DAGS, Broker, Deployment

from aiflow_ext import Event, EventClient
from aiflow_ext.cli import main
from aiflow_ext.errors import AccessError

PATIENT = "60"  # seconds: a task that is not asked would not end within this test


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "nobody"))  # ours: without key and configuration
    monkeypatch.setenv("AIFLOW_KEYS", str(tmp_path / "keys"))
    for name, *rights in (
        ("airflow", "--publish", "*", "--read", "*"),
        ("team", "--publish", "team", "--read", "*"),
        ("gone", "--publish", "*"),
    ):
        assert main(["keys", "new", name, *rights, "--out", str(tmp_path / f"{name}.key")]) == 0
    assert main(["keys", "revoke", "gone"]) == 0
    broker = Broker(tmp_path)
    yield broker
    broker.end()


@pytest.fixture
def airflow(tmp_path: Path, broker: Broker) -> Iterator[Deployment]:
    config = {"aiflow.stop_grace_sec": PATIENT}
    airflow = Deployment(tmp_path / "af", DAGS, event_mode=True, triggerer=True, config=config)
    airflow.home.mkdir()
    section = {"broker": broker.uri, "key_file": tmp_path / "airflow.key", "log": broker.log}
    (airflow.home / "airflow.cfg").write_text("\n".join(["[aiflow]", *(f"{k} = {v}" for k, v in section.items())]))
    with airflow:
        yield airflow


def test_a_run_over_tcp(airflow: Deployment, broker: Broker, tmp_path: Path) -> None:
    """Tasks publish, are started, wait in the triggerer, are stopped; who has no key or too few rights is refused."""
    airflow.wait_for_dag("over_tcp")
    airflow.rest.unpause("over_tcp")
    run_id = airflow.rest.trigger("over_tcp")

    def states() -> dict[str, str | None]:
        return airflow.states("over_tcp", run_id)

    over = dict.fromkeys(("check", "tell", "defer", "started"), "success")
    going = {"learn": "running", "serve": "running"} | over
    airflow.wait_until(lambda: states() == going, what="all but the stops")

    for key in (None, tmp_path / "gone.key", tmp_path / "team.key"):
        with EventClient(broker.uri, key_file=key) as client, pytest.raises(AccessError):
            client.publish(Event("end"))
    assert states() == going
    with EventClient(broker.uri, key_file=tmp_path / "airflow.key") as client:
        assert client.count("end") == 0
        client.publish(Event("end"))
    airflow.wait_for_run("over_tcp", run_id)
    assert set(states().values()) == {"success"}

    token = {"Authorization": f"Bearer {airflow.rest._token}"}
    assert rest.send("GET", f"{airflow.url}/aiflow/events/count?key=model", headers=token) == {"count": 2}
    returned = "SELECT task_id, value FROM xcom WHERE run_id = ? AND key = 'return_value' ORDER BY task_id"
    found = [(task, json.loads(value)) for task, value in airflow.sql(returned, run_id) if task != "tell"]
    assert found == [
        ("defer", ["from a shell"]),
        ("learn", "its subscription ended"),
        ("serve", "was asked"),
        ("started", ["from a shell", "3"]),  # what started it outlives its own deferrals
    ]
    for name in airflow.names:
        lost = [line for line in airflow.log(name).splitlines() if "no wake-ups from the broker" in line]
        assert [
            line for line in lost if "no answer to SUBSCRIBE" not in line
        ] == []  # it has 200 ms, and is asked again
        assert "could not be woken" not in airflow.log(name)
