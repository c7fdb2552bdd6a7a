"""Actions on task instances and runs, inside the caller's transaction.

START resumes a parked task, or gives a finished one a further try.  STOP asks first: what follows when the task does
not listen is stop.py.  Each update names the state it expects; where somebody was faster, nothing happens and the next
pass decides again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from airflow.models.taskinstance import TaskInstance, clear_task_instances
from airflow.models.xcom import XComModel
from airflow.ti_deps.dep_context import DepContext
from airflow.ti_deps.deps.trigger_rule_dep import TriggerRuleDep
from airflow.utils.state import TaskInstanceState
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from aiflow_ext._event import Event
from aiflow_ext.provider.author.operators import RESUME_METHOD
from aiflow_ext.provider.world.runs import ENDED, Run, TaskState, Try

log = logging.getLogger(__name__)

EVENTS_MAX = 1000
EVENTS_BYTES = 1 << 20

TI = TaskInstance


def resume(session: Session, ti: Try, events: Sequence[Event]) -> bool:
    """Start a parked task: one guarded update; False where it was not parked any more."""
    now = datetime.now(UTC)
    done = session.execute(
        update(TI)
        .where(TI.id == ti.id, TI.state == TaskInstanceState.DEFERRED, TI.next_method == RESUME_METHOD)
        .values(
            state=TaskInstanceState.SCHEDULED,
            trigger_id=None,
            trigger_timeout=None,
            next_kwargs=start_kwargs(events),
            start_date=now,
            scheduled_dttm=now,
        )
        .execution_options(synchronize_session=False)
    )
    if not _changed(done):
        return False
    ti.state, ti.parked = "scheduled", False
    return True


def start_again(session: Session, run: Run, task: TaskState, events: Sequence[Event], dag: Any, *, down: bool) -> bool:
    """Give a finished task a further try in its run; with `down` clear what follows it, too.

    False where its upstream does not allow it (now).
    """
    ti = session.scalar(select(TI).where(*_task(run, task.task_id)).with_for_update(of=TI))
    if ti is None or not dag.has_task(task.task_id):
        return False
    ti.task = dag.get_task(task.task_id)
    if not _upstream_done(session, ti):
        return False
    clear = [ti, *_downstream(session, run, dag, task.task_id)] if down else [ti]
    clear_task_instances(clear, session, dag_run_state=False)
    session.execute(
        delete(XComModel).where(
            XComModel.dag_id == run.dag_id, XComModel.run_id == run.run_id, XComModel.task_id == task.task_id
        )
    )
    if ti.state is not None:  # it ran: Airflow is restarting it; the start waits for that
        return False
    now = datetime.now(UTC)
    ti.state = TaskInstanceState.SCHEDULED
    ti.try_number += 1
    ti.scheduled_dttm = ti.start_date = now
    ti.end_date = None
    ti.next_method, ti.next_kwargs = RESUME_METHOD, start_kwargs(events)
    session.flush()
    run.tries[task.task_id] = Try(ti.id, task.task_id, -1, "scheduled", ti.try_number, False, None, "")
    return True


def add_events(session: Session, ti: Try, events: Sequence[Event]) -> bool:
    """Give a task that has not begun more events to begin with."""
    row = session.scalar(select(TI).where(TI.id == ti.id).with_for_update(of=TI))
    if row is None or row.state not in (TaskInstanceState.SCHEDULED, TaskInstanceState.QUEUED):
        return False
    known = json.loads((row.next_kwargs or {}).get("events", "[]"))
    merged = {fields[6]: Event(*fields) for fields in known} | {e.offset: e for e in events}
    row.next_kwargs = start_kwargs([merged[offset] for offset in sorted(merged)])
    session.flush()
    return True


def set_state(session: Session, ti: Try, state: str, expected: Sequence[str]) -> bool:
    """Set a task instance to an end state, if it is in one of the expected ones."""
    now = datetime.now(UTC)
    done = session.execute(
        update(TI)
        .where(TI.id == ti.id, _state_in(expected))
        .values(state=TaskInstanceState(state), end_date=now, trigger_id=None, next_method=None, next_kwargs=None)
        .execution_options(synchronize_session=False)
    )
    if not _changed(done):
        return False
    ti.state, ti.parked = state, False
    return True


def restart_by_airflow(session: Session, ti: Try) -> None:
    """Let Airflow end a running try and make a new one (RESTARTING): the last resort of a RESTART."""
    row = session.scalar(select(TI).where(TI.id == ti.id, TI.state == TaskInstanceState.RUNNING).with_for_update(of=TI))
    if row is not None:
        clear_task_instances([row], session, dag_run_state=False)
        ti.id, ti.state = row.id, "restarting"


def unpark(session: Session, dag_id: str, run_id: str) -> None:
    """Take parked tasks away from the triggerer: in event mode the scheduler starts them, without a time limit."""
    from airflow.models.trigger import Trigger

    parked = (
        TI.dag_id == dag_id,
        TI.run_id == run_id,
        TI.state == TaskInstanceState.DEFERRED,
        TI.next_method == RESUME_METHOD,
        TI.trigger_id.is_not(None),
    )
    if triggers := list(session.scalars(select(TI.trigger_id).where(*parked))):
        session.execute(
            update(TI)
            .where(*parked)
            .values(trigger_id=None, trigger_timeout=None)
            .execution_options(synchronize_session=False)
        )
        session.execute(delete(Trigger).where(Trigger.id.in_(triggers)))


def start_kwargs(events: Sequence[Event]) -> dict[str, str]:
    """Return ``next_kwargs`` that carry the events to the task: the newest 1,000, and at most 1 MiB of them."""
    kept: list[list[Any]] = []
    size = 0
    for event in reversed(events[-EVENTS_MAX:]):
        size += len(event.value) + len(event.key) + 200
        if size > EVENTS_BYTES and kept:
            log.warning("aiflow: a start carries the newest %d of %d events", len(kept), len(events))
            break
        kept.append(list(event))
    return {"events": json.dumps(kept[::-1])}


def ended(ti: Try | None) -> bool:
    """Whether a try is over for good."""
    return ti is not None and ti.state in ENDED


def _upstream_done(session: Session, ti: TaskInstance) -> bool:
    statuses = TriggerRuleDep().get_dep_statuses(ti, DepContext(), session=session)
    return all(status.passed for status in statuses)


def _downstream(session: Session, run: Run, dag: Any, task_id: str) -> list[TaskInstance]:
    ids = dag.get_task(task_id).get_flat_relative_ids(upstream=False)
    return list(
        session.scalars(select(TI).where(TI.dag_id == run.dag_id, TI.run_id == run.run_id, TI.task_id.in_(ids)))
    )


def _task(run: Run, task_id: str) -> tuple[Any, ...]:
    return TI.dag_id == run.dag_id, TI.run_id == run.run_id, TI.task_id == task_id, TI.map_index == -1


def _state_in(states: Sequence[str]) -> Any:
    """ "" stands for NULL."""
    named = TI.state.in_([s for s in states if s])
    return named | TI.state.is_(None) if "" in states else named


def _changed(result: Any) -> bool:
    return bool(result.rowcount)
