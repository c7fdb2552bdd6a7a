"""One Airflow for several files of tests: its Dags are all of theirs, and hear only what is sent to their runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from airflows import DAGS, DATABASES, Deployment, server_of

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those of the shared one are the last, so that it is not there while others run."""
    items.sort(key=lambda item: "shared" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="package", params=DATABASES)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Its scheduler has listeners: those that write down what they are told, and those that do as they like."""
    folder = tmp_path_factory.mktemp("shared")
    for dags in (DAGS, HERE / "dags", HERE / "listeners" / "dags"):
        shutil.copytree(dags, folder / "dags", dirs_exist_ok=True)
    shutil.copy(HERE / "repairs" / "dags" / "noting.py", folder / "dags")
    config = {"aiflow.stop_grace_sec": "3", "core.plugins_folder": str(HERE / "listeners" / "plugins")}
    database = server_of(request.param)
    with Deployment(folder / "af", folder / "dags", database=database, event_mode=True, config=config) as airflow:
        yield airflow
