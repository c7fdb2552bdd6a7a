"""Real Airflows for the tests: scheduler, api-server, dag-processor, LocalExecutor."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DAGS = ROOT / "tests" / "airflow" / "dags"
DATABASES = ["sqlite", "postgresql"]
sys.path.insert(0, str(ROOT / "examples"))

from deployment import Deployment  # noqa: E402

Deploy = Callable[..., Deployment]


@pytest.fixture(scope="session")
def server() -> str:
    """The URI of a PostgreSQL server that lets us make databases."""
    uri = os.environ.get("AIF_TEST_PG")
    if not uri:
        pytest.fail("AIF_TEST_PG is not set: run this by tests/with_postgres, as `make test-airflow` does")
    return uri


@pytest.fixture(scope="module")
def deploy(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deploy]:
    """deploy("sqlite", event_mode=True, ...) makes an Airflow; all are closed after the module."""
    made: list[Deployment] = []

    def make(database: str, dags: Path = DAGS, **options: object) -> Deployment:
        home = tmp_path_factory.mktemp("af")
        uri = server if database == "postgresql" else database
        made.append(Deployment(home, dags, database=uri, **options))  # type: ignore[arg-type]
        return made[-1].start()

    yield make
    for deployment in made:
        deployment.close()


def free_tcp() -> str:
    """An address of this host that nobody serves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


def died(airflow: Deployment, logged: int) -> bool:
    """Whether the scheduler was killed, or its broker: the one that is started in its place dies at the same point.

    :param logged: of its log, so many characters are older.
    """
    killed = "the broker's process ended (killed by signal 9)"
    return not airflow.alive("scheduler") or killed in airflow.log("scheduler")[logged:]


class Broker:
    """`aiflow broker` on a TCP port of this host."""

    def __init__(self, folder: Path) -> None:
        self.uri = free_tcp()
        self.log = f"sqlite:{folder}/events.db"
        self.start()

    def start(self) -> None:
        command = ["-m", "aiflow_ext.cli", "broker", "--bind", self.uri, "--log", self.log]
        self.process = subprocess.Popen([sys.executable, *command])

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
