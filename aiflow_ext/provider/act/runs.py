"""Runs that events create and stop: the actions of a rule on a Dag."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from airflow.api.common.mark_tasks import set_dag_run_state_to_failed, set_dag_run_state_to_success
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import select
from sqlalchemy.orm import Session

from aiflow_ext._event import Event

log = structlog.get_logger(__name__)

SECOND = timedelta(seconds=1)  # SQLite's now() has no fractions: a run of this second would wait for the next


def create(session: Session, dag: Any, rule: str, events: Sequence[Event], job_id: int | None) -> DagRun | None:
    """Create the run that `events` start; None where the Dag is paused, gone, or has that run already.

    :param dag: Airflow's serialized Dag, latest version.
    :param rule: the rule's name; with the newest offset it makes the run id, so twice is seen.
    """
    newest = events[-1]
    run_id = f"aiflow__{rule}__{newest.offset}"
    model = session.get(DagModel, dag.dag_id)
    if model is None or model.is_paused or model.is_stale:
        log.info("aiflow: no run, the Dag is paused or gone", dag_id=dag.dag_id, rule=rule, offset=newest.offset)
        return None
    if session.scalar(select(DagRun.id).where(DagRun.dag_id == dag.dag_id, DagRun.run_id == run_id)) is not None:
        return None
    run: DagRun = dag.create_dagrun(
        run_id=run_id,
        run_after=datetime.now(UTC) - SECOND,
        conf={"aiflow": _conf(rule, events)},
        run_type=DagRunType.MANUAL,
        triggered_by=DagRunTriggeredByType.OPERATOR,
        state=DagRunState.QUEUED,
        creating_job_id=job_id,
        session=session,
    )
    session.flush()
    return run


def stop(session: Session, dag: Any, run_id: str, state: str) -> None:
    """End a run as its mark in the UI does: running tasks get the state, others are skipped."""
    end = set_dag_run_state_to_failed if state == "failed" else set_dag_run_state_to_success
    end(dag=dag, run_id=run_id, commit=True, session=session)


def _conf(rule: str, events: Sequence[Event]) -> dict[str, Any]:
    newest = events[-1]
    return {
        "rule": rule,
        "since": newest.offset,  # the run's own rules hear what comes after this
        "event": newest._asdict(),
        "events": [event._asdict() for event in events],
    } | ({"context": newest.context} if newest.context else {})
