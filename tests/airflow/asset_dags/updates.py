"""A task that updates an asset, and one that waits for that inside a running Dag run."""

from __future__ import annotations

from airflow.providers.common.messaging.triggers.msg_queue import MessageQueueTrigger
from airflow.sdk import Asset, AssetWatcher, Metadata, dag, task

from aiflow_ext import asset_updated, event, start_on, triggering_events

made = Asset("made")
elsewhere = Asset(
    "elsewhere",  # of another broker, so never the scheduler's
    watchers=[AssetWatcher(name="e", trigger=MessageQueueTrigger(scheme="aiflow", after=0, broker="ipc:///nowhere"))],
)


@dag(schedule=None, catchup=False, is_paused_upon_creation=False)
def updates():
    @task(outlets=[made])
    def make():
        yield Metadata(made, {"rows": 3})

    make()


@dag(schedule=None, catchup=False, is_paused_upon_creation=False)
def listens():
    @task
    def heard() -> list[tuple[str, str]]:
        return [(e.key, e.value) for e in triggering_events()]

    @task
    def keep() -> None:
        pass

    start_on(heard(), asset_updated("made"))
    start_on(keep(), event("end"))


@dag(schedule=[elsewhere], catchup=False, is_paused_upon_creation=False)
def of_elsewhere():
    @task
    def nothing() -> None:
        pass

    nothing()


updates()
listens()
of_elsewhere()
