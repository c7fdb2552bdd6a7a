"""The log is not the one whose events were acted on: what the scheduler says then, so that somebody can mend it."""

from __future__ import annotations

from airflow.jobs.job import Job, JobState
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.utils.net import get_hostname
from sqlalchemy import select
from sqlalchemy.orm import Session

from aiflow_ext.errors import ReplacedError
from aiflow_ext.events.address import safe_uri
from aiflow_ext.provider.db.consumers import Place

RESET = "`aiflow events reset-consumer` goes on with this one, and says what it skips; with --dry-run it only says"
ONE_LOG = "set [aiflow] log to postgresql://... or mysql://... on all hosts, or run schedulers on one host"


def another_log(session: Session, uri: str, place: Place, found: Place) -> ReplacedError:
    """Return the error, which names the cause that is seen.

    :param uri: of the log.
    :param place: up to where events were acted on.
    :param found: the log's end.
    """
    text = (
        f"the log at {safe_uri(uri)} ends at offset {found.offset} and has the id {found.log_id}, but events up to "
        f"offset {place.offset}{'' if place.log_id is None else f' of the log {place.log_id}'} have been acted on: "
        "it is another log"
    )
    if not uri.startswith("sqlite:"):
        return ReplacedError(f"{text}. {RESET}")
    if others := _other_hosts(session):
        return ReplacedError(
            f"{text}. It is a file of this host ({get_hostname()}), and a scheduler runs on {' and on '.join(others)}, "
            f"too, which has a file of its own: {ONE_LOG}. Where the log was replaced, {RESET}"
        )
    return ReplacedError(
        f"{text}. It was replaced, or another host acts on a file of its own. Replaced: {RESET}. Two hosts: {ONE_LOG}"
    )


def _other_hosts(session: Session) -> list[str]:
    """Return the other hosts on which a scheduler runs."""
    running = (Job.job_type == SchedulerJobRunner.job_type, Job.state == JobState.RUNNING)
    jobs = session.scalars(select(Job).where(*running, Job.hostname != get_hostname()))
    return sorted({job.hostname for job in jobs if job.hostname and job.is_alive()})
