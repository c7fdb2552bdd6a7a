"""Rules in a real Airflow: what docs/rules.md says of tasks and runs, a test for each sentence."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from airflows import Deployment

from aiflow_ext import Event, EventClient

DAG_IDS = (
    "waits", "while_once", "while_each", "while_ignore", "stops", "deaf", "restarts", "statuses", "periods",
    "conditions", "retries", "chains", "templates", "made", "first",
)  # fmt: skip


class Runs:
    """An Airflow in event mode, its event client, and runs that do not hear each other."""

    def __init__(self, airflow: Deployment, dag_ids: Sequence[str] = DAG_IDS) -> None:
        self.airflow = airflow
        self.client = EventClient(f"ipc://{airflow.home}/aiflow/broker.sock", sender="test")
        for dag_id in dag_ids:
            airflow.wait_for_dag(dag_id)
            airflow.rest.unpause(dag_id)

    def begin(self, dag_id: str) -> Run:
        """Start a run that hears only the events we send through it."""
        context = uuid.uuid4().hex[:8]
        run_id = self.airflow.rest.trigger(dag_id, {"aiflow": {"context": context}}, f"t_{context}")
        return Run(self, dag_id, run_id, context)


class Run:
    """One Dag run of a test."""

    def __init__(self, runs: Runs, dag_id: str, run_id: str, context: str | None) -> None:
        self.runs, self.dag_id, self.run_id, self.context = runs, dag_id, run_id, context

    def send(self, key: str, value: str = "") -> int:
        """Publish an event that only this run hears; its offset."""
        return self.runs.client.publish(Event(key, value, context=self.context))

    def until(self, predicate: Callable[[], Any], what: str) -> Any:
        """Wait for something to be so."""
        return self.runs.airflow.wait_until(predicate, what=f"{self.dag_id} {self.run_id}: {what}")

    def states(self) -> dict[str, str | None]:
        """Task id -> state."""
        return self.runs.airflow.states(self.dag_id, self.run_id)

    def reach(self, **wanted: str | None) -> None:
        """Wait until tasks are in these states."""
        self.until(lambda: wanted.items() <= self.states().items(), f"{wanted}")

    def lines(self, task: str, what: str = "start") -> list[dict[str, Any]]:
        """What the starts of a task wrote down."""
        path = self.runs.airflow.home / "starts" / self.dag_id / f"{self.run_id}.jsonl"
        text = path.read_text() if path.exists() else ""
        return [line for line in map(json.loads, text.splitlines()) if line["task"] == task and line["what"] == what]

    def offsets(self, task: str) -> list[list[int]]:
        """For each start of a task, the offsets of the events it knows of."""
        return [[e[2] for e in line["events"]] for line in self.lines(task)]

    def log(self, task: str, number: int = 1) -> str:
        """The log of a try of a task."""
        folder = self.runs.airflow.home / "logs" / "tasks" / f"dag_id={self.dag_id}" / f"run_id={self.run_id}"
        return (folder / f"task_id={task}" / f"attempt={number}.log").read_text()

    def open(self, name: str) -> None:
        """Let tasks pass that wait for the file."""
        (self.runs.airflow.home / f"{self.run_id}.{name}").touch()

    def close(self, name: str) -> None:
        """And no longer."""
        (self.runs.airflow.home / f"{self.run_id}.{name}").unlink()

    def ends(self, state: str = "success") -> None:
        """Wait for the run's end."""
        self.runs.airflow.wait_for_run(self.dag_id, self.run_id, state)

    def actions(self) -> list[tuple[Any, ...]]:
        """What our table says was done: task, rule, action, offsets."""
        rows = self.runs.airflow.sql(
            "SELECT task_id, rule, action, offsets FROM aiflow_action WHERE dag_id = ? AND run_id = ? ORDER BY id",
            self.dag_id,
            self.run_id,
        )
        return [(task, rule, action, json.loads(offsets)) for task, rule, action, offsets in rows]


@pytest.fixture(scope="module")
def runs(shared: Deployment) -> Iterator[Runs]:
    made = Runs(shared)
    yield made
    made.client.close()


@pytest.mark.core
def test_a_task_with_a_start_rule_waits_deferred(runs: Runs) -> None:
    run = runs.begin("waits")
    run.reach(free="deferred", up="running", a=None, last=None)
    assert run.lines("free") == []
    offset = run.send("go", "v")
    run.until(lambda: run.lines("free"), "started")
    assert [line["events"] for line in run.lines("free")] == [[["go", "v", offset]]]
    said = f"started by rule start_1: go=v (offset {offset})"
    run.until(lambda: said in run.log("free"), "its log says why")  # it is written a moment later
    run.reach(free="success", last="success")  # what follows it runs as ever
    assert run.states()["a"] is None  # its upstream must hold, too
    run.open("up")
    run.until(lambda: run.lines("a"), "started for the event that came before its upstream was done")
    assert run.offsets("a") == [[offset]]
    run.ends()


