"""Dags with rules, one for what each test looks at.  Every start of a task leaves a line in $AIRFLOW_HOME/starts."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, get_current_context, task

from aiflow_ext import (
    EventClient,
    all_of,
    event,
    every,
    restart_on,
    start_on,
    status,
    stop_on,
    stop_requested,
    triggering_events,
)

HOME = Path(os.environ["AIRFLOW_HOME"])


def note(what: str = "start") -> None:
    """Write down that this try is here, and which events it knows of."""
    ti = get_current_context()["ti"]
    line = {
        "what": what,
        "task": ti.task_id,
        "try": ti.try_number,
        "id": str(ti.id),
        "events": [[e.key, e.value, e.offset] for e in triggering_events()],
        "t": time.time_ns(),
    }
    folder = HOME / "starts" / ti.dag_id
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{ti.run_id}.jsonl").open("a") as out:
        out.write(json.dumps(line) + "\n")


def wait_for(name: str) -> None:
    """Until the test makes the file, or somebody stops us."""
    ti = get_current_context()["ti"]
    path = HOME / f"{ti.run_id}.{name}"
    while not path.exists() and not stop_requested():
        time.sleep(0.02)


@task
def mark() -> None:
    note()


@task
def hold(name: str) -> None:
    """Run until the file `name` is there, or a stop."""
    note()
    wait_for(name)
    note("end")


@task
def deaf() -> None:
    """Hears no request to stop."""
    note()
    while True:
        time.sleep(0.05)


with DAG("waits", schedule=None, max_active_runs=50):
    up = hold.override(task_id="up")("up")
    a = mark.override(task_id="a")()
    up >> a
    start_on(a, event("go"))
    free = mark.override(task_id="free")()
    start_on(free, event("go"))
    last = mark.override(task_id="last")()
    free >> last

for how in ("once", "each", "ignore"):
    with DAG(f"while_{how}", schedule=None, max_active_runs=50):
        a = hold.override(task_id="a")("a")
        start_on(a, event("go"), while_running=how)
        stop_on(a, event("end"))
        keep = hold.override(task_id="keep")("keep")

with DAG("first", schedule=None, max_active_runs=50):
    starts = mark.override(task_id="starts")()
    start_on(starts, event("x"))
    stop_on(starts, event("x"))
    ends = mark.override(task_id="ends")()
    stop_on(ends, event("x"))
    start_on(ends, event("x"))

with DAG("stops", schedule=None, max_active_runs=50):
    heard = hold.override(task_id="heard")("never")
    stop_on(heard, event("stop"))
    parked = mark.override(task_id="parked")()
    start_on(parked, event("never"))
    stop_on(parked, event("stop"))
    failed = hold.override(task_id="failed")("never")
    stop_on(failed, event("stop"), state="skipped")

    @task
    def stream() -> None:
        """Ends because the subscription does."""
        note()
        with EventClient() as client:
            for _ in client.subscribe("nothing comes"):
                raise AssertionError("an event of nobody")
        note("end")

    reader = stream()
    stop_on(reader, event("stop"))

with DAG("deaf", schedule=None, max_active_runs=50):
    stopped = deaf.override(task_id="stopped")()
    stop_on(stopped, event("stop"))
    restarted = deaf.override(task_id="restarted", retries=1)()
    restart_on(restarted, event("again"))
    stop_on(restarted, event("stop"))

with DAG("restarts", schedule=None, max_active_runs=50):
    serve = hold.override(task_id="serve")("never")
    restart_on(serve, event("version"))
    stop_on(serve, event("stop"))

with DAG("statuses", schedule=None, max_active_runs=50):
    a = hold.override(task_id="a")("a")
    on_running = mark.override(task_id="on_running")()
    start_on(on_running, status(a, "running"))
    quick = mark.override(task_id="quick")()
    on_quick = mark.override(task_id="on_quick")()
    start_on(on_quick, status(quick, "running"))
    after = mark.override(task_id="after")()
    start_on(after, status(a, "success") & event("go"))

with DAG("periods", schedule=None, max_active_runs=50):
    tick = mark.override(task_id="tick")()
    restart_on(tick, every(seconds=3))  # longer than a start takes on a slow machine
    keep = hold.override(task_id="keep")("keep")

with DAG("conditions", schedule=None, max_active_runs=50):
    both = mark.override(task_id="both")()
    start_on(both, all_of(event("x", "1"), event("y")))
    batch = mark.override(task_id="batch")()
    start_on(batch, event("n", count=3))
    keep = hold.override(task_id="keep")("keep")

with DAG("retries", schedule=None, max_active_runs=50):

    @task(retries=1, retry_delay=0)
    def flaky() -> None:
        note()
        if get_current_context()["ti"].try_number == 1:
            raise RuntimeError("the first try fails")

    start_on(flaky(), event("go"))

with DAG("chains", schedule=None, max_active_runs=50):
    head = mark.override(task_id="head")()
    start_on(head, event("go"), downstream=True)
    tail = mark.override(task_id="tail")()
    head >> tail
    keep = hold.override(task_id="keep")("keep")

with DAG("templates", schedule=None, max_active_runs=50):
    shell = BashOperator(
        task_id="shell",
        bash_command="echo '{{ macros.aiflow.triggering_events()[0].value }}' > $AIRFLOW_HOME/{{ run_id }}.value",
    )
    start_on(shell, event("go"))

with DAG("made", schedule=None, max_active_runs=50) as made:
    hold.override(task_id="a")("never")
start_on(made, event("make"), name="make")
stop_on(made, event("unmake"), name="unmake")
