"""Dags for the bench, without a word about events.  Each task first writes down when its first line ran."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator, dag, task


def began(ti, now: int) -> None:
    folder = Path(os.environ["AIFLOW_BENCH_OUT"]) / ti.dag_id / ti.run_id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ti.task_id).write_text(str(now))


def fibo(n: int) -> int:
    return n if n < 2 else fibo(n - 1) + fibo(n - 2)


@task
def work(ti=None) -> None:
    now = time.time_ns()
    began(ti, now)
    assert fibo(10) == 55


def tasks(n: int):
    return [work.override(task_id=f"t{i:03}")() for i in range(n)]


def chain(n: int) -> None:
    for before, after in pairwise(tasks(n)):
        before >> after


def fan(n: int) -> None:
    first, *rest = tasks(n + 1)
    first >> rest


class Wait(BaseOperator):
    """Waits for a day in DEFERRED; without a triggerer, until the bench ends."""

    def execute(self, context):
        self.defer(trigger=TimeDeltaTrigger(timedelta(days=1)), method_name="execute_complete")

    def execute_complete(self, context, event=None):
        pass


@dag(schedule=None, catchup=False, max_active_tasks=200)
def chain10():
    chain(10)


@dag(schedule=None, catchup=False, max_active_tasks=200)
def windmill40():
    chain(40)


@dag(schedule=None, catchup=False, max_active_tasks=200)
def fan100():
    fan(100)


@dag(schedule=None, catchup=False, max_active_tasks=200)
def warm():
    fan(16)


@dag(schedule=None, catchup=False, max_active_tasks=200)
def waiting():
    Wait(task_id="wait")


@dag(schedule=None, catchup=False, max_active_tasks=200)
def long():
    @task
    def goes_on() -> None:
        time.sleep(40)

    goes_on()


chain10()
windmill40()
fan100()
long()
warm()
waiting()
