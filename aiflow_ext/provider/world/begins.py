"""Where the log ended when a run was queued: its rules hear what comes after (R53).

Whoever queues a run notes it in the same transaction, as a row ``run:<id>`` of aiflow_consumer.  The scheduler takes it
at its first look at the run, which may be much later.  No clock could say it: those of two hosts differ, each may go
back, and the log's own never does.  Runs of Dags without rules are not noted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils.state import DagRunState
from sqlalchemy import Connection, delete, event, insert, inspect, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from aiflow_ext.provider.db import models
from aiflow_ext.provider.db.dialect import is_undone
from aiflow_ext.provider.world.registry import rules_of

log = logging.getLogger(__name__)

ROW = "run:"  # of aiflow_consumer, followed by the run's id in Airflow's database

KNOWN = "aiflow_known"  # of a session's info

VERSIONS_KNOWN = 1000  # of Dags, whether they have rules

_head: list[Callable[[], int | None]] = []
_with_rules: dict[tuple[UUID, str], bool] = {}


def note_begins(head: Callable[[], int | None]) -> None:
    """Note it for each run that this process queues from now on.

    :param head: says where the log ends; None: that cannot be known now.  It must not raise.
    """
    _head[:] = [head]
    for name in ("after_insert", "after_update"):
        if not event.contains(DagRun, name, _note):
            event.listen(DagRun, name, _note)


@contextmanager
def known(session: Session) -> Iterator[None]:
    """Runs that are queued meanwhile need no note: the scheduler that queues them knows it."""
    session.info[KNOWN] = True
    try:
        yield
    finally:
        del session.info[KNOWN]


def noted(session: Session, ids: Collection[int] | None = None) -> dict[int, int]:
    """Return what was noted of runs that were queued since a scheduler looked at them, by their ids.

    :param ids: only of these.
    """
    name = models.consumer.c.name
    which = name.startswith(ROW) if ids is None else name.in_([f"{ROW}{n}" for n in ids])
    rows = session.execute(select(name, models.consumer.c.offset).where(which))
    return {int(row.name.removeprefix(ROW)): row.offset for row in rows}


def forget(session: Session, ids: Collection[int]) -> None:
    """Delete what was noted of runs."""
    session.execute(delete(models.consumer).where(models.consumer.c.name.in_([f"{ROW}{n}" for n in ids])))


def forget_ended(session: Session) -> None:
    """Delete what was noted of runs that are over, or gone: those that no scheduler has looked at."""
    active = select(DagRun.id).where(DagRun.state.in_([DagRunState.QUEUED, DagRunState.RUNNING]))
    if gone := noted(session).keys() - set(session.scalars(active)):
        forget(session, gone)


def _note(mapper: Any, connection: Connection, run: DagRun) -> None:
    """A run was written: was it queued by that, and not from among those that run?"""
    state: Any = inspect(run).attrs._state.history
    if DagRunState.QUEUED not in state.added or DagRunState.RUNNING in state.deleted:
        return
    session: Session | None = inspect(run).session
    if (session is not None and KNOWN in session.info) or not _has_rules(connection, run):
        return
    row = {"name": f"{ROW}{run.id}", "offset": _head[0]() or 0}  # 0: not known; it begins anew all the same
    try:
        with connection.begin_nested():
            connection.execute(delete(models.consumer).where(models.consumer.c.name == row["name"]))
            connection.execute(insert(models.consumer).values(**row))
    except SQLAlchemyError as e:
        if is_undone(e):  # the run, too
            raise
        log.warning("aiflow: not noted from where the rules of run %s hear", run.run_id, exc_info=True)


def _has_rules(connection: Connection, run: DagRun) -> bool:
    """Whether a run follows rules: of the version it is pinned to, else of its Dag's latest, as Registry.of_run()."""
    of = SerializedDagModel
    which = of.dag_version_id == run.created_dag_version_id if run.bundle_version else of.dag_id == run.dag_id
    latest = select(of.dag_version_id, of.dag_hash).join(DagVersion, DagVersion.id == of.dag_version_id)
    row = connection.execute(latest.where(which).order_by(DagVersion.version_number.desc()).limit(1)).first()
    if row is None:
        return False
    key = row.dag_version_id, row.dag_hash
    known = _with_rules.get(key)
    if known is None:
        with Session(connection) as session:  # of this transaction, which its end leaves as it is
            dag = session.scalar(select(of).where(of.dag_version_id == row.dag_version_id))
        known = dag is not None and rules_of(dag) is not None
        if len(_with_rules) >= VERSIONS_KNOWN:
            _with_rules.clear()
        _with_rules[key] = known
    return known
