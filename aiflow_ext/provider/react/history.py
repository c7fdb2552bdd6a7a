"""What is kept of runs that are over: what rules did (aiflow_action), and what started their tasks last.

It goes with its run, or its Dag, when somebody has deleted that, and before, when it is older than it has to be.  What
belongs to a run that is not over stays: it is the reaction's.  So do the places of asset watchers that are gone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast

from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import CursorResult, Table, and_, case, delete, exists, false, or_, select, true, tuple_
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from aiflow_ext.provider.act.runs import run_id_of
from aiflow_ext.provider.assets import offsets
from aiflow_ext.provider.db import models
from aiflow_ext.provider.db.dialect import beyond
from aiflow_ext.provider.world.begins import forget_ended

CHUNK = 1000  # rows that a transaction looks at: some ms


def purge(before_ms: int | None = None, *, dry_run: bool = False, chunk: int = CHUNK) -> Iterator[tuple[str, int]]:
    """Let go what nobody needs, in many transactions, so that nobody waits and any of them may be the last.

    :param before_ms: also what belongs to runs that ended before this moment, in ms since the epoch.
    :param dry_run: only count.
    :param chunk: rows that a transaction looks at.
    :return: after each transaction: the table, and how many of its rows went, or would go.
    """
    for table in (models.rule_state, models.action):
        key = tuple_(*table.primary_key)
        after: Any = true()
        while True:
            # Of a range of keys with three columns PostgreSQL expects a third of the table, and reads all of it.
            rows = select(table).where(after).order_by(*table.primary_key).limit(chunk).subquery()
            keys, goes = [rows.c[column.name] for column in table.primary_key], _goes(table, rows.c, before_ms)
            with create_session() as session:
                found = session.execute(select(*keys, goes).order_by(*keys)).all()
                if not found:
                    break
                gone = sum(row[-1] for row in found)
                if gone and not dry_run:  # else nothing is written, and nobody is woken
                    these = delete(table).where(key.in_(select(*keys).where(goes)))
                    gone = cast("CursorResult[Any]", session.execute(these)).rowcount
            yield table.name, gone
            after = beyond(session, list(table.primary_key), found[-1][:-1])
    if not dry_run:
        with create_session() as session:
            forget_ended(session)
    with create_session() as session:
        gone = offsets.sweep(session, time.time_ns() // 1_000_000, before_ms, dry_run=dry_run)
    if before_ms is not None:
        yield models.consumer.name, gone


def _goes(table: Table, row: ReadOnlyColumnCollection[str, Any], before_ms: int | None) -> Any:
    """Which rows of a table: those of a run that keeps them no longer, and those of a Dag that is not there."""
    run_id = cast("Any", row.run_id)
    old, pending = cast("Any", false()), cast("Any", false())
    if table is models.action:
        # What made a run goes with it.  A cause with a mark is of another log (repair/consumer.py).
        makes = and_(row.run_id == "", row.action == "start", ~row.cause.contains("@"))
        run_id = case((makes, run_id_of(row.rule, row.cause)), else_=row.run_id)
        old = row.at_ms < before_ms if before_ms is not None else old
        dag = models.rule_state.c
        pending = and_(makes, exists().where(dag.dag_id == row.dag_id, dag.run_id == "", dag.pending != "[]"))
    run = models.run.c
    known = exists().where(run.dag_id == row.dag_id, run.run_id == run_id)
    kept = exists().where(DagRun.dag_id == row.dag_id, DagRun.run_id == run_id, _keeps(before_ms))
    dag_is_there = exists().where(DagModel.dag_id == row.dag_id)
    return case((run_id == "", or_(~dag_is_there, old)), else_=~or_(kept, known, pending))


def _keeps(before_ms: int | None) -> Any:
    """Which runs keep what belongs to them."""
    if before_ms is None:
        return true()
    since = datetime.fromtimestamp(before_ms / 1000, UTC)
    active = DagRun.state.in_([DagRunState.RUNNING, DagRunState.QUEUED])
    return or_(active, DagRun.end_date.is_(None), DagRun.end_date >= since)
