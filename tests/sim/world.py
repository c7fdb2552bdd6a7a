"""One simulated Airflow: a log, workers, and schedulers, each the real loop in a greenlet.

    a step changes something -> hints wake the schedulers -> each runs its real loop until that waits again -> checks

A scheduler stops at `Waker.wait()`, which hands control back to us, and at each labelled point, where it may be killed:
`Killed` is raised there, and nobody catches it.
"""

from __future__ import annotations

import select as descriptors
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import airflow.jobs.scheduler_job_runner as stock
from airflow import settings
from airflow.callbacks.database_callback_sink import DatabaseCallbackSink
from airflow.executors.base_executor import BaseExecutor
from airflow.jobs.job import Job
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from greenlet import getcurrent, greenlet
from sqlalchemy import select

import aiflow_ext.provider.scheduler.runner as runner_module
from aiflow_ext import _core
from aiflow_ext._event import Event
from aiflow_ext.provider.act import stop as stop_module
from aiflow_ext.provider.act.workers import Process
from aiflow_ext.provider.config import Config, native_uri
from aiflow_ext.provider.db import notify
from aiflow_ext.provider.react import decide as decide_module
from aiflow_ext.provider.react import tell as tell_module
from aiflow_ext.provider.react.transaction import Reactor
from aiflow_ext.provider.scheduler.wake import Wake, Waker
from aiflow_ext.provider.world import world as world_module

SAFETY_SEC = 60.0
GRACE_SEC = 10.0
LOOPS_MAX = 40  # passes of one scheduler without a wait
TURNS_MAX = 60  # waits after one step
REACT = Reactor.react


class Killed(BaseException):
    """The process ends here, as from ``kill -9``."""


class Finding(BaseException):
    """Something that must not be; no Exception, so that the scheduler does not contain it.

    :param name: which check.
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


class Executor(BaseExecutor):
    """Hands its workloads to the simulated workers."""

    supports_ad_hoc_ti_run = False
    is_local = False

    def __init__(self, world: World, scheduler: Scheduler) -> None:
        super().__init__(parallelism=4)
        self.world = world
        self.scheduler = scheduler

    jwt_generator = None  # type: ignore[assignment]

    def start(self) -> None: ...

    def end(self) -> None: ...

    def terminate(self) -> None: ...

    def _process_workloads(self, workload_items: Any) -> None:
        for workload in workload_items:
            self.queued_tasks.pop(workload.ti.key, None)
            self.running.add(workload.ti.key)
            self.world.workers.append(Worker(workload.ti.id, workload.ti.key, self, len(self.world.workers)))

    def sync(self) -> None:
        self.scheduler.loops += 1
        if self.scheduler.loops > LOOPS_MAX:
            raise Finding("spin", f"the loop made {LOOPS_MAX} passes without a wait")

    def _emit_metrics(self, *_: Any) -> None: ...


@dataclass
class Worker:
    """A process that was told to run a try."""

    ti_id: str
    key: Any
    executor: Executor
    pid: int
    state: str = (
        "sent"  # running; slow: it has told how its task ended, and its executor has not heard of its end; gone
    )
    told: list[int] | None = None
    term: bool = False
    context: Any = None


class Client:
    """Publishes into the log; there is no broker in between."""

    def __init__(self, world: World) -> None:
        self.world = world

    def publish(self, events: Any, producer: Any, sequence: int, timeout_ms: int, *_: Any) -> list[int]:
        if not self.world.broker_up:
            raise TimeoutError("no broker")
        if not isinstance(producer, str):  # an identity for each
            now = self.world.clock.ms
            return [self.world.log.append([e], *who, now)[0] for e, who in zip(events, producer, strict=True)]
        return self.world.log.append(list(events), producer, sequence, self.world.clock.ms)

    def list(self, after: int, max: int, patterns: Any, timeout_ms: int, *_: Any) -> Any:  # noqa: A002
        return self.world.log.read(after, max, patterns), None

    def close(self) -> None: ...


class Log:
    """The log's handle that a reactor opens: the world's."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def close(self) -> None: ...


class SimWaker(Waker):
    """The wait, handed to the world."""

    def __init__(self, config: Config, executors: list[Any]) -> None:
        self._watch = self._sub = None
        self.scheduler: Scheduler = executors[0].scheduler
        self.world = self.scheduler.world
        self.scheduler.named = None

    def tend(self) -> None: ...

    def close(self) -> None: ...

    def end_broker(self) -> None: ...

    def tells_all(self) -> bool:
        return self.world.tells

    def broker_up(self) -> bool:
        return self.world.broker_up

    def changed(self) -> set[Any] | None:
        if self.world.tells:
            self.world.hear()
        named, self.scheduler.named = self.scheduler.named, set() if self.world.tells else None
        return named

    def wait(self, timeout_sec: float) -> Wake:
        s = self.scheduler
        s.loops = 0
        s.timeout = timeout_sec
        s.deadline = self.world.clock.monotonic() + timeout_sec
        return s.main.switch()


