"""Alembic's entry: run our migrations on Airflow's engine."""

from __future__ import annotations

from typing import Any

from airflow import settings
from alembic import context

from aiflow_ext.provider.db.manager import AiflowDBManager

OPTIONS: dict[str, Any] = {
    "target_metadata": AiflowDBManager.metadata,
    "version_table": AiflowDBManager.version_table_name,
}


def _run() -> None:
    if context.is_offline_mode():
        context.configure(url=settings.SQL_ALCHEMY_CONN, literal_binds=True, **OPTIONS)
        with context.begin_transaction():
            context.run_migrations()
        return
    assert settings.engine is not None
    with settings.engine.connect() as connection:
        context.configure(connection=connection, transaction_per_migration=True, render_as_batch=True, **OPTIONS)
        with context.begin_transaction():
            context.run_migrations()


_run()
