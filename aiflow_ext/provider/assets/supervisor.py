"""The stock triggerer's supervisor, which has the database, and here the offsets of the asset watchers.

Two hooks of ``TriggerRunnerSupervisor`` are overridden: one tells a trigger where to begin (that of a task: when it
began to wait), the other stores what it brought.  All else is stock.
"""

from __future__ import annotations

from typing import Any

import structlog
from airflow.executors.workloads import RunTrigger
from airflow.jobs.triggerer_job_runner import TriggerRunnerSupervisor
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.triggers.base import TriggerEvent
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.exc import OperationalError, ProgrammingError

from aiflow_ext.provider.assets import offsets
from aiflow_ext.provider.assets.trigger import CLASSPATH, LATEST, SERVED, is_payload
from aiflow_ext.provider.author.operators import TRIGGER
from aiflow_ext.provider.config import event_mode
from aiflow_ext.provider.db.session import own_session
from aiflow_ext.provider.points import point

log = structlog.get_logger(__name__)


class EventTriggerSupervisor(TriggerRunnerSupervisor):
    """TriggerRunnerSupervisor that keeps the offsets of EventLogTrigger."""

    def build_trigger_workloads(self, new_trigger_ids: set[int]) -> list[RunTrigger]:
        """Stock; ours are told where to begin."""
        made = [self._placed(workload) for workload in super().build_trigger_workloads(new_trigger_ids)]
        return [workload for workload in made if workload is not None]

    def _placed(self, workload: RunTrigger) -> RunTrigger | None:
        kwargs: dict[str, Any]
        if workload.classpath not in (CLASSPATH, TRIGGER):
            return workload
        if workload.ti is not None:
            with create_session() as session:
                if workload.classpath == TRIGGER:  # the scheduler takes it away, and gives it back: then it is newer
                    since = session.scalar(select(TaskInstance.start_date).where(TaskInstance.id == workload.ti.id))
                else:
                    since = session.scalar(select(Trigger.created_date).where(Trigger.id == workload.id))
            kwargs = {"began": since and since.isoformat()}
        elif event_mode() and Trigger._decrypt_kwargs(workload.encrypted_kwargs).get("broker") is None:
            kwargs = {"start": SERVED}
        else:
            try:
                with create_session() as session:
                    place = offsets.start(session, workload.id)
                kwargs = {"start": LATEST} if place is None else {"start": place.offset, "log_id": place.log_id}
            except (OperationalError, ProgrammingError) as e:
                text = "aiflow: a trigger waits, its offset cannot be read (`airflow db migrate`?)"
                log.error(text, trigger_id=workload.id, error=str(e))
                return None
        kwargs = Trigger._decrypt_kwargs(workload.encrypted_kwargs) | kwargs
        return workload.model_copy(update={"encrypted_kwargs": Trigger.encrypt_kwargs(kwargs)})

    def on_trigger_event(self, trigger_id: int, event: TriggerEvent) -> None:
        """Stock; what ours bring is stored together with its offset, in one transaction."""
        if not is_payload(event.payload):
            super().on_trigger_event(trigger_id=trigger_id, event=event)
            return
        with own_session() as session:
            point("watcher.begin")
            ours = offsets.take(session, trigger_id, event.payload)
            point("watcher.stored")
        point("watcher.committed")
        if not ours:  # no asset has it: a task waits for it
            super().on_trigger_event(trigger_id=trigger_id, event=event)
