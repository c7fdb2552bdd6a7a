"""What the api-server's hints say, where the database does not tell by itself: tasks whose runs have changed.

A hint is the path of a request.  One that a task's process makes names the task, and its run is looked up, so that this
run is examined, and no other.  Any other request may have changed anything.
"""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from airflow.models.asset import AssetDagRunQueue, AssetEvent
from airflow.models.taskinstance import TaskInstance
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from aiflow_ext.provider.db.notify import DIRTY, STATUS
from aiflow_ext.provider.world.blame import Key

PATH = re.compile(
    r"/execution/task-instances/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/(run|state|skip-downstream)"
)
KINDS = {"run": STATUS, "state": DIRTY, "skip-downstream": DIRTY}  # as NOTIFY says it
TASKS_MAX = 500  # that are looked up; where there are more, a full pass costs less

TaskHint = tuple[str, UUID]  # a kind of KINDS, and the id of a task instance


def task_in(hint: str) -> TaskHint | None:
    """Return which task a hint names, and whether its run is to be examined; None: anything may have changed."""
    found = PATH.fullmatch(hint)
    return (KINDS[found[2]], UUID(found[1])) if found else None


class RunsOfTasks:
    """The runs of the tasks that hints name."""

    def __init__(self) -> None:
        self._assets: Any = None

    def look_up(self, tasks: set[TaskHint], session: Session) -> dict[TaskHint, Key] | None:
        """Return the run of each; None where they do not tell all that may have changed.

        The request in which a task ends may also make asset events, which start other runs.  And a task that is to be
        retried has another id from then on.
        """
        if len(tasks) > TASKS_MAX or (any(kind == DIRTY for kind, _ in tasks) and self._new_assets(session)):
            return None
        ti = TaskInstance
        rows = session.execute(select(ti.id, ti.dag_id, ti.run_id).where(ti.id.in_({task for _, task in tasks})))
        runs = {row.id: (row.dag_id, row.run_id) for row in rows}
        return {told: runs[told[1]] for told in tasks} if all(task in runs for _, task in tasks) else None

    def _new_assets(self, session: Session) -> bool:
        """Whether there are asset events, or Dags that they may start, which were not there the last time."""
        queue = AssetDagRunQueue
        parts = (
            select(func.max(AssetEvent.id)),
            select(func.count(queue.asset_id)),
            select(func.max(queue.created_at)),
        )
        before, self._assets = self._assets, session.execute(select(*(p.scalar_subquery() for p in parts))).one()
        return bool(before != self._assets)