class Runner(runner_module.EventSchedulerJobRunner):
    """The real runner, without what has nothing to do with rules, and without the parts of a pass that have no row."""

    def _create_dagruns_for_dags(self, guard: Any, session: Any) -> None:
        if _any(session, "FROM dag WHERE next_dagrun_create_after <= sim_now()"):
            super()._create_dagruns_for_dags(guard, session)

    def _start_queued_dagruns(self, session: Any) -> None:
        if _any(session, "FROM dag_run WHERE state = 'queued'"):
            super()._start_queued_dagruns(session)

    def _critical_section_enqueue_task_instances(self, session: Any) -> int:
        if not _any(session, "FROM task_instance WHERE state = 'scheduled'"):
            return 0
        return super()._critical_section_enqueue_task_instances(session)

    def _process_executor_events(self, executor: Any, session: Any) -> int:
        said = {key for key, (state, _) in executor.event_buffer.items() if state == "success"}
        workers = executor.world.workers
        late = {w.ti_id for w in workers if w.state == "gone" and w.key in said}
        there = [w.ti_id for w in workers if w.state in ("sent", "running") and w.ti_id in late]
        before = _states(session, there)
        number = super()._process_executor_events(executor, session)
        for ti_id, state in _states(session, there).items():
            if before[ti_id] in ("queued", "running") and state in ("failed", "up_for_retry"):
                raise Finding(
                    "late-word", f"{ti_id} is {state}: its executor said that the process before it had ended"
                )
        return number

    def _until_full(self, session: Any) -> float:
        left = super()._until_full(session)
        world = self.executor.world
        world.full_at = world.clock.writes
        return left

    def _mark_backfills_complete(self) -> None: ...

    def check_awaiting_input_timeouts(self, *_: Any, **__: Any) -> None: ...

    def _enqueue_connection_tests(self, *, session: Any) -> None: ...

    def _enqueue_executor_callbacks(self, session: Any) -> None: ...

    def _update_asset_orphanage(self) -> None: ...

    def _reap_stale_connection_tests(self) -> None: ...

    def _react_later(self) -> None:
        if not self.executor.world.failed:
            raise Finding("reaction-failed", f"events wait for the next pass: {sys.exc_info()[1]!r}")
        super()._react_later()


def _states(session: Any, ids: Sequence[Any]) -> dict[Any, str]:
    if not ids:
        return {}
    rows = session.execute(select(TaskInstance.id, TaskInstance.state).where(TaskInstance.id.in_(ids)))
    return {row.id: str(getattr(row.state, "value", row.state)) for row in rows}


def _any(session: Any, rows: str) -> bool:
    return session.connection().exec_driver_sql(f"SELECT 1 {rows} LIMIT 1").first() is not None


