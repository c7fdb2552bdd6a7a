"""What goes wrong in runs that wait for events, and what people do: clear, edit, trigger with any conf."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from airflows import DATABASES, Deploy
from rest import RestError

from aiflow_ext import Event
from react.test_rules import Run, Runs

DAG_IDS = ("frozen", "early", "heard", "retried", "added", "cleared", "shrinks", "elsewhere")
EDITED = """
from datetime import timedelta
from airflow.sdk import DAG
from noting import fails_once, hold, mark
from aiflow_ext import event, restart_on, start_on, stop_on

with DAG({dag_id!r}, schedule=None):
    {body}
"""


class Edited(Runs):
    """An Airflow in event mode whose Dag files the tests edit.  A pass examines two runs, so that two can starve it."""

    def write(self, **bodies: str) -> None:
        """Write the files of Dags, and wait until Airflow has them."""
        before = {dag_id: self._hashes(dag_id) for dag_id in bodies}
        for dag_id, body in bodies.items():
            text = EDITED.format(dag_id=dag_id, body="\n    ".join(body.split("; ")))
            (self.airflow.dags / f"{dag_id}.py").write_text(text)
        for dag_id in bodies:
            what = f"the new {dag_id}"
            self.airflow.wait_until(lambda dag_id=dag_id: self._hashes(dag_id) != before[dag_id], what=what)
            self.airflow.rest.unpause(dag_id)

    def _hashes(self, dag_id: str) -> list[tuple[Any, ...]]:
        return self.airflow.sql("SELECT dag_hash FROM serialized_dag WHERE dag_id = ? ORDER BY created_at", dag_id)

    def clear(self, run: Run, *task_ids: str, **more: Any) -> None:
        """Clear tasks of a run, or all of it, as a user does."""
        body = {"dry_run": False, "only_failed": False, **more}
        if task_ids:
            body |= {"dag_run_id": run.run_id, "task_ids": task_ids}
        path = "clearTaskInstances" if task_ids else f"dagRuns/{run.run_id}/clear"
        self.airflow.rest.call("POST", f"dags/{run.dag_id}/{path}", body)


@pytest.fixture(scope="module", params=DATABASES)
def runs(request: pytest.FixtureRequest, deploy: Deploy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edited]:
    dags = Path(copytree(Path(__file__).parent / "repairs" / "dags", tmp_path_factory.mktemp("dags") / "dags"))
    airflow = deploy(
        request.param,
        dags,
        event_mode=True,
        config={
            "aiflow.stop_grace_sec": "60",
            "core.min_serialized_dag_update_interval": "0",
            "dag_processor.bundle_refresh_check_interval": "1",
            "scheduler.max_dagruns_per_loop_to_schedule": "2",
        },
    )
    made = Edited(airflow, DAG_IDS)
    yield made
    made.client.close()


def test_a_pending_start_holds_back_its_runs_end_alone(runs: Edited) -> None:
    frozen = [runs.begin("frozen") for _ in range(2)]
    for run in frozen:
        run.reach(a="deferred")
        run.send("a")
        run.open("a")
    for run in frozen:
        run.reach(a="success", b="deferred", first="running")
        run.send("b")
        run.reach(b="success")
        run.close("a")
        run.send("a")
        run.until(lambda run=run: len(run.lines("a")) == 2, "a runs again")
        run.send("b")
        run.until(lambda run=run: len(run.actions()) == 4, "the start of b is pending")
    other = runs.begin("heard")  # two runs with pending starts starve no other run
    other.reach(a="deferred")
    other.send("go")
    other.ends()
    for run in frozen:
        run.open("first")
        run.reach(second="success", a="running", b="success")
        assert len(run.lines("b")) == 1
        run.open("a")
        run.ends()
        assert len(run.lines("b")) == 2  # the pending start was made before the run ended


def test_a_start_whose_upstream_failed_waits_for_a_clear(runs: Edited) -> None:
    run = runs.begin("early")
    run.reach(up="running", keep="running")
    offset = run.send("go")
    run.until(run.actions, "the start is pending")
    run.open("up")
    run.reach(up="failed", a="upstream_failed")
    runs.clear(run, "up", include_downstream=True)
    run.until(lambda: run.lines("a"), "started for the event that came before")
    assert run.offsets("a") == [[offset]]
    run.open("keep")
    run.ends()

    run = runs.begin("early")
    run.reach(up="running", keep="running")
    run.send("go")
    run.until(run.actions, "the start is pending")
    run.open("up")
    run.reach(a="upstream_failed")
    run.open("keep")
    run.reach(last="success")  # the rest of the run goes on
    run.ends("failed")  # and a start that cannot be made does not keep it
    assert run.lines("a") == []


def test_what_the_conf_of_one_run_says_stops_no_other(runs: Edited) -> None:
    other = runs.begin("heard")
    other.reach(a="deferred")
    since = [{"since": value} for value in (None, "abc", [], 10**30, -1, float("inf"), 10**18)]
    context = [{"context": value} for value in ({"a": 1}, "x" * 10**6, "a\0b", "\ud800", 17, [])]
    made, refused = [], set()
    for conf in [*since, *context, "text", [1]]:
        try:
            run_id = runs.airflow.rest.trigger("heard", {"aiflow": conf}, f"conf_{uuid.uuid4().hex[:8]}")
        except RestError:  # by Airflow itself
            continue
        made.append(Run(runs, "heard", run_id, None))  # type: ignore[arg-type]
        if conf in context:
            refused.add(run_id)
    for run in made:
        run.reach(a="deferred")
    other.send("go")
    other.ends()
    offset = runs.client.publish(Event("go"))
    for run in made:  # Airflow itself cannot give every one of these confs to a task
        assert run.until(run.actions, "heard") == [("a", "start_1", "start", [offset])]
    assert len(made) > 10
    assert runs.airflow.alive("scheduler")
    lines = [line for line in runs.airflow.log("scheduler").splitlines() if "context in a run's conf is not" in line]
    assert len(lines) == len(refused)
    assert all(any(run_id in line for line in lines) for run_id in refused)


def test_a_run_that_cannot_be_read_is_set_aside(runs: Edited) -> None:
    broken, other = runs.begin("heard"), runs.begin("heard")
    known = "SELECT seen FROM aiflow_run WHERE run_id = ?"
    for run in (broken, other):  # known, and not written any more
        run.until(lambda run=run: "deferred" in str(runs.airflow.sql(known, run.run_id)), "is known")
    runs.airflow.sql("UPDATE aiflow_run SET seen = '{' WHERE run_id = ?", broken.run_id)
    other.send("go")
    other.ends()
    assert broken.states() == {"a": "deferred"}
    assert runs.airflow.log("scheduler").count("aiflow: a run is set aside") == 1
    runs.airflow.sql("UPDATE aiflow_run SET seen = '{}' WHERE run_id = ?", broken.run_id)
    runs.airflow.wait_until(lambda: broken.send("go") and broken.lines("a"), what="it is tried again", poll=5)
    broken.ends()


def test_an_event_during_a_retry_is_a_further_start(runs: Edited) -> None:
    run = runs.begin("retried")
    run.reach(once="deferred", each="deferred")
    first = run.send("go", "1")
    run.reach(once="up_for_retry", each="up_for_retry")
    second = run.send("go", "2")
    run.ends()
    for task in ("once", "each"):
        assert run.offsets(task) == [[first], [first], [second]]


def test_a_retry_also_has_what_came_before_its_first_try_began(runs: Edited) -> None:
    runs.airflow.rest.call("POST", "pools", {"name": "one", "slots": 1})
    run = runs.begin("added")
    run.reach(r="deferred", full="running")
    offsets = [run.send("go")]
    run.reach(r="scheduled")
    offsets.append(run.send("go"))
    run.until(lambda: len(run.actions()) == 2, "the second is added")
    run.open("full")
    run.ends()
    assert run.offsets("r") == [offsets, offsets]


def test_what_an_edit_leaves(runs: Edited) -> None:
    flaky = "fails_once.override(task_id='f', retries=2, retry_delay=timedelta(seconds=1))('f', deaf=True)"
    retry = f"f = {flaky}; start_on(f, event('go'))"
    stop = f"f = {flaky}; stop_on(f, event('stop'){{}})"
    each = "f = hold.override(task_id='f')('f'); start_on(f, event('go'), while_running='each'{})"
    runs.write(retry_edited=retry, stop_edited=stop.format(", name='end'"), each_edited=each.format(", name='again'"))
    retried, stopped, each_time = (runs.begin(dag_id) for dag_id in ("retry_edited", "stop_edited", "each_edited"))
    retried.reach(f="deferred")
    each_time.reach(f="deferred")
    first = retried.send("go")
    offsets = [each_time.send("go") for _ in range(4)]
    for run in (retried, stopped, each_time):
        run.until(lambda run=run: run.lines("f"), "started")
    stopped.send("stop")
    stopped.until(stopped.actions, "asked to stop")
    each_time.until(lambda: len(each_time.actions()) == 4, "pending")

    runs.write(
        retry_edited=f"{retry}; stop_on(f, event('stop'))", stop_edited=stop.format(""), each_edited=each.format("")
    )
    for run in (retried, stopped, each_time):
        run.open("f")
        run.ends()
    assert retried.offsets("f") == [[first], [first]]
    assert stopped.offsets("f") == [[]]  # no retry
    assert each_time.offsets("f") == [[offset] for offset in offsets]
    assert "aiflow: the rules of a task were changed, they begin anew" in runs.airflow.log("scheduler")


def test_a_task_without_rules_any_more_is_a_plain_one(runs: Edited) -> None:
    plain = "f = mark.override(task_id='f')(); g = mark.override(task_id='g')()"
    gone = "h = mark.override(task_id='h')(); start_on(h, event('go'))"
    runs.write(rules_removed=f"{plain}; start_on(f, event('go')); start_on(g, event('go')); {gone}")
    run = runs.begin("rules_removed")
    run.reach(f="deferred", g="deferred", h="deferred")
    runs.write(rules_removed=f"{plain}; start_on(g, event('go'))")
    run.reach(f="success", g="deferred", h="removed")
    runs.write(rules_removed=plain)
    run.ends()
    assert [line["try"] for line in run.lines("f") + run.lines("g")] == [1, 1]


def test_a_task_that_was_mapped_and_has_rules_now_goes_on_without_an_event(runs: Edited) -> None:
    first = "u = hold.override(task_id='u')('u')"
    runs.write(unmapped=f"{first}; u >> mark.override(task_id='w').partial().expand_kwargs([{{}}, {{}}])")
    run = runs.begin("unmapped")
    run.reach(u="running")
    runs.write(unmapped=f"{first}; w = mark.override(task_id='w')(); u >> w; start_on(w, event('go'))")
    run.open("u")
    run.ends()
    assert {"w[0]": "success", "w[1]": "success"}.items() <= run.states().items()


def test_clear_runs_a_task_with_the_events_of_its_last_start(runs: Edited) -> None:
    run = runs.begin("cleared")
    run.reach(f="deferred")
    offset = run.send("go")
    run.ends("failed")
    runs.clear(run, "f", include_downstream=True)
    run.ends()
    assert run.offsets("f") == [[offset]] * 2
    runs.clear(run)  # all of it
    run.ends()
    assert run.offsets("f") == [[offset]] * 3
    runs.clear(run, "after", include_upstream=True)
    run.ends()
    assert run.offsets("f") == [[offset]] * 4
    assert len(run.lines("after")) == 3
    anew = [line for line in runs.airflow.log("scheduler").splitlines() if "they begin anew" in line]
    assert not any(run.run_id in line for line in anew)  # no rule was changed

    kept = "SELECT task_id FROM aiflow_rule_state WHERE run_id = ?"
    assert runs.airflow.sql(kept, run.run_id) == [("f",)]  # for a clear
    runs.airflow.rest.call("DELETE", f"dags/{run.dag_id}/dagRuns/{run.run_id}")
    goes_on = "SELECT 1 FROM aiflow_run WHERE run_id = ?"
    run.until(lambda: not runs.airflow.sql(goes_on, run.run_id), "its end is seen")
    runs.airflow.restart("scheduler")  # when it begins it looks for what deleted runs left
    run.until(lambda: not runs.airflow.sql(kept, run.run_id), "forgotten")


def test_downstream_clears_what_it_returned_too(runs: Edited) -> None:
    run = runs.begin("shrinks")
    run.reach(listing="deferred")
    wanted = [[1, 2, 3], [7], [4, 5, 6, 8], []]
    for n, numbers in enumerate(wanted):
        run.send("files", json.dumps(numbers))
        run.until(lambda n=n: len(run.lines("total")) == n + 1, f"{numbers}")
        run.reach(total="success", own="deferred")  # own waits for its own event, each time
        if n == 0:
            run.send("own")
            run.reach(own="success")
    assert len(run.lines("own")) == 1
    run.send("own")
    run.open("keep")
    run.ends()
    assert [line["ns"] for line in run.lines("total")] == wanted


def test_restart_of_a_task_that_waits_elsewhere(runs: Edited) -> None:
    run = runs.begin("elsewhere")
    run.reach(defers="deferred", pokes="deferred")
    first = run.send("again")
    run.until(lambda: run.lines("defers"), "started")
    run.reach(pokes="up_for_reschedule")
    run.until(lambda: run_method(run) == "done", "waits in its own trigger")
    second = run.send("again")
    for task in ("defers", "pokes"):
        run.until(lambda task=task: len(run.lines(task)) == 2, "started again")
        assert run.offsets(task) == [[first], [second]]
    run.reach(pokes="up_for_reschedule")
    run.until(lambda: run_method(run) == "done", "waits in its own trigger again")
    run.send("stop")
    run.ends()


def run_method(run: Run) -> Any:
    """How Airflow would go on with the task that waits in its trigger."""
    statement = "SELECT next_method FROM task_instance WHERE run_id = ? AND task_id = 'defers' AND state = 'deferred'"
    found = run.runs.airflow.sql(statement, run.run_id)
    return found[0][0] if found else None


def test_a_run_that_is_made_again_begins_anew(runs: Edited) -> None:
    """No scheduler looks meanwhile, and its broker is away with it."""
    run = runs.begin("heard")
    run.reach(a="deferred")
    first = run.send("go")
    run.ends()
    runs.airflow.kill("scheduler")
    runs.airflow.rest.call("DELETE", f"dags/heard/dagRuns/{run.run_id}")
    runs.airflow.rest.trigger("heard", {"aiflow": {"context": run.context}}, run.run_id)
    runs.airflow.launch("scheduler")
    run.reach(a="deferred")
    second = run.send("go")
    run.ends()
    assert run.offsets("a") == [[first], [second]]
