"""Task states as events: what changed in the rows of a run since the rules last heard, steps they skipped included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from airflow.models.taskinstancehistory import TaskInstanceHistory
from sqlalchemy import select
from sqlalchemy.orm import Session

from aiflow_ext._event import Event
from aiflow_ext.provider.world.runs import Run
from aiflow_ext.provider.world.task import Pattern, Try
from aiflow_ext.rules.conditions import STATES

NAMESPACE = "airflow"
TYPE = "TASK_STATUS_CHANGED"

_AFTER_RUNNING = frozenset({"success", "failed", "up_for_retry", "up_for_reschedule", "deferred", "restarting"})
_STEPS = ("scheduled", "queued", "running")


def may_ask(pattern: Pattern, dag_id: str) -> bool:
    """Return whether a pattern may match a state of a task of a Dag."""
    namespace, key, kind, _ = pattern
    of_dag = f"{dag_id}."
    stem = key.removesuffix("*")
    return (
        _matches(namespace, NAMESPACE)
        and _matches(kind, TYPE)
        and (key.startswith(of_dag) or (stem != key and of_dag.startswith(stem)))
    )


def _matches(field: str, text: str) -> bool:
    return field == text or (field.endswith("*") and text.startswith(field[:-1]))


@dataclass(frozen=True)
class Status:
    """One change: the try it is of and the event that says so."""

    try_id: str
    event: Event

    @property
    def identity(self) -> tuple[str, int]:
        """The event's identity: (try, state) is told once."""
        return f"try:{self.try_id}", STATES.index(self.event.value) + 1


def changes(session: Session, run: Run) -> Iterator[Status]:
    """Yield what happened to the tasks of `run` since run.seen, which is brought up to date."""
    for name, now in sorted(run.tries.items()):
        before_id, before = run.seen.get(name, ["", ""])
        if (before_id, before) == (str(now.id), now.state):
            continue
        if before_id and before_id != str(now.id):
            yield from _missed(session, run, now, before_id, before)
            before = ""
        for state in path(before, now.state, ran=bool(now.hostname) and not now.parked):
            yield _status(run, now, str(now.id), state)
        run.seen[name] = [str(now.id), now.state]


def path(before: str, now: str, *, ran: bool) -> list[str]:
    """Return the states after `before` up to `now`, with the steps that must lie between.

    :param before: last state told; "" for none.
    :param now: the state read.
    :param ran: the try has been on a worker.
    """
    if now not in STATES or now == before:
        return []
    steps: tuple[str, ...] = _STEPS if now in _AFTER_RUNNING and ran else ()
    if now in _STEPS:
        steps = _STEPS[: _STEPS.index(now)]
    done = _STEPS.index(before) + 1 if before in _STEPS else 0
    return [*steps[done:], now]


def _missed(session: Session, run: Run, now: Try, before_id: str, before: str) -> Iterator[Status]:
    """The end of the try that was seen, and the tries between, from Airflow's history."""
    TIH = TaskInstanceHistory
    rows = session.execute(
        select(TIH.task_instance_id, TIH.state, TIH.hostname, TIH.try_number)
        .where(
            TIH.dag_id == run.dag_id,
            TIH.run_id == run.run_id,
            TIH.task_id == now.task_id,
            TIH.map_index == now.map_index,
            TIH.try_number <= now.number,
        )
        .order_by(TIH.try_number)
    ).all()
    ids = [str(row.task_instance_id) for row in rows]
    for row in rows[ids.index(before_id) if before_id in ids else len(rows) :]:
        try_id = str(row.task_instance_id)
        state = str(getattr(row.state, "value", row.state) or "")
        for step in path(before if try_id == before_id else "", state, ran=bool(row.hostname)):
            yield _status(run, now, try_id, step)


def _status(run: Run, of: Try, try_id: str | UUID, state: str) -> Status:
    return Status(
        str(try_id),
        Event(f"{run.dag_id}.{of.task_id}", state, TYPE, context=None, namespace=NAMESPACE, sender=run.run_id),
    )
