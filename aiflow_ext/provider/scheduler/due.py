"""When will time alone make work for Airflow?  No row changes then, so nobody tells; the scheduler looks it up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance as TI
from airflow.models.taskreschedule import TaskReschedule
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import Select, bindparam, exists, func, select
from sqlalchemy.orm import Session, joinedload

SOON = timedelta(milliseconds=50)
RETRIES = 200  # that are looked at; those beyond wait for the next full pass


def _moments() -> Select[*tuple[Any, ...]]:
    """The next moments, by kind, and whether any task waits for a retry."""
    create, run, reschedule = DagModel.next_dagrun_create_after, DagRun.run_after, TaskReschedule.reschedule_date
    creates = select(func.min(create)).where(
        create > func.now(), DagModel.is_paused.is_(False), DagModel.is_stale.is_(False)
    )
    runs = select(func.min(run)).where(run > func.now(), DagRun.state.in_([DagRunState.QUEUED, DagRunState.RUNNING]))
    again = select(func.min(reschedule)).join(TI, TI.id == TaskReschedule.ti_id)
    again = again.where(
        reschedule > bindparam("now", type_=reschedule.type), TI.state == TaskInstanceState.UP_FOR_RESCHEDULE
    )
    retries = exists().where(TI.state == TaskInstanceState.UP_FOR_RETRY)
    return select(creates.scalar_subquery(), runs.scalar_subquery(), again.scalar_subquery(), retries)


_MOMENTS = _moments()  # built once: it is asked after each pass
_WAITING = (
    select(TI)
    .join(DagRun, (DagRun.dag_id == TI.dag_id) & (DagRun.run_id == TI.run_id))
    .where(TI.state == TaskInstanceState.UP_FOR_RETRY, DagRun.state == DagRunState.RUNNING)
    .options(joinedload(TI.dag_run))
    .limit(RETRIES)
)


def next_due(session: Session, dag_bag: Any, now: datetime) -> datetime | None:
    """Return the next moment at which a run is created or may begin, or a retry or a reschedule is due.

    Whether it is time for a run, Airflow asks the database, whose clock may be behind the one that the run was made by.
    Then each moment is twice as far away as the one before, until that clock has come to it.

    :param dag_bag: the scheduler's, for the delays of retries.
    :return: a time after `now`; None where there is none.
    """
    *moments, retries = session.execute(_MOMENTS, {"now": now}).one()
    times = [time if time > now else now + max(SOON, now - time) for time in moments if time is not None]
    return min([*times, *(_retries(session, dag_bag, now) if retries else ())], default=None)


def _retries(session: Session, dag_bag: Any, now: datetime) -> Iterator[datetime]:
    for ti in session.scalars(_WAITING):
        dag = dag_bag.get_dag_for_run(dag_run=ti.dag_run, session=session)
        if dag is None or not dag.has_task(ti.task_id) or ti.end_date is None:
            continue
        ti.task = dag.get_task(ti.task_id)
        if (due := ti.next_retry_datetime()) > now:
            yield due
