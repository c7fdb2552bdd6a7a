"""Listeners of what the reaction does: they are told after its commit, so nothing that they do can break it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from airflows import Deployment

from aiflow_ext import Event, EventLog
from react.test_rules import Run, Runs

TASKS = ("writes", "raises", "slow")


class Listened(Runs):
    """An Airflow with listeners that write, raise and take long."""

    @property
    def log(self) -> str:
        """Where its events are."""
        return self.airflow.log_uri()

    def stopped_without_a_scheduler(self, run: Run) -> None:
        """Kill the scheduler, and with it the broker, and put the event into the log."""
        self.airflow.kill("scheduler")
        with EventLog(self.log) as log:
            log.append([Event("stop", namespace="default", context=run.context)], run.run_id, 1)

    def killed_at(self, point: str) -> None:
        """Begin a scheduler that is killed at a labelled point of its first reaction."""
        self.airflow.env["AIF_CRASH_AT"] = point
        self.airflow.begin("scheduler")
        self.airflow.wait_until(lambda: not self.airflow.alive("scheduler"), what=f"killed at {point}")
        self.airflow.kill("scheduler")  # what it left behind, too
        del self.airflow.env["AIF_CRASH_AT"]

    def heard(self) -> Counter[str]:
        """What the listeners have written."""
        return Counter(extra for (extra,) in self.airflow.sql("SELECT extra FROM log WHERE event = 'heard'"))

    def heard_of(self, run: Run) -> Counter[str]:
        """The same of one run."""
        return Counter({what: n for what, n in self.heard().items() if run.run_id in what.split()})


@pytest.fixture(scope="module")
def runs(shared: Deployment) -> Iterator[Listened]:
    made = Listened(shared, ("listened", "ended", "watched"))
    (shared.dags / "listened.py").touch()  # Airflow knows of a watcher only at the second parsing of its file
    yield made
    made.client.close()


def all_waiting(runs: Listened) -> Run:
    """A run of which each task waits."""
    run = runs.begin("listened")
    run.reach(work="deferred", **dict.fromkeys(TASKS, "deferred"))
    return run


def test_what_listeners_do_is_their_own(runs: Listened) -> None:
    run = all_waiting(runs)
    run.send("stop")
    run.ends()
    assert run.states() == {"work": "success", **dict.fromkeys(TASKS, "skipped")}
    assert len(run.actions()) == 4
    run.until(lambda: len(runs.heard_of(run)) == 3, "what they write is there")
    assert runs.heard_of(run) == Counter(f"skipped {run.run_id} {task}" for task in TASKS)
    slow = "aiflow: a listener took long, and all else waited for it"
    run.until(lambda: slow in runs.airflow.log("scheduler"), "the log names the slow one")
    assert "a mistake of this listener's" in runs.airflow.log("scheduler")
    assert "failed and is given up" not in runs.airflow.log("scheduler")


def test_a_reaction_that_is_killed_has_told_nobody(runs: Listened) -> None:
    """Before its commit nothing has happened, whatever listeners do in Airflow's session; then all happens once."""
    run = all_waiting(runs)
    runs.stopped_without_a_scheduler(run)
    for point in ("apply.acted", "apply.saved"):
        runs.killed_at(point)
        assert run.states() == {"work": "deferred", **dict.fromkeys(TASKS, "deferred")}
        assert run.actions() == []
        assert runs.heard_of(run) == Counter()
    runs.airflow.launch("scheduler")
    run.ends()
    run.until(lambda: len(runs.heard_of(run)) == 3, "told")
    assert runs.heard_of(run) == Counter(f"skipped {run.run_id} {task}" for task in TASKS)
    assert len(run.actions()) == 4

    run = all_waiting(runs)
    runs.stopped_without_a_scheduler(run)
    runs.killed_at("apply.committed")
    assert {task: run.states()[task] for task in TASKS} == dict.fromkeys(TASKS, "skipped")
    runs.airflow.launch("scheduler")
    run.ends()
    assert len(run.actions()) == 4
    assert runs.heard_of(run) == Counter()


def test_listeners_of_runs_and_assets_write_too(runs: Listened) -> None:
    run = runs.begin("ended")
    run.until(lambda: run.lines("work"), "runs")
    run.send("end")
    run.until(lambda: runs.heard_of(run), "told of the run's end")
    assert runs.heard_of(run) == Counter([f"ended {run.run_id}"])
    run.ends()

    watches = "SELECT 1 FROM aiflow_consumer WHERE substr(name, 1, 6) = 'asset:'"
    runs.airflow.wait_until(lambda: runs.airflow.sql(watches), what="the watcher has begun")
    offsets = [runs.client.publish(Event("seen")) for _ in range(2)]
    runs.airflow.wait_until(lambda: runs.heard()["asset seen"] == 2, what="told of each asset event")
    stored = runs.airflow.sql("SELECT count(*) FROM asset_event")
    assert stored == [(len(offsets),)]