class Scheduler:
    """One scheduler process."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.main = getcurrent()
        self.loops = 0
        self.timeout = 0.0
        self.deadline = 0.0
        self.wake = Wake()
        self.named: set[Any] | None = None  # runs that have changed; None: it does not know
        self.inside: Any = None  # what its loop has replaced in Airflow's modules
        self._let = greenlet(self._run)
        self.resume(None)

    def _run(self, _: Any) -> None:
        job = Job()
        self.executor = Executor(self.world, self)
        self.runner = Runner(job, num_runs=-1, executors=[self.executor])
        with create_session() as session:
            job.prepare_for_execution(session=session)
        self.executor.job_id = job.id
        self.executor.callback_sink = DatabaseCallbackSink()
        self.runner._config = self.world.config
        self.runner._run_scheduler_loop()

    def resume(self, wake: Wake | None) -> None:
        """Let it run until it waits; raises what ends it."""
        self.world.running = self
        outside = _patched()
        if self.inside is not None:
            _patch(self.inside)
        try:
            self._let.switch(wake)
        finally:
            self.inside = _patched()
            self.world.running = None
            _patch(outside)

    def end(self) -> None:
        """Kill it where it waits."""
        if not self._let.dead:
            with suppress(Killed):
                self._let.throw(Killed)


@dataclass
class World:
    """All of it; `home` and `clock` outlive it."""

    home: Any
    clock: Any
    observer: Any = None  # told of each point, and of each step
    schedulers: list[Scheduler] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    broker_up: bool = True
    running: Scheduler | None = None
    kill_at: tuple[str, int, BaseException] | None = None  # a point, for the n-th time, and what is raised there
    meanwhile: tuple[str, Callable[[], None]] | None = None  # what somebody else does at a point, before it goes on
    lose: bool = False
    lost: bool = False  # a hint was lost once: what is remembered may be wrong until an audit finds it
    failed: bool = False  # a reaction met an error since this was looked at
    kills: int = 0
    turns: int = 0
    told: int = 0
    full_at: int = -1  # how many writes there were after the last full pass

    def __post_init__(self) -> None:
        self.log = _core.EventLog("mem:")
        database = native_uri(str(settings.engine.url.render_as_string(hide_password=False)))
        self.config = Config(
            broker="ipc:///nowhere",
            embedded=False,
            log="mem:",
            database="",
            safety_pass_sec=SAFETY_SEC,
            stop_grace_sec=GRACE_SEC,
            wake_sources=frozenset(),
            asset_events=False,
        )
        self._head_told: dict[int, int] = {}
        self._watch = None
        if self.home.store == "postgresql":
            self._watch = _core.Watch(database.replace("postgresql+psycopg2", "postgresql"), notify.CHANNEL)
        self._patch()

    def _patch(self) -> None:
        self.clock.patch()
        runner_module.Waker = SimWaker  # type: ignore[misc]
        runner_module.chores = lambda config: []  # threads of their own
        import aiflow_ext.provider.react.transaction as transaction

        decide_module.ACTIONS = 4  # so that it is met
        world_module.AUDITED = 4
        world_module.FRESH = tell_module.RUNS = 1
        world_module.count = self._differs
        transaction.Reactor.react = self._react  # type: ignore[method-assign]
        outside = _Outside(self)
        transaction._core = outside  # type: ignore[attr-defined]
        stop_module._terminate = self._terminate  # type: ignore[attr-defined]
        for name, module in list(sys.modules.items()):
            if (
                name.startswith("aiflow_ext.provider")
                and name != "aiflow_ext.provider.points"
                and hasattr(module, "point")
            ):
                module.point = self._point  # type: ignore[attr-defined]

    # -- schedulers

    def start_scheduler(self) -> None:
        """Start one more; it makes its first pass."""
        try:
            self.schedulers.append(Scheduler(self))
        except Killed:
            self.kills += 1
            settings.Session.remove()
            self.start_scheduler()

    def end_scheduler(self, scheduler: Scheduler, *, orphans: bool) -> None:
        """It is dead.  With `orphans` its workers live on, else they died with it."""
        if scheduler in self.schedulers:
            self.schedulers.remove(scheduler)
        scheduler.end()
        for worker in self.workers:
            if worker.executor is scheduler.executor and (not orphans or worker.state == "sent"):
                worker.state = "gone"

    def wake(self, *, full: bool = False, events: bool = False) -> None:
        """A hint for all."""
        for s in self.schedulers:
            s.wake.full |= full
            s.wake.events |= events

    def settle(self) -> None:
        """Let every scheduler run as long as it has something to do."""
        lost, self.lose = self.lose, False
        if lost:
            self.lost = True
            self.hear()
            for s in self.schedulers:
                s.named = s.named and set()
        quiet = 0
        for _ in range(TURNS_MAX):
            self.hear()
            ready = [s for s in self.schedulers if self._ready(s, lost)]
            if not ready:
                return
            before = self._fingerprint() if quiet > 2 else None
            for s in ready:
                wake, s.wake = s.wake, Wake()
                self.turns += 1
                self.turn(s, Wake() if lost else wake)
            if before is not None and before == self._fingerprint():
                quiet += 1
                if quiet > 12:
                    raise Finding("spin", f"the loop comes back each {ready[0].timeout} s, and nothing changes")
            else:
                quiet += before is None
        raise Finding("spin", f"{TURNS_MAX} turns after one step")

    def turn(self, s: Scheduler, wake: Wake) -> None:
        """One scheduler goes on from its wait until the next."""
        try:
            s.resume(wake)
        except Killed:
            self.kills += 1
            self.end_scheduler(s, orphans=self.kills % 2 == 0)
            self.start_scheduler()

    def _ready(self, s: Scheduler, lost: bool) -> bool:
        return (bool(s.wake) and not lost) or s.deadline <= self.clock.monotonic() + 0.006

    def _fingerprint(self) -> Any:
        with create_session() as session:
            connection = session.connection()
            one = connection.exec_driver_sql(
                "SELECT id, state, try_number, next_method FROM task_instance ORDER BY id"
            ).fetchall()
            two = connection.exec_driver_sql("SELECT id, state FROM dag_run ORDER BY id").fetchall()
            three = connection.exec_driver_sql('SELECT name, "offset" FROM aiflow_consumer').fetchall()
        return [tuple(map(str, row)) for row in [*one, *two, *three]], self.log.head(), len(self.workers)

    def hear(self) -> None:
        """Hints that came since: events in the log, and what PostgreSQL told."""
        head = self.log.head()
        for s in self.schedulers:
            if self._head_told.get(id(s), -1) != head:
                s.wake.events |= True
                self._head_told[id(s)] = head
        if self._watch is not None:
            for payload in self._notified():
                for s in {*self.schedulers, *([self.running] if self.running else [])}:
                    s.wake.hear(payload)
                    if s.named is not None and (run := notify.run_in(payload)) is not None:
                        s.named.add(run)

    def _notified(self) -> list[str]:
        """All that PostgreSQL was to tell until now: it tells in order, so our own word comes last."""
        self.told += 1
        last, out = f"sim{notify.SEPARATOR}{self.told}", []
        with settings.engine.connect() as connection:
            connection.exec_driver_sql("SELECT pg_notify(%s, %s)", (notify.CHANNEL, last))
            connection.commit()
        while last not in out:
            if not descriptors.select([self._watch.fileno()], [], [], 60)[0]:
                raise TimeoutError("PostgreSQL tells nothing")
            out += self._watch.poll()[1]
        return [payload for payload in out if not payload.startswith("sim")]

    @property
    def tells(self) -> bool:
        """Whether the database tells which runs have changed."""
        return self._watch is not None

    def forget(self) -> None:
        """What was to be heard of is lost for good."""
        self.lost = True
        self.hear()
        for s in self.schedulers:
            s.wake = Wake()
            s.named = s.named and set()

    def changed(self) -> None:
        """Somebody committed to Airflow's database: SQLite tells that all may have changed, PostgreSQL tells itself."""
        if self._watch is None:
            self.wake(full=True)

    # -- what the schedulers meet

    def _point(self, name: str) -> None:
        s = self.running
        if s is None:
            return
        if self.observer is not None:
            self.observer.point(name)
        if self.meanwhile is not None and self.meanwhile[0] == name:
            with ThreadPoolExecutor(1) as somebody:  # with a session of its own
                act, self.meanwhile = self.meanwhile[1], None
                somebody.submit(act).result()
        if self.kill_at is not None and self.kill_at[0] == name:
            label, left, error = self.kill_at
            self.kill_at = (label, left - 1, error) if left > 1 else None
            if left <= 1:
                self.failed |= not isinstance(error, Killed)
                raise error

    def _react(self, *, audit: bool) -> Any:
        """Where no hint was lost, what is remembered is compared with the rows in each reaction."""
        assert self.running is not None
        return REACT(self.running.runner._reactor, audit=audit or not self.lost)

    def _differs(self, name: str) -> None:
        if not self.lost:
            raise Finding("world-differs", "what is remembered of a run is not what the rows say, and no hint was lost")

    def _terminate(self, processes: Sequence[Process], executors: Sequence[Any]) -> None:
        tries = {(process.pid, process.try_id) for process in processes}
        for worker in self.workers:
            worker.term |= (worker.pid, str(worker.ti_id)) in tries

    # -- what programs do

    def publish(self, event: Event, n: int = 1) -> list[int]:
        """n events, as a client sends them."""
        self._sequence = getattr(self, "_sequence", 0) + n
        return self.log.append([event] * n, "client", self._sequence - n + 1, self.clock.ms)

    def close(self) -> None:
        for s in list(self.schedulers):
            s.end()
        self.schedulers.clear()
        if self._watch is not None:
            self._watch.close()
        self.log.close()
        settings.Session.remove()


def _patched() -> tuple[Any, ...]:
    """What a loop replaces while it runs; of several schedulers in one process, each has its own."""
    return stock.time, stock.ConcurrencyMap, Pool.__dict__["slots_stats"]


def _patch(values: tuple[Any, ...]) -> None:
    stock.time, stock.ConcurrencyMap, Pool.slots_stats = values


class _Outside:
    """The C core, but for what would leave this process."""

    def __init__(self, world: World) -> None:
        self._world = world

    def EventLog(self, uri: str) -> Any:
        return Log(self._world.log)

    def Client(self, *_: Any) -> Any:
        return Client(self._world)

    def __getattr__(self, name: str) -> Any:
        return getattr(_core, name)
