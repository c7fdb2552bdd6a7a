"""Two event schedulers on one database, and what fails under them: a connection, a lock, a disk, a file, people's
patience.  Nothing is lost, nothing is done twice, and they go on."""

from __future__ import annotations

import re
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from airflows import Deploy
from rest import RestError

from aiflow_ext import Event, EventClient
from react.test_rules import Run, Runs

HERE = Path(__file__).parent
SCHEDULERS = ("scheduler", "scheduler-2")
AGAIN = "aiflow: events wait for the next pass"
# What a reaction comes to while it holds the consumer's row, and what stands in its way there.
PLACES = {"reading": "dag_run", "acting": "task_instance", "saving": "aiflow_rule_state"}

CONFIG = {"aiflow.stop_grace_sec": "600", "core.test_connection": "Enabled"}
FAILS = "aiflow: Airflow's database fails"
GATE = (  # the commit of who queues one of these waits where this table is locked
    "CREATE TABLE gate ()",
    "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN INSERT INTO gate DEFAULT VALUES; RETURN NULL; END'",
    "CREATE CONSTRAINT TRIGGER gate AFTER UPDATE ON {} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
    "WHEN (NEW.state = 'queued') EXECUTE FUNCTION gate()",
)
NO_GATE = "DROP TABLE gate; DROP FUNCTION gate CASCADE"


FAILED = """if True:  # what an executor's word that a try failed comes to
    import sys
    from airflow.models.dagbag import DBDagBag
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select
    with create_session() as session:
        run_id, task_id = sys.argv[1:]
        ti = session.scalars(select(TaskInstance).filter_by(run_id=run_id, task_id=task_id)).one()
        ti.task = DBDagBag().get_dag_for_run(ti.dag_run, session=session).get_task(ti.task_id)
        ti.handle_failure("it was killed", session=session)
"""


class Session:
    """A session of ours in Airflow's database, in a transaction."""

    def __init__(self, runs: Runs) -> None:
        self._connection = psycopg2.connect(
            runs.airflow.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")
        )
        self._cursor = self._connection.cursor()
        self.pid = self.run("SELECT pg_backend_pid()")[0][0]

    def run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        self._cursor.execute(statement, values)
        return self._cursor.fetchall() if self._cursor.description else []

    def lock(self, place: str, run: Run) -> None:
        """Stand in the way of a reaction."""
        self.run(f"SELECT 1 FROM {PLACES[place]} WHERE run_id = %s FOR UPDATE", run.run_id)

    def close(self) -> None:
        """Give back what it has locked."""
        self._connection.close()


def airflow_on(database: str, deploy: Deploy, folder: Path, **config: str) -> Runs:
    dags = folder / "dags"
    shutil.copytree(HERE / "faults" / "dags", dags)
    shutil.copy(HERE / "repairs" / "dags" / "noting.py", dags)
    shutil.copy(HERE / "dags" / "closed.py", dags)
    airflow = deploy(database, dags, event_mode=True, config=CONFIG | config)
    return Runs(airflow, ("burst", "heard", "stopped", "closed", "away", "late", "patient"))