@pytest.mark.core
def test_the_first_rule_that_fires_decides(runs: Runs) -> None:
    run = runs.begin("first")
    run.reach(starts="deferred", ends="deferred")
    offset = run.send("x")
    run.ends()
    assert run.states() == {"starts": "success", "ends": "skipped"}
    assert sorted(run.actions()) == [("ends", "stop_1", "stop", [offset]), ("starts", "start_1", "start", [offset])]


@pytest.mark.core
def test_while_running_once_is_one_more_start_with_all_events(runs: Runs) -> None:
    run = runs.begin("while_once")
    run.reach(a="deferred")
    first = run.send("go", "1")
    run.until(lambda: run.lines("a"), "started")
    more = [run.send("go", str(n)) for n in (2, 3, 4)]
    run.until(lambda: len(run.actions()) == 4, "the three were heard while it runs")
    run.open("a")
    run.until(lambda: len(run.lines("a", "end")) == 2, "started once more")
    assert run.offsets("a") == [[first], more]
    run.open("keep")
    run.ends()
    assert len(run.lines("a")) == 2


@pytest.mark.core
def test_while_running_each_is_one_start_per_event_in_order(runs: Runs) -> None:
    run = runs.begin("while_each")
    run.reach(a="deferred")
    offsets = [run.send("go", str(n)) for n in range(3)]
    run.open("a")
    run.until(lambda: len(run.lines("a", "end")) == 3, "started three times")
    assert run.offsets("a") == [[offset] for offset in offsets]
    assert [line["try"] for line in run.lines("a")] == [1, 2, 3]  # each start is a try, with its history
    history = runs.airflow.sql(
        "SELECT count(*) FROM task_instance_history WHERE dag_id = ? AND run_id = ? AND task_id = 'a'",
        run.dag_id,
        run.run_id,
    )
    assert history == [(2,)]
    run.open("keep")
    run.ends()


def test_while_running_ignore_forgets_the_event(runs: Runs) -> None:
    run = runs.begin("while_ignore")
    run.reach(a="deferred")
    first = run.send("go")
    run.until(lambda: run.lines("a"), "started")
    run.send("go")
    run.until(lambda: len(run.actions()) == 2, "heard")
    run.open("a")
    run.until(lambda: run.lines("a", "end"), "ended")
    run.open("keep")
    run.ends()
    assert run.offsets("a") == [[first]]


@pytest.mark.core
def test_stop_asks_first_and_ends_in_success(runs: Runs) -> None:
    run = runs.begin("stops")
    run.until(lambda: run.lines("heard") and run.lines("stream") and run.lines("failed"), "all run")
    run.reach(parked="deferred")
    offset = run.send("stop")
    run.ends()
    assert run.states() == {"heard": "success", "parked": "skipped", "failed": "skipped", "stream": "success"}
    assert f"stopped by rule stop_1 (offset {offset})" in run.log("heard")
    assert f"the subscription ends: stopped by rule stop_1 (offset {offset})" in run.log("stream")
    assert run.lines("heard", "end")  # they ended by themselves
    assert run.lines("stream", "end")
    lines = [line for line in runs.airflow.log("scheduler").splitlines() if run.run_id in line]
    assert any("aiflow: a rule fired" in line and "key=" in line for line in lines)
    assert sum("aiflow: a task has stopped" in line for line in lines) == 3  # heard, failed and stream


def test_stop_and_restart_of_a_task_that_does_not_listen(runs: Runs) -> None:
    run = runs.begin("deaf")
    run.reach(restarted="deferred")
    run.until(lambda: run.lines("stopped"), "runs")
    run.send("again")
    run.until(lambda: run.lines("restarted"), "runs")
    run.send("again")
    run.until(lambda: len(run.lines("restarted")) == 2, "was restarted")
    run.send("stop")
    run.ends()
    assert run.states() == {"stopped": "success", "restarted": "success"}
    assert len(run.lines("restarted")) == 2


@pytest.mark.core
def test_restart_stops_and_starts_and_is_no_failure(runs: Runs) -> None:
    run = runs.begin("restarts")
    run.reach(serve="deferred")
    offsets = []
    for n in range(3):
        offsets.append(run.send("version", str(n)))
        run.until(lambda n=n: len(run.lines("serve")) == n + 1, "runs with this version")
    assert run.offsets("serve") == [[offset] for offset in offsets]
    ti = runs.airflow.rest.tasks(run.dag_id, run.run_id)["serve"]
    assert (ti["try_number"], ti["max_tries"]) == (3, 2)  # no retry is used up
    run.send("stop")
    run.ends()


