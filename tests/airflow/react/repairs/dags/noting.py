"""What the tasks of tests do: write down that they are here, and wait for the test."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from airflow.sdk import get_current_context, task

from aiflow_ext import stop_requested, triggering_events

HOME = Path(os.environ["AIRFLOW_HOME"])


def note(what: str = "start", **more: object) -> None:
    """Write down that this try is here, and which events it knows of."""
    ti = get_current_context()["ti"]
    events = [[e.key, e.value, e.offset] for e in triggering_events()]
    line = {"what": what, "task": ti.task_id, "try": ti.try_number, "events": events, **more}
    folder = HOME / "starts" / ti.dag_id
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{ti.run_id}.jsonl").open("a") as out:
        out.write(json.dumps(line) + "\n")


@task
def mark() -> None:
    note()


@task
def hold(name: str, *, deaf: bool = False) -> None:
    """Run until the file `name` is there, or a stop, unless it is `deaf`."""
    note()
    wait_for(name, deaf=deaf)
    note("end")


@task
def fails_once(name: str = "", *, deaf: bool = False) -> None:
    """The first try fails, once the file `name` is there, or a stop, unless it is `deaf`."""
    note()
    if get_current_context()["ti"].try_number == 1:
        if name:
            wait_for(name, deaf=deaf)
        raise RuntimeError("the first try fails")


def wait_for(name: str, *, deaf: bool = False) -> None:
    """Until the test makes the file, or somebody stops us, unless we are `deaf`."""
    path = HOME / f"{get_current_context()['ti'].run_id}.{name}"
    while not path.exists() and (deaf or not stop_requested()):
        time.sleep(0.02)
