"""The event scheduler: Airflow's own, which waits for events instead of sleeping, and examines what changed.

Overridden are the sleep, one pass of ``_do_scheduling``, and small hooks that call stock; all else is stock code.  A
full stock pass runs every ``safety_pass_sec``, or more seldom where nothing is to be seen, so every hint may be lost.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import airflow.jobs.scheduler_job_runner as stock
import structlog
from airflow import settings
from airflow.jobs.job import perform_heartbeat
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import NEW_SESSION, create_session, provide_session
from airflow.utils.sqlalchemy import get_dialect_name, is_lock_not_available_error, prohibit_commit, with_row_locks
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import select, tuple_, update
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from aiflow_ext.errors import Error
from aiflow_ext.provider.act.tasks import begin_when_queued, parking, unpark
from aiflow_ext.provider.config import Config
from aiflow_ext.provider.db.dialect import give_room_to_sort, let_now_have_fractions
from aiflow_ext.provider.db.manager import is_migrated
from aiflow_ext.provider.metrics import count
from aiflow_ext.provider.points import point
from aiflow_ext.provider.react.decide import Reaction
from aiflow_ext.provider.react.transaction import Reactor
from aiflow_ext.provider.react.unended import unended
from aiflow_ext.provider.scheduler.changes import RUNS, Changes
from aiflow_ext.provider.scheduler.children import keep_connections_from_children, let_workers_end
from aiflow_ext.provider.scheduler.due import next_due
from aiflow_ext.provider.scheduler.hints import RunsOfTasks
from aiflow_ext.provider.scheduler.late import drop_late_words
from aiflow_ext.provider.scheduler.polled import Polls
from aiflow_ext.provider.scheduler.preload import preload
from aiflow_ext.provider.scheduler.quiet import all_quiet, is_quiet, note
from aiflow_ext.provider.scheduler.retention import chores
from aiflow_ext.provider.scheduler.slots import waiting_takes_no_slot
from aiflow_ext.provider.scheduler.wake import Wake, Waker
from aiflow_ext.provider.world.begins import note_begins
from aiflow_ext.provider.world.blame import Key, is_of_database

log = structlog.get_logger(__name__)

BUSY_RETRY_SEC = 0.005  # a lock that another scheduler holds
AGAIN_SEC = 1.0  # after Airflow's database has failed
REST_SEC = 30.0  # between full passes where the database tells of changes, and there is nothing to examine


class EventSchedulerJobRunner(SchedulerJobRunner):
    """SchedulerJobRunner in event mode."""

    _logger_name = "airflow.jobs.scheduler_job_runner.SchedulerJobRunner"
    _told_to_end = False

    def _execute(self) -> int | None:
        self._config = Config.from_airflow()
        preload()  # before the executors fork
        keep_connections_from_children()
        give_room_to_sort(settings.get_engine())
        let_now_have_fractions(settings.get_engine())
        try:
            return super()._execute()
        finally:  # the executors have ended: until then their tasks publish
            if hasattr(self, "_waker"):  # else its loop has not begun
                self._waker.end_broker()

    def _exit_gracefully(self, signum: int, frame: FrameType | None) -> None:
        """Stock: it raises SystemExit.  Python drops that in the callback of a weak reference; the next pass ends."""
        self._told_to_end = True
        super()._exit_gracefully(signum, frame)

    def _run_scheduler_loop(self) -> None:
        """Open our handles, now that the executors have forked, and run the stock loop with our wait in it."""
        self._polls = Polls(self.executors, self._scheduler_idle_sleep_time)
        self._scheduler_idle_sleep_time = self._config.safety_pass_sec
        self._wake = Wake(full=True)
        self._full_at = 0.0
        self._pause_sec = self._config.safety_pass_sec  # to the next full pass
        self._may_rest = is_migrated(settings.get_engine())
        self._examined: set[Key] = set()  # runs, in the newest full pass
        self._retry = self._again = False
        self._woken = 0.0
        self._reaction = Reaction()
        self._named = RunsOfTasks()
        self._waker = waker = Waker(self._config, self.executors)
        self._changes = Changes(settings.get_engine())
        try:
            self._reactor = Reactor(
                self._config,
                self.scheduler_dag_bag,
                self.job.id,
                waker.broker_up,
                waker.broker_log,
                waker.changed,
                self._beat,
                self.executors,
            )
            note_begins(self._reactor.head)
            beside = chores(self._config)
            try:
                for chore in beside:
                    chore.start()
                clock = stock.time
                stock.time = _Clock(self._sleep)  # type: ignore[assignment]
                try:
                    with waiting_takes_no_slot():
                        self._run_stock_loop()
                finally:
                    stock.time = clock
            finally:
                for chore in beside:
                    chore.stop()
                self._reactor.close()
        finally:
            self._polls.close()
            self._changes.close()
            let_workers_end(self.executors)  # stock ends the executors next
            waker.close()

    def _beat(self) -> None:
        """Tell that we are alive, in a reaction that takes long; not on SQLite, where it may hold the only lock."""
        if settings.get_engine().dialect.name != "sqlite":
            perform_heartbeat(self.job, heartbeat_callback=self.heartbeat_callback, only_if_necessary=True)

    def _run_stock_loop(self) -> None:
        """Where Airflow's database fails (a deadlock, a lost connection, a full disk), the loop begins again.

        Stock ends its scheduler then, which first waits for the tasks that run: here these may never end.  The job's
        heartbeat is in the loop, so whoever watches it sees a database that stays away.
        """
        while not self._told_to_end:
            try:
                self._drop_unsaved()
                super()._run_scheduler_loop()
                return
            except SQLAlchemyError as e:
                if not is_of_database(e):
                    raise
                log.error("aiflow: Airflow's database fails, the scheduler tries again", in_sec=AGAIN_SEC, error=str(e))
            self._again = True
            self._waker.tend()
            time.sleep(AGAIN_SEC)  # not the waker: what executors say wakes it, and is not read before the next pass
            self._wake, self._full_at, self._reaction = Wake(full=True), 0.0, Reaction()

    @provide_session
    def adopt_or_reset_orphaned_tasks(self, *, session: Session = NEW_SESSION) -> int:
        """Stock; but not right where its loop begins again.

        After an outage every scheduler's heartbeat is old, ours too: our own tasks would be taken from us while they
        run.  Stock's timer does it later.
        """
        if self._again:
            self._again = False
            return 0
        return super().adopt_or_reset_orphaned_tasks(session=session)

    def _process_executor_events(self, executor: Any, session: Session) -> int:
        """Stock; what executors have said is not lost with a transaction that fails."""
        drop_late_words(executor, session)
        heard = dict(executor.event_buffer)
        try:
            number = super()._process_executor_events(executor=executor, session=session)
            session.commit()
        except SQLAlchemyError:
            executor.event_buffer = heard | executor.event_buffer
            raise
        return number

    def _enqueue_executor_callbacks(self, session: Session) -> None:
        with self._given_if_saved(session):
            super()._enqueue_executor_callbacks(session)

    def _enqueue_connection_tests(self, *, session: Session) -> None:
        with self._given_if_saved(session):
            super()._enqueue_connection_tests(session=session)

    @contextmanager
    def _given_if_saved(self, session: Session) -> Iterator[None]:
        """What executors are given in a transaction that is undone is taken back: it is queued once more, maybe by
        another scheduler.  No column says by which one, so nothing but the transaction can tell.

        Where the connection is lost just when the commit has come through, it stays queued, as what a stock scheduler
        leaves that ends.
        """
        queues: list[dict[Any, Any]] = [
            queue for e in self.executors for queue in (e.queued_callbacks, e.queued_connection_tests)
        ]
        before = [set(queue) for queue in queues]
        try:
            yield
            session.commit()
        except SQLAlchemyError:
            for queue, had in zip(queues, before, strict=True):
                for key in queue.keys() - had:
                    del queue[key]
                    log.info("aiflow: a workload is taken back from its executor", key=key)
            raise

    def _drop_unsaved(self) -> None:
        """Take from the executors what they were given in a transaction that was undone: it is queued once more, maybe
        by another scheduler."""
        mine = TaskInstance.state == TaskInstanceState.QUEUED, TaskInstance.queued_by_job_id == self.job.id
        with create_session() as session:
            for executor in self.executors:
                for key in list(executor.queued_tasks):
                    of_key = [getattr(TaskInstance, name) == value for name, value in key._asdict().items()]
                    if session.scalar(select(TaskInstance.id).where(*of_key, *mine)) is None:
                        del executor.queued_tasks[key]
                        log.info("aiflow: a task is taken back from its executor", **key._asdict())

    def _sleep(self, seconds: float) -> None:
        """The stock loop is idle for `seconds`, unless something happens."""
        self._wake.full |= bool(self._changes.take())
        if self._retry:
            seconds = BUSY_RETRY_SEC
        elif self._wake:
            seconds = 0.0
        if not self._waker.tells_all():  # the database told when the time was set, and does not any more
            self._full_at = min(self._full_at, time.monotonic() + self._config.safety_pass_sec)
        heard = self._waker.wait(min(seconds, self._until_due()))
        self._woken = time.monotonic()
        heard.full |= self._wake.full
        heard.dirty |= self._wake.dirty
        self._wake = heard

    def _until_due(self) -> float:
        """Seconds to the next full pass, or to what a rule, a stop or an executor has to do before."""
        due = min(self._full_at - time.monotonic(), self._polls.until())
        if self._reaction.due_ms is not None:
            due = min(due, self._reaction.due_ms / 1000 - time.time())
        return max(0.0, due)

    def _do_scheduling(self, session: Session) -> int:
        """React to events, then examine what changed; everything, where that is unknown or it is time to."""
        if self._told_to_end:
            raise SystemExit
        self._waker.tend()
        wake, self._wake, self._retry = self._wake, Wake(), False
        if wake.tasks and not wake.full:
            wake.add_runs(self._named.look_up(wake.tasks, session))
        if wake:
            self._set_pause(at_rest=False)
            self._full_at = min(self._full_at, time.monotonic() + self._pause_sec)
        full = bool(wake.full or self._changes.take()) or time.monotonic() >= self._full_at
        self._react(wake, full)
        full |= RUNS in self._changes.take()  # which tasks it has changed, the reaction says itself
        dirty = wake.dirty | self._reaction.dirty
        if full or self._reaction.made_runs:
            self._examined = set()
            queued = super()._do_scheduling(session)
            self._wake.dirty |= dirty - self._examined  # it examines those whose turn it is, 20 at most
            if queued:
                point("pass.committed")
            changed = self._changes.take()
            self._wake.full = bool(changed)
            nothing = self._may_rest and not (wake or changed or queued)
            self._set_pause(nothing and self._waker.tells_all() and all_quiet(self._reactor.world, session))
            self._full_at = time.monotonic() + self._until_full(session)
            if self._changes.take_begun() and (self._reactor.registry.dag_ids() or self._reactor.runs):
                self._reaction.busy = self._retry = True  # one more reaction: starts may have waited for that
            return queued
        queued = self._schedule_dirty(dirty, session)
        changed = self._changes.take()
        self._wake.full |= RUNS in changed  # a place for a queued run is free
        self._wake.dirty |= dirty if changed else set()
        return queued

    def _set_pause(self, at_rest: bool) -> None:
        """At rest each time to the next full pass is twice the one before, up to REST_SEC."""
        usual = self._config.safety_pass_sec
        self._pause_sec = min(2 * self._pause_sec, max(REST_SEC, usual)) if at_rest else usual

    def _until_full(self, session: Session) -> float:
        """Seconds to the next full pass: the safety net's, or to when time alone makes work (a schedule, a retry)."""
        now = datetime.now(UTC)
        due = next_due(session, self.scheduler_dag_bag, now)
        left = self._pause_sec
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
            self._reaction = self._reactor.react(audit=full)
            self._reaction.work.tell(began, self._woken if wake.events else None)
        except (Error, DBAPIError) as e:  # nothing was done; a deadlock or a lost connection is tried again
            log.error("aiflow: events wait for the next pass", error=str(e))
            self._react_later()
        except Exception:  # a mistake of ours must not end Airflow's scheduler, for every Dag
            log.exception("aiflow: events wait for the next pass")
            self._react_later()
        self._retry |= self._reaction.busy

    def _react_later(self) -> None:
        count("aiflow.scheduler.reaction_errors")
        self._reaction = Reaction()

    def _schedule_dirty(self, dirty: set[Key], session: Session) -> int:
        """The middle of the stock pass, for the runs that changed: examine them, then the critical section.

        No more than the stock pass examines: the others follow in the next one.
        """
        if len(dirty) > DagRun.DEFAULT_DAGRUNS_TO_EXAMINE:
            first = set(sorted(dirty)[: DagRun.DEFAULT_DAGRUNS_TO_EXAMINE])
            self._wake.dirty |= dirty - first
            dirty = first
        if queued := self._enqueue_scheduled(session):  # what an event started need not wait for the rest: 25 ms
            self._wake.dirty |= dirty  # the loop comes back at once
            return queued
        with prohibit_commit(session) as guard:
            runs = self._lock_runs(dirty, session) if dirty else []
            self._stamp_team_names(runs, session)
            callbacks = self._examine(guard, runs, session)
        for run, callback in callbacks:
            dag = self.scheduler_dag_bag.get_dag_for_run(dag_run=run, session=session)
            if dag:
                self._send_dag_callbacks_to_processor(dag, callback)
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
        point("pass.committed")
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

    def _goes_on(self, dag_run: DagRun, session: Session) -> bool:
        """Whether a run that was read as running still runs; nobody else ends it before this transaction does.

        Whoever has ended it meanwhile is not overruled.  SQLite locks no row: a write of ours locks all of it.  And
        after a deadlock stock goes on with the runs that it had locked before.
        """
        running = DagRun.id == dag_run.id, DagRun.state == DagRunState.RUNNING
        if get_dialect_name(session) == "sqlite":
            same = update(DagRun).where(*running).values(last_scheduling_decision=DagRun.last_scheduling_decision)
            done: Any = session.execute(same.execution_options(synchronize_session=False))
            return bool(done.rowcount)
        return session.scalar(with_row_locks(select(DagRun.id).where(*running), session, of=DagRun)) is not None

    def _critical_section_enqueue_task_instances(self, session: Session) -> int:
        try:
            queued = super()._critical_section_enqueue_task_instances(session)
        except OperationalError as e:
            self._retry |= is_lock_not_available_error(error=e)
            raise
        if queued:
            begin_when_queued(session)
            point("pass.queued")
        return queued

    def _schedule_all_dag_runs(self, guard: Any, dag_runs: Any, session: Session) -> Any:
        """Stock, of a full pass; quiet runs count as examined."""
        if quiet := {run.id for run in dag_runs if is_quiet(self._reactor.world, run)}:
            examined = update(DagRun).where(DagRun.id.in_(quiet))
            examined = examined.values(last_scheduling_decision=datetime.now(UTC))
            session.execute(examined.execution_options(synchronize_session=False))
        return self._examine(guard, [run for run in dag_runs if run.id not in quiet], session)

    def _examine(self, guard: Any, dag_runs: list[DagRun], session: Session) -> Any:
        callbacks = super()._schedule_all_dag_runs(guard, dag_runs, session)
        for run, _ in callbacks:  # it is committed, and none of these has raised
            self._examined.add((run.dag_id, run.run_id))
            note(self._reactor.world, run)
        return callbacks

    def _schedule_dag_run(self, dag_run: DagRun, session: Session) -> Any:
        """Stock; but a task whose next start is pending has not ended, and parked tasks are ours."""
        if not self._follows_rules(dag_run, session):
            return super()._schedule_dag_run(dag_run, session)
        point("pass.read")
        if not self._goes_on(dag_run, session):
            return None
        with unended(session, dag_run), parking():
            callback = super()._schedule_dag_run(dag_run, session)
        session.flush()
        unpark(session, dag_run.dag_id, dag_run.run_id)
        point("pass.examined")
        return callback

    def _follows_rules(self, dag_run: DagRun, session: Session) -> bool:
        """Whether its Dag has rules, or had some when the run was there already."""
        pinned = dag_run.created_dag_version_id if dag_run.bundle_version else None
        known = (dag_run.dag_id, dag_run.run_id) in self._reactor.runs
        return known or self._reactor.registry.of_run(session, dag_run.dag_id, pinned) is not None


class _Clock:
    """The stock module's ``time``, with our sleep."""

    def __init__(self, sleep: Any) -> None:
        self.sleep = sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)