@pytest.fixture(scope="module")
def runs(deploy: Deploy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """On PostgreSQL, with two schedulers."""
    made = airflow_on("postgresql", deploy, tmp_path_factory.mktemp("faults"))
    made.airflow.launch("scheduler-2")
    yield made
    made.client.close()


@pytest.fixture(scope="module")
def alone(deploy: Deploy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """On SQLite, with one, which counts as dead after 4 s without a heartbeat."""
    beats = {"scheduler.scheduler_health_check_threshold": "4", "scheduler.scheduler_heartbeat_sec": "1"}
    made = airflow_on("sqlite", deploy, tmp_path_factory.mktemp("faults"), **beats)
    yield made
    made.client.close()


@pytest.fixture
def session(runs: Runs) -> Iterator[Session]:
    made = Session(runs)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def alive(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each fault all schedulers are there."""
    yield
    airflow = request.getfixturevalue("alone" if "alone" in request.fixturenames else "runs").airflow
    for name in SCHEDULERS if "alone" not in request.fixturenames else SCHEDULERS[:1]:
        assert airflow.alive(name), airflow.log(name)[-20_000:]


def logs(runs: Runs) -> str:
    return "".join(runs.airflow.log(name) for name in SCHEDULERS)


def waits_for(runs: Runs, pid: int) -> int:
    """The session that waits for this one, once there is one."""
    waiting = "SELECT pid FROM pg_stat_activity WHERE ? = ANY (pg_blocking_pids(pid))"
    return int(runs.airflow.wait_until(lambda: runs.airflow.sql(waiting, pid), what="somebody waits for us")[0][0])


def make_gate(runs: Runs, table: str) -> None:
    for statement in GATE:
        runs.airflow.sql(statement.format(table))


def parked(runs: Runs, dag_id: str = "heard") -> Run:
    """A run of which the schedulers know that it waits for events."""
    run = runs.begin(dag_id)
    known = "SELECT count(*) FROM aiflow_rule_state WHERE run_id = ?"
    run.until(lambda: runs.airflow.sql(known, run.run_id)[0][0] > 0, "it is known")
    run.until(lambda: "deferred" in run.states().values(), "it waits")
    return run


def ends_with_one_start(run: Run, offset: int) -> None:
    """Its task has begun once, by this event."""
    run.ends()
    assert run.actions() == [("a", "start_1", "start", [offset])]
    assert run.offsets("a") == [[offset]]


def lose_a_connection(runs: Runs, session: Session, place: str, end: Callable[[], None]) -> None:
    """`end` ends that of the reaction which waits for our session: all of it is tried again."""
    run = parked(runs)
    session.lock(place, run)
    before = logs(runs).count(AGAIN)
    offset = run.send("go")
    end()
    run.until(lambda: logs(runs).count(AGAIN) > before, "it says so")
    session.close()
    ends_with_one_start(run, offset)


def delete(run: Run) -> None:
    """As people do: Airflow deletes no run that goes on."""
    path = f"dags/{run.dag_id}/dagRuns/{run.run_id}"
    call(run.runs, "PATCH", path, {"state": "failed"})
    call(run.runs, "DELETE", path)


def call(runs: Runs, method: str, path: str, body: object = None) -> None:
    """As people do: again, where Airflow's server was the victim of a deadlock (it locks tasks before their run)."""
    for left in reversed(range(20)):
        try:
            runs.airflow.rest.call(method, path, body)
            return
        except RestError as e:
            if e.status < 500 or not left:
                raise


def test_a_burst_on_twenty_runs_is_acted_on_once(runs: Runs) -> None:
    """Both schedulers are woken by each event and each change; meanwhile people clear and delete other runs."""
    burst = [parked(runs, "burst") for _ in range(20)]
    cleared, deleted = [[parked(runs, "burst") for _ in range(2)] for _ in range(2)]
    offsets: dict[str, list[int]] = {"go": [], "halt": []}

    def send(key: str, times: int) -> None:
        offsets[key] += [runs.client.publish(Event(key, str(n)), timeout=1200) for n in range(times)]

    def people() -> None:
        for one, other in zip(cleared, deleted, strict=True):
            delete(other)
            call(runs, "POST", f"dags/burst/dagRuns/{one.run_id}/clear", {"dry_run": False})

    threads = [threading.Thread(target=send, args=arg) for arg in (("go", 2), ("halt", 3))]
    threads.append(threading.Thread(target=people))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = Counter({("a", "start", offset): 1 for offset in offsets["go"]})
    expected += Counter({(f"s{n}", "stop", offset): 1 for n in range(3) for offset in offsets["halt"]})
    for run in burst:
        run.until(lambda run=run: len(run.actions()) >= len(expected), "all have fired")
        run.until(lambda run=run: len(run.lines("a")) == 2, "all starts have been made")
        assert Counter((task, action, offset) for task, _, action, (offset,) in run.actions()) == expected
        assert run.offsets("a") == [[offset] for offset in sorted(offsets["go"])]
    runs.client.publish(Event("halt"))
    runs.client.publish(Event("done"))
    for run in [*burst, *cleared]:
        run.ends()


@pytest.mark.parametrize("place", ["acting", "saving"])
def test_a_deadlock_is_tried_again(runs: Runs, session: Session, place: str) -> None:
    """The reaction holds the consumer's row and wants ours; we want the consumer's."""
    run, gate = parked(runs), Session(runs)
    gate.lock("reading", run)
    session.run("SET deadlock_timeout = '1h'")  # the other one is to notice
    session.lock(place, run)
    before = logs(runs).count(AGAIN)
    offset = run.send("go")
    waits_for(runs, gate.pid)
    wanted = threading.Thread(target=session.run, args=["SELECT 1 FROM aiflow_consumer FOR UPDATE"])
    wanted.start()
    run.until(lambda: runs.airflow.sql("SELECT cardinality(pg_blocking_pids(?))", session.pid) == [(1,)], "we wait")
    gate.close()
    wanted.join()
    session.close()
    ends_with_one_start(run, offset)
    assert "deadlock detected" in logs(runs)
    assert logs(runs).count(AGAIN) > before  # or both, one after the other: the row is free for a moment


@pytest.mark.parametrize("place", PLACES)
def test_a_connection_that_is_lost_in_a_reaction(runs: Runs, session: Session, place: str) -> None:
    def end() -> None:
        reacts = waits_for(runs, session.pid)
        assert runs.airflow.sql("SELECT pg_terminate_backend(?)", reacts) == [(True,)]

    lose_a_connection(runs, session, place, end)


@pytest.mark.parametrize("place", ["before", "commit"])
def test_a_connection_that_is_lost_while_tasks_are_queued(runs: Runs, session: Session, place: str) -> None:
    """In stock code, where Airflow's own scheduler ends.  At the commit an executor has the task already."""
    run = parked(runs)
    make_gate(runs, "task_instance")
    try:
        session.run("LOCK TABLE slot_pool IN ACCESS EXCLUSIVE MODE" if place == "before" else "LOCK TABLE gate")
        offset = run.send("go")
        before = logs(runs).count(FAILS)
        assert runs.airflow.sql("SELECT pg_terminate_backend(?)", waits_for(runs, session.pid)) == [(True,)]
        run.until(lambda: logs(runs).count(FAILS) > before, "it says so")
        session.close()
        run.ends()
        if place == "commit":  # whoever queues it then
            back = re.compile(rf"a task is taken back from its executor.*{run.run_id}")
            run.until(lambda: back.search(logs(runs)), "it is sent to a worker once")
    finally:
        session.close()
        runs.airflow.sql(NO_GATE)
    assert run.offsets("a") == [[offset]]
    assert [(ti["state"], ti["try_number"]) for ti in runs.airflow.rest.tries("heard", run.run_id, "a")] == [
        ("success", 1)
    ]


@pytest.mark.parametrize(("table", "key"), [("callback", "Callback"), ("connection_test_request", "ConnectionTest")])
def test_what_an_executor_was_given_in_a_transaction_that_is_undone(
    runs: Runs, session: Session, table: str, key: str
) -> None:
    """It is given once more, maybe to the other scheduler's executor; one of them runs it."""
    airflow, late = runs.airflow, runs.airflow.home / "late"
    make_gate(runs, table)
    try:
        session.run("LOCK TABLE gate")
        if table == "callback":
            runs.begin("late")
        else:
            airflow.rest.call("POST", "connections/enqueue-test", {"connection_id": "twice", "conn_type": "fs"})
        before = logs(runs).count(FAILS)
        assert airflow.sql("SELECT pg_terminate_backend(?)", waits_for(runs, session.pid)) == [(True,)]
        airflow.wait_until(lambda: logs(runs).count(FAILS) > before, what="it says so")
        session.close()
        over = f"SELECT 1 FROM {table} WHERE state IN ('success', 'failed')"
        airflow.wait_until(lambda: airflow.sql(over), what="it has run")
        airflow.wait_until(lambda: re.search(f"a workload is taken back.*{key}Key", logs(runs)), what="not twice")
    finally:
        session.close()
        runs.airflow.sql(NO_GATE)
    if table == "callback":
        assert late.read_text() == "late\n"
    else:
        assert len(re.findall("Starting connection test.*twice", logs(runs))) == 1


def test_who_refers_to_rows_of_a_reaction_does_not_wait(runs: Runs, session: Session) -> None:
    """A foreign key asks whether its row is there, while somebody may hold what the reaction wants next: a deadlock."""
    run, other = parked(runs), Session(runs)
    session.lock("saving", run)
    run.send("go")
    waits_for(runs, session.pid)
    for table in ("dag_run", "task_instance"):
        refer = f"SELECT 1 FROM {table} WHERE run_id = %s FOR KEY SHARE NOWAIT"
        assert other.run(refer, run.run_id) == [(1,)]
    other.close()
    session.close()
    run.ends()


def test_a_run_is_deleted_in_the_middle_of_a_reaction(runs: Runs) -> None:
    """One event for two runs: the reaction is at one of them when the other one goes, which it has read already."""
    both = [parked(runs) for _ in range(2)]
    gates = [Session(runs) for _ in both]
    for run, gate in zip(both, gates, strict=True):
        gate.lock("reading", run)
    runs.client.publish(Event("go"))
    waiting = "SELECT 1 FROM pg_stat_activity WHERE ? = ANY (pg_blocking_pids(pid))"
    first = runs.airflow.wait_until(lambda: [n for n in range(2) if runs.airflow.sql(waiting, gates[n].pid)])[0]
    gone = both[1 - first]
    gates[1 - first].close()
    delete(gone)
    gates[first].close()
    both[first].ends()
    assert len(both[first].lines("a")) == 1
    assert gone.lines("a") == []
    left = "SELECT 1 FROM aiflow_run WHERE run_id = ?"
    gone.until(lambda: not runs.airflow.sql(left, gone.run_id), "it is forgotten")


def test_files_that_disappear_and_come_back_while_events_come(runs: Runs) -> None:
    """Each event makes its run, at once or later (R85); and a run that goes on has heard its event."""
    airflow = runs.airflow
    offsets: list[int] = []
    enough = threading.Event()
    run = parked(runs, "away")
    made = "SELECT run_id FROM dag_run WHERE dag_id = 'closed'"

    def send() -> None:
        while not enough.wait(0.1):
            if len(offsets) >= len(airflow.sql(made)) + 50:  # R85 keeps 100 of them
                continue
            offsets.append(runs.client.publish(Event("open", context=uuid.uuid4().hex[:8]), timeout=1200))

    def move(stale: bool) -> None:
        for name in ("closed", "away"):
            path, gone = airflow.dags / f"{name}.py", airflow.dags / f"{name}.gone"
            path.rename(gone) if stale else gone.rename(path)
        there = "SELECT count(*) FROM dag WHERE dag_id IN ('closed', 'away') AND is_stale = ?"
        airflow.wait_until(lambda: airflow.sql(there, stale) == [(2,)])

    sender = threading.Thread(target=send)
    sender.start()
    try:
        move(stale=True)
        offset = run.send("go")
        run.until(run.actions, "heard")
        move(stale=False)
        run.ends()
        assert run.offsets("a") == [[offset]]
        move(stale=True)
        move(stale=False)
    finally:
        enough.set()
        sender.join()
    airflow.wait_until(lambda: len(airflow.sql(made)) >= len(offsets), what="a run for each")
    assert {run_id for (run_id,) in airflow.sql(made)} == {f"aiflow__open__{offset}" for offset in offsets}
    after = {after for (after,) in airflow.sql("SELECT after FROM aiflow_action WHERE dag_id = 'closed'")}
    assert after == {"queued", "kept"}


def clear(run: Run, task: str) -> None:
    body = {"dry_run": False, "only_failed": False, "dag_run_id": run.run_id, "task_ids": [task]}
    run.runs.airflow.rest.call("POST", f"dags/{run.dag_id}/clearTaskInstances", body)


def clear_while_it_stops(runs: Runs) -> None:
    """R75, also here: what a user says last is done."""
    run = parked(runs, "stopped")
    offset = run.send("go")
    run.until(lambda: run.lines("deaf"), "runs")
    run.send("stop")
    stopping = "SELECT 1 FROM aiflow_rule_state WHERE run_id = ? AND stopping IS NOT NULL"
    run.until(lambda: runs.airflow.sql(stopping, run.run_id), "its stop is under way")
    clear(run, "deaf")
    run.until(lambda: not runs.airflow.sql(stopping, run.run_id), "the stop is over")
    run.open("deaf")
    run.ends()
    assert run.offsets("deaf") == [[offset]] * 2
    assert run.states() == {"deaf": "success"}  # "skipped" is what the stop asked for


def test_a_task_is_cleared_while_its_stop_is_under_way(runs: Runs) -> None:
    clear_while_it_stops(runs)


def test_a_task_is_cleared_and_fails_before_a_reaction_sees_it(runs: Runs, session: Session) -> None:
    """R97: Airflow lets it retry, as it does with a task that a stop ends by SIGTERM; but this retry is the user's."""
    airflow, run = runs.airflow, parked(runs, "patient")
    row = f"FROM task_instance WHERE run_id = '{run.run_id}' AND task_id = 'late'"
    offset = run.send("go")
    run.until(lambda: run.lines("late"), "runs")
    run.send("stop")
    stopping = "SELECT 1 FROM aiflow_rule_state WHERE run_id = ? AND task_id = 'late' AND stopping IS NOT NULL"
    run.until(lambda: airflow.sql(stopping, run.run_id), "its stop is under way")
    supervisor = psutil.Process(airflow.sql(f"SELECT pid {row}")[0][0]).parent()
    supervisor.suspend()  # its next heartbeat would end the try
    session.run("SELECT 1 FROM aiflow_consumer WHERE name = 'scheduler' FOR UPDATE")  # no reaction
    clear(run, "late")
    subprocess.run([sys.executable, "-c", FAILED, run.run_id, "late"], env=airflow.env, check=True)
    session.close()
    run.until(lambda: not airflow.sql(stopping, run.run_id), "the stop is over")
    assert airflow.sql(f"SELECT state {row}") == [("up_for_retry",)]  # "skipped" is what the stop asked for
    supervisor.resume()
    clear(run, "late")  # rather than to wait for an hour
    run.until(lambda: len(run.lines("late")) == 2, "runs again")
    run.open("late")
    run.ends()
    assert run.offsets("late") == [[offset]] * 2


def test_one_of_two_is_killed_in_a_burst(runs: Runs) -> None:
    """Each event makes one run, although the broker that takes them dies with its scheduler."""
    made = "SELECT run_id FROM dag_run WHERE dag_id = 'closed'"
    before = set(runs.airflow.sql(made))
    offsets: list[int] = []

    def publish() -> None:
        with EventClient(runs.client.uri) as client:
            for _ in range(20):
                offsets.append(client.publish(Event("open"), timeout=1200))
                time.sleep(0.01)  # pace: the kill shall fall between two

    threads = [threading.Thread(target=publish) for _ in range(2)]
    for thread in threads:
        thread.start()
    runs.airflow.wait_until(lambda: len(offsets) > 10)
    runs.airflow.kill("scheduler")
    for thread in threads:
        thread.join()
    runs.airflow.wait_until(lambda: len(runs.airflow.sql(made)) >= len(before) + 40, what="a run for each")
    born = {run_id for (run_id,) in {*runs.airflow.sql(made)} - before}
    assert born == {f"aiflow__open__{offset}" for offset in offsets}
    runs.airflow.launch("scheduler")


def test_a_stock_scheduler_beside_one_in_event_mode(runs: Runs) -> None:
    """A rolling upgrade, and back: who takes a run lets its tasks wait; the one in event mode starts them."""
    airflow = runs.airflow
    triggers = (
        "SELECT count(*) FROM task_instance WHERE dag_id = 'heard' AND state = 'deferred' AND trigger_id IS {} NULL"
    )
    waiting = [parked(runs) for _ in range(3)]
    airflow.kill("scheduler-2")
    airflow.env["AIRFLOW__AIFLOW__EVENT_MODE"] = "False"
    airflow.launch("scheduler-2")
    assert "aiflow: SchedulerJobRunner (stock) runs" in airflow.log("scheduler-2")
    assert airflow.log("scheduler-2").count("the triggerer waits for a task's rules") >= len(waiting)
    airflow.wait_until(lambda: airflow.sql(triggers.format("NOT")) == [(0,)], what="taken back")
    airflow.kill("scheduler")  # the stock one is alone
    waiting += [runs.begin("heard") for _ in range(3)]
    airflow.wait_until(lambda: airflow.sql(triggers.format("NOT")) == [(3,)], what="they wait under stock")
    airflow.env["AIRFLOW__AIFLOW__EVENT_MODE"] = "True"
    airflow.launch("scheduler")
    airflow.wait_until(lambda: airflow.sql(triggers.format("NOT")) == [(0,)], what="taken over")
    waiting += [runs.begin("heard") for _ in range(6)]
    airflow.wait_until(lambda: airflow.sql(triggers.format("")) == [(len(waiting),)], what="side by side")
    assert not [run for run in waiting if run.lines("a")]
    offsets = [runs.client.publish(Event("go", context=run.context), timeout=1200) for run in waiting]
    for run, offset in zip(waiting, offsets, strict=True):
        run.ends()
        assert run.offsets("a") == [[offset]]


def test_a_task_is_cleared_while_its_stop_is_under_way_sqlite(alone: Runs) -> None:
    clear_while_it_stops(alone)


def limit_files(pid: int, size: int) -> None:
    """From now on this process can write no file beyond so many bytes, as if the disk was full."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_the_logs_disk_is_full(alone: Runs) -> None:
    """A publisher waits; what it publishes is acted on when there is room."""
    run = parked(alone)
    broker = int(alone.client.status(timeout=1200)["pid"])
    limit_files(broker, 4096)
    offsets: list[int] = []
    event = Event("go", "x" * 10_000, context=run.context)
    other = EventClient(alone.client.uri)  # the first one waits for its answer
    sender = threading.Thread(target=lambda: offsets.append(alone.client.publish(event, timeout=1800)))
    sender.start()
    try:
        run.until(lambda: other.status()["store"].get("error"), "its status says so")
        run.until(lambda: "store failed what=append" in alone.airflow.log("scheduler"), "so does the scheduler's log")
        parked(alone)  # Airflow itself goes on
        assert not offsets
    finally:
        limit_files(broker, resource.RLIM_INFINITY)
        other.close()
    sender.join()
    run.ends()
    assert run.offsets("a") == [offsets]


def test_airflows_disk_is_full(alone: Runs) -> None:
    """No transaction of the scheduler is committed; the event is acted on when there is room.

    It has no heartbeat for longer than it may be without; what runs is not taken from it all the same.
    """
    run, airflow = parked(alone), alone.airflow
    runs_on = parked(alone, "stopped")
    runs_on.send("go")
    runs_on.until(lambda: runs_on.lines("deaf"), "runs")
    scheduler, before = airflow.pid("scheduler"), airflow.log("scheduler").count(FAILS)
    reader = sqlite3.connect(airflow.home / "airflow.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM dag").fetchall()  # from now on its -wal only grows
    airflow.sql("CREATE TABLE long AS SELECT zeroblob(3000000) AS zeros")
    size = 2_000_000
    assert (airflow.home / "airflow.db-wal").stat().st_size > size > len(airflow.log("scheduler")) + 1_000_000
    limit_files(scheduler, size)
    try:
        offset = run.send("go")
        run.until(lambda: airflow.log("scheduler").count(FAILS) > before + 6, "it says so, and tries again each second")
        assert run.lines("a") == []
    finally:
        limit_files(scheduler, resource.RLIM_INFINITY)
        reader.close()
    ends_with_one_start(run, offset)
    runs_on.open("deaf")
    runs_on.ends()
    assert len(runs_on.lines("deaf")) == 1
