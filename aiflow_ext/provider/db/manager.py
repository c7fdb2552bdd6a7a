"""Our part of ``airflow db migrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog
from airflow.utils.db_manager import BaseDBManager
from airflow.utils.sqlalchemy import get_dialect_name
from alembic import command
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from aiflow_ext.provider.db import models, notify

log = structlog.get_logger(__name__)

HERE = Path(__file__).parent


class AiflowDBManager(BaseDBManager):
    """Makes, upgrades and drops the aiflow_* tables and, on PostgreSQL, the NOTIFY triggers."""

    metadata = models.metadata
    version_table_name = "aiflow_alembic_version"
    migration_dir = str(HERE)
    alembic_file = str(HERE / "alembic.ini")
    supports_table_dropping = True
    revision_heads_map = {"0.1.0": "0010"}  # noqa: RUF012

    def create_db_from_orm(self) -> None:
        """Run the migrations: they are the one place that says what a fresh database looks like."""
        self._release_metadata_locks_if_needed()  # else MySQL lets them wait for what this session has read
        command.upgrade(self.get_alembic_config(), "heads")

    def drop_tables(self, connection: Any) -> None:
        """Drop triggers and tables."""
        if get_dialect_name(self.session) == "postgresql":
            for statement in notify.drop_statements():
                connection.execute(text(statement))
        super().drop_tables(connection)

    def downgrade(self, to_revision: str, from_revision: str | None = None, show_sql_only: bool = False) -> None:
        """Go back to a revision of ours; "base" removes everything."""
        self._release_metadata_locks_if_needed()
        command.downgrade(self.get_alembic_config(), to_revision, sql=show_sql_only)


def is_migrated(engine: Engine) -> bool:
    """Return whether the database has our newest tables and triggers; say so where it has not."""
    newest = [*AiflowDBManager.revision_heads_map.values()][-1]
    try:
        with engine.connect() as connection:
            found = connection.scalar(text(f"SELECT version_num FROM {AiflowDBManager.version_table_name}"))
    except SQLAlchemyError:  # it has none, or is away: stock scheduling begins all the same
        found = None
    if found != newest:
        log.warning("aiflow: the database is of another version; type: airflow db migrate", is_at=found, wants=newest)
    return bool(found == newest)
