"""What the scheduler's waits are made of, without a scheduler."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from airflows import free_tcp

from aiflow_ext import EventClient, _core
from aiflow_ext.provider.config import SOURCES, Config
from aiflow_ext.provider.http import middleware as api
from aiflow_ext.provider.scheduler.wake import Waker

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
    api._handles.pop("client").close()
    assert hint == "/api/v2/dags"


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
