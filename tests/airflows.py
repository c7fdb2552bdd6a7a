"""Real Airflows for the tests: scheduler, api-server, dag-processor, LocalExecutor."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

ROOT = Path(__file__).parents[1]
DAGS = ROOT / "tests" / "airflow" / "dags"
SERVERS = {"postgresql": "AIF_TEST_PG", "mysql": "AIF_TEST_AIRFLOW_MYSQL"}
DATABASES = ["sqlite", "postgresql"]  # of Airflow
if "AIF_TEST_AIRFLOW_MYSQL" in os.environ:  # `make test-mysql`
    DATABASES.append("mysql")
sys.path.insert(0, str(ROOT / "examples"))
os.environ.setdefault("AIFLOW_PATIENCE_SEC", "1200")

import deployment  # noqa: E402

PARSED = "dag_processor.min_file_process_interval"  # s; a file that has changed does not wait for it
WATCHERS = {PARSED: "5"}  # Airflow knows of a watcher only at the second parsing of its file


class Deployment(deployment.Deployment):
    """One whose database is a copy of the first one's, because `airflow db migrate` takes seconds."""

    firsts: ClassVar[dict[str | None, deployment.Deployment]] = {}  # by server
    folder: ClassVar[Path]

    def _environment(self, config: dict[str, str]) -> dict[str, str]:
        key = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        return super()._environment({PARSED: "600", "core.fernet_key": key} | config)

    def _make_database(self) -> None:
        first = self.firsts.get(self._server) or self._make_first()
        if self._server is None:
            with contextlib.closing(first._connect()) as database:
                (self.home / "airflow.db").write_bytes(database.serialize())
        elif deployment.is_mysql(self._server):
            deployment.on_server(self._server, f'CREATE DATABASE "{self._name}"')
            self._copy_tables(first._name)
        else:
            deployment.on_server(self._server, f'CREATE DATABASE "{self._name}" TEMPLATE "{first._name}"')
        # Where it is not there, each service writes one, with a key of its own, and they begin at the same time.
        (self.home / "airflow.cfg").touch()

    def _copy_tables(self, name: str) -> None:
        """MySQL has no copy of a database: make the same tables, and fill them."""
        self.sql("SET foreign_key_checks = 0")
        for (table,) in self.sql(f'SHOW TABLES FROM "{name}"'):
            ((_, statement),) = self.sql(f'SHOW CREATE TABLE "{name}"."{table}"')
            self.sql(statement)
            self.sql(f'INSERT INTO "{table}" SELECT * FROM "{name}"."{table}"')
        self.sql("SET foreign_key_checks = 1")

    def _make_first(self) -> deployment.Deployment:
        home = self.folder / f"first{len(self.firsts)}"
        first = deployment.Deployment(home, DAGS, database=self._server or "sqlite")
        first.names = []
        self.firsts[self._server] = first.start()
        return first


Deploy = Callable[..., Deployment]
On = Callable[[str], Deployment]


@pytest.fixture(scope="session", autouse=True)
def firsts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where the databases are that others are copies of, until the end."""
    Deployment.folder = tmp_path_factory.mktemp("firsts")
    yield
    for first in Deployment.firsts.values():
        first.close()


def server_of(database: str) -> str:
    """The URI of a server that lets us make databases of this kind; "sqlite", which needs none, as it is."""
    if database not in SERVERS:
        return database
    uri = os.environ.get(SERVERS[database])
    if not uri:
        script = {"postgresql": "with_postgres", "mysql": "with_airflow_mysql"}[database]
        pytest.fail(f"{SERVERS[database]} is not set: run this by tests/{script}, as `make test-airflow` does")
    return uri


@pytest.fixture(scope="session")
def server() -> str:
    """The URI of a PostgreSQL server that lets us make databases."""
    return server_of("postgresql")


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deploy]:
    """deploy("sqlite", event_mode=True, ...) makes an Airflow; all are closed after the module."""
    made: list[Deployment] = []

    def make(database: str, dags: Path = DAGS, **options: object) -> Deployment:
        home = tmp_path_factory.mktemp("af")
        made.append(Deployment(home, dags, database=server_of(database), **options))  # type: ignore[arg-type]
        return made[-1].start()

    yield make
    for airflow in made:
        airflow.close()


def free_tcp() -> str:
    """An address of this host that nobody serves."""
    return f"tcp://127.0.0.1:{deployment.free_port()}"


def died(airflow: Deployment, logged: int) -> bool:
    """Whether the scheduler was killed, or its broker: the one that is started in its place dies at the same point.

    :param logged: of its log, so many characters are older.
    """
    killed = "the broker's process ended (killed by signal 9)"
    return not airflow.alive("scheduler") or killed in airflow.log("scheduler")[logged:]


class Broker:
    """`aiflow broker` on a TCP port of this host."""

    def __init__(self, folder: Path, uri: str = "") -> None:
        self.uri = uri or free_tcp()
        self.log = f"sqlite:{folder}/events.db"
        self.start()

    def start(self) -> None:
        command = ["-m", "aiflow_ext.cli", "broker", "--bind", self.uri, "--log", self.log]
        self.process = subprocess.Popen([sys.executable, *command])

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
