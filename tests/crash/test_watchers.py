"""kill -9 of a stock triggerer at each point of the way from an event to an asset event, then count."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from airflows import WATCHERS, Deployment

from aiflow_ext import Event, EventClient, EventLog

DAGS = Path(__file__).parents[1] / "airflow" / "asset_dags"
POINTS = ("watcher.begin", "watcher.stored", "watcher.committed")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """`aiflow broker`, alone; its address."""
    log = f"sqlite:{tmp_path}/events.db"
    command = ["-m", "aiflow_ext.cli", "broker", "--bind", f"ipc://{tmp_path}/b.sock", "--log", log]
    process = subprocess.Popen([sys.executable, *command])
    yield f"ipc://{tmp_path}/b.sock"
    process.terminate()
    process.wait(60)


def without_scheduler(home: Path, broker: str) -> Deployment:
    """What watches assets, and no more: dag-processor and triggerer."""
    config = WATCHERS | {
        "aiflow.broker": broker,
        "triggerer.job_heartbeat_sec": "1",
        "triggerer.triggerer_health_check_threshold": "4",  # so long a dead one keeps its triggers
    }
    airflow = Deployment(home, DAGS, triggerer=True, config=config)
    airflow.names = ["dag-processor", "triggerer"]
    return airflow.start()


def stored(airflow: Deployment, asset: str) -> list[int]:
    """The offsets of the events that became events of this asset, in the order they did."""
    rows = airflow.sql(
        "SELECT e.extra FROM asset_event e JOIN asset a ON a.id = asset_id WHERE name = ? ORDER BY e.id", asset
    )
    extras = [extra if isinstance(extra, dict) else json.loads(extra) for (extra,) in rows]
    return [extra["payload"]["offset"] for extra in extras]


def watching(airflow: Deployment, count: int) -> bool:
    """Whether so many watchers know where they are."""
    return airflow.sql("SELECT count(*) FROM aiflow_consumer WHERE substr(name, 1, 6) = 'asset:'")[0][0] >= count


def test_killed_at_every_point(tmp_path: Path, broker: str) -> None:
    """kill -9 of the triggerer, before, in and after the transaction: no event is lost, none comes twice."""
    airflow = without_scheduler(tmp_path / "af", broker)
    try:
        with EventClient(broker) as client:
            old = client.publish(Event("a1", "x", "T", namespace="other"))
            client.publish(Event("n", "before anybody watched"))
            airflow.wait_until(lambda: watching(airflow, 3))
            offsets: list[int] = []
            for n, point in enumerate(POINTS):
                airflow.kill("triggerer")
                offsets += client.publish_many([Event("n", f"{n}.{i}") for i in range(5)])
                airflow.env |= {"AIF_CRASH_AT": point, "AIF_CRASH_AFTER": "3"}
                airflow.begin("triggerer")
                airflow.wait_until(lambda: not airflow.alive("triggerer"), what=f"killed at {point}")
            airflow.kill("triggerer")
            assert len(stored(airflow, "n_all")) < len(offsets)  # each was in the middle of its work
            del airflow.env["AIF_CRASH_AT"]
            airflow.begin("triggerer")
            for asset in ("n_all", "n_too"):
                airflow.wait_until(lambda a=asset: len(stored(airflow, a)) >= len(offsets), what=asset)
                assert stored(airflow, asset) == offsets
            airflow.kill("triggerer")
            away = client.publish_many([Event("n", f"away {n}") for n in range(3)])
            with EventLog(f"sqlite:{tmp_path}/events.db") as log:
                log.purge("default", away[1])
            airflow.begin("triggerer")
            airflow.wait_until(lambda: stored(airflow, "n_all") == [*offsets, away[2]], what="retention")
            wrong = [
                Event("a1", "", "U", namespace="other"),
                Event("c", "", "T", namespace="other"),
                Event("b", "", "T"),
            ]
            client.publish_many(wrong)
            right = client.publish_many([Event(key, "", "T", namespace="other") for key in ("b", "a", "abc")])
            airflow.wait_until(lambda: len(stored(airflow, "some")) >= 4, what="filtered")
            assert stored(airflow, "some") == [old, *right]
    finally:
        airflow.close()
