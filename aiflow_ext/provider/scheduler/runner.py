"""The event scheduler: Airflow's own, which waits for events instead of sleeping, and examines what changed.

Overridden are the sleep, one pass of ``_do_scheduling``, and three small hooks; all else is stock code, called.  A full
stock pass runs every ``safety_pass_sec``, so every hint may be lost.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import airflow.jobs.scheduler_job_runner as stock
import structlog
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.sqlalchemy import get_dialect_name, is_lock_not_available_error, prohibit_commit, with_row_locks
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import select, tuple_, update
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from aiflow_ext.errors import Error
from aiflow_ext.provider.act.tasks import unpark
from aiflow_ext.provider.config import Config
from aiflow_ext.provider.db import models
from aiflow_ext.provider.metrics import count
from aiflow_ext.provider.react.decide import Reaction
from aiflow_ext.provider.react.transaction import Reactor
from aiflow_ext.provider.scheduler.due import next_due
from aiflow_ext.provider.scheduler.preload import preload
from aiflow_ext.provider.scheduler.retention import keeper
from aiflow_ext.provider.scheduler.wake import Wake, Waker
from aiflow_ext.provider.world.runs import ENDED, Key

log = structlog.get_logger(__name__)

BUSY_RETRY_SEC = 0.005  # a lock that another scheduler holds


class EventSchedulerJobRunner(SchedulerJobRunner):
    """SchedulerJobRunner in event mode."""

    _logger_name = "airflow.jobs.scheduler_job_runner.SchedulerJobRunner"

    def _execute(self) -> int | None:
        self._config = Config.from_airflow()
        preload()  # before the executors fork
        try:
            return super()._execute()
        finally:  # the executors have ended: until then their tasks publish
            if hasattr(self, "_waker"):  # else its loop has not begun
                self._waker.end_broker()

    def _run_scheduler_loop(self) -> None:
        """Open our handles, now that the executors have forked, and run the stock loop with our wait in it."""
        self._scheduler_idle_sleep_time = self._config.safety_pass_sec
        self._wake = Wake(full=True)
        self._full_at = 0.0
        self._retry = False
        self._woken = 0.0
        self._reaction = Reaction()
        self._waker = waker = Waker(self._config, self.executors)
        try:
            self._reactor = Reactor(self._config, self.scheduler_dag_bag, self.job.id, waker.broker_up)
            retention = keeper(self._config)
            try:
                if self._config.retention:
                    retention.start()
                clock = stock.time
                stock.time = _Clock(self._sleep)  # type: ignore[assignment]
                try:
                    super()._run_scheduler_loop()
                finally:
                    stock.time = clock
            finally:
                retention.stop()
                self._reactor.close()
        finally:
            waker.close()

    def _sleep(self, seconds: float) -> None:
        """The stock loop is idle for `seconds`, unless something happens."""
        again = self._retry or bool(self._wake)
        heard = self._waker.wait(BUSY_RETRY_SEC if again else min(seconds, self._until_due()))
        self._woken = time.monotonic()
        heard.dirty |= self._wake.dirty
        self._wake = heard

    def _until_due(self) -> float:
        """Seconds to the next full pass, or to what a rule or a stop has to do before."""
        due = self._full_at - time.monotonic()
        if self._reaction.due_ms is not None:
            due = min(due, self._reaction.due_ms / 1000 - time.time())
        return max(0.0, due)

    def _do_scheduling(self, session: Session) -> int:
        """React to events, then examine what changed; everything, where that is unknown or it is time to."""
        self._waker.tend()
        wake, self._wake, self._retry = self._wake, Wake(), False
        full = wake.full or time.monotonic() >= self._full_at
        self._react(wake, full)
        if full or self._reaction.made_runs:
            queued = super()._do_scheduling(session)
            self._full_at = time.monotonic() + self._until_full(session)
            return queued
        return self._schedule_dirty(wake.dirty | self._reaction.dirty, session)

    def _until_full(self, session: Session) -> float:
        """Seconds to the next full pass: the safety net's, or to when time alone makes work (a schedule, a retry)."""
        now = datetime.now(UTC)
        due = next_due(session, self.scheduler_dag_bag, now)
        left = self._config.safety_pass_sec
        return left if due is None else min(left, (due - now).total_seconds())

    def _react(self, wake: Wake, full: bool) -> None:
        due = self._reaction.due_ms is not None and self._reaction.due_ms <= time.time() * 1000
        with_rules = {*self._reactor.registry.dag_ids()}
        ours = any(dag_id in with_rules for dag_id, _ in wake.dirty | wake.status)
        if not (full or due or wake.events or ours or self._reaction.busy):
            self._reaction = Reaction(due_ms=self._reaction.due_ms)
            return
        began = time.monotonic()
        try:
            self._reaction = self._reactor.react()
            self._reaction.work.tell(began, self._woken if wake.events else None)
        except (Error, DBAPIError) as e:  # nothing was done; a deadlock or a lost connection is tried again
            log.error("aiflow: events wait for the next pass", error=str(e))
            count("aiflow.scheduler.reaction_errors")
            self._reaction = Reaction()
        self._retry |= self._reaction.busy

    def _schedule_dirty(self, dirty: set[Key], session: Session) -> int:
        """The middle of the stock pass, for the runs that changed: examine them, then the critical section."""
        if queued := self._enqueue_scheduled(session):  # what an event started need not wait for the rest: 25 ms
            self._wake.dirty |= dirty  # the loop comes back at once
            return queued
        with prohibit_commit(session) as guard:
            runs = self._lock_runs(dirty, session) if dirty else []
            self._stamp_team_names(runs, session)
            callbacks = self._schedule_all_dag_runs(guard, runs, session)
        for run, callback in callbacks:
            dag = self.scheduler_dag_bag.get_dag_for_run(dag_run=run, session=session)
            if dag:
                self._send_dag_callbacks_to_processor(dag, callback)
        if any(run.state != DagRunState.RUNNING for run in runs):  # a place for a queued run is free
            self._full_at = 0.0
        return self._enqueue_scheduled(session) if runs else 0

    def _enqueue_scheduled(self, session: Session) -> int:
        """The stock critical section, where there is anything for it; how many task instances were queued."""
        one = select(TaskInstance.id).where(TaskInstance.state == TaskInstanceState.SCHEDULED).limit(1)
        if session.scalar(one) is None or sum(executor.slots_available for executor in self.executors) <= 0:
            return 0
        with prohibit_commit(session) as guard:
            session.expunge_all()
            try:
                queued = self._critical_section_enqueue_task_instances(session=session)
            except OperationalError as e:
                if not is_lock_not_available_error(error=e):
                    raise
                session.rollback()
                return 0
            guard.commit()
        return queued

    def _lock_runs(self, dirty: set[Key], session: Session) -> list[DagRun]:
        """Lock the running ones as the stock scheduler does; those another one holds are tried again in 5 ms."""
        running = (
            select(DagRun)
            .join(DagModel, DagModel.dag_id == DagRun.dag_id)
            .where(
                tuple_(DagRun.dag_id, DagRun.run_id).in_(dirty),
                DagRun.state == DagRunState.RUNNING,
                DagModel.is_paused.is_(False),
                DagModel.is_stale.is_(False),
            )
        )
        locked = with_row_locks(running, of=DagRun, session=session, skip_locked=True)
        runs = list(session.scalars(locked).unique())
        if len(runs) < len(dirty):
            there = {(run.dag_id, run.run_id) for run in runs}
            busy = {(run.dag_id, run.run_id) for run in session.scalars(running).unique()} - there
            self._wake.dirty |= busy
            self._retry |= bool(busy)
        return runs

    def _critical_section_enqueue_task_instances(self, session: Session) -> int:
        try:
            return super()._critical_section_enqueue_task_instances(session)
        except OperationalError as e:
            self._retry |= is_lock_not_available_error(error=e)
            raise

    def _schedule_dag_run(self, dag_run: DagRun, session: Session) -> Any:
        """Stock, but a run with rules waits for what a rule still has to do, and its parked tasks are ours."""
        if not self._follows_rules(dag_run, session):
            return super()._schedule_dag_run(dag_run, session)
        if self._is_unsettled(dag_run, session):
            self._wake.dirty.add((dag_run.dag_id, dag_run.run_id))
            return None
        callback = super()._schedule_dag_run(dag_run, session)
        session.flush()
        unpark(session, dag_run.dag_id, dag_run.run_id)
        return callback

    def _follows_rules(self, dag_run: DagRun, session: Session) -> bool:
        pinned = dag_run.created_dag_version_id if dag_run.bundle_version else None
        return self._reactor.registry.of_run(session, dag_run.dag_id, pinned) is not None

    def _is_unsettled(self, dag_run: DagRun, session: Session) -> bool:
        """A task has ended, and a start is pending, or its stop wants another state: the next reaction does that.

        Where something is pending, its task cannot end before this pass is committed: it would end the run.
        """
        table, TI = models.rule_state, TaskInstance
        pending = (
            table.c.dag_id == dag_run.dag_id,
            table.c.run_id == dag_run.run_id,
            (table.c.pending != "[]") | table.c.stopping.is_not(None),
        )
        tasks = list(session.scalars(select(table.c.task_id).where(*pending)))
        if not tasks:
            return False
        if get_dialect_name(session) == "sqlite":  # has no row locks: take the one for writing
            session.execute(update(table).where(*pending).values(pending=table.c.pending))
        states = select(TI.state).where(
            TI.dag_id == dag_run.dag_id, TI.run_id == dag_run.run_id, TI.task_id.in_(tasks), TI.map_index == -1
        )
        return any(state in ENDED for state in session.scalars(states.with_for_update(of=TI)))


class _Clock:
    """The stock module's ``time``, with our sleep."""

    def __init__(self, sleep: Any) -> None:
        self.sleep = sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)
