"""A real Airflow in a folder, for the tests, the demo and the bench.

In:  a home folder, a folder of Dags, a kind of database, stock or event mode.
Out: running `airflow api-server`, `scheduler` and `dag-processor`, each with its own log file.
It imports no Airflow: it starts the one installed beside this Python, and ends exactly what it started.
Linux only (/proc).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

import rest
from rest import Rest, RestError

T = TypeVar("T")
COMMANDS = {
    "api-server": ["api-server", "--host", "127.0.0.1"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
    "worker": ["celery", "worker", "--skip-serve-logs", "--without-mingle", "--without-gossip"],
}
# Ends what is recorded in a home once whoever has the other end of its stdin is gone.
GUARD = """
import sys
from deployment import kill_session, recorded
sys.stdin.read()
for pid in recorded(sys.argv[1]):
    kill_session(pid)
"""
COMMANDS["scheduler-2"] = COMMANDS["scheduler"]
SQL_MODE = "ANSI_QUOTES,STRICT_TRANS_TABLES"  # of MySQL, for our own statements
EXECUTION_URL = "AIRFLOW__CORE__EXECUTION_API_SERVER_URL"  # where tasks find their server
JOBS = {
    "scheduler": "SchedulerJob",
    "scheduler-2": "SchedulerJob",
    "dag-processor": "DagProcessorJob",
    "triggerer": "TriggererJob",
}


class Deployment:
    """One Airflow.  `database` is "sqlite", or the URI of a PostgreSQL or MySQL server: then a database of its
    own is made there, and dropped by `close`.  `config` maps "section.key" to a value.  Unless `keep`, the
    services end when this process does, however it ends, and so does what killed ones have left."""

    def __init__(
        self,
        home: Path,
        dags: Path,
        *,
        database: str = "sqlite",
        event_mode: bool = False,
        triggerer: bool = False,
        port: int = 0,
        keep: bool = False,
        config: dict[str, str] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.home = Path(home).resolve()
        self.dags = Path(dags).resolve()
        self.event_mode = event_mode
        self.keep = keep
        self.names = ["api-server", "dag-processor", "scheduler"] + ["triggerer"] * triggerer
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.rest = Rest(self.url, "admin", secrets.token_urlsafe(9))
        self._server = None if database == "sqlite" else database
        self._name = f"aif_{uuid.uuid4().hex[:12]}"
        self._commands = dict(COMMANDS)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._guard: subprocess.Popen[bytes] | None = None
        self._connection: Any = None
        self.env = self._environment(config or {}) | (env or {})

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> Self:
        """Make the database, start every service, and return when each really works."""
        self._write_folders()
        if self._server is None and {"api-server", "scheduler"} <= set(self.names):
            self._give_tasks_a_server()
        try:
            self._make_database()
            waits = [self._launch(name) for name in self.names]
            for ready in waits:
                ready()
        except BaseException:
            self.close()
            raise
        return self

    def stop(self) -> None:
        """End every service, and every task below it; the database stays."""
        for name in self._processes:
            self._signal(name, signal.SIGTERM)
        for name in list(self._processes):
            self._reap(name, 10.0)
        self._save()
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None

    def close(self) -> None:
        """SIGKILL every service, whose end nobody waits for, and drop the database that `start` made."""
        for name in self._processes:
            self._processes[name].kill()
        self.stop()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._server is not None:
            force = "" if is_mysql(self._server) else " WITH (FORCE)"
            on_server(self._server, f'DROP DATABASE IF EXISTS "{self._name}"{force}')

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill(self, name: str, *, tree: bool = True) -> None:
        """SIGKILL, as a crash would: the whole tree of the service, or only its main process; what that leaves behind
        goes on until the service is started again, or stopped."""
        process = self._processes[name]
        process.kill()
        process.wait()
        if tree:
            self._reap(name, 0.0)

    def launch(self, name: str) -> None:
        """Start one service again; returns when it works."""
        self._launch(name)()

    def begin(self, name: str) -> None:
        """Start one service again, and do not wait for it."""
        self._launch(name)

    def end(self, name: str) -> None:
        """End one service as an administrator would, and what it leaves behind."""
        self._signal(name, signal.SIGTERM)
        self._reap(name, 10.0)

    def restart(self, name: str) -> None:
        self.end(name)
        self.launch(name)

    def alive(self, name: str) -> bool:
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def run_airflow(self, *args: str) -> str:
        """Run an `airflow` command to its end; its output.  A failure raises, with the output."""
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *args],
            env=self.env,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"airflow {' '.join(args)}: exit {done.returncode}\n{done.stdout}")
        return done.stdout

    # --- what can be seen -----------------------------------------------------------------------

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def log(self, name: str) -> str:
        path = self.home / "logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def task_log(self, dag_id: str, task_id: str = "") -> str:
        """The text of every log of a Dag's tasks, or of one task."""
        part = f"task_id={task_id}" if task_id else ""
        logs = sorted((self.home / "logs" / "tasks" / f"dag_id={dag_id}").rglob("*.log"))
        return "\n".join(p.read_text(errors="replace") for p in logs if part in p.parts or not part)

    def tails(self, lines: int = 15) -> str:
        """The end of every log: what to show when something did not happen."""
        parts = []
        for path in sorted((self.home / "logs").rglob("*.log")):
            text = path.read_text(errors="replace").splitlines()[-lines:]
            parts.append(f"--- {path.relative_to(self.home)}\n" + "\n".join(text))
        return "\n".join(parts)

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement in Airflow's database (`?` marks a value); its rows."""
        if self._connection is None:
            self._connection = self._connect()
        cursor = self._connection.cursor()
        if self._server is None:
            cursor.execute(statement, values)
        else:
            cursor.execute(statement.replace("?", "%s"), values or None)  # without values a % is itself
        return list(cursor.fetchall()) if cursor.description else []

    def log_uri(self) -> str:
        """Where its log is: by default, in Airflow's database where that has a server."""
        scheme, rest = self.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].split("://")
        return f"sqlite:{self.home}/aiflow/events.db" if scheme == "sqlite" else f"{scheme.split('+')[0]}://{rest}"

    def states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """The states of a run's task instances, by task id (mapped ones by `task_id[index]`).

        Asked of the database: an api-server works 20 ms for an answer, and who waits asks ten times a second.
        """
        found = self.sql(
            "SELECT task_id, map_index, state FROM task_instance WHERE dag_id = ? AND run_id = ?", dag_id, run_id
        )
        return {task if index < 0 else f"{task}[{index}]": state for task, index, state in found}

    def cpu_seconds(self, name: str) -> float:
        """CPU time that a service and everything below it has used so far."""
        ticks = sum(sum(s.cpu) for s in _stats() if s.session == self.pid(name))
        return ticks / os.sysconf("SC_CLK_TCK")

    def wait_until(
        self, predicate: Callable[[], T], timeout: float = rest.PATIENCE, what: str = "", *, poll: float = 0.1
    ) -> T:
        return rest.wait_until(predicate, timeout, what, poll=poll, blame=self.tails)

    def wait_for_dag(self, dag_id: str, timeout: float = rest.PATIENCE) -> None:
        """Until the Dag has been parsed; an import error of a file that names it ends the waiting."""

        def parsed() -> bool:
            if self.sql("SELECT 1 FROM dag WHERE dag_id = ?", dag_id):
                return True
            for filename, text in self.sql("SELECT filename, stacktrace FROM import_error"):
                if dag_id in (self.dags / filename).read_text():
                    raise RuntimeError(text)
            return False

        self.wait_until(parsed, timeout, f"Dag {dag_id} is parsed", poll=0.3)

    def wait_for_run(self, dag_id: str, run_id: str, state: str = "success", timeout: float = rest.PATIENCE) -> None:
        """Until the run is in `state`; a run that ended otherwise ends the waiting."""

        def reached() -> bool:
            # Asked of the database: the api-server has better things to do while others are measured.
            found = self.sql("SELECT state FROM dag_run WHERE dag_id = ? AND run_id = ?", dag_id, run_id)
            now = found[0][0] if found else None
            if now in rest.FINISHED and now != state:
                states = self.states(dag_id, run_id)
                raise RuntimeError(f"{dag_id} {run_id} ended in {now}: {states}\n{self.tails()}")
            return bool(now == state)

        self.wait_until(reached, timeout, f"{dag_id} {run_id} is {state}", poll=0.2)

    def run_dag(self, dag_id: str, conf: dict[str, Any] | None = None, timeout: float = rest.PATIENCE) -> str:
        """Wait for the Dag, unpause it, run it to success; the run id."""
        self.wait_for_dag(dag_id)
        self.rest.unpause(dag_id)
        run_id = self.rest.trigger(dag_id, conf)
        self.wait_for_run(dag_id, run_id, timeout=timeout)
        return run_id

    # --- inside ---------------------------------------------------------------------------------

    def _environment(self, config: dict[str, str]) -> dict[str, str]:
        secret = secrets.token_urlsafe(64)
        settings = {
            "core.dags_folder": str(self.dags),
            "core.executor": "LocalExecutor",
            "core.parallelism": "8",
            "core.load_examples": "False",
            "core.simple_auth_manager_users": "admin:admin",
            "core.simple_auth_manager_passwords_file": str(self.home / "passwords.json"),
            "core.execution_api_server_url": f"{self.url}/execution/",
            "api.port": str(self.port),
            "api.workers": "1",
            "api.secret_key": secret,
            "api_auth.jwt_secret": secret,
            "database.sql_alchemy_conn": self._airflow_uri(),
            "logging.base_log_folder": str(self.home / "logs" / "tasks"),
            "dag_processor.refresh_interval": "2",
            "usage_data_collection.enabled": "False",
            "aiflow.event_mode": str(self.event_mode),
            **config,
        }
        own = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "AIFLOW_"))}
        own |= {f"AIRFLOW__{k.replace('.', '__').upper()}": v for k, v in settings.items()}
        own["AIRFLOW_HOME"] = str(self.home)
        own["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', '')}"
        own["PYTHONUNBUFFERED"] = "1"
        return own | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def _airflow_uri(self) -> str:
        if self._server is None:
            return f"sqlite:///{self.home}/airflow.db"
        driver = "mysql+mysqldb" if is_mysql(self._server) else "postgresql+psycopg2"
        return f"{driver}://{urlsplit(self._server).netloc}/{self._name}"

    def _write_folders(self) -> None:
        (self.home / "logs").mkdir(parents=True, exist_ok=True)
        passwords = {self.rest.user: self.rest.password}
        (self.home / "passwords.json").write_text(json.dumps(passwords))

    def _give_tasks_a_server(self) -> None:
        """On SQLite an api-server for users and tasks alike waits for itself: docs/troubleshooting.md says why."""
        port = free_port()
        self._commands["tasks-server"] = [*COMMANDS["api-server"], "--port", str(port)]
        self.env[EXECUTION_URL] = f"http://127.0.0.1:{port}/execution/"
        self.names.insert(0, "tasks-server")

    def _make_database(self) -> None:
        if self._server is not None:
            on_server(self._server, f'CREATE DATABASE "{self._name}"')
        text = self.run_airflow("db", "migrate")
        (self.home / "logs" / "migrate.log").write_text(text)

    def _launch(self, name: str) -> Callable[[], None]:
        """Start a service; returns what waits until it works.  The one before it, and all it left, is ended."""
        self._reap(name, 0.0)
        if self._guard is None and not self.keep:
            self._guard = self._begin_guard()
        last, logged = 0, len(self.log(name))
        if name in JOBS:
            last = self.sql("SELECT coalesce(max(id), 0) FROM job WHERE job_type = ?", JOBS[name])[0][0]
        # A killed api-server leaves its pid file, and the next one would refuse to start.
        (self.home / f"airflow-{name}.pid").unlink(missing_ok=True)
        with (self.home / "logs" / f"{name}.log").open("ab") as out:
            command, env = self._how(name)
            self._processes[name] = subprocess.Popen(
                command,
                env=env,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # its session id finds everything below it, always
            )
        self._save()
        check = (lambda: self._job_runs(name, last)) if name in JOBS else lambda: self._works(name, logged)
        return lambda: self._wait_ready(name, check)

    def _how(self, name: str) -> tuple[list[str], dict[str, str]]:
        """The command of a service, and its environment."""
        return [sys.executable, "-m", "airflow", *self._commands[name]], self.env

    def _begin_guard(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", GUARD, str(self.home)],
            cwd=Path(__file__).parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _wait_ready(self, name: str, check: Callable[[], bool]) -> None:
        def ready() -> bool:
            if not self.alive(name):
                raise RuntimeError(f"{name} ended at once\n{self.tails(40)}")
            return check()

        self.wait_until(ready, what=f"{name} works")

    def _job_runs(self, name: str, last: int) -> bool:
        statement = "SELECT 1 FROM job WHERE job_type = ? AND id > ? AND state = 'running'"
        return bool(self.sql(statement, JOBS[name], last))

    def _works(self, name: str, logged: int) -> bool:
        """Whether a service works that is no job; of its log, so many characters are older."""
        return " ready." in self.log(name)[logged:] if name.startswith("worker") else self._server_answers()

    def _server_answers(self) -> bool:
        try:
            self.rest.login()
            # The Execution API is built at its first request, which takes seconds: have it done now.
            rest.send("GET", f"{self.env[EXECUTION_URL]}health")
            return True
        except (OSError, RestError):
            return False

    def _signal(self, name: str, number: int) -> None:
        if self.alive(name):
            self._processes[name].send_signal(number)

    def _reap(self, name: str, patience: float) -> None:
        """Wait for a service to end, then end what is left of its session."""
        process = self._processes.pop(name, None)
        if process is None:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        kill_session(process.pid)

    def _save(self) -> None:
        """Leave behind what `stop_recorded` needs to end this deployment from another process."""
        state = {
            "url": self.url,
            "user": self.rest.user,
            "password": self.rest.password,
            "services": {n: [p.pid, _started(p.pid)] for n, p in self._processes.items()},
        }
        (self.home / "deployment.json").write_text(json.dumps(state, indent=1))

    def _connect(self) -> Any:
        if self._server is None:
            return sqlite3.connect(self.home / "airflow.db", isolation_level=None, timeout=30)
        return _connect_server(self._server, self._name)


def recorded(home: str) -> list[int]:
    """The processes of the services in `home`, dead ones too."""
    state = json.loads((Path(home) / "deployment.json").read_text())
    return [pid for pid, _ in state["services"].values()]


def stop_recorded(home: Path) -> list[str]:
    """End the services another process left running in `home`; their names."""
    path = Path(home) / "deployment.json"
    if not path.exists():
        return []
    state = json.loads(path.read_text())
    # A pid that began at another moment is somebody else's by now.
    mine = {n: pid for n, (pid, begin) in state["services"].items() if 0 != _started(pid) == begin}
    for pid in mine.values():
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 10
    while any(_started(p) for p in mine.values()) and time.monotonic() < end:
        time.sleep(0.1)
    for pid in mine.values():
        kill_session(pid)
    path.unlink()
    return list(mine)


def sessions(session: int) -> list[int]:
    """The living processes of a session."""
    return [s.pid for s in _stats() if s.session == session and s.state != "Z"]


def kill_session(session: int) -> None:
    """SIGKILL every process of a session, until there is none: tasks have groups of their own in it."""
    while pids := sessions(session):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


class _Stat:
    """What /proc/<pid>/stat says; proc(5) numbers its fields."""

    def __init__(self, text: str) -> None:
        fields = text[text.rindex(")") + 2 :].split()
        self.pid = int(text.split(None, 1)[0])
        self.state = fields[0]
        self.session = int(fields[3])
        self.cpu = [int(f) for f in fields[11:15]]  # utime stime, and those of reaped children
        self.began = int(fields[19])


def _stats() -> list[_Stat]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found.append(_Stat(path.read_text()))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _started(pid: int) -> int:
    """When a process began (clock ticks since boot); 0 if there is none."""
    try:
        stat = _Stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if stat.state == "Z" else stat.began


_held: list[socket.socket] = []  # so that nobody else is given the same port until its server has come up


def free_port(wanted: int = 0) -> int:
    """A port nobody listens on, the wanted one if it is free; it is nobody else's while this process lives."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        s.bind(("127.0.0.1", wanted))
    except OSError:
        s.bind(("127.0.0.1", 0))
    _held.append(s)
    port: int = s.getsockname()[1]
    return port


def is_mysql(uri: str) -> bool:
    """Whether the server of a URI is a MySQL."""
    return uri.startswith("mysql")


def _connect_server(uri: str, name: str) -> Any:
    u = urlsplit(uri)
    if is_mysql(uri):
        import MySQLdb  # only there when Airflow runs on MySQL

        account = {"user": unquote(u.username or "root"), "password": unquote(u.password or "")}
        # A "name" is quoted as everywhere else.
        return MySQLdb.connect(
            host=u.hostname, port=u.port or 3306, database=name, autocommit=True, sql_mode=SQL_MODE, **account
        )
    import psycopg2  # only there when Airflow runs on PostgreSQL

    connection = psycopg2.connect(f"{u.scheme.split('+')[0]}://{u.netloc}/{name}")
    connection.autocommit = True
    return connection


def on_server(uri: str, statement: str) -> None:
    """Run one statement on a server."""
    connection = _connect_server(uri, urlsplit(uri).path.strip("/") or ("mysql" if is_mysql(uri) else "postgres"))
    try:
        connection.cursor().execute(statement)
    finally:
        connection.close()
