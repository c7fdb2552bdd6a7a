"""What does not grow for ever: what is kept of runs that are over, starts that wait, what a start carries."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copy, copytree

import pytest
from airflows import DATABASES, Deploy, Deployment

from aiflow_ext import Event
from react.test_rules import Run, Runs

DAG_IDS = ("told", "born", "gone", "crowd", "three")
DAYS = 86_400_000  # ms
ROWS = "INSERT INTO aiflow_action (dag_id, run_id, task_id, rule, cause, action, offsets, before, after, at_ms) VALUES "


@contextmanager
def log_of(airflow: Deployment) -> Iterator[Callable[..., None]]:
    """What changes the tables of its log."""
    if not airflow.log_uri().startswith("sqlite:"):
        yield airflow.sql
    else:
        with closing(sqlite3.connect(airflow.home / "aiflow" / "events.db", timeout=30, isolation_level=None)) as db:
            yield lambda statement, *values: db.execute(statement, values)


@pytest.fixture(scope="module", params=DATABASES)
def runs(request: pytest.FixtureRequest, deploy: Deploy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    here = Path(__file__).parent
    dags = Path(copytree(here / "bounds" / "dags", tmp_path_factory.mktemp("dags") / "dags"))
    copy(here / "repairs" / "dags" / "noting.py", dags)
    config = {"dag_processor.bundle_refresh_check_interval": "1", "dag_processor.refresh_interval": "1"}
    made = Runs(deploy(request.param, dags, event_mode=True, config=config), DAG_IDS)
    yield made
    made.client.close()


def purge(airflow: Deployment, *args: str) -> dict[str, int]:
    """The command, with the settings of this Airflow: how many rows of each table went."""
    command = [sys.executable, "-m", "aiflow_ext.cli", "history", "purge", "-o", "json", *args]
    done = subprocess.run(command, env=airflow.env, cwd=airflow.home, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return {row["table"]: row["rows"] for row in json.loads(done.stdout)}


def kept(airflow: Deployment, dag_id: str, run_id: str) -> tuple[int, int]:
    """How many actions and rule states of a run (or of a Dag, with run_id "") there are."""
    of_run = "WHERE dag_id = ? AND run_id = ?"
    counts = (
        airflow.sql(f"SELECT count(*) FROM {table} {of_run}", dag_id, run_id)
        for table in ("aiflow_action", "aiflow_rule_state")
    )
    actions, states = (count[0][0] for count in counts)
    return actions, states


def told(runs: Runs) -> Run:
    """A run that was told of an event, and has ended."""
    run = runs.begin("told")
    run.reach(a="deferred", b="deferred")
    run.send("a")
    run.send("b")
    run.ends()
    run.until(lambda: not runs.airflow.sql("SELECT 1 FROM aiflow_run WHERE run_id = ?", run.run_id), "it is forgotten")
    return run


def ended_before(airflow: Deployment, dag_id: str, run_id: str, days: int) -> None:
    """Let a run have ended some days ago."""
    end = datetime.now(UTC) - timedelta(days=days)
    value = end if airflow.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("postgresql") else f"{end:%F %T.%f}"
    airflow.sql("UPDATE dag_run SET end_date = ? WHERE dag_id = ? AND run_id = ?", value, dag_id, run_id)


def test_what_is_kept_of_a_run_goes_with_it_and_when_it_is_old(runs: Runs) -> None:
    airflow = runs.airflow
    old, new, deleted = told(runs), told(runs), told(runs)
    active = runs.begin("told")
    active.reach(a="deferred")
    active.send("a")
    active.reach(a="success")
    births = [runs.client.publish(Event("birth")) for _ in range(3)]
    born = [f"aiflow__born__{birth}" for birth in births]
    for run_id in born:
        airflow.wait_for_run("born", run_id)
    airflow.wait_for_run("gone", f"aiflow__gone__{births[-1]}")
    runs.client.publish(Event("death"))
    airflow.wait_until(lambda: kept(airflow, "born", "") == (4, 1), what="the rule that stops runs has fired")
    for run in (old, new, deleted):
        assert kept(airflow, "told", run.run_id) == (2, 2)
    assert kept(airflow, "told", active.run_id)[0] == 1
    none = {"aiflow_action": 0, "aiflow_consumer": 0, "aiflow_cursor": 0, "aiflow_rule_state": 0}
    assert purge(airflow, "--older-than", "1d") == none

    airflow.sql("UPDATE aiflow_action SET at_ms = at_ms - ? WHERE dag_id <> 'gone'", 10 * DAYS)
    ended_before(airflow, "told", old.run_id, 10)
    ended_before(airflow, "born", born[0], 10)
    airflow.rest.call("DELETE", f"dags/told/dagRuns/{deleted.run_id}")
    airflow.rest.call("DELETE", f"dags/born/dagRuns/{born[1]}")
    many = [f"('told', '{deleted.run_id}', 'a', 'r', '{n}', 'start', '[]', '', '', 0)" for n in range(2500)]
    airflow.sql((ROWS + ", ".join(many)).replace("before,", '"before",').replace("after,", '"after",'))

    left = {"aiflow_action": 2503, "aiflow_rule_state": 2}  # of what was deleted
    assert purge(airflow, "--dry-run") == left
    assert purge(airflow) == left
    assert kept(airflow, "told", deleted.run_id) == (0, 0)
    assert kept(airflow, "born", "") == (3, 1)
    assert purge(airflow) == {"aiflow_action": 0, "aiflow_rule_state": 0}

    # Of old, of the first that was born, and the one that stopped.
    aged = none | {"aiflow_action": 4, "aiflow_rule_state": 2}
    assert purge(airflow, "--older-than", "9d", "--dry-run") == aged
    assert purge(airflow, "--older-than", "9d") == aged
    assert kept(airflow, "told", old.run_id) == (0, 0)
    assert kept(airflow, "told", new.run_id) == (2, 2)
    assert kept(airflow, "told", active.run_id)[0] == 1  # though it happened long ago
    assert kept(airflow, "born", "") == (1, 1)

    ended_before(airflow, "told", new.run_id, 10)
    airflow.env["AIRFLOW__AIFLOW__HISTORY_DAYS"] = "9"
    airflow.restart("scheduler")  # which looks at once
    airflow.wait_until(lambda: kept(airflow, "told", new.run_id) == (0, 0), what="the scheduler has let it go")
    airflow.wait_until(lambda: "history: 2 rows of aiflow_action are gone" in airflow.log("scheduler"))
    assert kept(airflow, "told", active.run_id)[0] == 1
    active.send("b")  # and its rules know what they knew
    active.ends()
    assert kept(airflow, "told", active.run_id)[0] == 2


def test_what_is_kept_of_a_dag_goes_with_it(runs: Runs) -> None:
    airflow = runs.airflow
    airflow.wait_for_run("born", f"aiflow__born__{runs.client.publish(Event('birth'))}")
    was = kept(airflow, "gone", "")
    assert min(was) > 0
    (airflow.dags / "gone.py").unlink()
    stale = "SELECT is_stale FROM dag WHERE dag_id = 'gone'"
    airflow.wait_until(lambda: airflow.sql(stale)[0][0], what="its file is away")
    airflow.rest.call("DELETE", "dags/gone")
    airflow.wait_for_run("born", f"aiflow__born__{runs.client.publish(Event('birth'))}")
    assert kept(airflow, "gone", "")[0] == was[0]  # its rule does not fire any more
    purge(airflow)
    assert kept(airflow, "gone", "") == (0, 0)
    airflow.wait_for_run("born", f"aiflow__born__{runs.client.publish(Event('birth'))}")
    assert kept(airflow, "gone", "") == (0, 0)


def test_a_task_that_is_cleared_in_an_old_run_waits(runs: Runs) -> None:
    run = told(runs)
    ended_before(runs.airflow, "told", run.run_id, 10)
    body = {"dry_run": False, "only_failed": False, "dag_run_id": run.run_id, "task_ids": ["a"]}
    purge(runs.airflow, "--older-than", "9d")
    runs.airflow.rest.call("POST", "dags/told/clearTaskInstances", body)
    run.reach(a="deferred")
    run.send("a")
    run.ends()


def test_cursors_that_nobody_moves_go(runs: Runs) -> None:
    airflow = runs.airflow
    for name in ("old", "older", "new"):
        runs.client.subscribe("a", resume=name).close()
    with log_of(airflow) as log:
        log("UPDATE aiflow_cursor SET moved_ms = moved_ms - ? WHERE name <> 'new'", 8 * DAYS)
        assert "aiflow_cursor" not in purge(airflow)
        assert purge(airflow, "--older-than", "10d")["aiflow_cursor"] == 0
        log("UPDATE aiflow_cursor SET moved_ms = moved_ms - ? WHERE name = 'older'", 8 * DAYS)
        for dry_run in (["--dry-run"], []):
            assert purge(airflow, "--older-than", "10d", *dry_run)["aiflow_cursor"] == 1
        assert sorted(cursor.name for cursor in runs.client.cursors()) == ["new", "old"]
        log("UPDATE aiflow_cursor SET moved_ms = moved_ms - ? WHERE name = 'new'", 6 * DAYS)
        assert purge(airflow, "--older-than", "1s")["aiflow_cursor"] == 1  # 7 days, at least
    assert [cursor.name for cursor in runs.client.cursors()] == ["new"]


def test_only_the_newest_starts_of_a_task_wait(runs: Runs) -> None:
    run = runs.begin("crowd")
    run.reach(each="deferred")
    run.send("each")
    run.until(lambda: run.lines("each"), "it runs")
    offsets = runs.client.publish_many([Event("each", context=run.context)] * 10_050)
    fired = "SELECT count(*) FROM aiflow_action WHERE run_id = ?"
    run.until(lambda: runs.airflow.sql(fired, run.run_id) == [(10_051,)], "all are heard")
    stored = "SELECT pending FROM aiflow_rule_state WHERE run_id = ? AND task_id = 'each'"
    pending = json.loads(runs.airflow.sql(stored, run.run_id)[0][0])
    assert [start["events"] for start in pending] == [[offset] for offset in offsets[50:]]
    lines = [line for line in runs.airflow.log("scheduler").splitlines() if "too many starts wait" in line]
    assert sum(int(found[1]) for line in lines if (found := re.search(r"\bstarts=(\d+)", line))) == 50
    assert len(lines) <= 2  # not one for each
    run.send("stop")
    run.until(lambda: run.lines("each", "end"), "it ends")


def test_a_start_carries_the_newest_events(runs: Runs) -> None:
    run = runs.begin("crowd")
    run.reach(many="deferred", big="deferred")
    first = [run.send("many"), run.send("big")]
    run.until(lambda: run.lines("many") and run.lines("big"), "they run")
    many = runs.client.publish_many([Event("many", context=run.context)] * 1100)
    big = [run.send("big", "x" * 600_000) for _ in range(3)]
    fired = "SELECT count(*) FROM aiflow_action WHERE run_id = ?"
    run.until(lambda: runs.airflow.sql(fired, run.run_id) == [(1105,)], "all are heard")
    run.open("many")
    run.open("big")
    run.until(lambda: len(run.lines("many", "end")) == 2 and len(run.lines("big", "end")) == 2, "started once more")
    assert run.offsets("many") == [[first[0]], many[-1000:]]
    assert run.offsets("big") == [[first[1]], big[-1:]]
    lines = [line for line in runs.airflow.log("scheduler").splitlines() if "does not carry all its events" in line]
    said = sorted(re.findall(r"\b(?:carried|of)=(\d+)", line) for line in lines if run.run_id in line)
    assert said == [["1", "3"], ["1000", "1100"]]
    run.send("each")
    run.open("each")
    run.ends()


def test_a_run_carries_the_newest_events(runs: Runs) -> None:
    *_, offset = [runs.client.publish(Event("three", "x" * 600_000)) for _ in range(3)]
    run = Run(runs, "three", f"aiflow__three__{offset}", None)
    run.ends()
    conf = runs.airflow.rest.run("three", run.run_id)["conf"]["aiflow"]
    assert ([event["offset"] for event in conf["events"]], conf["left_out"]) == ([offset], 2)
    assert run.offsets("a") == [[offset]]


def test_the_scheduler_remembers_what_is_there(runs: Runs) -> None:
    command = [sys.executable, str(Path(__file__).parent / "bounds" / "remembered.py")]
    done = subprocess.run(command, env=runs.airflow.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_airflow_s_own_clean_up_leaves_goes(runs: Runs) -> None:
    """The last one: it deletes the runs of all Dags."""
    airflow = runs.airflow
    run = told(runs)
    told(runs)  # it keeps the newest run of a Dag
    now = f"{datetime.now(UTC) + timedelta(days=1):%F}"
    airflow.run_airflow(
        "db", "clean", "--tables", "dag_run", "--clean-before-timestamp", now, "--yes", "--skip-archive"
    )
    assert not airflow.sql("SELECT 1 FROM dag_run WHERE run_id = ?", run.run_id)
    assert kept(airflow, "told", run.run_id) == (2, 2)
    purge(airflow)
    assert kept(airflow, "told", run.run_id) == (0, 0)


def test_a_burst_is_acted_on_in_slices(runs: Runs) -> None:
    """Of 200 actions each: in between Airflow schedules, and its heartbeat is told."""
    of_rule = "SELECT count(*) FROM aiflow_action WHERE dag_id = 'born' AND rule = 'born'"
    before = runs.airflow.sql(of_rule)[0][0]
    runs.client.publish_many([Event("birth")] * 220)
    runs.airflow.wait_until(lambda: runs.airflow.sql(of_rule)[0][0] == before + 220, what="all are born")
    assert max(runs.airflow.sql(f"{of_rule} GROUP BY at_ms"))[0] <= 200
    over = "SELECT count(*) FROM dag_run WHERE dag_id = 'born' AND state IN ('queued', 'running')"
    runs.airflow.wait_until(lambda: runs.airflow.sql(over) == [(0,)], what="they are over")
