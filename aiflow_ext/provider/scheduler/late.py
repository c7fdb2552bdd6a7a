"""The end of a process that has deferred or rescheduled its task, heard of when the task is on its way again already.

Airflow takes that for the end of the process that runs now, and fails the task: its executor waits no more for the
first one before it begins the second (BaseExecutor.trigger_tasks of 3.3, where only a comment is left of it).  With a
second between two passes this is rare; with milliseconds it is not.
"""

from __future__ import annotations

from typing import Any

import structlog
from airflow.models.taskinstance import TaskInstance as TI
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.models.taskreschedule import TaskReschedule
from airflow.utils.state import TaskInstanceState
from sqlalchemy import and_, exists, select, tuple_
from sqlalchemy.orm import Session

from aiflow_ext.provider.act.tasks import GOES_ON

log = structlog.get_logger(__name__)

AGAIN = (TaskInstanceState.QUEUED, TaskInstanceState.RUNNING)


def drop_late_words(executor: Any, session: Session) -> None:
    """Take out of the executor's events that a process ended well whose task has gone on: after a deferral of its own,
    or a reschedule.  What another scheduler has queued since, Airflow tells apart by itself.

    If it was the end of the process that runs now, which has told nobody how its task ended, Airflow finds the task by
    its heartbeat, as it does for one that ends without a word.
    """
    ended = [
        key
        for key, (state, _) in executor.event_buffer.items()
        if isinstance(key, TaskInstanceKey)
        and state == TaskInstanceState.SUCCESS
        and key not in executor.queued_tasks  # else Airflow knows by itself, and no process runs yet
    ]
    if not ended:
        return
    names = list(ended[0]._asdict())
    columns = [getattr(TI, name) for name in names]
    goes_on = and_(*GOES_ON) | exists().where(TaskReschedule.ti_id == TI.id)
    again = TI.state.in_(AGAIN), TI.queued_by_job_id == executor.job_id, goes_on
    for row in session.execute(select(*columns).where(tuple_(*columns).in_(ended), *again)):
        key = TaskInstanceKey(**dict(zip(names, row, strict=True)))
        del executor.event_buffer[key]
        executor.running.add(key)
        log.info("aiflow: a process has ended, and its task has gone on before", **key._asdict())
