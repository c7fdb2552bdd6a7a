"""The wait between two passes: over everything that can mean work, at most until something is due."""

from __future__ import annotations

import logging
import math
import select
import time
from dataclasses import dataclass, field
from typing import Any

from airflow import settings

from aiflow_ext import _core
from aiflow_ext.errors import Error
from aiflow_ext.provider.config import FOLDER, MYSQL, Config
from aiflow_ext.provider.db import notify
from aiflow_ext.provider.db.look import Look
from aiflow_ext.provider.metrics import BrokerFigures
from aiflow_ext.provider.scheduler.embedded import Embedded
from aiflow_ext.provider.scheduler.hints import TaskHint, task_in
from aiflow_ext.provider.world.blame import Key

log = logging.getLogger(__name__)

RETRY_SEC = 1.0  # between tries to open a source that is away
NAMED_MAX = 100_000  # runs that have changed since somebody asked; more: all are read anew
PEOPLE = "/api/v2/"  # the paths of their requests
EVERYTHING = ("*", "*", "*", "*")


@dataclass
class Wake:
    """What was heard.  `full`: anything may have changed; `events`: the log has more; `dirty`, `status`: runs.

    :param tasks: that hints name, and whose runs are not looked up yet.
    """

    full: bool = False
    events: bool = False
    executor: bool = False
    dirty: set[Key] = field(default_factory=set)
    status: set[Key] = field(default_factory=set)
    tasks: set[TaskHint] = field(default_factory=set)

    def hear(self, payload: str) -> None:
        """Note what a notification of the database says."""
        kind, run = payload.partition(notify.SEPARATOR)[0], notify.run_in(payload)
        if kind == notify.DIRTY and run is not None:
            self.dirty.add(run)
        elif kind == notify.STATUS and run is not None:
            self.status.add(run)
        elif kind == notify.EVENTS:
            self.events = True
        elif kind != notify.RUN:
            self.full = True

    def hear_hint(self, path: str) -> None:
        """Note what the api-server says: which request it has served."""
        if (task := task_in(path)) is not None:
            self.tasks.add(task)
        else:
            self.full = True

    def add_runs(self, runs: dict[TaskHint, Key] | None) -> None:
        """Note the runs of the tasks; None: anything may have changed."""
        self.tasks.clear()
        self.full |= runs is None
        for (kind, _), run in (runs or {}).items():
            (self.dirty if kind == notify.DIRTY else self.status).add(run)

    def __bool__(self) -> bool:
        return bool(self.full or self.events or self.executor or self.dirty or self.status or self.tasks)


