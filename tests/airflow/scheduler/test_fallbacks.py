"""What happens without the scheduler's ears, without event mode, and where another session is in the way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from airflows import DATABASES, Deployment, On

from aiflow_ext import Event, EventClient

BORN = "SELECT count(*) FROM dag_run WHERE dag_id = 'born'"


@contextmanager
def restarted(airflow: Deployment, **aiflow: str) -> Iterator[None]:
    """Another configuration of the scheduler, for a while."""
    before = dict(airflow.env)
    airflow.end("scheduler")
    airflow.env |= {f"AIRFLOW__AIFLOW__{name.upper()}": value for name, value in aiflow.items()}
    try:
        yield
    finally:
        airflow.env = before
        airflow.restart("scheduler")


def client(airflow: Deployment) -> EventClient:
    """A client of the broker that this Airflow's scheduler serves."""
    return EventClient(f"ipc://{airflow.home}/aiflow/broker.sock")


@contextmanager
def alone(airflow: Deployment, log: str) -> Iterator[None]:
    """An `aiflow broker` where the scheduler's own one serves otherwise."""
    command = ["-m", "aiflow_ext.cli", "broker", "--bind", f"ipc://{airflow.home}/aiflow/broker.sock", "--log", log]
    broker = subprocess.Popen([sys.executable, *command])
    try:
        yield
    finally:
        broker.terminate()
        broker.wait(60)


def begin(airflow: Deployment, dag_id: str) -> str:
    """A run of the Dag; its id."""
    airflow.wait_for_dag(dag_id)
    airflow.rest.unpause(dag_id)
    return airflow.rest.trigger(dag_id)


def test_all_hints_lost(on: On) -> None:
    """Every wake-up source is off: slower, and still right."""
    airflow = on("postgresql")
    with restarted(airflow, wake_sources="", safety_pass_sec="1"):
        airflow.launch("scheduler")
        run_id = begin(airflow, "while_each")
        airflow.wait_until(lambda: airflow.states("while_each", run_id).get("a") == "deferred")
        with client(airflow) as events:
            (airflow.home / f"{run_id}.a").touch()
            (airflow.home / f"{run_id}.keep").touch()
            for n in range(3):
                events.publish(Event("go", str(n)))
            airflow.wait_for_run("while_each", run_id)
    done = airflow.sql("SELECT count(*) FROM aiflow_action WHERE run_id = ? AND action = 'start'", run_id)
    assert done == [(3,)]


def test_under_a_stock_scheduler_the_triggerer_waits(on: On) -> None:
    """Event mode is switched off, an `aiflow broker` runs alone: what waited then, and what waits since, starts, by an
    event that comes while the triggerer is away."""
    airflow = on("sqlite")
    before = begin(airflow, "templates")
    airflow.wait_until(lambda: airflow.states("templates", before).get("shell") == "deferred")
    has_trigger = "SELECT trigger_id IS NOT NULL FROM task_instance WHERE run_id = ?"
    airflow.wait_until(lambda: airflow.sql(has_trigger, before) == [(0,)], what="the event scheduler has it")
    log = f"sqlite:{airflow.home}/aiflow/events.db"
    with restarted(airflow, event_mode="False"), alone(airflow, log), client(airflow) as events:
        airflow.env["AIF_CRASH_AT"] = "release.given"
        airflow.begin("scheduler")
        airflow.wait_until(lambda: not airflow.alive("scheduler"), what="killed while it gives it to the triggerer")
        assert airflow.sql(has_trigger, before) == [(0,)]
        del airflow.env["AIF_CRASH_AT"]
        airflow.launch("scheduler")
        assert "aiflow: SchedulerJobRunner (stock) runs: [aiflow] event_mode is off" in airflow.log("scheduler")
        since = begin(airflow, "templates")
        airflow.wait_until(lambda: airflow.states("templates", since).get("shell") == "deferred")
        for run_id in (before, since):
            assert airflow.sql(has_trigger, run_id) == [(1,)]  # the triggerer has it, not we
        airflow.end("triggerer")
        events.publish(Event("go", "4711"))
        airflow.launch("triggerer")
        for run_id in (before, since):
            airflow.wait_for_run("templates", run_id)
    for run_id in (before, since):
        assert (airflow.home / f"{run_id}.value").read_text() == "4711\n"


