"""CeleryExecutor in event mode; the workers, `worker` and `worker-2`, are on another host."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as client_of_redis
from airflow.providers.celery.cli import definition
from deployment import COMMANDS, sessions
from executor.hosts import Far, Host, keys_and_broker, other_host

from aiflow_ext import Event, EventClient
from aiflow_ext.provider import commands


class Redis:
    """A server for Celery alone: its broker, and its result backend."""

    def __init__(self, folder: Path, host: Host) -> None:
        port = host.free_port()
        self.uri = f"redis://{host.here}:{port}"
        options = {"bind": host.here, "port": port, "dir": folder, "save": "", "protected-mode": "no"}
        command = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        self._process = subprocess.Popen(["redis-server", *command], stdout=subprocess.DEVNULL)
        self._client = client_of_redis.Redis(host.here, port)

    def asked(self) -> int:
        """How often somebody has asked for the results of many tasks: only the executor does."""
        return int(self._client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"])

    def close(self) -> None:
        self._client.close()
        self._process.kill()
        self._process.wait()


class OnCelery(Far):
    """With its workers."""

    def __init__(self, folder: Path, host: Host, *args: object, config: dict[str, str]) -> None:
        super().__init__(folder, host, *args, config | {"core.executor": "CeleryExecutor"})  # type: ignore[arg-type]
        for name in ("worker", "worker-2"):
            self._commands[name] = [*COMMANDS["worker"], "--concurrency", "4", "--celery-hostname", name]

    def _how(self, name: str) -> tuple[list[str], dict[str, str]]:
        command, env = super()._how(name)
        if name.startswith("worker"):
            return [*self.host.enter, *command], self.env_there(name)
        return command, env


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with other_host() as host:
        yield host


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory, host: Host) -> Iterator[Redis]:
    redis = Redis(tmp_path_factory.mktemp("redis"), host)
    yield redis
    redis.close()


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, server: str, host: Host, redis: Redis) -> Iterator[OnCelery]:
    folder = tmp_path_factory.mktemp("celery")
    config = {
        "core.parallelism": "4",
        "celery.broker_url": f"{redis.uri}/0",
        "celery.result_backend": f"{redis.uri}/1",
        "celery.operation_timeout": "60",  # what a slow machine may take to speak to Redis
        "celery.sync_parallelism": "2",  # a process for each that sends, where there are several tasks
    }
    with (
        keys_and_broker(folder, host) as broker,
        OnCelery(folder, host, broker, server, config=config) as airflow,
    ):
        airflow.launch("worker")
        yield airflow


@pytest.fixture
def client(airflow: OnCelery) -> Iterator[EventClient]:
    with airflow.client() as client:
        yield client


def test_the_command_of_workers_is_ours_whichever_provider_is_asked_first() -> None:
    known: list[Any] = list(definition.get_celery_cli_commands())  # as Airflow has it, where ours is the second
    commands._change_worker(known)
    for group in (known[0], definition.get_celery_cli_commands()[0]):
        assert [c.name for c in group.subcommands if c.func is commands._worker] == ["worker"]


def test_an_event_starts_restarts_and_stops_tasks_of_another_host(airflow: OnCelery, client: EventClient) -> None:
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


def test_sigterm_reaches_a_task_of_another_host(airflow: OnCelery, client: EventClient) -> None:
    run_id = airflow.begin("told")
    airflow.reach("told", run_id, hears_sigterm="running")
    client.publish(Event("sigterm"))
    airflow.wait_for_run("told", run_id)
    assert airflow.states("told", run_id) == {"hears_sigterm": "success"}
    assert "aiflow: SIGTERM, the task did not stop by itself" in airflow.log("worker")
    assert "Sending SIGTERM signal to process group" in airflow.log_there("worker", "hears_sigterm")  # by on_kill()


def test_a_worker_that_dies_while_a_stop_is_under_way(airflow: OnCelery, client: EventClient) -> None:
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
    number, name, pid = airflow.try_of("deaf", "restarted")
    assert (number, name) == (2, "worker-2")
    assert pid in sessions(airflow.pid("worker-2"))
    client.publish(Event("deaf.end"))
    airflow.wait_for_run("deaf", run_id)
    assert airflow.states("deaf", run_id) == {"stopped": "success", "restarted": "success"}
    airflow.wait_until(lambda: pid not in sessions(airflow.pid("worker-2")), what="its process was killed")


def test_the_result_backend_is_asked_no_more_than_by_the_stock_scheduler(airflow: OnCelery, redis: Redis) -> None:
    """It asks once a second, busy or not.  `many` has tasks one after the other, and then more than slots."""
    if not airflow.alive("worker-2"):  # this test alone
        airflow.launch("worker-2")
    before, began = redis.asked(), time.monotonic()
    airflow.run_dag("many")
    assert redis.asked() - before <= time.monotonic() - began + 1
