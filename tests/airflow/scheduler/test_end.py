"""A scheduler that is told to end ends, wherever the signal finds it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from airflows import Deployment
from deployment import kill_session

from aiflow_ext import Event, EventClient

DAGS = Path(__file__).parents[2] / "crash" / "dags"
PLUGIN = """
import os, signal, sys, weakref
from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

class Gone:
    pass

@hookimpl
def on_dag_run_running(dag_run, msg):
    gone = Gone()
    told = weakref.ref(gone, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del gone

class Plugin(AirflowPlugin):
    name = "told"
    listeners = [sys.modules[__name__]]
"""


ENDS = """
from airflow.executors.local_executor import LocalExecutor
from aiflow_ext.provider.scheduler.children import let_workers_end

for _ in range(30):
    executor = LocalExecutor(parallelism=32)
    executor.start()
    let_workers_end([executor])
    executor.end()
"""


def test_no_worker_is_left_without_a_word(tmp_path: Path) -> None:
    """Airflow's own LocalExecutor.end() leaves one waiting for ever, about 1 of 8 times with as many workers."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENDS], env=os.environ | {"AIRFLOW_HOME": str(tmp_path)}, start_new_session=True
    )
    try:
        assert process.wait() == 0
    finally:
        kill_session(process.pid)
        process.wait()


def test_the_signal_comes_in_a_callback(tmp_path: Path) -> None:
    """Python drops what is raised in the callback of a weak reference, and SQLAlchemy has many of these: Airflow's
    handler raises SystemExit there, and nobody sees it."""
    airflow = Deployment(tmp_path / "af", DAGS, event_mode=True)
    airflow.names = ["dag-processor", "scheduler"]
    (airflow.home / "plugins").mkdir(parents=True)
    (airflow.home / "plugins" / "told.py").write_text(PLUGIN)
    with airflow:
        airflow.wait_until(lambda: airflow.sql("SELECT 1 FROM serialized_dag WHERE dag_id = 'born'"))
        airflow.sql("UPDATE dag SET is_paused = FALSE")
        airflow.wait_until(lambda: airflow.sql("SELECT 1 FROM aiflow_consumer WHERE name = 'scheduler'"))
        with EventClient(f"ipc://{airflow.home}/aiflow/broker.sock") as client:
            client.publish(Event("birth"), timeout=1200)
        airflow.wait_until(lambda: "Exception ignored in" in airflow.log("scheduler"), what="it is told, and forgets")
        airflow.wait_until(lambda: not airflow.alive("scheduler"), what="it has ended")
        assert not (airflow.home / "aiflow" / "broker.sock").exists()
