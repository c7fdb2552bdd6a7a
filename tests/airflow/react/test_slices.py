"""What is much for one transaction is done in several: Airflow schedules in between, and its heartbeat is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflows import Deployment

from aiflow_ext import Event
from aiflow_ext.provider.react import decide
from aiflow_ext.provider.react.decide import ACTIONS, STOPS, Decisions, Reaction
from aiflow_ext.provider.world.registry import DagRules
from aiflow_ext.provider.world.runs import Run
from aiflow_ext.provider.world.task import Ruleset, TaskState
from react.test_rules import Runs

MANY = ACTIONS + 20
FLOOD = 2 * ACTIONS  # events, each for two Dags
FLOODED = ("flooded", "soaked", "calm")


@pytest.fixture(scope="module")
def runs(shared: Deployment) -> Iterator[Runs]:
    made = Runs(shared, ("halted",))
    yield made
    made.client.close()


def moment(value: Any) -> datetime:
    """A time as a database gives it."""
    found = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def test_a_stop_of_many_runs_is_made_in_slices(runs: Runs) -> None:
    airflow = runs.airflow
    runs.client.publish_many([Event("halted.begin")] * MANY)
    waiting = "SELECT count(*) FROM aiflow_run WHERE dag_id = 'halted'"
    airflow.wait_until(lambda: airflow.sql(waiting) == [(MANY,)], what="all are known")
    runs.client.publish_many([Event("halted.end"), Event("halted.begin")])
    stop = "SELECT at_ms, action, after FROM aiflow_action WHERE dag_id = 'halted' AND rule = 'end'"
    airflow.wait_until(lambda: airflow.sql(stop), what="all are stopped")
    [(at_ms, _, after)] = airflow.sql(stop)  # it is written down once
    ends = airflow.sql("SELECT end_date FROM dag_run WHERE dag_id = 'halted' AND state = 'success'")
    assert (len(ends), after) == (MANY, "success")
    last = datetime.fromtimestamp(at_ms / 1000, UTC) - timedelta(milliseconds=1)
    assert 0 < sum(moment(end) >= last for (end,) in ends) <= STOPS  # by the transaction that wrote it down
    made = "SELECT count(*) FROM aiflow_action WHERE dag_id = 'halted' AND rule = 'begin'"
    airflow.wait_until(lambda: airflow.sql(made) == [(MANY + 1,)], what="a run is made after it")
    left = "SELECT count(*) FROM dag_run WHERE dag_id = 'halted' AND state IN ('queued', 'running')"
    assert airflow.sql(left) == [(1,)]
    runs.client.publish(Event("halted.end"))
    airflow.wait_until(lambda: airflow.sql(left) == [(0,)], what="that is stopped, too")


def test_a_flood_for_one_dag_does_not_delay_another(runs: Runs) -> None:
    """Nor do floods for two; and where the scheduler dies amid that, no event is lost, acted on twice, or too early."""
    airflow = runs.airflow
    for dag_id in FLOODED:
        airflow.wait_for_dag(dag_id)
        airflow.rest.unpause(dag_id)
    offsets = runs.client.publish_many([*[Event("flood.begin")] * FLOOD, Event("calm.begin"), Event("flood.begin")])
    airflow.wait_until(lambda: airflow.sql("SELECT 1 FROM aiflow_progress"), what="they are behind")
    airflow.kill("scheduler")
    airflow.launch("scheduler")
    done = f"SELECT dag_id, cause FROM aiflow_action WHERE dag_id IN {FLOODED} AND rule = 'begin' ORDER BY id"
    airflow.wait_until(lambda: len(airflow.sql(done)) >= 2 * FLOOD + 3, what="all are acted on")
    rows = airflow.sql(done)
    assert rows.index(("calm", str(offsets[FLOOD]))) <= 2 * ACTIONS  # it has 4 * ACTIONS before it in the log
    for flooded in FLOODED[:2]:
        assert [int(cause) for dag_id, cause in rows if dag_id == flooded] == [*offsets[:FLOOD], offsets[-1]]
        born = "SELECT count(*) FROM dag_run WHERE dag_id = ?"
        assert airflow.sql(born, flooded) == [(FLOOD + 1,)]
    airflow.wait_until(lambda: airflow.sql("SELECT * FROM aiflow_progress") == [], what="none is behind")
    runs.client.publish(Event("flood.end"))
    left = f"SELECT count(*) FROM dag_run WHERE dag_id IN {FLOODED} AND state IN ('queued', 'running')"
    airflow.wait_until(lambda: airflow.sql(left) == [(0,)], what="all are stopped")


class Much:
    """A world in which many runs wait, and are due."""

    def __init__(self) -> None:
        core = cast("Any", SimpleNamespace(tick=lambda core, now_ms: (core, []), due=lambda core: None))
        rules, of_dag = Ruleset((), core, (), "", waits=True), DagRules("d", {}, None)
        self.first: Any = None
        self.left = [
            (
                Run(n, "d", str(n), "running", of_dag, 0, None, {}),
                TaskState("d", str(n), "t", rules, b"", 1),
            )
            for n in range(MANY)
        ]

    def waiting(self) -> list[Any]:
        """What is left of them."""
        return [*self.left]

    def due(self, now_ms: int, most: int) -> list[Any]:
        """The same."""
        return self.left[:most]


@pytest.fixture
def decisions(monkeypatch: pytest.MonkeyPatch) -> tuple[Decisions, list[Any]]:
    done: list[Any] = []
    made = Decisions(cast("Any", SimpleNamespace(stops=None)), cast("Any", None), Reaction(), cast("Any", Much()), 1)
    monkeypatch.setattr(decide, "can_settle", lambda stops, run, task, now_ms: task not in done)
    monkeypatch.setattr(decide, "moment_of", lambda stops, run, now_ms: None)
    monkeypatch.setattr(decide.starts, "settle", lambda task, ti, moment: done.append(task) or iter(()))
    for name, does in (
        ("_hold", lambda *runs: None),
        ("_contained", lambda task: nullcontext()),
        ("_carry_out", lambda run, task, decision: None),
    ):
        monkeypatch.setattr(made, name, does)
    return made, done


def test_what_waited_is_done_in_slices(decisions: tuple[Decisions, list[Any]]) -> None:
    made, done = decisions
    made._settle()
    assert len(done) == ACTIONS
    assert made.acted  # so there is another transaction


def test_what_is_due_is_done_in_slices(decisions: tuple[Decisions, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    made, done = decisions

    def decide_(run: Any, task: Any, *_: Any) -> None:
        done.append(task)
        made._actions += 1

    monkeypatch.setattr(made, "_decide", decide_)
    made._tick()
    assert len(done) == ACTIONS
    assert made.acted
    monkeypatch.setattr(decide, "SLICE_SEC", -1.0)
    done.clear()
    made._tick()
    assert len(done) == 1
