"""The servers that are measured: each a process of our own, in a folder of its own, on a free port.

What "acknowledged" means differs, and the table says it: ours and Redis with ``appendfsync always`` have written to the
disk (fsync); JetStream has given it to the kernel (it syncs every two minutes); notification-service has committed to
SQLite (whose default is fsync).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).parent
START_SEC = 20.0
OLD_PYTHON = os.environ.get("AIF_OLD_PYTHON", "python3.7")
OLD_PACKAGES = [  # it forgets to ask for the last two
    "notification-service==0.3.1",
    "argcomplete",
    "googleapis-common-protos<1.54",
]


@dataclass(frozen=True)
class Peer:
    """A server that runs: what speaks to it, where it is, whose memory counts."""

    adapter: str
    address: str
    pid: int
    python: str = sys.executable


@dataclass(frozen=True)
class Kind:
    """What can be measured; ``missing`` says why it cannot be here."""

    name: str
    durable: str
    serve: Callable[[Path], Any]
    missing: Callable[[], str | None]
    most_subscribers: int = 1000
    most_rate: int = 10_000  # events/s: what it cannot keep up with only shows its queue
    batches: bool = True


def free_port() -> int:
    with closing(socket.socket()) as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextmanager
def running(
    command: list[str], folder: Path, port_or_path: int | Path, env: dict[str, str] | None = None
) -> Iterator[int]:
    """Run a server until the block ends; yields its pid once it listens."""
    with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **(env or {})})
    try:
        end = time.monotonic() + START_SEC
        while not _listens(port_or_path):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command[0]} does not listen; see {log.name}: {Path(log.name).read_text()[-500:]}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port_or_path: int | Path) -> bool:
    if isinstance(port_or_path, Path):
        return port_or_path.exists()
    with closing(socket.socket()) as s:
        return s.connect_ex(("127.0.0.1", port_or_path)) == 0


def rss_mib(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


@contextmanager
def ours(folder: Path, log: str) -> Iterator[Peer]:
    path = folder / f"{uuid.uuid4().hex[:8]}.sock"
    command = [sys.executable, "-m", "aiflow_ext.cli", "broker", "--bind", f"ipc://{path}"]
    with running(command, folder, path, {"AIFLOW_LOG": log}) as pid:
        yield Peer("ours", f"ipc://{path}", pid)


@contextmanager
def sqlite_log(folder: Path) -> Iterator[str]:
    """The URI of an empty log; so are the next two."""
    yield f"sqlite:{folder / uuid.uuid4().hex}.db"


@contextmanager
def postgresql_log() -> Iterator[str]:
    import psycopg2

    server = os.environ["AIF_TEST_PG"]
    name = f"aif_{uuid.uuid4().hex[:12]}"
    with closing(psycopg2.connect(server)) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
        try:
            yield f"postgresql://{urlsplit(server).netloc}/{name}"
        finally:
            connection.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def mysql_log() -> Iterator[str]:
    u = urlsplit(os.environ["AIF_TEST_MYSQL"])
    client = ["mariadb", "-h", u.hostname or "127.0.0.1", "-P", str(u.port or 3306), "-u", u.username or "root"]
    env = {**os.environ, "MYSQL_PWD": u.password or ""}
    name = f"aif_{uuid.uuid4().hex[:12]}"
    subprocess.run([*client, "-e", f"CREATE DATABASE {name}"], check=True, env=env)
    try:
        yield f"mysql://{u.netloc}/{name}"
    finally:
        subprocess.run([*client, "-e", f"DROP DATABASE {name}"], check=True, env=env)


@contextmanager
def ours_sqlite(folder: Path) -> Iterator[Peer]:
    with sqlite_log(folder) as log, ours(folder, log) as peer:
        yield peer


@contextmanager
def ours_postgresql(folder: Path) -> Iterator[Peer]:
    with postgresql_log() as log, ours(folder, log) as peer:
        yield peer


@contextmanager
def ours_mysql(folder: Path) -> Iterator[Peer]:
    with mysql_log() as log, ours(folder, log) as peer:
        yield peer


@contextmanager
def jetstream(folder: Path) -> Iterator[Peer]:
    port, store = free_port(), folder / uuid.uuid4().hex
    with running(["nats-server", "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(store)], folder, port) as pid:
        yield Peer("nats_peer", f"nats://127.0.0.1:{port}", pid)


@contextmanager
def redis_streams(folder: Path) -> Iterator[Peer]:
    port, store = free_port(), folder / uuid.uuid4().hex
    store.mkdir()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(store), "--save", ""]
    with running([*command, "--appendonly", "yes", "--appendfsync", "always"], folder, port) as pid:
        yield Peer("redis_peer", f"redis://127.0.0.1:{port}", pid)


@contextmanager
def notification_service(folder: Path) -> Iterator[Peer]:
    """AI Flow's server, in an environment of its own with the old Python it needs."""
    python = old_environment()
    port, home = free_port(), folder / uuid.uuid4().hex
    home.mkdir()
    (home / "notification_server.yaml").write_text(
        f"server_port: {port}\ndb_uri: sqlite:///{home}/ns.db\nenable_ha: False\nha_ttl_ms: 10000\n"
        f"advertised_uri: 127.0.0.1:{port}\nwait_for_server_started_timeout: 5.0\n"
    )
    (home / "serve.py").write_text(
        "import sys\nfrom notification_service.server import NotificationServerRunner\n"
        "from notification_service.server_config import NotificationServerConfig\n"
        "from notification_service.util import db\n"
        "db.create_all_tables(NotificationServerConfig(sys.argv[1]).db_uri)\n"
        "NotificationServerRunner(config_file=sys.argv[1]).start(True)\n"
    )
    command = [str(python), str(home / "serve.py"), str(home / "notification_server.yaml")]
    with running(command, folder, port, {"NOTIFICATION_HOME": str(home)}) as pid:
        yield Peer("notification_peer", f"127.0.0.1:{port}", pid, str(python))


def old_environment() -> Path:
    """The Python of build/notification-service, made at first use."""
    folder = HERE.parent.parent / "build" / "notification-service"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([_old_python(), "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *OLD_PACKAGES], check=True)
    return python


def _old_python() -> str | None:
    """An interpreter that really runs: a shim of pyenv's may only say that it does not."""
    for name in (OLD_PYTHON, *sorted(map(str, Path.home().glob(".pyenv/versions/3.7.*/bin/python")))):
        if shutil.which(name) and subprocess.run([name, "-c", ""], capture_output=True).returncode == 0:
            return name
    return None


def _needs(program: str) -> Callable[[], str | None]:
    return lambda: None if shutil.which(program) else f"no {program} here"


KINDS = (
    Kind("aiflow_ext, SQLite", "fsync", ours_sqlite, lambda: None),
    Kind("aiflow_ext, PostgreSQL", "fsync", ours_postgresql, lambda: None),
    Kind(
        "aiflow_ext, MySQL",
        "fsync",
        ours_mysql,
        lambda: None if os.environ.get("AIF_TEST_MYSQL") else "AIF_TEST_MYSQL is not set",
    ),
    Kind("NATS JetStream, file", "page cache", jetstream, _needs("nats-server")),
    Kind("Redis Streams, AOF always", "fsync", redis_streams, _needs("redis-server")),
    Kind(
        "notification-service 0.3.1, SQLite",
        "fsync",
        notification_service,
        lambda: None if _old_python() else f"no {OLD_PYTHON} here; set AIF_OLD_PYTHON",
        most_subscribers=1,
        most_rate=100,
        batches=False,
    ),
)
