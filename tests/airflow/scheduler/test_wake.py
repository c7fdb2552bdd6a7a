"""What the scheduler's waits are made of, without a scheduler."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event as Flag
from threading import Thread

import pytest
from airflows import free_tcp

from aiflow_ext import EventClient, _core
from aiflow_ext.provider.config import SOURCES, Config
from aiflow_ext.provider.http import middleware as api
from aiflow_ext.provider.scheduler.wake import Wake, Waker

Wait = Callable[..., Waker]


@pytest.fixture
def waker(tmp_path: Path) -> Iterator[Wait]:
    made: list[Waker] = []

    def make(broker: str = f"ipc://{tmp_path}/broker", database: str = "") -> Waker:
        log = f"sqlite:{tmp_path}/events.db"
        made.append(Waker(Config(broker, True, log, database, 2.0, 2.0, SOURCES, False), []))
        return made[-1]

    yield make
    for one in made:
        one.close()
        one.end_broker()


def test_an_embedded_broker_on_tcp_makes_no_folder(
    waker: Wait, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder named tcp: was made where the scheduler runs."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    uri = free_tcp()
    waker(uri)
    with EventClient(uri) as client:
        assert client.head(60) == 0
    assert list(here.iterdir()) == []


def test_the_api_server_wakes_a_scheduler_whose_broker_is_on_tcp(waker: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked for a file tcp://..., and found none."""
    uri = free_tcp()
    monkeypatch.setenv("AIFLOW_BROKER", uri)
    monkeypatch.setenv("AIRFLOW__AIFLOW__EVENT_MODE", "True")
    monkeypatch.setattr(api, "_handles", {})
    waker(uri)
    with _core.Subscription(uri, hints=True) as subscription:
        subscription.add([("*", "*", "*", "*")], None, 60000)
        deadline = time.monotonic() + 60
        while (hint := subscription.next(200)[2]) is None and time.monotonic() < deadline:
            api.wake("/api/v2/dags")  # one that is sent while it connects may be lost
    api._handles.pop("hints").close()
    assert hint == "/api/v2/dags"


def test_hints_that_were_lost_while_there_was_no_broker(waker: Wait) -> None:
    """A run that a user made while it came up began with the next full pass."""
    waiting, deadline = waker(), time.monotonic() + 60
    while not (wake := waiting.wait(60)).events and time.monotonic() < deadline:
        continue
    assert wake.full


def test_a_hint_about_a_task_names_it(waker: Wait, tmp_path: Path) -> None:
    """Any led to a full pass; and of those that came together, all but one were lost."""
    one, other = uuid.uuid4(), uuid.uuid4()
    waiting, heard, deadline = waker(), Wake(), time.monotonic() + 60
    with EventClient(f"ipc://{tmp_path}/broker") as client:
        client.head(60)  # a hint that is sent while it connects may be lost
        while waiting.wait(0.5):  # the broker came up
            continue
        client.hint(f"/execution/task-instances/{one}/run")
        client.hint(f"/execution/task-instances/{other}/state")
        while len(heard.tasks) < 2 and time.monotonic() < deadline:
            heard.tasks |= waiting.wait(60).tasks
    assert heard.tasks == {("status", one), ("dirty", other)}


@pytest.mark.parametrize(
    "path",
    [
        f"/execution/task-instances/{uuid.UUID(int=7)}/other",
        "/execution/task-instances/7/state",
        f"/execution/task-instances/{uuid.UUID(int=7)}/state/",
        f"x/execution/task-instances/{uuid.UUID(int=7)}/state",
        "/execution/dag-runs/a/b",
        "",
    ],
)
def test_any_other_hint_says_that_all_may_have_changed(path: str) -> None:
    wake = Wake()
    wake.hear_hint(path)
    assert wake == Wake(full=True)


def test_what_makes_no_work_is_no_hint() -> None:
    def wakes(method: str, path: str) -> bool:
        return api._may_change({"type": "http", "method": method, "path": path})

    task = f"/execution/task-instances/{uuid.uuid4()}"
    assert wakes("PATCH", f"{task}/run")
    assert wakes("PATCH", f"{task}/state")
    assert wakes("PATCH", f"{task}/skip-downstream")
    assert wakes("POST", "/execution/dag-runs/a/b")
    assert wakes("POST", "/api/v2/dags/a/dagRuns")
    assert not wakes("PUT", f"{task}/heartbeat")
    assert not wakes("PUT", f"{task}/rtif")
    assert not wakes("PATCH", f"{task}/rendered-map-index")
    for path in ("xcoms/a/b/c/return_value", "variables/a", "store/a"):
        assert not wakes("POST", f"/execution/{path}")
    assert not wakes("GET", f"{task}/state")


