"""CeleryExecutor in event mode: the workers are on another host, with a file system, a name and a key of their own."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from airflows import Broker, Deployment
from deployment import COMMANDS, sessions
from executor.hosts import Host, other_host

from aiflow_ext import Event, EventClient
from aiflow_ext.cli import main

DAGS = Path(__file__).parent / "dags"
GRACE_SEC = 3  # between the stages of a stop


def free_port(address: str) -> int:
    """A port of this address that nobody has."""
    with socket.socket() as s:
        s.bind((address, 0))
        return int(s.getsockname()[1])


class Redis:
    """A server for Celery alone: its broker, and its result backend."""

    def __init__(self, folder: Path, address: str) -> None:
        import redis

        self.address, self.port = address, free_port(address)
        options = {"bind": address, "port": self.port, "dir": folder, "save": "", "protected-mode": "no"}
        command = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        self._process = subprocess.Popen(["redis-server", *command], stdout=subprocess.DEVNULL)
        self._client = redis.Redis(address, self.port)

    def uri(self, database: int) -> str:
        return f"redis://{self.address}:{self.port}/{database}"

    def asked(self) -> int:
        """How often somebody has asked for the results of many tasks: only the executor does."""
        return int(self._client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"])

    def close(self) -> None:
        self._client.close()
        self._process.kill()
        self._process.wait()


class Far(Deployment):
    """An Airflow whose workers, `worker` and `worker-2`, run on the other host; they cannot reach its database."""

    def __init__(self, home: Path, host: Host, redis: Redis, broker: Broker, **options: object) -> None:
        self.host = host
        port = free_port(host.here)
        url = f"http://{host.here}:{port}"
        config = {
            "core.executor": "CeleryExecutor",
            "core.execution_api_server_url": f"{url}/execution/",
            "celery.broker_url": redis.uri(0),
            "celery.result_backend": redis.uri(1),
            "celery.sync_parallelism": "2",  # a process for each that sends, where there are several tasks
            "celery_broker_transport_options.visibility_timeout": "86400",
            "scheduler.task_instance_heartbeat_timeout": "20",
            "scheduler.task_instance_heartbeat_timeout_detection_interval": "2",
            "workers.min_heartbeat_interval": "1",  # for so long a supervisor may not see that its task has ended
            "aiflow.broker": broker.uri,
            "aiflow.log": broker.log,
            "aiflow.stop_grace_sec": str(GRACE_SEC),
        }
        super().__init__(home, DAGS, port=port, config=config, **options)  # type: ignore[arg-type]
        self.url = self.rest.url = url
        self._commands["api-server"] = ["api-server", "--host", host.here]
        for name in ("worker", "worker-2"):
            self._commands[name] = [*COMMANDS["worker"], "--concurrency", "4", "--celery-hostname", name]
        self.env["AIRFLOW__AIFLOW__KEY_FILE"] = str(home.parent / "airflow.key")
        self.env |= {"NO_PROXY": host.here, "no_proxy": host.here}

    def _how(self, name: str) -> tuple[list[str], dict[str, str]]:
        command, env = super()._how(name)
        if not name.startswith("worker"):
            return command, env
        home = self.worker_home(name)
        own = {"SQL_ALCHEMY_CONN": f"sqlite:///{home}/none.db"}
        env = env | {f"AIRFLOW__DATABASE__{key}": value for key, value in own.items()}
        return [*self.host.enter, *command], env | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "far_host.name",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
            "AIRFLOW__AIFLOW__KEY_FILE": str(home / "airflow.key"),
            "AIRFLOW__AIFLOW__LOG": "",  # of the scheduler alone
            "PYTHONPATH": str(home),
        }

    def worker_home(self, name: str) -> Path:
        """Its AIRFLOW_HOME, made when it is asked for first."""
        home = self.home.parent / name
        if not home.exists():
            shutil.copytree(DAGS, home / "dags")
            shutil.copy2(self.home.parent / "airflow.key", home)
            (home / "far_host.py").write_text(f'def name():\n    return "{name}"\n')
            (home / "airflow.cfg").touch()
        return home

    def returned(self, dag_id: str, task_id: str) -> object:
        """What the last try of a task has returned."""
        return self.sql("SELECT value FROM xcom WHERE dag_id = ? AND task_id = ?", dag_id, task_id)[0][0]

    def begin(self, dag_id: str) -> str:
        """Begin a run; its id."""
        self.wait_for_dag(dag_id)
        self.rest.unpause(dag_id)
        return self.rest.trigger(dag_id)

    def reach(self, dag_id: str, run_id: str, **states: str | None) -> None:
        """Until these tasks are in these states."""
        self.wait_until(lambda: states.items() <= self.states(dag_id, run_id).items(), what=str(states))

    def try_of(self, dag_id: str, task_id: str) -> tuple[str, str, int]:
        """The number of the last try of a task, its host, and its process."""
        return self.sql(
            "SELECT try_number, hostname, pid FROM task_instance WHERE dag_id = ? AND task_id = ?", dag_id, task_id
        )[0]

    def far_log(self, worker: str, task_id: str) -> str:
        """The log of a task, which is on the host where it ran."""
        logs = sorted((self.worker_home(worker) / "logs").rglob("*.log"))
        return "\n".join(path.read_text() for path in logs if f"task_id={task_id}" in path.parts)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory, host: Host) -> Iterator[Redis]:
    redis = Redis(tmp_path_factory.mktemp("redis"), host.here)
    yield redis
    redis.close()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with other_host() as host:
        yield host


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, server: str, host: Host, redis: Redis) -> Iterator[Far]:
    folder = tmp_path_factory.mktemp("celery")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("AIRFLOW_HOME", str(folder / "nobody"))
        monkeypatch.setenv("AIFLOW_KEYS", str(folder / "keys"))
        all_rights = ("--publish", "*", "--read", "*")
        assert main(["keys", "new", "airflow", *all_rights, "--out", str(folder / "airflow.key")]) == 0
        broker = Broker(folder, f"tcp://{host.here}:{free_port(host.here)}")
        airflow = Far(folder / "af", host, redis, broker, database=server, event_mode=True)
        try:
            with airflow:
                airflow.launch("worker")
                yield airflow
        finally:
            broker.end()


@pytest.fixture
def client(airflow: Far) -> Iterator[EventClient]:
    with EventClient(
        airflow.env["AIRFLOW__AIFLOW__BROKER"], key_file=airflow.env["AIRFLOW__AIFLOW__KEY_FILE"]
    ) as client:
        yield client


def test_an_event_starts_restarts_and_stops_tasks_of_another_host(airflow: Far, client: EventClient) -> None:
    run_id = airflow.begin("far")
    airflow.reach("far", run_id, starts="deferred", serves="deferred")
    client.publish_many([Event("go", "1"), Event("version", "1")])
    airflow.reach("far", run_id, starts="success", follows="success")
    assert airflow.returned("far", "starts") == ["worker", "1"]
    assert airflow.returned("far", "follows") == "worker"

    airflow.reach("far", run_id, serves="running")
    client.publish(Event("version", "2"))
    airflow.wait_until(lambda: airflow.try_of("far", "serves")[:2] == (2, "worker"), what="a second try")
    airflow.reach("far", run_id, serves="running")
    client.publish(Event("end"))
    airflow.wait_for_run("far", run_id)
    assert airflow.returned("far", "serves") == ["worker", "2"]  # it has ended by itself


def test_sigterm_reaches_a_task_of_another_host(airflow: Far, client: EventClient) -> None:
    run_id = airflow.begin("told")
    airflow.reach("told", run_id, hears_sigterm="running")
    client.publish(Event("sigterm"))
    airflow.wait_for_run("told", run_id)
    assert airflow.states("told", run_id) == {"hears_sigterm": "success"}
    assert "aiflow: SIGTERM, the task did not stop by itself" in airflow.log("worker")
    assert "Sending SIGTERM signal to process group" in airflow.far_log("worker", "hears_sigterm")  # by on_kill()


def test_a_worker_that_dies_while_a_stop_is_under_way(airflow: Far, client: EventClient) -> None:
    run_id = airflow.begin("deaf")
    airflow.reach("deaf", run_id, stopped="running", restarted="deferred")
    client.publish(Event("deaf.again"))
    airflow.reach("deaf", run_id, restarted="running")
    client.publish_many([Event("deaf.stop"), Event("deaf.again")])
    told = re.compile(r"Celery workers were told to send SIGTERM")
    airflow.wait_until(lambda: len(told.findall(airflow.log("scheduler"))) >= 2, what="SIGTERM for both")
    airflow.kill("worker")
    airflow.launch("worker-2")
    airflow.reach("deaf", run_id, stopped="success", restarted="running")
    number, host, pid = airflow.try_of("deaf", "restarted")
    assert (number, host) == (2, "worker-2")
    assert pid in sessions(airflow.pid("worker-2"))
    client.publish(Event("deaf.end"))
    airflow.wait_for_run("deaf", run_id)
    assert airflow.states("deaf", run_id) == {"stopped": "success", "restarted": "success"}
    airflow.wait_until(lambda: pid not in sessions(airflow.pid("worker-2")), what="its process was killed")


def test_the_result_backend_is_asked_no_more_than_by_the_stock_scheduler(airflow: Far, redis: Redis) -> None:
    """It asks once a second, busy or not; `many` is eight tasks in a row."""
    before, began = redis.asked(), time.monotonic()
    airflow.run_dag("many")
    assert redis.asked() - before <= time.monotonic() - began + 1
