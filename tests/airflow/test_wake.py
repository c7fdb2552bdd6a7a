"""What the scheduler's waits are made of, without a scheduler."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from airflows import free_tcp

from aiflow_ext import EventClient, _core
from aiflow_ext.provider import api
from aiflow_ext.provider.config import SOURCES, Config
from aiflow_ext.provider.wake import Waker

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
