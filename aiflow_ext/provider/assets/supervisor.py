"""The stock triggerer's supervisor, which has the database, and here the offsets of the asset watchers.

Two hooks of ``TriggerRunnerSupervisor`` are overridden: one tells a trigger where to begin, the other stores what it
brought.  All else is stock.
"""

from __future__ import annotations

from typing import Any

import structlog
from airflow.executors.workloads import RunTrigger
from airflow.jobs.triggerer_job_runner import TriggerRunnerSupervisor
from airflow.models.trigger import Trigger
from airflow.triggers.base import TriggerEvent
from airflow.utils.session import create_session
from sqlalchemy.exc import OperationalError, ProgrammingError

from aiflow_ext.provider.assets import offsets
from aiflow_ext.provider.assets.trigger import CLASSPATH, SERVED, is_payload
from aiflow_ext.provider.config import event_mode
from aiflow_ext.provider.points import point

log = structlog.get_logger(__name__)


class EventTriggerSupervisor(TriggerRunnerSupervisor):
    """TriggerRunnerSupervisor that keeps the offsets of EventLogTrigger."""

    def build_trigger_workloads(self, new_trigger_ids: set[int]) -> list[RunTrigger]:
        """Stock; ours are told where to begin."""
        made = [self._placed(workload) for workload in super().build_trigger_workloads(new_trigger_ids)]
        return [workload for workload in made if workload is not None]

    def _placed(self, workload: RunTrigger) -> RunTrigger | None:
        if workload.classpath != CLASSPATH or workload.ti is not None:
            return workload
        kwargs: dict[str, Any] = Trigger._decrypt_kwargs(workload.encrypted_kwargs)
        if event_mode() and kwargs.get("broker") is None:
            kwargs["start"] = SERVED
        else:
            try:
                with create_session() as session:
                    kwargs["start"] = offsets.start(session, workload.id)
            except (OperationalError, ProgrammingError) as e:
                text = "aiflow: a trigger waits, its offset cannot be read (`airflow db migrate`?)"
                log.error(text, trigger_id=workload.id, error=str(e))
                return None
        return workload.model_copy(update={"encrypted_kwargs": Trigger.encrypt_kwargs(kwargs)})

    def on_trigger_event(self, trigger_id: int, event: TriggerEvent) -> None:
        """Stock; what ours bring is stored together with its offset, in one transaction."""
        if not is_payload(event.payload):
            super().on_trigger_event(trigger_id=trigger_id, event=event)
            return
        with create_session() as session:
            point("watcher.begin")
            ours = offsets.take(session, trigger_id, event.payload)
            point("watcher.stored")
        point("watcher.committed")
        if not ours:  # no asset has it: a task waits for it
            super().on_trigger_event(trigger_id=trigger_id, event=event)
