"""The Airflow that the other tests stand on: it runs, survives a kill, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from airflows import DATABASES, Deploy, Deployment
from deployment import sessions
from rest import RestError, wait_until

KILLED = """
import os, signal, sys
from pathlib import Path
from deployment import Deployment, sessions

airflow = Deployment(Path(sys.argv[1]), Path(sys.argv[1]))
airflow.names = ["scheduler"]
airflow.start()
pid = airflow.pid("scheduler")
airflow.wait_until(lambda: len(sessions(pid)) > 1, what="workers")
airflow.kill("scheduler", tree=False)
print(pid, len(sessions(pid)), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module", params=DATABASES)
def stock(request: pytest.FixtureRequest, deploy: Deploy) -> Deployment:
    return deploy(request.param)


def test_native_dag_runs(stock: Deployment) -> None:
    run_id = stock.run_dag("native")
    assert set(stock.states("native", run_id)) == {"numbers", "square[0]", "square[1]", "square[2]", "total"}
    value = stock.sql("SELECT value FROM xcom WHERE dag_id = 'native' AND task_id = 'total' AND run_id = ?", run_id)
    assert json.loads(value[0][0]) == 14 if isinstance(value[0][0], str) else value[0][0] == 14


def test_scheduler_killed_while_a_task_runs(stock: Deployment) -> None:
    stock.wait_for_dag("gate")
    stock.rest.unpause("gate")
    go = stock.home / "go"
    run_id = stock.rest.trigger("gate", {"file": str(go)})
    stock.wait_until(lambda: stock.states("gate", run_id).get("wait") == "running")
    killed = stock.pid("scheduler")
    stock.kill("scheduler", tree=False)
    go.touch()
    stock.wait_until(lambda: stock.states("gate", run_id)["wait"] == "success")
    assert stock.states("gate", run_id)["after"] is None
    assert sessions(killed)  # the workers, idle for ever
    stock.launch("scheduler")
    assert not sessions(killed)
    stock.wait_for_run("gate", run_id)


def test_what_users_do_waits_for_no_tasks(stock: Deployment) -> None:
    """On SQLite Airflow's api-server waits for itself, where it serves both (docs/troubleshooting.md)."""
    stock.wait_for_dag("gate")
    stock.rest.pause("gate")
    (stock.home / "open").touch()
    runs = [stock.rest.trigger("gate", {"file": str(stock.home / "open")}, f"many_{n}") for n in range(12)]
    ended = "SELECT count(*) FROM dag_run WHERE run_id LIKE ? AND state = 'success'"

    late: list[RestError] = []  # the database was locked for 5 s

    def all_ended() -> bool:
        try:
            stock.rest.unpause("gate")
        except RestError as e:
            if e.status < 500:
                raise
            late.append(e)
        return bool(stock.sql(ended, "many_%")[0][0] == len(runs))

    stock.wait_until(all_ended)
    assert len(late) <= 3, late


def test_failure_shows_the_logs(stock: Deployment) -> None:
    with pytest.raises(TimeoutError, match=r"never comes[\s\S]*--- logs/scheduler.log"):
        stock.wait_until(lambda: False, 0, "what never comes")


def test_stop_ends_every_process(stock: Deployment) -> None:
    pids = [stock.pid(name) for name in stock.names]
    assert all(sessions(pid) for pid in pids)
    stock.stop()
    assert not any(sessions(pid) for pid in pids)


def test_nothing_outlives_who_started_it(tmp_path: Path) -> None:
    """Both are killed with -9: first the scheduler, then the process that started it."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=env, stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    pid, workers = map(int, done.stdout.split())
    assert workers > 0
    wait_until(lambda: not sessions(pid), what="all have ended")
