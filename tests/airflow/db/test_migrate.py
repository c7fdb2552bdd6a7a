"""Our tables of the version before, with rows in them: Airflow's own command upgrades them, and a scheduler goes on."""

from __future__ import annotations

import io
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from airflows import DAGS, DATABASES, server_of
from alembic.migration import MigrationContext
from alembic.operations import Operations
from deployment import Deployment

from aiflow_ext import Event, EventLog
from aiflow_ext.provider.db import models

BEFORE, NOW = "0004", "0010"
TO_BEFORE = f"""if True:
    import sys
    from airflow.utils.session import create_session
    from alembic import command
    from aiflow_ext.provider.db.manager import AiflowDBManager
    with create_session() as session:
        manager = AiflowDBManager(session)
        manager.downgrade("base" if sys.argv[1] == "made" else "{BEFORE}")
        command.upgrade(manager.get_alembic_config(), "{BEFORE}")
"""
ROWS = [("asset:1:abc", 7), ("assets:dead", 5), ("scheduler", 3)]


def before(airflow: Deployment, how: str) -> None:
    """Have the tables of the version before: made by it, or gone back to."""
    subprocess.run([sys.executable, "-c", TO_BEFORE, how], env=airflow.env, cwd=airflow.home, check=True)


def has(airflow: Deployment) -> tuple[list[tuple[object, ...]], str]:
    """The rows of consumers, and the version."""
    version = airflow.sql("SELECT version_num FROM aiflow_alembic_version")[0][0]
    return airflow.sql('SELECT name, "offset" FROM aiflow_consumer ORDER BY name'), version


@pytest.mark.parametrize("database", DATABASES)
def test_the_version_before_is_upgraded(tmp_path: Path, database: str) -> None:
    airflow = Deployment(tmp_path, DAGS, database=server_of(database), event_mode=True)
    airflow.names = []  # its database is enough at first
    with airflow:
        before(airflow, "made")
        for row in ROWS:
            airflow.sql('INSERT INTO aiflow_consumer (name, "offset") VALUES (?, ?)', *row)
        assert has(airflow) == (ROWS, BEFORE)
        airflow.run_airflow("db", "migrate")
        assert has(airflow) == (ROWS, NOW)
        ids = "SELECT name, log_id FROM aiflow_consumer ORDER BY name"
        assert airflow.sql(ids) == [(name, None) for name, _ in ROWS]

        (tmp_path / "aiflow").mkdir(mode=0o700)
        with EventLog(airflow.log_uri()) as log:
            log.append([Event("k")] * 3, "p", 1)
            head, log_id = log.head_and_id()
        airflow.launch("scheduler")
        taken = [("asset:1:abc", None), ("assets:dead", None), ("scheduler", log_id)]
        airflow.wait_until(lambda: airflow.sql(ids) == taken, what="the scheduler's row takes the id")
        gone = "SELECT name FROM aiflow_consumer WHERE gone_ms IS NOT NULL"
        airflow.wait_until(
            lambda: airflow.sql(gone) == [("asset:1:abc",)], what="the sweep notes that it has no watcher"
        )
        airflow.end("scheduler")
        assert has(airflow) == ([*ROWS[:2], ("scheduler", head)], NOW)

        before(airflow, "gone back to")
        assert has(airflow) == (ROWS, BEFORE)
        with pytest.raises(Exception, match="gone_ms"):
            airflow.sql(gone)
        airflow.run_airflow("db", "migrate")
        assert has(airflow) == (ROWS, NOW)


def test_mysql_has_room_for_the_starts_that_wait() -> None:
    """10,000 of them are some 600 KB of JSON; its TEXT ends at 64 KB."""
    said = io.StringIO()
    context = MigrationContext.configure(dialect_name="mysql", opts={"as_sql": True, "output_buffer": said})
    with Operations.context(context):
        import_module("aiflow_ext.provider.db.versions.0005_watchers_that_are_gone").upgrade()
    assert "MODIFY pending LONGTEXT NOT NULL" in said.getvalue()
    assert models.rule_state.c.pending.type.compile(dialect=context.dialect).startswith("LONGTEXT")
