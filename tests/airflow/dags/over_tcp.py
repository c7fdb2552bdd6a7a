"""Each way in which a task comes to the broker, for test_tcp.py: none of them says where it is, or with which key."""

from __future__ import annotations

import time
from typing import Any

from airflow.providers.common.messaging.triggers.msg_queue import MessageQueueTrigger
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, BaseOperator, task

from aiflow_ext import Event, EventClient, event, start_on, stop_on, stop_requested, triggering_events


class Defers(BaseOperator):
    """Waits in the triggerer, twice."""

    def execute(self, context: Any) -> None:
        self._wait("once")

    def _wait(self, until: str) -> None:
        trigger = MessageQueueTrigger(scheme="aiflow", key="from a shell", after=0)
        self.defer(trigger=trigger, method_name=until)

    def once(self, context: Any, event: dict[str, Any]) -> None:
        self._wait("twice")

    def twice(self, context: Any, event: dict[str, Any]) -> list[str]:
        return [event["key"], *(e.value for e in triggering_events())]


with DAG("over_tcp", schedule=None):

    @task
    def learn() -> str:
        with EventClient() as client:
            client.publish(Event("model", "3", "GENERATED"))
            for _ in client.subscribe("nothing comes"):
                raise AssertionError("an event of nobody")
        return "its subscription ended"

    @task
    def check() -> None:
        with EventClient() as client:
            client.publish_many(Event("model", e.value, "VALIDATED") for e in triggering_events())

    @task
    def serve() -> str:
        while not stop_requested():
            time.sleep(0.02)
        return "was asked"

    learns, checks, serves = learn(), check(), serve()
    tells = BashOperator(task_id="tell", bash_command="aiflow events send 'from a shell'")
    Defers(task_id="defer")
    started = Defers(task_id="started")
    start_on(checks, event("model", type="GENERATED"))
    start_on(serves, event("model", "3", type="VALIDATED"))
    start_on(tells, event("model", "3", type="VALIDATED"))
    start_on(started, event("model", "3", type="VALIDATED"))
    stop_on(learns, event("end"))
    stop_on(serves, event("end"))
