"""Dags for what goes wrong, and for what people do about it: one for what each test looks at."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, task
from noting import fails_once, hold, mark, note

from aiflow_ext import event, restart_on, start_on, stop_on, triggering_events

with DAG("frozen", schedule=None, max_active_runs=50):
    a = hold.override(task_id="a")("a")
    restart_on(a, event("a"))
    b = mark.override(task_id="b")()
    start_on(b, event("b"))
    a >> b
    hold.override(task_id="first")("first") >> mark.override(task_id="second")()

with DAG("early", schedule=None, max_active_runs=50):
    up = fails_once.override(task_id="up")("up")
    a = mark.override(task_id="a")()
    start_on(a, event("go"))
    up >> a
    hold.override(task_id="keep")("keep") >> mark.override(task_id="last")()

with DAG("heard", schedule=None, max_active_runs=50):
    a = mark.override(task_id="a")()
    start_on(a, event("go"))

with DAG("retried", schedule=None, max_active_runs=50):
    for how in ("once", "each"):
        r = fails_once.override(task_id=how, retries=3, retry_delay=timedelta(seconds=15))()
        start_on(r, event("go"), while_running=how)

with DAG("added", schedule=None, max_active_runs=50):
    hold.override(task_id="full", pool="one")("full")
    r = fails_once.override(task_id="r", pool="one", retries=1, retry_delay=timedelta(0))()
    restart_on(r, event("go"))

with DAG("cleared", schedule=None, max_active_runs=50):
    up = mark.override(task_id="up")()
    f = fails_once.override(task_id="f")()
    start_on(f, event("go"))
    up >> f >> mark.override(task_id="after")()

with DAG("shrinks", schedule=None, max_active_runs=50):

    @task
    def listing() -> list[int]:
        numbers: list[int] = json.loads(triggering_events()[-1].value)
        return numbers

    @task
    def one(n: int) -> int:
        return n

    @task(trigger_rule="all_done")
    def total(ns: Any) -> None:
        note(ns=list(ns))

    numbers = listing()
    start_on(numbers, event("files"), downstream=True)
    total(one.expand(n=numbers))
    own = mark.override(task_id="own")()
    start_on(own, event("own"))
    numbers >> own
    hold.override(task_id="keep")("keep")


class Defers(BaseOperator):
    """Waits in a trigger of its own, for longer than the test."""

    def execute(self, context: Any) -> None:
        note()
        self.defer(trigger=TimeDeltaTrigger(timedelta(hours=1)), method_name="done")

    def done(self, context: Any, event: Any = None) -> None:
        note("end")


class Pokes(BaseSensorOperator):
    """Looks once an hour."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(mode="reschedule", poke_interval=3600, timeout=36000, **kwargs)

    def poke(self, context: Any) -> bool:
        note()
        return False


with DAG("elsewhere", schedule=None, max_active_runs=50):
    for waiting in (Defers(task_id="defers"), Pokes(task_id="pokes")):
        restart_on(waiting, event("again"))
        stop_on(waiting, event("stop"))
