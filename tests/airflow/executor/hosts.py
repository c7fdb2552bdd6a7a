"""Another host, where the tasks of an Airflow run: it has a file system, a name, a key and no database.

It is a network namespace of its own, where that is allowed (root, with the rights for it), joined to this host by one
cable.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from airflows import Broker, Deployment

from aiflow_ext import EventClient
from aiflow_ext.cli import main

DAGS = Path(__file__).parent / "dags"
GRACE_SEC = 3  # between the stages of a stop
SECRETS = (
    "DATABASE__SQL_ALCHEMY_CONN",
    "API_AUTH__JWT_SECRET",
    "API__SECRET_KEY",
    "CORE__FERNET_KEY",
    "AIFLOW__LOG",
)


@dataclass(frozen=True)
class Host:
    """The other host.

    :param here: the address of this host, as the other one sees it.
    :param enter: what a command begins with that runs there.
    """

    here: str
    enter: tuple[str, ...]

    def free_port(self) -> int:
        """A port of this host's address that nobody has."""
        with socket.socket() as s:
            s.bind((self.here, 0))
            return int(s.getsockname()[1])


@contextmanager
def other_host() -> Iterator[Host]:
    """Make it; at the end whatever runs there is killed.  Whoever may not make it gets this host once more."""
    name = f"aif{secrets.token_hex(4)}"
    subnet = f"198.18.{secrets.randbelow(256)}"  # of those that are kept for tests of networks
    if os.geteuid() != 0 or subprocess.run(["ip", "netns", "add", name]).returncode:
        yield Host("127.0.0.1", ())
        return
    try:
        _ip(f"link add {name} type veth peer name eth0 netns {name}")
        _ip(f"addr add {subnet}.1/24 dev {name}")
        _ip(f"link set {name} up")
        _ip(f"-n {name} addr add {subnet}.2/24 dev eth0")
        _ip(f"-n {name} link set eth0 up")
        _ip(f"-n {name} link set lo up")
        yield Host(f"{subnet}.1", ("ip", "netns", "exec", name))
    finally:
        for pid in _ip(f"netns pids {name}").split():  # what has left the session of its worker, too
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _ip(f"netns delete {name}")


def _ip(command: str) -> str:
    return subprocess.run(["ip", *command.split()], check=True, stdout=subprocess.PIPE, text=True).stdout


class Far(Deployment):
    """An Airflow in event mode whose tasks run on the other host.

    :param folder: it has `airflow.key`.
    """

    def __init__(self, folder: Path, host: Host, broker: Broker, database: str, config: dict[str, str]) -> None:
        self.host, self.folder, port = host, folder, host.free_port()
        url = f"http://{host.here}:{port}"
        config = config | {
            "core.execution_api_server_url": f"{url}/execution/",
            "scheduler.task_instance_heartbeat_timeout": "20",
            "scheduler.task_instance_heartbeat_timeout_detection_interval": "2",
            "workers.min_heartbeat_interval": "1",  # for so long a supervisor may not see that its task has ended
            "aiflow.broker": broker.uri,
            "aiflow.log": broker.log,
            "aiflow.key_file": str(folder / "airflow.key"),
            "aiflow.stop_grace_sec": str(GRACE_SEC),
        }
        super().__init__(folder / "af", DAGS, port=port, config=config, database=database, event_mode=True)
        self.url = self.rest.url = url
        self._commands["api-server"] = ["api-server", "--host", host.here]
        self.env |= dict.fromkeys(("NO_PROXY", "no_proxy"), f"127.0.0.1,{host.here}")

    def home_there(self, name: str) -> Path:
        """An AIRFLOW_HOME on the other host, made when it is asked for first.

        :param name: the host's, for tasks that run there.
        """
        home = self.folder / name
        if not home.exists():
            shutil.copytree(DAGS, home / "dags")
            shutil.copy2(self.folder / "airflow.key", home)
            (home / "far_host.py").write_text(f'def name():\n    return "{name}"\n')
            (home / "airflow.cfg").touch()
        return home

    def env_there(self, name: str) -> dict[str, str]:
        """The environment of a process there: no secret of this host's, but the key."""
        home = self.home_there(name)
        env = {key: value for key, value in self.env.items() if key.removeprefix("AIRFLOW__") not in SECRETS}
        return env | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "far_host.name",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
            "AIRFLOW__AIFLOW__KEY_FILE": str(home / "airflow.key"),
            "PYTHONPATH": str(home),
        }

    def log_there(self, name: str, task_id: str) -> str:
        """The log of a task, which is on the host where it ran."""
        logs = sorted((self.home_there(name) / "logs").rglob("*.log"))
        return "\n".join(path.read_text() for path in logs if f"task_id={task_id}" in path.parts)

    def client(self) -> EventClient:
        """A client with Airflow's key."""
        return EventClient(self.env["AIRFLOW__AIFLOW__BROKER"], key_file=self.env["AIRFLOW__AIFLOW__KEY_FILE"])

    def begin(self, dag_id: str) -> str:
        """Begin a run; its id."""
        self.wait_for_dag(dag_id)
        self.rest.unpause(dag_id)
        return self.rest.trigger(dag_id)

    def reach(self, dag_id: str, run_id: str, **states: str | None) -> None:
        """Until these tasks are in these states."""
        self.wait_until(lambda: states.items() <= self.states(dag_id, run_id).items(), what=str(states))

    def returned(self, dag_id: str, task_id: str) -> object:
        """What a task has returned."""
        return self.sql("SELECT value FROM xcom WHERE dag_id = ? AND task_id = ?", dag_id, task_id)[0][0]

    def try_of(self, dag_id: str, task_id: str) -> tuple[int, str, int]:
        """The number of the last try of a task, its host, and its process."""
        found = "SELECT try_number, hostname, pid FROM task_instance WHERE dag_id = ? AND task_id = ?"
        number, host, pid = self.sql(found, dag_id, task_id)[0]
        return number, host, pid


@contextmanager
def keys_and_broker(folder: Path, host: Host) -> Iterator[Broker]:
    """A broker over tcp with keys, and `airflow.key`, which may do everything."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("AIRFLOW_HOME", str(folder / "nobody"))
        monkeypatch.setenv("AIFLOW_KEYS", str(folder / "keys"))
        all_rights = ("--publish", "*", "--read", "*")
        assert main(["keys", "new", "airflow", *all_rights, "--out", str(folder / "airflow.key")]) == 0
        broker = Broker(folder, f"tcp://{host.here}:{host.free_port()}")
        try:
            yield broker
        finally:
            broker.end()
