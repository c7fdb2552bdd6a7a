"""Tasks that wait for rules take no slot: the stock critical section counts deferred tasks, and must not count these.

It has two accounts: the active task instances of each task, for ``max_active_tis_per_dag`` and
``max_active_tis_per_dagrun``, and the slots of each pool, where one with ``include_deferred`` counts deferred tasks.
Both are stock code, called with a session that does not see who waits (ADR 0011).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import airflow.jobs.scheduler_job_runner as stock
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance as TI
from airflow.utils.session import NEW_SESSION, provide_session
from sqlalchemy import Select, not_
from sqlalchemy.orm import Session

from aiflow_ext.provider.act.tasks import WAITS

_stock_stats = Pool.slots_stats


class _Session:
    """A session whose statements do not see tasks that wait for rules."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def execute(self, statement: Select[Any]) -> Any:
        if TI.__table__ in statement.columns_clause_froms:
            statement = statement.where(not_(WAITS[0] & WAITS[1]))
        return self._session.execute(statement)


class Concurrency(stock.ConcurrencyMap):
    """Active task instances of each task."""

    def load(self, session: Session) -> None:
        """Count them."""
        super().load(_Session(session))  # type: ignore[arg-type]


@provide_session
def slots_stats(*, lock_rows: bool = False, session: Session = NEW_SESSION) -> Any:
    """Slots of each pool; see Pool.slots_stats()."""
    return _stock_stats(lock_rows=lock_rows, session=_Session(session))  # type: ignore[arg-type]


@contextmanager
def waiting_takes_no_slot() -> Iterator[None]:
    """Let the stock scheduler of this process count so."""
    concurrency = stock.ConcurrencyMap
    stock.ConcurrencyMap = Concurrency  # type: ignore[misc]
    Pool.slots_stats = staticmethod(slots_stats)  # type: ignore[method-assign]
    try:
        yield
    finally:
        stock.ConcurrencyMap = concurrency  # type: ignore[misc]
        Pool.slots_stats = staticmethod(_stock_stats)  # type: ignore[method-assign]
