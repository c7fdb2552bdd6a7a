"""SIGTERM for the process of a task: by whoever has it among its children, a scheduler or a Celery worker.

A Celery worker is told through its executor, by a command of ours beside Celery's own (ADR 0017 says why it is not
``revoke``).  It goes to all workers, as all such commands do; the one that has the process sends the signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import psutil
import structlog
from airflow.configuration import conf
from airflow.utils.net import get_hostname

log = structlog.get_logger(__name__)

COMMAND = "aiflow_terminate"


class Process(NamedTuple):
    """Where a try runs.

    :param pid: on its host.
    :param hostname: the host, as Airflow calls it.
    :param try_id: the id of its task instance.
    """

    pid: int
    hostname: str
    try_id: str


def terminate(process: Process) -> bool:
    """Send it SIGTERM, if it runs on this host and is a child (of a child ...) of ours; return whether it does.

    Another host may have the same pid, and so may another task, once this one has ended: a worker that was started
    again in its container has the hostname of the one before, and pids from 1 on.  Airflow's task runner gives its
    process (with `run_as_user` a child of it) a title with the id of the try.
    """
    if process.hostname != get_hostname():
        return False
    try:
        found = psutil.Process(process.pid)
        if psutil.Process() not in found.parents():
            return False
        if not any(process.try_id in " ".join(one.cmdline()) for one in [found, *found.children(recursive=True)]):
            log.info("aiflow: no SIGTERM, another task has its pid", pid=process.pid, ti_id=process.try_id)
            return False
        log.info("aiflow: SIGTERM, the task did not stop by itself", pid=process.pid, ti_id=process.try_id)
        found.terminate()
    except psutil.NoSuchProcess:
        return False
    except psutil.Error as e:  # of another user (run_as_user)
        log.warning("aiflow: no SIGTERM", pid=process.pid, ti_id=process.try_id, error=str(e))
    return True


def tell_workers(executor: Any, processes: Sequence[Process]) -> None:
    """Tell all workers of an executor, if it is Celery's, to send SIGTERM; no answer is waited for.

    What Celery's broker does not take within ``[celery] operation_timeout`` is lost.
    """
    app = getattr(executor, "celery_app", None)
    if app is None:
        return
    told = [process._asdict() for process in processes]
    from airflow.sdk.exceptions import AirflowTaskTimeout
    from airflow.sdk.execution_time.timeout import timeout

    try:
        with timeout(seconds=conf.getfloat("celery", "operation_timeout", fallback=1.0)):
            app.control.broadcast(COMMAND, arguments={"processes": told})
    except (Exception, AirflowTaskTimeout) as e:
        log.warning("aiflow: no SIGTERM, Celery's broker does not take it", processes=told, error=str(e))
    else:
        log.info("aiflow: Celery workers were told to send SIGTERM", processes=told)


def obey() -> None:
    """Let a Celery worker, in this process, know the command."""
    from celery.worker.control import control_command

    @control_command(name=COMMAND)  # type: ignore[untyped-decorator]
    def aiflow_terminate(state: Any, processes: list[dict[str, Any]]) -> dict[str, list[bool]]:
        """Send SIGTERM to processes of tasks, those that are this worker's."""
        return {"ok": [terminate(Process(**process)) for process in processes]}
