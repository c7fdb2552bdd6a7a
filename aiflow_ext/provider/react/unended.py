"""Tasks that have ended for Airflow, but not for the rules (ADR 0012): their stop is not over, or a start is pending.

The next reaction makes that start, or finds that the upstream does not allow it.  Until then what follows the task
waits, and its run does not end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from aiflow_ext.provider.db import models
from aiflow_ext.provider.react.starts import has_start
from aiflow_ext.provider.world.runs import digest
from aiflow_ext.provider.world.task import ENDED

DEFERRED = TaskInstanceState.DEFERRED


@contextmanager
def unended(session: Session, dag_run: DagRun) -> Iterator[None]:
    """Show them to Airflow as deferred, in memory, while it examines the run.

    Its session hands out the objects that are read here, as they are now: a task that ends meanwhile has not ended
    for Airflow either.

    :param dag_run: locked, so no reaction changes its starts and stops.
    """
    table = models.rule_state
    waiting = session.execute(
        select(table.c.task_id, table.c.pending, table.c.stopping).where(
            table.c.dag_id == dag_run.dag_id,
            table.c.run_id == dag_run.run_id,
            (table.c.pending != "[]") | table.c.stopping.is_not(None),
        )
    ).all()
    if not waiting:
        yield
        return
    session.flush()
    TI = TaskInstance
    of_run = select(TI).where(TI.dag_id == dag_run.dag_id, TI.run_id == dag_run.run_id)
    tis = list(session.scalars(of_run.execution_options(populate_existing=True)))
    states = digest((ti.task_id, ti.map_index, str(ti.state or "")) for ti in tis)
    stopping = {row.task_id for row in waiting if row.stopping is not None}
    pending = {row.task_id for row in waiting if has_start(json.loads(row.pending), lambda: states)}
    shown = [
        (ti, ti.state)
        for ti in tis
        if ti.map_index < 0
        and (
            (ti.state in ENDED and ti.task_id in stopping | pending)
            or (ti.state == TaskInstanceState.UP_FOR_RETRY and ti.task_id in stopping)
        )
    ]
    for ti, _ in shown:
        set_committed_value(ti, "state", DEFERRED)
    try:
        yield
    finally:
        for ti, state in shown:
            if (
                ti.__dict__.get("state") == DEFERRED
            ):  # loads nothing: after an error there is no transaction to do it in
                set_committed_value(ti, "state", state)