def begun(airflow: Deployment, dag_id: str) -> str:
    """A run of which Airflow's server knows where the log was: it does not wait for a broker longer than a second."""
    noted = "SELECT 1 FROM aiflow_consumer c JOIN dag_run r ON substr(c.name, 5) = cast(r.id AS char(20))"
    noted += ' WHERE r.run_id = ? AND c."offset" > 0'
    for _ in range(50):
        run_id = airflow.rest.trigger(dag_id)
        if airflow.sql(noted, run_id):
            return run_id
        airflow.rest.call("PATCH", f"dags/{dag_id}/dagRuns/{run_id}", {"state": "failed"})
        airflow.rest.call("DELETE", f"dags/{dag_id}/dagRuns/{run_id}")
    raise AssertionError("Airflow's server never hears from the broker in time")


@pytest.mark.parametrize("database", DATABASES)
def test_a_run_hears_from_where_the_log_was_when_it_was_made(on: On, database: str) -> None:
    """No scheduler runs then, and the clock of who makes the run is ahead: neither adds an event, or hides one."""
    airflow = on(database)
    airflow.wait_for_dag("templates")
    airflow.rest.unpause("templates")
    airflow.wait_until(lambda: airflow.sql("SELECT 1 FROM aiflow_consumer WHERE name = 'scheduler'"))
    airflow.end("scheduler")
    with alone(airflow, airflow.log_uri()), client(airflow) as events:
        events.publish(Event("go", "before"), timeout=1200)
        run_id = begun(airflow, "templates")
        airflow.sql("UPDATE dag_run SET queued_at = '2037-01-01 00:00:00' WHERE run_id = ?", run_id)
        events.publish(Event("go", "after"))
    airflow.launch("scheduler")
    airflow.wait_for_run("templates", run_id)
    assert (airflow.home / f"{run_id}.value").read_text() == "after\n"
    assert airflow.sql("SELECT name FROM aiflow_consumer WHERE substr(name, 1, 4) = 'run:'") == []


def test_who_holds_the_consumer_is_named(on: On) -> None:
    """Another session has locked the row and does nothing: the log says which one; then the event has its effect."""
    airflow = on("postgresql")
    airflow.wait_for_dag("born")
    airflow.rest.unpause("born")
    airflow.wait_until(lambda: airflow.sql("SELECT 1 FROM aiflow_consumer WHERE name = 'scheduler'"))
    airflow.sql("BEGIN")
    airflow.sql("SELECT 1 FROM aiflow_consumer WHERE name = 'scheduler' FOR UPDATE")
    pid = airflow.sql("SELECT pg_backend_pid()")[0][0]
    with client(airflow) as events:
        offset = events.publish(Event("birth"), timeout=1200)
    named = re.compile(rf"events wait for who holds the consumer's row.*pid={pid}.*state='idle in transaction'")
    airflow.wait_until(lambda: named.search(airflow.log("scheduler")), what="it is named")
    airflow.sql("ROLLBACK")
    airflow.wait_for_run("born", f"aiflow__born__{offset}")


def test_a_scheduler_that_hangs_lets_go(on: On) -> None:
    """It is stopped in the middle of its reaction: PostgreSQL undoes that, and another scheduler acts on the event."""
    airflow = on("postgresql")
    airflow.wait_for_dag("born")
    airflow.rest.unpause("born")
    airflow.wait_until(lambda: airflow.sql("SELECT 1 FROM aiflow_consumer WHERE name = 'scheduler'"))
    before, logged = airflow.sql(BORN)[0][0], len(airflow.log("scheduler"))
    airflow.sql("BEGIN")
    airflow.sql("LOCK TABLE aiflow_action")
    with client(airflow) as events:
        offset = events.publish(Event("birth"), timeout=1200)
        waits = "SELECT 1 FROM pg_locks WHERE relation = 'aiflow_action'::regclass AND NOT granted"
        airflow.wait_until(lambda: airflow.sql(waits), what="it acts")
        os.kill(airflow.pid("scheduler"), signal.SIGSTOP)
        airflow.sql("ROLLBACK")
        airflow.launch("scheduler-2")
        airflow.wait_for_run("born", f"aiflow__born__{offset}")
        airflow.end("scheduler-2")
        os.kill(airflow.pid("scheduler"), signal.SIGCONT)
        offset = events.publish(Event("birth"), timeout=1200)
    airflow.wait_for_run("born", f"aiflow__born__{offset}")  # it goes on, as after any lost connection
    assert "aiflow: events wait for the next pass" in airflow.log("scheduler")[logged:]
    assert airflow.sql(BORN) == [(before + 2,)]
