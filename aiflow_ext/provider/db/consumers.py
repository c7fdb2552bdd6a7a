"""Rows of aiflow_consumer: how far each consumer of the log has come, moved together with what its events did."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from airflow.utils.sqlalchemy import get_dialect_name
from sqlalchemy import CursorResult, Executable, or_, select, text, update
from sqlalchemy.orm import Session

from aiflow_ext.provider.db import models
from aiflow_ext.provider.db.dialect import insert_unless_there

HOLDER = """
SELECT a.pid, host(a.client_addr) AS client, a.state,
    CAST(extract(epoch FROM now() - a.state_change) AS integer) AS seconds
FROM aiflow_consumer c
JOIN pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = c.xmax AND l.granted
JOIN pg_stat_activity a ON a.pid = l.pid
WHERE c.name = :name
"""


class Place(NamedTuple):
    """Up to where a consumer has come, and in which log.

    :param log_id: of the log; None: not known, as in a row of an earlier version, or it is no offset of a log.
    """

    offset: int
    log_id: int | None

    def is_in(self, log_id: int | None) -> bool:
        """Whether the log of this id has the offset, as far as is known."""
        return self.log_id is None or self.log_id == log_id


class Stand(NamedTuple):
    """Where a consumer is, and how many reactions there were."""

    place: Place
    version: int


def stand_of(session: Session, name: str) -> Stand | None:
    """Return it; None: the consumer has no row."""
    table = models.consumer
    columns = select(table.c.offset, table.c.log_id, table.c.version)
    row = session.execute(columns.where(table.c.name == name)).first()
    return None if row is None else Stand(Place(row.offset, row.log_id), row.version)


def advance(session: Session, name: str, place: Place) -> bool:
    """Move a row on; False: it is there or beyond, or in another log.  Others wait for this transaction's end."""
    table = models.consumer
    there = or_(table.c.log_id.is_(None), table.c.log_id == place.log_id)
    move = update(table).where(table.c.name == name, table.c.offset < place.offset, there)
    move = move.values(**place._asdict(), gone_ms=None)
    return _changed(session, move) or begin_at(session, name, place) or _changed(session, move)


def note_log(session: Session, name: str, log_id: int) -> None:
    """Note which log the offset of a row of an earlier version is taken to be of."""
    table = models.consumer
    session.execute(update(table).where(table.c.name == name, table.c.log_id.is_(None)).values(log_id=log_id))


def begin_at(session: Session, name: str, place: Place) -> bool:
    """Make the row of a new consumer; False: there is one."""
    return insert_unless_there(session, models.consumer, {"name": name, **place._asdict()})


def holder_of(session: Session, name: str) -> dict[str, Any]:
    """Return which session of PostgreSQL holds the row of a consumer; {}: none, or another database, which cannot say.

    :return: its pid there, client, state, and for how many seconds it has been in that state.
    """
    if get_dialect_name(session) != "postgresql":
        return {}
    found = session.execute(text(HOLDER), {"name": name}).mappings().first()
    return dict(found or {})


def _changed(session: Session, statement: Executable) -> bool:
    return bool(cast("CursorResult[Any]", session.execute(statement)).rowcount)
