"""One Airflow on each database for several files of tests, each of which leaves its scheduler as it was."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
from airflows import DAGS, Deployment, On, server_of


@pytest.fixture(scope="package")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[On]:
    """on("sqlite") is the one on SQLite, which has a triggerer, too; they keep nothing of one namespace."""
    dags = tmp_path_factory.mktemp("dags")
    for path in (DAGS / "rules.py", *(DAGS.parents[1] / "crash" / "dags").glob("*.py")):
        (dags / path.name).symlink_to(path)
    made: list[Deployment] = []

    def make(database: str) -> Deployment:
        made.append(
            Deployment(
                tmp_path_factory.mktemp("af"),
                dags,
                database=server_of(database),
                event_mode=True,
                triggerer=database == "sqlite",
                config={"aiflow.retention": "short=0"},
            )
        )
        return made[-1].start()

    yield functools.cache(make)
    for airflow in made:
        airflow.close()
