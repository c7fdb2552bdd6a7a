"""Dags whose rules make listeners hear of tasks, of a run and of an asset."""

from __future__ import annotations

from airflow.providers.common.messaging.triggers.msg_queue import MessageQueueTrigger
from airflow.sdk import DAG, Asset, AssetWatcher
from noting import hold, mark

from aiflow_ext import event, start_on, stop_on

with DAG("listened", schedule=None, max_active_runs=50):
    for name in ("writes", "raises", "slow"):
        waits = mark.override(task_id=name)()
        start_on(waits, event("never"))
        stop_on(waits, event("stop"))
    start_on(mark.override(task_id="work")(), event("stop"))

with DAG("ended", schedule=None, max_active_runs=50) as ended:
    hold.override(task_id="work")("never")
stop_on(ended, event("end"))

watcher = AssetWatcher(name="seen", trigger=MessageQueueTrigger(scheme="aiflow", key="seen"))
with DAG("watched", schedule=Asset("seen", watchers=[watcher]), catchup=False):
    mark.override(task_id="work")()
