"""Event mode: an event becomes an asset event and an asset event an event, each once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from airflows import ROOT, WATCHERS, Deploy, Deployment

from aiflow_ext import Event, EventClient, EventLog

DAGS = Path(__file__).parents[1] / "asset_dags"
TAKE = """if True:
    import sys
    from airflow.utils.session import create_session
    from aiflow_ext.provider.assets import offsets
    for offset in range(1, 51):
        with create_session() as session:
            offsets.take(session, int(sys.argv[1]), {"scheme": "aiflow", "offset": offset})
"""


@pytest.fixture(scope="module")
def airflow(deploy: Deploy, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    dags = tmp_path_factory.mktemp("dags")
    for path in [*DAGS.glob("*.py"), ROOT / "examples" / "asset_dag.py"]:
        (dags / path.name).symlink_to(path)
    config = WATCHERS | {"aiflow.tell": "all"}  # we ask from outside
    airflow: Deployment = deploy("postgresql", dags, event_mode=True, config=config)
    for dag_id in ("counts", "updates", "listens", "of_elsewhere", "on_new_model"):
        airflow.wait_for_dag(dag_id)
    return airflow


@pytest.fixture(scope="module")
def client(airflow: Deployment) -> EventClient:
    return EventClient(f"ipc://{airflow.home}/aiflow/broker.sock")


def rows(airflow: Deployment, asset: str) -> list[tuple[int, Any]]:
    """(id, extra) of the events of an asset."""
    found = "SELECT e.id, e.extra FROM asset_event e JOIN asset a ON a.id = asset_id WHERE name = ? ORDER BY e.id"
    return [(number, extra) for number, extra in airflow.sql(found, asset)]


def stored(airflow: Deployment, asset: str) -> list[int]:
    """The offsets of the events that became events of this asset, in the order they did."""
    return [extra["payload"]["offset"] for _, extra in rows(airflow, asset)]


def told(client: EventClient, key: str = "*") -> list[Event]:
    return client.list(key, "ASSET_UPDATED", namespace="airflow")


def test_an_event_is_an_asset_event(airflow: Deployment, client: EventClient) -> None:
    """No triggerer runs; a Dag run starts; what came as an event is not sent back as one."""
    watching = "SELECT count(*) FROM aiflow_consumer WHERE substr(name, 1, 6) = 'asset:'"
    airflow.wait_until(lambda: airflow.sql(watching)[0][0] >= 3)
    offsets: list[int] = []
    threads = [
        threading.Thread(target=lambda: offsets.extend(client.publish(Event("n")) for _ in range(10))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for asset in ("n_all", "n_too"):
        airflow.wait_until(lambda a=asset: len(stored(airflow, a)) >= 20)
        assert stored(airflow, asset) == sorted(offsets)
    run = "SELECT run_id FROM dag_run WHERE dag_id = 'counts' AND run_type = 'asset_triggered'"
    airflow.wait_until(lambda: airflow.sql(run))
    airflow.wait_for_run("counts", airflow.sql(run)[0][0])
    assert told(client) == []


def test_a_burst_reaches_the_dag_whole(airflow: Deployment, client: EventClient) -> None:
    """Airflow's runs take no asset event that is newer than the first one's place in the queue; ours is renewed."""
    taken = "SELECT count(*) FROM dagrun_asset_event t JOIN asset_event e ON e.id = event_id WHERE e.timestamp >= ?"
    (began,) = airflow.sql("SELECT now()")[0]
    client.publish_many([Event("n")] * 20)
    airflow.wait_until(lambda: airflow.sql(taken, began)[0][0] >= 40, what="20 events of two assets")


def test_the_example(airflow: Deployment, client: EventClient) -> None:
    """examples/asset_dag.py: a paused Dag's watcher goes on from where it is."""
    airflow.rest.unpause("on_new_model")
    watching = "SELECT 1 FROM asset_watcher WHERE name = 'generated'"
    airflow.wait_until(lambda: airflow.sql(watching))
    offset = client.publish(Event("digits", "3", "MODEL_GENERATED"))
    airflow.wait_until(lambda: f"model 3 of digits, event {offset}" in airflow.task_log("on_new_model"))


def test_an_asset_event_is_an_event(airflow: Deployment, client: EventClient) -> None:
    """A task's outlet starts a task in another, running, Dag run."""
    run_id = airflow.rest.trigger("listens")
    airflow.wait_until(lambda: airflow.states("listens", run_id).get("heard") == "deferred")
    airflow.run_dag("updates")
    airflow.wait_until(lambda: airflow.states("listens", run_id).get("heard") == "success")
    ((number, _),) = rows(airflow, "made")
    (event,) = told(client, "made")
    value = json.loads(event.value)
    assert value["extra"] == {"rows": 3}
    assert (value["source_dag_id"], value["source_task_id"]) == ("updates", "make") == (event.sender, "make")
    assert number > 0
    client.publish(Event("end"))
    airflow.wait_for_run("listens", run_id)


