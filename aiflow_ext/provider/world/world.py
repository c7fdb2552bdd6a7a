"""All that the rules know, kept in memory from one reaction to the next: a cache of our tables and of Airflow's rows.

    refresh() reads again what others have changed -> decide.py changes it, and touches what it changes
    -> save() writes that, and moves the consumer -> committed(), or undone()

What makes it right is in docs/design.md, "The world in memory".
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice

import structlog
from airflow.models.dagrun import DagRun
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from aiflow_ext import _core
from aiflow_ext._event import Event
from aiflow_ext.provider.db import models
from aiflow_ext.provider.db.consumers import Stand, stand_of
from aiflow_ext.provider.metrics import count
from aiflow_ext.provider.world.blame import Blame, Key
from aiflow_ext.provider.world.dags import read_dags
from aiflow_ext.provider.world.progress import Progress
from aiflow_ext.provider.world.registry import Registry
from aiflow_ext.provider.world.runs import (
    CHUNK,
    Run,
    active_runs,
    chunks,
    forget_runs,
    of_keys,
    read_runs,
    save_runs,
    save_tasks,
)
from aiflow_ext.provider.world.task import TaskState

log = structlog.get_logger(__name__)

AUDITED = 200  # runs that an audit() reads
FRESH = 500  # runs that a save() writes for the first time, or because their rules were edited: a second
DUE_MIN = 1000  # entries of the heap that need not be looked through

Listener = tuple[Run | None, TaskState]


class World:
    """The active runs of Dags with rules, the state of their rules, and which of them an event touches.

    :param consumer: whose row of aiflow_consumer says how many reactions there were.
    :param changed: returns the runs whose rows others have changed, and committed, since it was asked last, and with
        run_id "" the Dags that are gone, or were edited; None: it does not know, so all is read anew.
    :param beat: is called now and then while all is read.
    """

    def __init__(
        self,
        registry: Registry,
        consumer: str,
        changed: Callable[[], Collection[Key] | None],
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self.registry = registry
        self.progress = Progress()
        self._consumer = consumer
        self._changed = changed
        self._beat = beat
        self._version = -1  # of the reaction that this is as of; -1: nothing is read yet
        self.whole = True  # all was read anew the last time
        self.current = False  # refresh() has succeeded since react() began
        self._audited = 0  # up to which run, by its id
        self._stale: set[Key] = set()  # changed since they were read
        self._left_out: set[Key] = set()  # set aside when they were to be read
        self._touched: set[Key] = set()  # changed here since they were read
        self.first: Key = ("", "")  # of those that wait, whose turn is next
        self.left = False  # fresh runs that the last save() has not written
        self._new: set[Key] = set()  # that the last save() has written for the first time
        self._clear()

    def _clear(self) -> None:
        self.runs: dict[Key, Run] = {}
        self.dags: dict[str, TaskState] = {}  # rules on Dags
        self.ended: set[Key] = set()  # runs in our tables that are over
        self.untold: set[Key] = set()  # runs with states that nobody was told yet
        self.fresh: set[Key] = set()  # runs that have rules which begin
        self._of_dag: dict[str, set[Key]] = defaultdict(set)
        self._waiting: set[Key] = set()  # runs in which something is left to do that no event does
        self._due: list[tuple[int, Key, str]] = []  # a heap; also what is not so any more
        self._due_most = DUE_MIN  # then that is taken out
        self._match = _core.Match()
        self._listening: dict[int, Listener] = {}
        self._ids: dict[Key, list[int]] = {}
        self._next_id = 0
        self._dags_stale = True

    # -- what is asked of it

    def of_dag(self, dag_id: str) -> list[Run]:
        """Return the active runs of a Dag."""
        return [self.runs[key] for key in sorted(self._of_dag.get(dag_id, ()))]

    def tasks(self) -> Iterator[tuple[Run, TaskState]]:
        """All tasks with rules of all runs."""
        for run in self.runs.values():
            for task in run.tasks.values():
                yield run, task

    def waiting(self) -> list[tuple[Run, TaskState]]:
        """Return the tasks with something left to do that no event does, those of the run `first` and its next ones
        before the others: each has its turn."""
        keys = sorted(self._waiting | self._touched)
        n = bisect_left(keys, self.first)
        runs = [run for key in keys[n:] + keys[:n] if (run := self.runs.get(key)) is not None]
        return [(run, task) for run in runs for task in run.tasks.values() if _waits(run, task)]

    def touched(self) -> list[TaskState]:
        """Return the rules that were touched, and those of the same run."""
        tasks = [task for key in sorted(self._touched & self.runs.keys()) for task in self.runs[key].tasks.values()]
        return tasks + [
            self.dags[dag_id] for dag_id, run_id in sorted(self._touched) if not run_id and dag_id in self.dags
        ]

    def listening(self, event: Event) -> list[Listener]:
        """Return whose rules an event touches, in the order in which they began to listen."""
        return [self._listening[number] for number in self._match.find(event)]

    def is_asked(self, event: Event) -> bool:
        """Whether any rule listens to an event."""
        return bool(self._match.find(event))

    def due(self, now_ms: int, most: int) -> list[tuple[Run, TaskState]]:
        """Return the tasks whose periods are over, the first `most` of them, and touch them.

        Those of a Dag of which a rule stops runs are left until it has stopped all.
        """
        found: list[tuple[Run, TaskState]] = []
        left: list[tuple[int, Key, str]] = []
        while self._due and self._due[0][0] <= now_ms and len(found) < most:
            one = heapq.heappop(self._due)
            if one[1][0] in self.progress.stopped:
                left.append(one)
            elif (listener := self._is_due(*one)) is not None:
                self.touch(listener[0].key)
                found.append(listener)
        for one in left:
            heapq.heappush(self._due, one)
        return found

    def next_due(self) -> int | None:
        """Return when the next period is over, in ms."""
        while self._due and self._is_due(*self._due[0]) is None:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    # -- what is changed in it

    def touch(self, key: Key) -> None:
        """A run is being changed, or with run_id "" the rules of a Dag."""
        self._touched.add(key)
        if (run := self.runs.get(key)) is not None:
            run.quiet = False

    def put(self, run: Run) -> None:
        """Take in a run, instead of the one of its name."""
        self._drop(run.key)
        self.runs[run.key] = run
        self._of_dag[run.dag_id].add(run.key)
        contexts = ("",) if run.context is None else ("", run.context)
        self._listen(run.key, ((run, task) for task in run.tasks.values()), contexts)
        self._note(run)

    def _listen(self, key: Key, listeners: Iterable[Listener], contexts: Collection[str]) -> None:
        """An event without a context is for all, another one for those of its context."""
        ids = self._ids.setdefault(key, [])
        for run, task in listeners:
            self._next_id += 1
            for pattern in task.rules.patterns:
                for context in contexts:
                    self._match.add((*pattern, context), self._next_id)
            if task.rules.patterns:
                self._listening[self._next_id] = run, task
                ids.append(self._next_id)

    def _drop(self, key: Key) -> None:
        for number in self._ids.pop(key, ()):
            self._match.remove(number)
            del self._listening[number]
        if self.runs.pop(key, None) is not None:
            self._of_dag[key[0]].discard(key)
        for keys in (self.ended, self.untold, self.fresh, self._waiting):
            keys.discard(key)

    def _note(self, run: Run) -> None:
        """In which sets it belongs, and what is due."""
        key, tasks = run.key, run.tasks.values()
        # A task that waits, and has lost its rules before it had a row, has nothing to be written.
        begin = (task for task in tasks if task.rules.rules or task.stored is not None)
        _put(self.fresh, key, run.stored_seen is None or any(task.fresh for task in begin))
        _put(self._waiting, key, any(_waits(run, task) for task in tasks))
        _put(self.untold, key, any(run.seen.get(n, ["", ""]) != [str(ti.id), ti.state] for n, ti in run.tries.items()))
        for task in tasks:
            if task.due_ms is not None:
                heapq.heappush(self._due, (task.due_ms, key, task.task_id))
        if len(self._due) > self._due_most:
            self._due = sorted({one for one in self._due if self._is_due(*one) is not None})
            self._due_most = 2 * len(self._due) + DUE_MIN

    def _is_due(self, due_ms: int, key: Key, task_id: str) -> tuple[Run, TaskState] | None:
        """Whether that is still so: what changed was noted anew."""
        run = self.runs.get(key)
        task = run.tasks.get(task_id) if run is not None and run.running else None
        return (run, task) if run is not None and task is not None and task.due_ms == due_ms else None

    # -- the database

    def refresh(self, session: Session, now_ms: int, stand: Stand, aside: Collection[Key] = ()) -> None:
        """Read again what others have changed.

        :param stand: of the consumer, read before: the rows are of this reaction, or of a later one.
        :param aside: runs that are left out, and Dags as (dag_id, "").
        :raises RunError: a run cannot be read.
        """
        version = stand.version
        self.progress.read(session, stand)
        for key in self.runs.keys() & {*aside}:
            self._drop(key)
            self._left_out.add(key)
        self._stale |= self._left_out - {*aside}
        self._left_out &= {*aside}
        edited = self.registry.changed
        self._take_hints(version)
        self.whole = self._version < 0
        if self.whole:
            self._read_all(session, now_ms, aside)
        else:
            if version != self._version:  # another scheduler has reacted
                self._stale |= _stored(session, models.run.c.version > self._version)
            if edited:
                rows = active_runs(session, self.registry, DagRun.dag_id.in_(sorted(edited)))
                self._stale |= {(row.dag_id, row.run_id) for row in rows}
                self._stale.update(*(self._of_dag.get(dag_id, ()) for dag_id in edited))
            self._read(session, now_ms, aside)
        if self._dags_stale or edited or version != self._version:
            self._read_dags(session, now_ms, aside)
        edited.clear()
        self._version = version
        self.current = True

    def read_again(self, key: Key) -> None:
        """Some of what was done to a run, or with run_id "" to the rules of a Dag, was undone."""
        self._hear([key])

    def audit(self, session: Session, now_ms: int, aside: Collection[Key]) -> None:
        """Read some runs anew, to see whether all hints have come; what they name next is read again.

        Each call goes on where the last one ended.
        """
        if self.whole:
            return
        rows = active_runs(session, self.registry, DagRun.id > self._audited, most=AUDITED)
        last = rows[-1].id if len(rows) == AUDITED else None
        rows = [row for row in rows if (row.dag_id, row.run_id) not in aside]
        known = {key for key, run in self.runs.items() if run.id > self._audited and (last is None or run.id <= last)}
        there = dict(read_runs(session, self.registry, rows, self.progress.of, now_ms))
        self._audited = last or 0
        self._dags_stale = True
        stand = stand_of(session, self._consumer)
        version = stand.version if stand is not None else 0
        self._take_hints(version)  # of what was committed until now, so also of all that was read
        if version != self._version:  # another scheduler has reacted meanwhile, or all is read anew
            return
        for key in (known | there.keys()) - self._stale - self._left_out - self.fresh - {*aside}:
            if key[0] not in self.registry.changed and not _alike(self.runs.get(key), there.get(key)):
                count("aiflow.scheduler.world_differs")
                log.error(
                    "aiflow: what is known of a run was not what the database has; it is read anew",
                    dag_id=key[0],
                    run_id=key[1],
                )
                self._stale.add(key)

    def save(self, session: Session, log_id: int | None) -> None:
        """Write what was touched, forget runs that are over, and move the consumer.

        :param log_id: of the log that has the offsets.
        :raises RunError: what a run knows cannot be written.
        """
        # Fresh runs that are left have heard nothing, so they may wait; where all is read each time, rounds cost more.
        most = max(FRESH, len(self.runs) // 10 if self.whole else 0)
        self.left = len(self.fresh) > most
        self._touched.update(islice(self.fresh, most))
        runs = [self.runs[key] for key in sorted(self._touched & self.runs.keys())]
        self._new = {run.key for run in runs if run.stored_seen is None}
        save_runs(session, runs, self._version + 1)
        for key in sorted(self._touched):
            if not key[1] and (task := self.dags.get(key[0])) is not None:
                with Blame(key):
                    save_tasks(session, [task])
        forget_runs(session, self.ended)
        self.progress.save(session)
        row = update(models.consumer).where(models.consumer.c.name == self._consumer)
        session.execute(row.values(offset=self.progress.least, log_id=log_id, version=self._version + 1))

    def committed(self) -> None:
        """What was saved is in the database."""
        self._version += 1
        self.progress.committed(self._version)
        self._stale |= self._new  # a row of Airflow's that has changed before we knew the run named nobody
        for key in self._touched & self.runs.keys():
            self._note(self.runs[key])
        self._touched.clear()
        self.ended.clear()

    def undone(self) -> None:
        """The transaction was undone, or nobody knows: what it touched is read again."""
        self.progress.undone()
        self._stale |= self._touched | self.ended
        self._dags_stale = True
        self._touched.clear()
        self.current = False

    def _read_all(self, session: Session, now_ms: int, aside: Collection[Key]) -> None:
        rows = active_runs(session, self.registry)
        active = {(row.dag_id, row.run_id): row for row in rows}
        self._left_out = active.keys() & {*aside}
        wanted = [row for key, row in active.items() if key not in self._left_out]
        found: dict[Key, Run] = {}
        for key, run in read_runs(session, self.registry, wanted, self.progress.of, now_ms):
            found[key] = run
            if len(found) % CHUNK == 0:
                self._beat()
        stored = _stored(session)
        self._clear()
        for run in found.values():
            self.put(run)
        self.ended = stored - active.keys()
        self._stale.clear()

    def _take_hints(self, version: int) -> None:
        """Hear what others have changed.  Where that is not known, or this fails on the way, all is read anew.

        :param version: of the consumer's row; one that is behind ours is of a row that was made anew.
        """
        known, self._version = self._version, -1
        changed = self._changed()
        if changed is not None and version >= known:
            self._hear(changed)
            self._version = known

    def _hear(self, changed: Collection[Key]) -> None:
        """Keep those of these runs that may be ours; with run_id "" it is a Dag."""
        ours = {*self.registry.dag_ids()}
        self._stale |= {key for key in changed if key[1] and (key[0] in ours or key in self.runs or key in self.ended)}
        if any(not run_id for _, run_id in changed):
            self._dags_stale = True
            self.registry.look_at_all()

    def _read(self, session: Session, now_ms: int, aside: Collection[Key]) -> None:
        """Read those that are stale."""
        self._left_out |= self._stale & {*aside}
        self._stale -= {*aside}
        keys = set(self._stale)
        if not keys:
            return
        rows = [row for some in chunks(keys) for row in active_runs(session, self.registry, of_keys(DagRun, some))]
        found = dict(read_runs(session, self.registry, rows, self.progress.of, now_ms))
        gone = keys - {(row.dag_id, row.run_id) for row in rows}
        ended = {key for some in chunks(gone) for key in _stored(session, of_keys(models.run.c, some))}
        for key in keys:
            self._drop(key)
        for run in found.values():
            self.put(run)
        self.ended |= ended
        self._stale -= keys

    def _read_dags(self, session: Session, now_ms: int, aside: Collection[Key]) -> None:
        found = read_dags(session, self.registry, self.progress.of, now_ms, aside)
        for dag_id in self.dags.keys() | found.keys():
            self._drop((dag_id, ""))
        for dag_id, task in found.items():
            self._listen((dag_id, ""), [(None, task)], ("*",))
            if task.stored != task.row():
                self._touched.add((dag_id, ""))
        self.dags = found
        self._dags_stale = any(not run_id for _, run_id in aside)


def _waits(run: Run, task: TaskState) -> bool:
    """Whether something may be left to do that no event does: see starts.can_settle()."""
    if task.pending or task.stopping is not None:
        return True
    ti = run.tries.get(task.task_id)
    return ti is not None and ti.parked and (task.started is not None or not task.rules.waits)


def _put(keys: set[Key], key: Key, there: bool) -> None:
    (keys.add if there else keys.discard)(key)


def _alike(known: Run | None, there: Run | None) -> bool:
    if known is None or there is None:
        return known is there
    return bool(known.as_read() == there.as_read())


def _stored(session: Session, *which: ColumnElement[bool]) -> set[Key]:
    """Return the runs that have a row in our table."""
    table = models.run.c
    return {(row.dag_id, row.run_id) for row in session.execute(select(table.dag_id, table.run_id).where(*which))}
