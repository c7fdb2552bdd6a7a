"""Dags whose rules meet what else Airflow has: branches, queued runs, limits, teardowns, empty operators."""

from __future__ import annotations

import time

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, get_current_context, task
from noting import HOME, hold, mark, note, wait_for

from aiflow_ext import event, start_on, stop_on


@task
def deaf() -> None:
    """Hears no request to stop."""
    note()
    while True:
        time.sleep(0.05)


with DAG("branched", schedule=None, max_active_runs=50):

    @task.branch
    def choose() -> str:
        wait_for("choose")
        return "left"

    @task.short_circuit
    def circuit() -> bool:
        wait_for("choose")
        return False

    left = mark.override(task_id="left")()
    right = mark.override(task_id="right")()
    cut = mark.override(task_id="cut")()
    start_on(right, event("go"))
    start_on(cut, event("go"))
    choose() >> [left, right]
    circuit() >> cut
    hold.override(task_id="keep")("keep")

with DAG("rejoined", schedule=None, max_active_runs=50):

    @task.short_circuit
    def through() -> bool:
        wait_for("open")
        return (HOME / f"{get_current_context()['ti'].run_id}.through").exists()

    below = mark.override(task_id="below")()
    start_on(below, event("go"))
    through() >> below
    hold.override(task_id="keep")("keep")

with DAG("queued", schedule=None, max_active_runs=1):
    stop_on(hold.override(task_id="train")("never"), event("end"))

with DAG("empty", schedule=None, max_active_runs=50):
    wait = EmptyOperator(task_id="wait")
    start_on(wait, event("go"))
    wait >> mark.override(task_id="after")()

with DAG("limited", schedule=None, max_active_runs=50):
    start_on(mark.override(task_id="of_dag", max_active_tis_per_dag=1)(), event("go"))
    start_on(mark.override(task_id="of_run", max_active_tis_per_dagrun=1)(), event("go"))
    start_on(mark.override(task_id="pooled", pool="narrow")(), event("go"))

with DAG("torn", schedule=None, max_active_runs=50) as torn:
    up = mark.override(task_id="up")().as_setup()
    down = hold.override(task_id="down")("down").as_teardown(setups=up)
    work = deaf.override(task_id="work")()
    up >> work >> down
    with_state = deaf.override(task_id="marked")()
    stop_on(with_state, event("mark"), state="skipped")
stop_on(torn, event("tear"))

with DAG("kept", schedule=None, max_active_runs=50) as kept:
    up = mark.override(task_id="up")().as_setup()
    down = mark.override(task_id="down")().as_teardown(setups=up)
    start_on(down, event("never"))
    waits = mark.override(task_id="waits")()
    start_on(waits, event("never"))
    start_on(mark.override(task_id="ran")(), event("go"))
    works = deaf.override(task_id="works")()
    up >> [waits, works] >> down
stop_on(kept, event("tear"))

with DAG("tries", schedule=None, max_active_runs=50):
    again = hold.override(task_id="again")("again")
    start_on(again, event("go"))
    hold.override(task_id="keep")("keep")

with DAG("sensed", schedule=None, max_active_runs=50):

    @task.sensor(mode="reschedule", poke_interval=1, timeout=3600, soft_fail=True)
    def there() -> bool:
        note()
        return (HOME / f"{get_current_context()['ti'].run_id}.there").exists()

    @task.sensor(mode="poke", poke_interval=1, timeout=3600, soft_fail=True)
    def wrong() -> bool:
        raise ValueError("not a matter of time")

    start_on(there(), event("go"))
    start_on(wrong(), event("go"))
    there_without, wrong_without = there.override(task_id="there_")(), wrong.override(task_id="wrong_")()

with DAG("returned", schedule=None, max_active_runs=50):

    @task(retries=1, retry_delay=0)
    def pushes() -> None:
        ti = get_current_context()["ti"]
        note(before=ti.xcom_pull(task_ids="pushes", key="k"))
        ti.xcom_push("k", ti.try_number)
        if ti.try_number == 1:
            raise RuntimeError("the first try fails")

    start_on(pushes(), event("go"))