def test_ids_that_are_committed_late(airflow: Deployment, client: EventClient) -> None:
    """A lower id that appears after a higher one is told, too; and nothing again by a scheduler that begins anew."""
    insert = (
        "INSERT INTO asset_event (asset_id, extra, timestamp) SELECT id, '{}', now() FROM asset WHERE name = 'made'"
    )
    before = len(told(client, "made"))
    slow = airflow._connect()
    slow.autocommit = False
    slow.cursor().execute(insert)  # has its id, and is not there for anybody else
    airflow.sql(insert)
    airflow.wait_until(lambda: len(told(client, "made")) == before + 1)
    slow.commit()
    slow.close()
    airflow.wait_until(lambda: len(told(client, "made")) == before + 2)
    airflow.kill("scheduler")
    airflow.sql(insert)
    airflow.launch("scheduler")
    airflow.wait_until(lambda: len(told(client, "made")) >= before + 3)
    assert len(told(client, "made")) == len(rows(airflow, "made")) == before + 3


def test_what_was_let_go_holds_nothing_up(airflow: Deployment, client: EventClient) -> None:
    """Somebody purged what a scheduler that was away had not seen: it says what to do, and goes on behind it."""
    airflow.kill("scheduler")
    log_uri = airflow.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")
    with EventLog(log_uri) as log:
        gone = log.append([Event("n", str(n), namespace="default") for n in range(3)], "away", 1)
        log.append([Event("else", namespace="kept")], "away", 4)
        kept = log.append([Event("n", "kept", namespace="default")], "away", 5)
        assert log.purge("default", gone[-1]) > 0
    airflow.launch("scheduler")
    advice = r"aiflow (events reset-consumer --to \d+)"
    found = airflow.wait_until(lambda: re.search(advice, airflow.log("scheduler")))
    subprocess.run([sys.executable, "-m", "aiflow_ext.cli", *found[1].split()], env=airflow.env, check=True)
    airflow.wait_until(lambda: stored(airflow, "n_all")[-1:] == kept)
    assert not set(stored(airflow, "n_all")) & set(gone)
    assert "asset=n_all" in airflow.log("scheduler")  # what was let go concerned it


def test_two_that_bring_the_same(airflow: Deployment) -> None:
    """Two triggerers run one trigger for a moment: still one asset event for each event."""
    find = "SELECT trigger_id FROM asset_watcher WHERE name = 'e'"
    trigger_id = str(airflow.sql(find)[0][0])
    takers = [subprocess.Popen([sys.executable, "-c", TAKE, trigger_id], env=airflow.env) for _ in range(2)]
    assert [taker.wait(600) for taker in takers] == [0, 0]
    assert stored(airflow, "elsewhere") == list(range(1, 51))


def test_the_place_of_a_watcher_that_is_gone(airflow: Deployment, client: EventClient) -> None:
    """Airflow takes the watcher of a paused Dag away: its place is kept for a while, in case that it comes back."""
    watching = "SELECT asset_id FROM asset_watcher WHERE name = 'generated'"

    def purge(*args: str) -> int:
        command = [sys.executable, "-m", "aiflow_ext.cli", "history", "purge", "--older-than", "1d", "-o", "json"]
        told = subprocess.run([*command, *args], env=airflow.env, cwd=airflow.home, check=True, capture_output=True)
        return {row["table"]: row["rows"] for row in json.loads(told.stdout)}["aiflow_consumer"]

    def pause() -> None:
        airflow.rest.pause("on_new_model")
        airflow.wait_until(lambda: not airflow.sql(watching), what="it is gone")
        assert purge() == 0

    def watch() -> int:
        airflow.rest.unpause("on_new_model")
        return airflow.wait_until(lambda: airflow.sql(watching), what="it is there")[0][0]

    asset = f"asset:{watch()}:"
    of_asset = f"substr(name, 1, {len(asset)}) = '{asset}'"
    gone_ms = f"SELECT gone_ms FROM aiflow_consumer WHERE {of_asset}"
    airflow.wait_until(lambda: airflow.sql(gone_ms) == [(None,)])
    pause()
    assert airflow.sql(gone_ms) != [(None,)]
    offset = client.publish(Event("digits", "4", "MODEL_GENERATED"))
    watch()
    airflow.wait_until(lambda: airflow.sql(gone_ms) == [(None,)], what="it goes on from where it was")
    airflow.wait_until(lambda: f"model 4 of digits, event {offset}" in airflow.task_log("on_new_model"))
    pause()
    airflow.sql(f"UPDATE aiflow_consumer SET gone_ms = gone_ms - 86400000 WHERE {of_asset}")
    assert purge("--dry-run") == 1
    assert purge() == 1
    assert airflow.sql(gone_ms) == []
