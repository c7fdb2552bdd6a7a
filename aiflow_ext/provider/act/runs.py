"""Runs that events create and stop: the actions of a rule on a Dag."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.utils.sqlalchemy import with_row_locks
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import select
from sqlalchemy.orm import Session

from aiflow_ext._event import Event
from aiflow_ext.provider.act.marks import mark_run
from aiflow_ext.provider.act.tasks import TI, WAITS

Text = TypeVar("Text", str, Any)

# A stock scheduler's now() has whole seconds on SQLite and MySQL: a run of this second would wait for the next.
SECOND = timedelta(seconds=1)


def create(
    session: Session, dag: Any, rule: str, events: Sequence[Event], job_id: int | None, left_out: int
) -> DagRun | None:
    """Create the run that `events` start; None where the Dag has that run already.

    :param dag: Airflow's serialized Dag, latest version.
    :param rule: the rule's name; with the newest offset it makes the run id, so twice is seen.
    :param left_out: how many more events started it.
    """
    newest = events[-1]
    run_id = run_id_of(rule, str(newest.offset))
    conf = {"aiflow": _conf(rule, events) | ({"left_out": left_out} if left_out else {})}
    taken = session.execute(select(DagRun.conf).where(DagRun.dag_id == dag.dag_id, DagRun.run_id == run_id)).first()
    if taken is not None:
        if taken.conf == conf:
            return None
        run_id = f"{run_id}_{newest.create_time}"  # an event of another log had this offset
    run: DagRun = dag.create_dagrun(
        run_id=run_id,
        run_after=datetime.now(UTC) - SECOND,
        conf=conf,
        run_type=DagRunType.OPERATOR_TRIGGERED,  # nobody made it by hand, and it takes no asset events away
        triggered_by=DagRunTriggeredByType.OPERATOR,
        state=DagRunState.QUEUED,
        creating_job_id=job_id,
        session=session,
    )
    session.flush()
    return run


def run_id_of(rule: Text, offset: Text) -> Text:
    """Return the id of the run that a rule makes at an offset, as a text or, of columns, as SQL."""
    return "aiflow__" + rule + "__" + offset


def closed(session: Session, dag_id: str) -> bool:
    """Whether a Dag makes no runs now: it is paused, or its file is away."""
    model = session.get(DagModel, dag_id)
    return model is None or model.is_paused or model.is_stale


def stop(session: Session, dag: Any, run_id: str, state: str) -> str:
    """End a run as its mark in the UI does; a run is not skipped, so that is success.

    What waits for its rules has not begun, so it is skipped: Airflow would take it for a deferred task, which has.

    :return: the state of the run: "running", where a teardown is to end first.
    """
    run = session.scalars(select(DagRun).where(DagRun.dag_id == dag.dag_id, DagRun.run_id == run_id)).one()
    work = [task.task_id for task in dag.tasks if not task.is_teardown]
    waiting = select(TI).where(TI.dag_id == dag.dag_id, TI.run_id == run_id, TI.task_id.in_(work), *WAITS)
    waiting = with_row_locks(waiting, session, of=TI)
    for ti in session.scalars(waiting.execution_options(populate_existing=True)):
        ti.state = ti.trigger_id = None
        ti.clear_next_method_args()
    session.flush()
    mark_run(session, dag, run, "failed" if state == "failed" else "success")
    return str(getattr(run.state, "value", run.state))


def _conf(rule: str, events: Sequence[Event]) -> dict[str, Any]:
    newest = events[-1]
    return {
        "rule": rule,
        "event": newest._asdict(),
        "events": [event._asdict() for event in events],
    } | ({"context": newest.context} if newest.context else {})
