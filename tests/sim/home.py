"""Where the simulated Airflow lives: its configuration, and a database that is migrated once and then only emptied.

In:  the kind of database.  Out: an imported Airflow that uses it, and ``empty()``, which makes it as new.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVERS = {  # where it is, what gives it, which driver, and how a database is dropped that is in use
    "postgresql": ("AIF_TEST_PG", "with_postgres", "psycopg2", " WITH (FORCE)"),
    "mysql": ("AIF_TEST_AIRFLOW_MYSQL", "with_airflow_mysql", "mysqldb", ""),
}
KEPT = {"slot_pool", "dag_bundle", "alembic_version", "aiflow_alembic_version", "log_template"}
CONFIG = {
    "CORE__LOAD_EXAMPLES": "False",
    "CORE__PARALLELISM": "4",
    "CORE__UNIT_TEST_MODE": "False",
    "DATABASE__SQL_ALCHEMY_POOL_PRE_PING": "False",
    "LOGGING__LOGGING_LEVEL": "CRITICAL",
    "LOGGING__FAB_LOGGING_LEVEL": "CRITICAL",
    "AIFLOW__EVENT_MODE": "True",
    "API_AUTH__JWT_SECRET": "simulation",
    "SCHEDULER__PARSING_CLEANUP_INTERVAL": "600",
    "SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "60",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "60",
    "SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "600",
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "120",
    "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "30",
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "450",
}


class Home:
    """One database, for as many histories as one likes.

    :param store: ``sqlite``, or ``postgresql`` (then AIF_TEST_PG is the server, as tests/with_postgres gives it), or
        ``mysql`` (then AIF_TEST_AIRFLOW_MYSQL is, of tests/with_airflow_mysql).
    """

    def __init__(self, store: str) -> None:
        if "airflow" in sys.modules:
            raise RuntimeError("Airflow was imported before its configuration was made")
        self.store = store
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="sim.", dir=memory if memory.is_dir() else None))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        os.environ |= {f"AIRFLOW__{key}": value for key, value in CONFIG.items()}
        os.environ["AIRFLOW_HOME"] = str(self.folder)
        os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = self._make()
        self._import()

    def _make(self) -> str:
        if self.store == "sqlite":
            template = _template()
            shutil.copy(template, self.folder / "airflow.db")
            return f"sqlite:///{self.folder}/airflow.db"
        variable, script, driver, force = SERVERS[self.store]
        server = os.environ.get(variable)
        if not server:
            raise SystemExit(f"{variable} is not set: run this by tests/{script}")
        sys.path.insert(0, str(ROOT / "examples"))
        from deployment import on_server

        name = f"aif_sim_{uuid.uuid4().hex[:12]}"
        on_server(server, f'CREATE DATABASE "{name}"')
        atexit.register(on_server, server, f'DROP DATABASE IF EXISTS "{name}"{force}')
        base, query = server.partition("?")[::2]
        uri = base[: base.rindex("/") + 1] + name + ("?" + query if query else "")
        uri = uri.replace(f"{self.store}://", f"{self.store}+{driver}://", 1)
        _migrate(uri, self.folder)
        return uri

    def _import(self) -> None:
        import greenlet
        from airflow import settings
        from sqlalchemy import event
        from sqlalchemy.orm import scoped_session, sessionmaker

        settings.initialize()
        self.engine = settings.engine
        if self.store == "sqlite":

            @event.listens_for(self.engine, "connect")
            def fast(connection, _):  # type: ignore[no-untyped-def]
                for pragma in ("synchronous = OFF", "journal_mode = MEMORY", "temp_store = MEMORY"):
                    connection.execute(f"PRAGMA {pragma}")

            with self.engine.connect(), self.engine.connect():
                pass  # the checks look while a reaction holds the write lock, and then no connection can be set up

        if self.store == "mysql":

            @event.listens_for(self.engine, "connect")
            def quoted(connection, _):  # type: ignore[no-untyped-def]
                with connection.cursor() as cursor:  # a "name" as everywhere else
                    cursor.execute("SET SESSION sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES')")

        make = sessionmaker(autoflush=False, bind=self.engine, expire_on_commit=False)
        # Each scheduler is a greenlet, and has a session of its own.
        settings.Session = scoped_session(make, scopefunc=greenlet.getcurrent)
        self._tables()

    def _tables(self) -> None:
        import airflow.models
        from airflow.models.base import Base
        from sqlalchemy import text

        from aiflow_ext.provider.db import models

        airflow.models.import_all_models()
        names = [t.name for t in [*Base.metadata.sorted_tables, *models.metadata.sorted_tables]]
        deletes = [f'DELETE FROM "{name}"' for name in names if name not in KEPT]
        deletes += ["DELETE FROM slot_pool WHERE pool <> 'default_pool'"]
        if self.store == "sqlite":
            before, after = "PRAGMA foreign_keys = OFF", "PRAGMA foreign_keys = ON"
        elif self.store == "mysql":
            before, after = "SET foreign_key_checks = 0", "SET foreign_key_checks = 1"
        else:
            before, after = "SET session_replication_role = replica", "SET session_replication_role = origin"
        self._empty = (before, deletes, after)
        with self.engine.begin() as connection:
            if not connection.execute(text("SELECT name FROM dag_bundle WHERE name = 'sim'")).first():
                connection.execute(text("INSERT INTO dag_bundle (name, active) VALUES ('sim', true)"))

    def empty(self) -> None:
        """Delete every row that a history has made."""
        before, deletes, after = self._empty
        raw = self.engine.raw_connection()
        try:
            cursor = raw.cursor()
            cursor.execute(before)
            if self.store != "postgresql":
                for delete in deletes:
                    cursor.execute(delete)
            else:
                cursor.execute(";".join(deletes))
            raw.commit()
            cursor.execute(after)
            raw.commit()
        finally:
            raw.close()


def _template() -> Path:
    """A migrated SQLite file; made once for a version of Airflow and of our tables."""
    from importlib.metadata import version

    digest = hashlib.sha256(version("apache-airflow-core").encode())
    for path in sorted((ROOT / "aiflow_ext/provider/db").rglob("*.py")):
        digest.update(path.read_bytes())
    file = ROOT / "build" / "sim" / f"{digest.hexdigest()[:16]}.db"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            _migrate(f"sqlite:///{folder}/airflow.db", Path(folder))
            os.replace(f"{folder}/airflow.db", file)
    return file


def _migrate(uri: str, folder: Path) -> None:
    env = os.environ | {"AIRFLOW_HOME": str(folder), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": uri}
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, check=True, stdout=subprocess.DEVNULL)
