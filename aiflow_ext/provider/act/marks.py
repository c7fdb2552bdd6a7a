"""What Airflow does when a user marks a task or a run: its own functions, called.  Listeners are told after our commit.

The function that tells them is its API server's.  A scheduler imports it (0.5 s) at its first stop.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

from airflow.api.common.mark_tasks import set_dag_run_state_to_failed, set_dag_run_state_to_success
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import State, TaskInstanceState
from sqlalchemy.orm import Session

from aiflow_ext.provider.db.session import after_commit


def mark_task(session: Session, ti: TaskInstance, state: str) -> None:
    """Set a task instance's state and end, and tell listeners.

    :param state: success, failed or skipped.
    """
    ti.set_state(state, session=session)
    _tell(session, [ti], state)


def mark_run(session: Session, dag: Any, run: DagRun, state: str) -> None:
    """End a run: what runs gets the state, what has not begun is skipped, teardowns still run, listeners are told.

    Of the run they are told when it has ended: here, or by Airflow, where a teardown is to end first.

    :param state: success or failed.
    """
    end = set_dag_run_state_to_failed if state == "failed" else set_dag_run_state_to_success
    _, stopped = end(dag=dag, run_id=run.run_id, commit=True, session=session)
    session.flush()
    _tell(session, stopped, state)
    if run.state in State.finished_dr_states:
        run.dag = dag
        after_commit(session).append(partial(run.notify_dagrun_state_changed, msg="stopped by a rule"))


def _tell(session: Session, tis: Sequence[TaskInstance], state: str) -> None:
    with warnings.catch_warnings(action="ignore"):  # of what its API server imports
        from airflow.api_fastapi.core_api.services.public.task_instances import _emit_state_listener_hooks

    after_commit(session).append(partial(_emit_state_listener_hooks, list(tis), TaskInstanceState(state)))
