"""What ``MessageQueueTrigger(scheme="aiflow", ...)`` of apache-airflow-providers-common-messaging finds us by."""

from __future__ import annotations

from airflow.providers.common.messaging.providers.base_provider import BaseMessageQueueProvider
from airflow.triggers.base import BaseEventTrigger

from aiflow_ext.provider.assets.trigger import SCHEME, EventLogTrigger


class EventLogQueueProvider(BaseMessageQueueProvider):
    """The event log as a message queue."""

    scheme = SCHEME

    def trigger_class(self) -> type[BaseEventTrigger]:
        """Return the trigger that takes the arguments of MessageQueueTrigger."""
        return EventLogTrigger
