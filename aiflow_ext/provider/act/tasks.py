"""Actions on task instances and runs, inside the caller's transaction.

START resumes a parked task, or gives a finished one a further try.  STOP asks first: what follows when the task does
not listen is stop.py.  Each update names the state it expects; where somebody was faster, nothing happens and the next
pass decides again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from airflow.models.taskinstance import TaskInstance, clear_task_instances
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.models.xcom import XComModel
from airflow.ti_deps.dep_context import DepContext
from airflow.ti_deps.deps.not_previously_skipped_dep import NotPreviouslySkippedDep
from airflow.ti_deps.deps.trigger_rule_dep import TriggerRuleDep
from airflow.utils.sqlalchemy import with_row_locks
from airflow.utils.state import TaskInstanceState
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from aiflow_ext._event import Event
from aiflow_ext.provider.act.marks import mark_task
from aiflow_ext.provider.author.carried import carried as carried
from aiflow_ext.provider.author.operators import RESUME_METHOD
from aiflow_ext.provider.world.runs import Run, load_tries
from aiflow_ext.provider.world.task import TaskState, Try

log = logging.getLogger(__name__)

TI = TaskInstance
WAITS = (TI.state == TaskInstanceState.DEFERRED, TI.next_method == RESUME_METHOD)  # for its rules
GOES_ON = (TI.next_method.is_not(None), TI.next_method != RESUME_METHOD)  # after a deferral of its own

Begin = dict[str, Any]  # how a try begins: values of two columns
PLAIN: Begin = {"next_method": None, "next_kwargs": None}


def with_events(events: Sequence[Event], rule: str) -> Begin:
    """Return how a try begins that events start.

    :param rule: the name of the rule, for the task's log.
    """
    return {"next_method": RESUME_METHOD, "next_kwargs": start_kwargs(events, rule)}


def resume(session: Session, run: Run, ti: Try, begin: Begin) -> bool:
    """Start a parked task: one guarded update; False where it was not parked any more.

    What an earlier try returned goes: Airflow keeps it for a task that goes on after a deferral, as one seems to that
    begins with events.
    """
    now = datetime.now(UTC)
    done = session.execute(
        update(TI)
        .where(TI.id == ti.id, *WAITS)
        .values(
            state=TaskInstanceState.SCHEDULED,
            trigger_id=None,
            trigger_timeout=None,
            **begin,
            start_date=now,
            end_date=None,  # of the try before, if this is a retry
            duration=None,
            scheduled_dttm=now,
        )
        .execution_options(synchronize_session=False)
    )
    if not _changed(done):
        return False
    if begin["next_method"] and ti.number > 1:
        _forget_returned(session, run, {ti.task_id})
    ti.state, ti.parked = "scheduled", False
    return True


def start_again(
    session: Session, run: Run, task: TaskState, begin: Callable[[], Begin], dag: Any, *, down: bool
) -> str:
    """Give a finished task a further try in its run; with `down` clear what follows it, too.

    :param begin: says how the try begins; it is asked only where there is one, since it reads the events.

    :return: "", or why it has none (now).
    """
    ti = session.scalar(_locked(session, *_task(run, task.task_id)))
    if ti is None:
        return "the run does not have it any more"
    if why := refusal(session, ti, dag):
        return why
    below = dag.get_task(task.task_id).get_flat_relative_ids(upstream=False) if down else set()
    follow = select(TI).where(TI.dag_id == run.dag_id, TI.run_id == run.run_id, TI.task_id.in_(below))
    clear_task_instances([ti, *session.scalars(follow)], session, dag_run_state=False)
    _forget_returned(session, run, {task.task_id, *below})
    for task_id in below & run.tasks.keys():  # what follows waits for its own rules anew
        run.tasks[task_id].started = None
    if ti.state is not None:  # it ran: Airflow is restarting it; the start waits for that
        return "it is restarting"
    now = datetime.now(UTC)
    ti.state = TaskInstanceState.SCHEDULED
    ti.try_number += 1
    ti.scheduled_dttm = ti.start_date = now
    ti.end_date = ti.duration = None
    for name, value in begin().items():
        setattr(ti, name, value)
    session.flush()
    load_tries(session, run)
    return ""


def add_events(session: Session, ti: Try, events: Sequence[Event]) -> bool:
    """Give a task that has not begun more events to begin with."""
    begins = TI.state.in_([TaskInstanceState.SCHEDULED, TaskInstanceState.QUEUED]), TI.next_method == RESUME_METHOD
    row = session.scalar(_locked(session, TI.id == ti.id, *begins))
    if row is None:
        return False
    before = row.next_kwargs or {}
    known = json.loads(before.get("events", "[]"))
    merged = {fields[6]: Event(*fields) for fields in known} | {e.offset: e for e in events}
    kept = carried(merged[offset] for offset in sorted(merged, reverse=True))
    if len(kept) < len(merged):
        log.warning("aiflow: a start carries the newest %d of %d events", len(kept), len(merged))
    row.next_kwargs = start_kwargs(kept, before.get("rule", ""))
    session.flush()
    return True


def set_state(session: Session, ti: Try, state: str, expected: Sequence[str]) -> bool:
    """Set a task instance to an end state, as a mark in the UI does, if it is in one of the expected ones."""
    now = _locked(session, TI.id == ti.id, _state_in(expected))
    row = session.scalar(now.execution_options(populate_existing=True))
    if row is None:
        return False
    row.trigger_id = None
    row.clear_next_method_args()
    mark_task(session, row, state)
    ti.state, ti.parked = state, False
    return True


def restart_by_airflow(session: Session, ti: Try) -> bool:
    """Let Airflow end a running try and make a new one (RESTARTING): the last resort of a RESTART."""
    row = session.scalar(_locked(session, TI.id == ti.id, TI.state == TaskInstanceState.RUNNING))
    if row is None:
        return False
    clear_task_instances([row], session, dag_run_state=False)
    ti.id, ti.state = row.id, "restarting"
    return True


class _WithoutTrigger:
    """A session for TaskInstance.defer_task(), which makes a trigger and writes one task at a time."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def add(self, trigger: Any) -> None:
        """Make none."""

    def flush(self) -> None:
        """Write all tasks at once, later."""


