"""Rules beside what else Airflow has: branches, queued runs, limits, paused Dags, teardowns, listeners."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import pytest
from airflows import Deployment

from aiflow_ext import Event
from react.test_rules import Run, Runs

DAG_IDS = (
    "branched",
    "rejoined",
    "queued",
    "empty",
    "limited",
    "closed",
    "torn",
    "kept",
    "tries",
    "sensed",
    "returned",
)


@pytest.fixture(scope="module")
def runs(shared: Deployment) -> Iterator[Runs]:
    shared.rest.call("POST", "pools", {"name": "narrow", "slots": 1, "include_deferred": True})
    made = Runs(shared, DAG_IDS)
    yield made
    made.client.close()


def refused(runs: Runs, run: Run) -> list[str]:
    """What the log says of starts that wait."""
    lines = runs.airflow.log("scheduler").splitlines()
    return [line for line in lines if "a start waits: the upstream" in line and run.run_id in line]


def test_what_a_branch_skipped_stays_skipped(runs: Runs) -> None:
    early, late = runs.begin("branched"), runs.begin("branched")
    for run in (early, late):
        run.reach(choose="running", circuit="running")
    early.send("go")
    for run in (early, late):
        run.open("choose")
        run.reach(right="skipped", cut="skipped", left="success", choose="success", circuit="success")
    late.send("go")
    for run in (early, late):
        run.until(lambda run=run: len(run.actions()) == 2, "both rules fired")
        run.until(lambda run=run: len(refused(runs, run)) == 2, "it says why")
        run.open("keep")
        run.ends()
        assert (run.lines("right"), run.lines("cut")) == ([], [])
        assert (run.states()["right"], run.states()["cut"]) == ("skipped", "skipped")
    assert "XCom result from parent task choose" in runs.airflow.log("scheduler")


def test_a_start_that_is_refused_changes_nothing(runs: Runs) -> None:
    """A short circuit is run again, and says no this time: what has run below it has, as Airflow leaves it."""
    run = runs.begin("rejoined")
    for name in ("open", "through"):
        run.open(name)
    run.reach(below="deferred")
    run.send("go")
    run.reach(below="success")
    run.close("through")
    body = {"dry_run": False, "only_failed": False, "dag_run_id": run.run_id, "task_ids": ["through"]}
    runs.airflow.rest.call("POST", "dags/rejoined/clearTaskInstances", body)
    run.until(lambda: runs.airflow.rest.tasks("rejoined", run.run_id)["through"]["try_number"] == 2, "cleared")
    run.reach(through="success", below="success")
    offset = run.send("go")
    run.until(lambda: len(run.actions()) == 2, "heard")
    assert run.actions()[1] == ("below", "start_1", "start", [offset])
    assert run.states()["below"] == "success"
    assert refused(runs, run)
    run.open("keep")
    run.ends()
    assert len(run.lines("below")) == 1
    assert run.states()["below"] == "success"


def test_a_stop_reaches_a_run_that_is_queued(runs: Runs) -> None:
    first, second = runs.begin("queued"), runs.begin("queued")
    first.until(lambda: first.lines("train"), "runs")
    assert runs.airflow.rest.run_state("queued", second.run_id) == "queued"
    runs.client.publish(Event("end"))
    first.ends()
    second.ends()
    assert second.states() == {"train": "skipped"}
    assert second.lines("train") == []


def test_an_empty_operator_waits(runs: Runs) -> None:
    run = runs.begin("empty")
    run.reach(wait="deferred", after=None)
    run.send("go")
    run.ends()
    assert run.states() == {"wait": "success", "after": "success"}


def test_who_waits_takes_no_slot(runs: Runs) -> None:
    """Two runs wait, each place is for one: the one that is started runs."""
    run, other = runs.begin("limited"), runs.begin("limited")
    waiting = {"of_dag": "deferred", "of_run": "deferred", "pooled": "deferred"}
    for each in (run, other):
        each.reach(**waiting)
    run.send("go")
    run.ends()
    assert other.states() == waiting
    other.send("go")
    other.ends()


@pytest.mark.parametrize("why", ["paused", "stale"])
def test_a_dag_that_is_paused_or_away_has_its_runs_later(runs: Runs, why: str) -> None:
    airflow = runs.airflow
    path, away = airflow.dags / "closed.py", airflow.dags / "closed.away"
    if why == "paused":
        airflow.rest.pause("closed")
    else:
        path.rename(away)
        airflow.wait_until(lambda: airflow.sql("SELECT is_stale FROM dag WHERE dag_id = 'closed'") == [(True,)])
    contexts = [uuid.uuid4().hex[:8] for _ in range(3)]
    offsets = [runs.client.publish(Event("open", context=context)) for context in contexts]
    done = "SELECT after FROM aiflow_action WHERE dag_id = 'closed' AND cause = ?"
    for offset in offsets:
        airflow.wait_until(lambda offset=offset: airflow.sql(done, str(offset)) == [("kept",)])
    shut = runs.client.publish(Event("shut", context=contexts[1]))
    airflow.wait_until(lambda: airflow.sql(done, str(shut)))
    made = "SELECT run_id FROM dag_run WHERE dag_id = 'closed' AND run_id = ?"
    assert not [offset for offset in offsets if airflow.sql(made, f"aiflow__open__{offset}")]
    if why == "paused":
        airflow.rest.unpause("closed")
    else:
        away.rename(path)
    for n in (0, 2):
        Run(runs, "closed", f"aiflow__open__{offsets[n]}", contexts[n]).ends()
    assert not airflow.sql(made, f"aiflow__open__{offsets[1]}")  # was stopped before it was made


def told(runs: Runs, run: Run) -> set[tuple[str, str]]:
    """What listeners were told of a run: what, and of which task."""
    path = runs.airflow.home / "told.jsonl"
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return {(what, task_id) for what, run_id, task_id in lines if run_id == run.run_id}


def test_a_stop_is_what_a_mark_in_the_ui_is(runs: Runs) -> None:
    run = runs.begin("torn")
    run.until(lambda: run.lines("work") and run.lines("marked"), "both run")
    run.send("mark")
    run.reach(marked="skipped")
    run.until(lambda: ("skipped", "marked") in told(runs, run), "its listeners know")
    run.send("tear")
    run.until(lambda: run.lines("down"), "the teardown runs")
    assert runs.airflow.rest.run_state("torn", run.run_id) == "running"
    run.until(lambda: ("success", "work") in told(runs, run), "the listeners know")
    run.send("tear")  # the teardown that runs is left alone
    tears = "SELECT count(*) FROM aiflow_action WHERE dag_id = 'torn' AND run_id = ''"
    run.until(lambda: runs.airflow.sql(tears) == [(2,)], "heard again")
    run.open("down")
    run.ends()
    assert run.lines("down", "end")
    assert "stopped by" not in run.log("down")


def test_what_waits_for_its_rules_has_not_begun_when_its_run_is_stopped(runs: Runs) -> None:
    """It is skipped; a teardown runs, and need not wait for its event."""
    run = runs.begin("kept")
    run.reach(waits="deferred", works="running", ran="deferred")
    first = run.send("go")
    run.reach(ran="success")
    offset = run.send("tear")
    run.ends()
    assert run.states() == {
        "up": "success",
        "waits": "skipped",
        "ran": "success",
        "works": "success",
        "down": "success",
    }
    assert run.offsets("down") == [[offset]]
    assert run.lines("waits") == []
    assert f"started by rule stop_1: tear= (offset {offset})" in run.log("down")
    body = {"dry_run": False, "only_failed": False, "dag_run_id": run.run_id, "task_ids": ["ran"]}
    runs.airflow.rest.call("POST", "dags/kept/clearTaskInstances", body)
    run.until(lambda: len(run.lines("ran")) == 2, "a clear runs it again")
    assert run.offsets("ran") == [[first]] * 2
    run.ends()


def test_a_further_try_has_times_of_its_own(runs: Runs) -> None:
    run = runs.begin("tries")
    run.reach(again="deferred")
    run.open("again")
    run.send("go")
    run.reach(again="success")
    run.close("again")
    run.send("go")
    run.until(lambda: len(run.lines("again")) == 2, "the second try runs")
    ti = runs.airflow.rest.tasks("tries", run.run_id)["again"]
    assert (ti["duration"], ti["end_date"]) == (None, None)
    assert ti["start_date"] >= ti["queued_when"]
    tries = runs.airflow.rest.tries("tries", run.run_id, "again")
    assert all(one["start_date"] >= one["queued_when"] for one in tries), tries
    run.open("again")
    run.open("keep")
    run.ends()


def test_a_sensor_that_a_rule_starts_is_what_it_is_without(runs: Runs) -> None:
    """With soft_fail Airflow skips a sensor that goes on after a deferral for whatever it raises."""
    run = runs.begin("sensed")
    run.reach(there="deferred", wrong="deferred")
    offset = run.send("go")
    run.until(lambda: len(run.lines("there")) > 1, "it looks again")
    run.open("there")
    run.ends("failed")
    states = run.states()
    assert (states["there"], states["there_"]) == ("success", "success")
    assert states["wrong"] == states["wrong_"]
    assert {tuple(offsets) for offsets in run.offsets("there")} == {(offset,)}


def test_a_retry_and_a_clear_do_not_see_what_the_task_returned_before(runs: Runs) -> None:
    run = runs.begin("returned")
    run.reach(pushes="deferred")
    run.send("go")
    run.ends()
    body = {"dry_run": False, "only_failed": False, "dag_run_id": run.run_id, "task_ids": ["pushes"]}
    runs.airflow.rest.call("POST", "dags/returned/clearTaskInstances", body)
    run.until(lambda: len(run.lines("pushes")) == 3, "it runs again")
    run.ends()
    assert [line["before"] for line in run.lines("pushes")] == [None, None, None]