@pytest.mark.skipif("AIF_TEST_POOLER" not in os.environ, reason="no PgBouncer: tests/with_pgbouncer gives one")
def test_a_pooler_that_nothing_is_heard_through_is_said_once(waker: Wait, caplog: pytest.LogCaptureFixture) -> None:
    """The scheduler goes on without the database's wake-ups, and says which key gives them back."""
    waiting = waker(database=f"{os.environ['AIF_TEST_POOLER']}/postgres")
    waiting.wait(2.5)  # sources that are away are tried each second
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and "database" in r.getMessage()]
    assert len(said) == 1
    assert "[aiflow] listen" in said[0]
    assert "pooler in transaction mode" in said[0]


def test_where_to_listen_is_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql+psycopg2://u:p@pooler:6432/airflow")
    assert Config.from_airflow().database == "postgresql://u:p@pooler:6432/airflow"
    monkeypatch.setenv("AIRFLOW__AIFLOW__LISTEN", "postgresql+psycopg2://u:p@server/airflow")
    config = Config.from_airflow()
    assert (config.database, config.log) == ("postgresql://u:p@server/airflow", "postgresql://u:p@pooler:6432/airflow")
    monkeypatch.setenv("AIRFLOW__AIFLOW__LISTEN", "server:p")
    with pytest.raises(ValueError, match=r"\[aiflow\] listen is not postgresql://") as wrong:
        Config.from_airflow()
    assert "server:p" not in str(wrong.value)


def test_a_commit_to_sqlite_ends_the_wait(waker: Wait, tmp_path: Path) -> None:
    """SQLite has no descriptor to wait for: it is looked at every few milliseconds."""
    airflow = tmp_path / "airflow.db"
    with sqlite3.connect(airflow) as other:
        other.execute("CREATE TABLE t (x)")
    waiting = waker(database=f"sqlite:{airflow}")
    heard = Flag()

    def commit() -> None:
        with sqlite3.connect(airflow) as other:
            while not heard.is_set():  # one that came before the wait is forgotten as our own
                other.execute("INSERT INTO t VALUES (1)")
                other.commit()

    while waiting.wait(1):  # the broker comes up, which ends a wait, too
        continue
    thread = Thread(target=commit)
    thread.start()
    deadline = time.monotonic() + 60
    try:
        while not waiting.wait(60).full:
            assert time.monotonic() < deadline
    finally:
        heard.set()
        thread.join()


@pytest.mark.skipif("AIF_TEST_PG" not in os.environ, reason="no PostgreSQL: tests/with_postgres gives one")
def test_what_libpq_holds_ends_the_next_wait(waker: Wait) -> None:
    """A poll takes 1,000 payloads; libpq has read the others, and no descriptor tells of them again."""
    import psycopg2

    waiting = waker(database=os.environ["AIF_TEST_PG"])
    other = psycopg2.connect(os.environ["AIF_TEST_PG"])
    with other, other.cursor() as cursor:
        cursor.execute("SELECT pg_notify('aiflow_wake', 'dirty\x1fd\x1f' || n) FROM generate_series(1, 2500) n")
    other.close()
    heard: set[tuple[str, str]] = set()
    deadline = time.monotonic() + 60
    while len(heard) < 2500 and time.monotonic() < deadline:
        heard |= waiting.wait(60).dirty
    assert len(heard) == 2500
    assert time.monotonic() < deadline


def test_a_signal_is_handled_while_nothing_comes(waker: Wait) -> None:
    waiting = waker()

    def handler(number: int, frame: object) -> None:
        raise RuntimeError("from the handler")

    def wait() -> None:  # all of it where the exception is expected: it may come before the wait
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        end = time.monotonic() + 600
        while time.monotonic() < end:
            waiting.wait(600)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(RuntimeError, match="from the handler"):
            wait()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_pipe_that_was_closed_is_named(waker: Wait) -> None:
    """It would be ready for ever, and the scheduler would never sleep again."""
    waiting = waker()
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    waiting._pipes.append(reader)

    def wait() -> None:
        while True:  # the broker comes up meanwhile
            waiting.wait(60)

    with pytest.raises(ValueError, match=rf"descriptor {reader}, which wakes the scheduler, is not open"):
        wait()
