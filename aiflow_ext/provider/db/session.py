"""A transaction that is ours: nobody else commits it, and listeners are told of it when it is committed.

Airflow's ``create_session()`` gives all callers of a thread the same session.  A listener that uses it in the middle of
our transaction would commit a half of that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import structlog
from airflow.utils.session import create_session
from sqlalchemy.orm import Session

from aiflow_ext.provider.db.dialect import is_undone

log = structlog.get_logger(__name__)

SLOW_SEC = 1.0  # that listeners may take before a warning


@contextmanager
def own_session() -> Iterator[Session]:
    """Give a session that nobody else in the thread has; commit it, then tell listeners, one after the other.

    They are told late because they may write to the database, which nobody can on SQLite before our commit.  Where
    the process ends between the two, they are not told.
    """
    with create_session(scoped=False) as session:
        yield session
        session.commit()
        for tell in after_commit(session):
            began = time.monotonic()
            tell()
            if (took := time.monotonic() - began) > SLOW_SEC:
                log.warning(
                    "aiflow: a listener took long, and all else waited for it", sec=round(took, 1), of=str(tell)
                )


def after_commit(session: Session) -> list[Callable[[], None]]:
    """Return the list of what is called when an own_session() is committed.  It must not raise."""
    return cast("list[Callable[[], None]]", session.info.setdefault("aiflow_after_commit", []))


@contextmanager
def savepoint(session: Session) -> Iterator[None]:
    """``session.begin_nested()``; nobody is told of what it undoes.

    Where MySQL has undone all, it has no savepoint to go back to any more; what is raised is the deadlock all the same.
    """
    calls = after_commit(session)
    before = len(calls)
    try:
        with session.begin_nested():
            yield
    except BaseException as e:
        del calls[before:]
        if is_undone(e) and e.__context__ is not None and is_undone(e.__context__):
            raise e.__context__ from None
        raise