class Waker:
    """The wake-up sources of one scheduler process, made after its executors have forked.

    :param config: which sources, and where.
    :param executors: Airflow's; those that have a result pipe are listened to.
    """

    def __init__(self, config: Config, executors: list[Any]) -> None:
        self._config = config
        self._pipes = _result_pipes(executors) if "executor" in config.wake_sources else []
        self._broker: Embedded | None = None
        if config.embedded or str(FOLDER) in config.log:  # we may open the log before the broker does
            FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
        if config.embedded:
            self._broker = Embedded(config.broker, config.log, BrokerFigures().tell)
        self._watch: _core.Watch | Look | None = None
        self._database = config.database if "database" in config.wake_sources else ""
        self._sub: _core.Subscription | None = None
        self._broker_log: int | None = None
        self._heard = Wake()  # by changed(), for the next wait
        self._named: set[Key] = set()  # runs whose rows have changed
        self._connection = 0  # that has told of all of them
        self._missed = False  # events may have come, or been kept back, before there was a subscription
        self._next_try = 0.0
        self.tend()

    def close(self) -> None:
        """Close everything but the broker: tasks that still run publish until they have ended."""
        for handle in (self._sub, self._watch):
            if handle is not None:
                handle.close()

    def end_broker(self) -> None:
        """End the embedded broker, and wait until it has ended."""
        if self._broker is not None:
            self._broker.close()

    def wait(self, timeout_sec: float) -> Wake:
        """Sleep until a source has something, or `timeout_sec` has passed.

        :param timeout_sec: seconds; 0 only looks.
        :return: what was heard, nothing after a time-out.
        """
        wake, self._heard = self._heard, Wake()
        deadline = time.monotonic() + timeout_sec
        self._forget_own_commits()
        while True:
            self.tend()
            wake.events |= self._missed
            wake.full |= self._missed and not self.tells_all()  # hints were lost
            self._missed = False
            self._listen(wake, min(max(0.0, deadline - time.monotonic()), 1.0))
            if wake or time.monotonic() >= deadline:
                return wake

    def tend(self) -> None:
        """Open what is not open, start and hear the broker; cheap, for each pass."""
        if self._broker is not None:
            was_up = self._broker.up
            self._broker.tend()
            if self._broker.up and not was_up:
                self._next_try, self._missed = 0.0, True
        self._open_all()

    def changed(self) -> set[Key] | None:
        """Return the runs whose rows have changed, by commits until now, since this was asked last.

        :return: None where that is not known: no database tells us, or its connection was lost meanwhile.
        """
        watch = self._watch
        connection = watch.sync() if watch is not None else 0
        while connection and watch is not None and self._read_watch(self._heard, watch):
            pass
        named, self._named = self._named, set()
        known = connection == self._connection and watch is not None and watch.fileno() >= 0  # it is still there
        self._connection = connection
        return named if known else None

    def tells_all(self) -> bool:
        """Return whether the database itself tells of what changes (NOTIFY), so that nothing need be looked for."""
        return self._watch is not None and self._watch.fileno() >= 0

    def broker_up(self) -> bool:
        """Return whether a broker may answer: ours is not just being started."""
        return self._broker is None or self._broker.up

    def broker_log(self) -> int | None:
        """Return the id of the log that the broker served when we subscribed; None: not known."""
        return self._broker_log if self._sub is not None else None

    def _forget_own_commits(self) -> None:
        """SQLite cannot say whose commit it was, and each pass commits: it would wake itself for ever.  MySQL neither.

        What others committed during the pass is forgotten, too; the API server's hints, which wait in the
        subscription, make up for nearly all of that, and the next full pass for the rest.
        """
        if self._watch is not None and not self.tells_all():
            try:
                self._watch.poll()
            except Error as e:
                self._lost("database", e)

    def _listen(self, wake: Wake, seconds: float) -> None:
        """Sleep until a source has something, at most `seconds`, and take what it has.

        The database is looked at before we sleep: libpq may hold what its descriptor told of earlier.  While it has
        no descriptor (SQLite and MySQL always, PostgreSQL while it is away), it is looked at again after some ms.
        """
        sub, watch = self._sub, self._watch
        if watch is not None:
            self._read_watch(wake, watch)
        slice_ms = watch.interval_ms() if watch is not None and watch.fileno() < 0 else 1000
        poller = self._poller()
        end = time.monotonic() + (0.0 if wake else seconds)
        while True:
            left = max(0, math.ceil((end - time.monotonic()) * 1000))
            ready = poller.poll(min(left, slice_ms))
            if watch is not None:
                self._read_watch(wake, watch)
            if ready or wake or not left:
                break
        for fd, event in ready:
            if event & select.POLLNVAL:
                raise ValueError(f"descriptor {fd}, which wakes the scheduler, is not open")
            wake.executor |= fd in self._pipes
        if sub is not None and (ready or wake):
            self._read_sub(wake, sub)

    def _poller(self) -> select.poll:
        """Return what waits for every source that has a descriptor now."""
        handles = [handle.fileno() for handle in (self._sub, self._watch) if handle is not None]
        words = self._broker.pipes() if self._broker is not None else []
        poller = select.poll()
        for fd in [*handles, *words, *self._pipes]:
            if fd >= 0:
                poller.register(fd, select.POLLIN)
        return poller

    def _read_sub(self, wake: Wake, sub: _core.Subscription) -> None:
        try:
            while True:
                offset, hint = sub.skip()  # the reaction reads the events from the log
                wake.events |= offset > 0
                # What a task does, NOTIFY tells; but no trigger tells of all that people can do.
                if hint is not None and (not self.tells_all() or hint.startswith(PEOPLE)):
                    wake.hear_hint(hint)
                if not offset and hint is None:
                    return
        except Error as e:
            self._lost("broker", e)
            sub.close()
            self._sub = None

    def _read_watch(self, wake: Wake, watch: _core.Watch | Look) -> bool:
        """Return whether it told anything that had a name."""
        try:
            changed, payloads = watch.poll()
        except Error as e:
            self._lost("database", e)
            return False
        wake.full |= changed and not payloads
        for payload in payloads:
            wake.hear(payload)
            if (run := notify.run_in(payload)) is not None:
                self._named.add(run)
        if len(self._named) > NAMED_MAX:  # nobody asks: the log is away
            self._named.clear()
            self._connection = 0
        return bool(payloads)

    def _open_all(self) -> None:
        """Open what is not open, at most once a second."""
        if time.monotonic() < self._next_try:
            return
        self._next_try = time.monotonic() + RETRY_SEC
        if self._database and self._watch is None:
            try:
                self._watch = self._open_watch()
            except Error as e:
                self._lost("database", e)
            except ValueError as e:
                log.error("aiflow: no wake-ups from the database; [aiflow] listen says where they come from: %s", e)
                self._database = ""
        if self._config.wake_sources & {"broker", "api"} and self._sub is None and self.broker_up():
            try:
                self._sub = self._subscribe()
                self._missed = True
            except (Error, TimeoutError, ValueError) as e:
                self._lost("broker", e)

    def _open_watch(self) -> _core.Watch | Look:
        if self._database == MYSQL and settings.engine is not None:
            return Look(settings.engine)
        return _core.Watch(self._database, notify.CHANNEL)

    def _subscribe(self) -> _core.Subscription:
        sub = _core.Subscription(self._config.broker, True, self._config.curve())
        try:
            self._broker_log = sub.log_id(sub.add([EVERYTHING], None, 200))
        except BaseException:
            sub.close()
            raise
        return sub

    def _lost(self, source: str, error: Exception) -> None:
        log.warning("aiflow: no wake-ups from the %s for now: %s", source, error)


def _result_pipes(executors: list[Any]) -> list[int]:
    """The descriptors that become readable when a process of an executor has ended; LocalExecutor has one."""
    queues = (getattr(executor, "result_queue", None) for executor in executors)
    readers = (getattr(queue, "_reader", None) for queue in queues)
    return [reader.fileno() for reader in readers if reader is not None]
