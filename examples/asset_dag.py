"""An event makes an Airflow asset change, and that starts a Dag: event-driven scheduling as Airflow has it.

Works with the stock scheduler and triggerer, and in event mode, where the scheduler does it at once, without a
triggerer.  Publish with `aiflow events send digits 3 --type MODEL_GENERATED`; docs/assets.md has the rest.
"""

from __future__ import annotations

from airflow.providers.common.messaging.triggers.msg_queue import MessageQueueTrigger
from airflow.sdk import Asset, AssetWatcher, dag, task

models = Asset(
    "digits_model",
    watchers=[
        AssetWatcher(
            name="generated",
            trigger=MessageQueueTrigger(scheme="aiflow", key="digits", type="MODEL_GENERATED"),
        )
    ],
)


@dag(schedule=[models], catchup=False, tags=["aiflow"])
def on_new_model():
    @task
    def evaluate(triggering_asset_events=None) -> None:
        for event in triggering_asset_events[models]:
            found = event.extra["payload"]
            print(f"model {found['value']} of {found['key']}, event {found['offset']}")

    evaluate()


on_new_model()
