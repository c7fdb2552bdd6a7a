"""Tasks that are told of more than they can carry."""

from __future__ import annotations

from airflow.sdk import DAG
from noting import hold, mark

from aiflow_ext import event, start_on, stop_on

with DAG("crowd", schedule=None):
    each = hold.override(task_id="each")("each")
    start_on(each, event("each"), while_running="each")
    stop_on(each, event("stop"))
    for key in ("many", "big"):
        start_on(hold.override(task_id=key)(key), event(key))

with DAG("three", schedule=None) as three:
    mark.override(task_id="a")()
start_on(three, event("three", count=3), name="three")