@contextmanager
def parking() -> Iterator[None]:
    """Let the stock scheduler park tasks without a trigger: with 5,000 of them its statements took 18 s of a run."""
    stock = TI.defer_task

    def defer_task(ti: TI, *, session: Session) -> bool:
        args = ti.start_trigger_args
        if args is None or args.next_method != RESUME_METHOD:
            return stock(ti, session=session)
        done = stock(ti, session=_WithoutTrigger(session))  # type: ignore[arg-type]
        ti.trigger_timeout = None  # else Airflow ends the wait then
        return done

    TI.defer_task = defer_task  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        TI.defer_task = stock  # type: ignore[method-assign]


def unpark(session: Session, dag_id: str, run_id: str) -> None:
    """Take tasks that a stock scheduler has parked away from the triggerer: ours starts them, without a time limit."""
    from airflow.models.trigger import Trigger

    parked = (TI.dag_id == dag_id, TI.run_id == run_id, *WAITS, TI.trigger_id.is_not(None))
    if triggers := list(session.scalars(select(TI.trigger_id).where(*parked))):
        session.execute(
            update(TI)
            .where(*parked)
            .values(trigger_id=None, trigger_timeout=None)
            .execution_options(synchronize_session=False)
        )
        session.execute(delete(Trigger).where(Trigger.id.in_(triggers)))


def begin_when_queued(session: Session) -> None:
    """Let what an event started begin when it is queued: as it seems to resume, Airflow lets it begin before."""
    started = (TI.state == TaskInstanceState.QUEUED, TI.next_method == RESUME_METHOD, TI.start_date < TI.queued_dttm)
    session.execute(
        update(TI).where(*started).values(start_date=TI.queued_dttm).execution_options(synchronize_session=False)
    )


def start_kwargs(events: Sequence[Event], rule: str) -> dict[str, str]:
    """Return ``next_kwargs`` that carry the events to the task."""
    return {"events": json.dumps([list(event) for event in events]), "rule": rule}


def refusal(session: Session, ti: TaskInstance, dag: Any) -> str:
    """Say why a task's upstream does not allow it (now), as the stock scheduler would; "" where it does.

    What a branch or a short circuit skipped, Airflow skips again, whoever asks for it.  It does so when it is asked, so
    the asking is undone.
    """
    if not dag.has_task(ti.task_id):
        return "the Dag does not have it any more"
    ti.task, context = dag.get_task(ti.task_id), DepContext()
    deps = (TriggerRuleDep(), NotPreviouslySkippedDep())
    asking = session.begin_nested()
    statuses = [status for dep in deps for status in dep.get_dep_statuses(ti, context, session=session)]
    asking.rollback()
    return "; ".join(status.reason for status in statuses if not status.passed)


def cleared(session: Session, ti: Try, stopped: str) -> bool:
    """Whether a user has cleared a try, `stopped`, before it failed and became this retry.

    Airflow writes the history of a try once: when it is cleared, or else when it fails, with the end that its row has.
    """
    TIH = TaskInstanceHistory
    earlier = select(TIH.end_date).join(TI, TI.id == ti.id)
    earlier = earlier.where(TIH.task_instance_id == UUID(stopped), TIH.end_date != TI.end_date)
    return session.scalar(earlier) is not None


def _forget_returned(session: Session, run: Run, task_ids: Collection[str]) -> None:
    """Delete the XComs of tasks.  What a custom backend keeps elsewhere for them stays: only workers reach it."""
    of_run = XComModel.dag_id == run.dag_id, XComModel.run_id == run.run_id
    session.execute(delete(XComModel).where(*of_run, XComModel.task_id.in_(task_ids)))


def _locked(session: Session, *where: Any) -> Any:
    """As Airflow locks them: who only refers to such a row, by a foreign key, does not wait for us."""
    return with_row_locks(select(TI).where(*where), session, of=TI)


def _task(run: Run, task_id: str) -> tuple[Any, ...]:
    return TI.dag_id == run.dag_id, TI.run_id == run.run_id, TI.task_id == task_id, TI.map_index == -1


def _state_in(states: Sequence[str]) -> Any:
    """ "" stands for NULL."""
    named = TI.state.in_([s for s in states if s])
    return named | TI.state.is_(None) if "" in states else named


def _changed(result: Any) -> bool:
    return bool(result.rowcount)
