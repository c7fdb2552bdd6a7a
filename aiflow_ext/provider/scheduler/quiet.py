"""Runs with rules in which stock has found nothing to do, and of which nothing has changed since.

A full pass need not examine them, and where there are no others, the next one may come later.  What makes that right:
`World` puts another object in the place of a run when a hint names it, when its Dag is edited, and when the audit finds
a difference.  Where nobody tells of changes, each look makes all of them anew, so none is ever quiet.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.utils.state import DagRunState
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from aiflow_ext.provider.world.runs import Run
from aiflow_ext.provider.world.task import ENDED
from aiflow_ext.provider.world.world import World

# States that only a change of a row ends, of which the database tells; the others end by time, or when a slot is free.
RESTING = frozenset({"", "queued", "running", "deferred", "awaiting_input", *ENDED})


def note(world: World, dag_run: DagRun) -> None:
    """Airflow has examined a run, and committed that; of what it changed there, the database tells later."""
    run = world.runs.get((dag_run.dag_id, dag_run.run_id))
    if run is not None:
        run.quiet = _waits_for_rows(dag_run, run)


def is_quiet(world: World, dag_run: DagRun) -> bool:
    """Return whether a run need not be examined."""
    run = world.runs.get((dag_run.dag_id, dag_run.run_id))
    return world.current and run is not None and run.quiet and run.running


def all_quiet(world: World, session: Session) -> bool:
    """Return whether none of the runs that go on need be examined, those without rules included."""
    if not world.current:
        return False
    quiet = Counter(run.dag_id for run in world.runs.values() if run.quiet and run.running)
    running = (
        select(DagRun.dag_id, func.count())
        .join(DagModel, DagModel.dag_id == DagRun.dag_id)
        .where(DagRun.state == DagRunState.RUNNING, DagModel.is_paused.is_(False), DagModel.is_stale.is_(False))
        .group_by(DagRun.dag_id)
    )
    return all(number <= quiet[dag_id] for dag_id, number in session.execute(running))


def _waits_for_rows(dag_run: DagRun, run: Run) -> bool:
    """Whether nothing but a change of one of its own rows can make work in it."""
    dag: Any = dag_run.dag
    return (
        dag is not None
        and dag.dagrun_timeout is None
        and (dag_run.logical_date is None or dag_run.logical_date <= datetime.now(UTC))
        and not any(task.pending or task.stopping for task in run.tasks.values())
        and all(ti.state in RESTING for ti in run.tries.values())
        and not any(task.depends_on_past or task.wait_for_downstream for task in dag.tasks)
    )
