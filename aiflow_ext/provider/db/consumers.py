"""Rows of aiflow_consumer: how far each consumer of the log has come, moved together with what its events did."""

from __future__ import annotations

from typing import Any, cast

from airflow.utils.sqlalchemy import get_dialect_name
from sqlalchemy import CursorResult, Executable, select, text, update
from sqlalchemy.orm import Session

from aiflow_ext.provider.db import models


def offset_of(session: Session, name: str) -> int | None:
    """Return up to where a consumer has come; None: it has no row."""
    table = models.consumer
    return session.scalar(select(table.c.offset).where(table.c.name == name))


def advance(session: Session, name: str, offset: int) -> bool:
    """Move a row up to `offset`; False: it is there or beyond.  Others wait for this transaction's end."""
    table = models.consumer
    move = update(table).where(table.c.name == name, table.c.offset < offset).values(offset=offset)
    return _changed(session, move) or begin_at(session, name, offset) or _changed(session, move)


def begin_at(session: Session, name: str, offset: int) -> bool:
    """Make the row of a new consumer; False: there is one."""
    ignore = {"mysql": ("IGNORE ", "")}.get(get_dialect_name(session) or "", ("", " ON CONFLICT (name) DO NOTHING"))
    quoted = "`offset`" if ignore[0] else '"offset"'
    insert = f"INSERT {ignore[0]}INTO aiflow_consumer (name, {quoted}) VALUES (:name, :offset){ignore[1]}"
    return _changed(session, text(insert).bindparams(name=name, offset=offset))


def _changed(session: Session, statement: Executable) -> bool:
    return bool(cast("CursorResult[Any]", session.execute(statement)).rowcount)
