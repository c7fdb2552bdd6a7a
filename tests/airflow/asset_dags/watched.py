"""Assets that events change, for test_assets.py; nobody has to unpause these."""

from __future__ import annotations

from airflow.providers.common.messaging.triggers.msg_queue import MessageQueueTrigger
from airflow.sdk import Asset, AssetWatcher, dag, task


def watched(name: str, **filters: object) -> Asset:
    trigger = MessageQueueTrigger(scheme="aiflow", **filters)
    return Asset(name, watchers=[AssetWatcher(name=name, trigger=trigger)])


n_all = watched("n_all", key="n")
n_too = watched("n_too", key="n")  # the same events, another asset
some = watched("some", key=["a*", "b"], type="T", namespace="other", after=0)


@dag(schedule=n_all | n_too | some, catchup=False, is_paused_upon_creation=False)
def counts():
    @task
    def seen(triggering_asset_events=None) -> list[int]:
        return [e.extra["payload"]["offset"] for of in triggering_asset_events.values() for e in of]

    seen()


counts()
