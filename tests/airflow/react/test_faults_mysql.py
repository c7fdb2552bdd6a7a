"""Two event schedulers with Airflow on MySQL, and what fails under them there."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import MySQLdb
import pytest
from airflows import Deploy
from sqlalchemy import make_url

from aiflow_ext import Event
from react import test_faults as faults
from react.test_faults import AGAIN, PLACES, airflow_on, alive, ends_with_one_start, logs, parked  # noqa: F401
from react.test_rules import Runs


class Session(faults.Session):
    """A session of ours in Airflow's database, in a transaction."""

    def __init__(self, runs: Runs) -> None:
        u = make_url(runs.airflow.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
        account = {"user": u.username or "root", "password": u.password or ""}
        self._connection = MySQLdb.connect(host=u.host, port=u.port or 3306, database=u.database, **account)
        self._cursor = self._connection.cursor()
        self.number = self._connection.thread_id()
        self.run("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")

    def run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        self._cursor.execute(statement, values or None)
        return list(self._cursor.fetchall())

    def close(self) -> None:
        """Give back what it has locked."""
        if self._connection.open:
            self._connection.close()


@pytest.fixture(scope="module")
def runs(deploy: Deploy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    made = airflow_on("mysql", deploy, tmp_path_factory.mktemp("faults"))
    made.airflow.launch("scheduler-2")
    yield made
    made.client.close()


@pytest.fixture
def session(runs: Runs) -> Iterator[Session]:
    made = Session(runs)
    yield made
    made.close()


def who_waits(runs: Runs, session: Session) -> int:
    """The connection of a reaction that waits for us, once there is one: it holds the consumer's row."""
    waiting = (
        "SELECT t.processlist_id FROM performance_schema.data_lock_waits w"
        " JOIN performance_schema.threads b ON b.thread_id = w.blocking_thread_id"
        " JOIN performance_schema.threads t ON t.thread_id = w.requesting_thread_id"
        " JOIN performance_schema.data_locks l ON l.thread_id = w.requesting_thread_id"
        " WHERE b.processlist_id = ? AND l.object_name = 'aiflow_consumer' AND l.lock_type = 'RECORD'"
    )
    return int(runs.airflow.wait_until(lambda: runs.airflow.sql(waiting, session.number), what="who waits")[0][0])


test_a_burst_on_twenty_runs_is_acted_on_once = pytest.mark.core(faults.test_a_burst_on_twenty_runs_is_acted_on_once)
test_a_task_is_cleared_while_its_stop_is_under_way = faults.test_a_task_is_cleared_while_its_stop_is_under_way
test_one_of_two_is_killed_in_a_burst = faults.test_one_of_two_is_killed_in_a_burst


@pytest.mark.core
@pytest.mark.parametrize("place", ["acting", "saving"])
def test_a_deadlock_is_tried_again(runs: Runs, session: Session, place: str) -> None:
    """The reaction holds the consumer's row and wants ours; we want the consumer's.  Who has changed less is undone."""
    run = parked(runs)
    runs.airflow.sql("CREATE TABLE IF NOT EXISTS heavy (n INT PRIMARY KEY)")
    numbers = ", ".join(f"({n})" for n in range(5000))
    session.run(f"INSERT INTO heavy VALUES {numbers}")
    session.lock(place, run)
    before = logs(runs).count(AGAIN)
    offset = run.send("go")
    who_waits(runs, session)
    session.run("SELECT 1 FROM aiflow_consumer WHERE name = 'scheduler' FOR UPDATE")
    session.close()
    ends_with_one_start(run, offset)
    assert "Deadlock found" in logs(runs)
    assert logs(runs).count(AGAIN) > before


@pytest.mark.core
@pytest.mark.parametrize("place", PLACES)
def test_a_connection_that_is_lost_in_a_reaction(runs: Runs, session: Session, place: str) -> None:
    def end() -> None:
        runs.airflow.sql(f"KILL {who_waits(runs, session)}")

    faults.lose_a_connection(runs, session, place, end)


def test_a_scheduler_that_hangs_lets_go(runs: Runs, session: Session) -> None:
    """It is stopped in the middle of its reaction: MySQL ends its session, and another scheduler acts on the event."""
    airflow = runs.airflow
    airflow.end("scheduler-2")
    run = parked(runs)
    session.lock("saving", run)
    offset = run.send("go")
    who_waits(runs, session)
    os.kill(airflow.pid("scheduler"), signal.SIGSTOP)
    session.close()
    airflow.launch("scheduler-2")
    run.ends()
    os.kill(airflow.pid("scheduler"), signal.SIGCONT)
    assert run.actions() == [("a", "start_1", "start", [offset])]
    other = parked(runs)
    other.send("go")
    other.ends()


def test_a_server_that_goes_away_for_a_while(runs: Runs) -> None:
    """All connections are ended again and again, while events come."""
    run = parked(runs)
    enough = threading.Event()

    def end_all() -> None:
        others = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        session = Session(runs)
        try:
            while not enough.wait(0.2):
                for (number,) in session.run(others):
                    try:
                        session.run(f"KILL {number}")
                    except MySQLdb.OperationalError:  # it has ended
                        continue
        finally:
            session.close()

    ends = threading.Thread(target=end_all)
    ends.start()
    try:
        offset = runs.client.publish(Event("go", context=run.context), timeout=1200)
    finally:
        enough.set()
        ends.join()
    run.ends()
    assert run.offsets("a") == [[offset]]


test_a_stock_scheduler_beside_one_in_event_mode = faults.test_a_stock_scheduler_beside_one_in_event_mode  # it stays