@pytest.mark.core
def test_status_of_a_task_of_the_run(runs: Runs) -> None:
    run = runs.begin("statuses")
    run.reach(on_running="success", on_quick="success", after="deferred")
    assert run.states()["a"] == "running"
    run.send("go")
    run.open("a")
    run.ends()
    told = runs.client.list("statuses.quick", namespace="airflow", sender=run.run_id)
    assert [e.value for e in told] == ["scheduled", "queued", "running", "success"]  # each once, none skipped


def test_a_period_restarts_its_task(runs: Runs) -> None:
    run = runs.begin("periods")
    run.until(lambda: len(run.lines("tick")) >= 3, "three periods")
    run.open("keep")
    assert {action for _, _, action, _ in run.actions()} == {"restart"}


def test_all_of_and_count(runs: Runs) -> None:
    run = runs.begin("conditions")
    run.reach(both="deferred", batch="deferred")
    run.send("x", "0")
    y = run.send("y")
    n = [run.send("n") for _ in range(4)]
    x = run.send("x", "1")
    run.reach(both="success", batch="success")
    assert run.offsets("both") == [[y, x]]
    assert run.offsets("batch") == [n[:3]]
    run.open("keep")
    run.ends()


@pytest.mark.core
def test_a_retry_starts_with_the_same_events(runs: Runs) -> None:
    run = runs.begin("retries")
    run.reach(flaky="deferred")
    offset = run.send("go")
    run.ends()
    assert run.offsets("flaky") == [[offset], [offset]]
    assert [line["try"] for line in run.lines("flaky")] == [1, 2]


def test_downstream_runs_again_where_it_is_asked_for(runs: Runs) -> None:
    run = runs.begin("chains")
    run.reach(head="deferred", tail=None)
    for n in (1, 2):
        run.send("go")
        run.until(lambda n=n: len(run.lines("head")) == n and len(run.lines("tail")) == n, f"{n} times")
        run.reach(tail="success")
    run.open("keep")
    run.ends()


def test_any_operator_and_its_templates(runs: Runs) -> None:
    run = runs.begin("templates")
    run.reach(shell="deferred")
    run.send("go", "4711")
    run.ends()
    assert (runs.airflow.home / f"{run.run_id}.value").read_text() == "4711\n"


@pytest.mark.core
def test_events_reach_runs_that_were_there_and_have_their_context(runs: Runs) -> None:
    runs.client.publish(Event("go"))  # before the run
    run, other = runs.begin("templates"), runs.begin("templates")
    run.reach(shell="deferred")
    other.reach(shell="deferred")
    other.send("go", "theirs")
    other.ends()
    assert run.states() == {"shell": "deferred"}
    offset = runs.client.publish(Event("go", "everybodys"))  # no context: reaches all
    run.ends()
    assert [o for *_, o in run.actions()] == [[offset]]
    assert (runs.airflow.home / f"{run.run_id}.value").read_text() == "everybodys\n"


@pytest.mark.core
def test_an_event_makes_and_ends_runs_of_a_dag(runs: Runs) -> None:
    context = uuid.uuid4().hex[:8]
    offset = runs.client.publish(Event("make", "v", context=context))
    run = Run(runs, "made", f"aiflow__make__{offset}", context)
    run.until(lambda: run.lines("a"), "runs")
    made = runs.airflow.rest.run("made", run.run_id)
    event = made["conf"]["aiflow"]["event"]
    assert (event["key"], event["value"], event["offset"]) == ("make", "v", offset)
    assert made["run_type"] == "operator_triggered"  # not manual
    assert runs.airflow.rest.get("dags/made")["timetable_summary"] == "make: event('make')"
    assert [line["events"] for line in run.lines("a")] == [[["make", "v", offset]]]  # of its run
    run.send("unmake")
    run.ends()
    run.until(lambda: run.lines("a", "end"), "its task was asked to stop")


def test_a_wrong_rule_is_an_import_error_that_says_what_to_write(runs: Runs) -> None:
    errors = runs.airflow.wait_until(runs.airflow.rest.import_errors)
    text = next(e["stack_trace"] for e in errors if e["filename"].endswith("wrong.py"))
    assert "'b'" in text


@pytest.mark.core
def test_a_native_dag_runs_unchanged(runs: Runs) -> None:
    run_id = runs.airflow.run_dag("native")
    assert runs.airflow.rest.run_state("native", run_id) == "success"


def test_the_log_says_which_runner_runs_and_why(runs: Runs) -> None:
    assert "aiflow: EventSchedulerJobRunner runs: [aiflow] event_mode is on" in runs.airflow.log("scheduler")
    assert Path(runs.airflow.home / "aiflow" / "broker.sock").stat().st_mode & 0o777 == 0o600
