"""What a running task may ask, where the log is replaced meanwhile."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk.definitions._internal.contextmanager import _CURRENT_CONTEXT

from aiflow_ext import Event, EventClient, _core
from aiflow_ext.provider.author.task import STOP_NAMESPACE, STOP_TYPE, stop_requested


def test_a_task_is_asked_to_stop_in_another_log_than_it_began_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"ipc://{tmp_path}/b"
    monkeypatch.setenv("AIRFLOW__AIFLOW__BROKER", uri)
    _CURRENT_CONTEXT.append({"ti": SimpleNamespace(id="a try")})  # type: ignore[typeddict-item]
    try:
        with EventClient(uri) as client:
            with _core.Broker(uri, f"sqlite:{tmp_path}/one.db") as broker:
                broker.start()
                client.publish_many(Event("k") for _ in range(5))
                assert not stop_requested()
            with _core.Broker(uri, f"sqlite:{tmp_path}/another.db") as broker:
                broker.start()
                client.publish(Event("k"))
                assert not stop_requested()
                client.publish(Event("a try", "stopped", STOP_TYPE, namespace=STOP_NAMESPACE))
                end = time.monotonic() + 120
                while not stop_requested():
                    assert time.monotonic() < end
    finally:
        _CURRENT_CONTEXT.pop()
