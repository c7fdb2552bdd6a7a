"""What the rules know of each active run, as objects for one transaction: read from our tables, written back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import structlog
from airflow.models.dag import DagModel
from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import delete, exists, insert, or_, select, update
from sqlalchemy.orm import Session

from aiflow_ext.errors import CorruptError
from aiflow_ext.provider.author.operators import RESUME_METHOD
from aiflow_ext.provider.db import models
from aiflow_ext.provider.db.consumers import Place, place_of
from aiflow_ext.provider.world.begins import forget, noted
from aiflow_ext.provider.world.blame import Blame, Key
from aiflow_ext.provider.world.registry import DagRules, Registry
from aiflow_ext.provider.world.task import NO_RULES, TaskState, Try, new_task

log = structlog.get_logger(__name__)

CONTEXT_MAX = 1024  # bytes, as of an event


@dataclass
class Run:
    """One row of aiflow_run, with what Airflow has of it."""

    id: int
    dag_id: str
    run_id: str
    state: str
    rules: DagRules
    since: int
    context: str | None
    seen: dict[str, list[str]]
    tries: dict[str, Try] = field(default_factory=dict)
    tasks: dict[str, TaskState] = field(default_factory=dict)
    stored_seen: str | None = None  # None: not in the table yet
    cleared: bool = False  # once, or more often

    @property
    def running(self) -> bool:
        """Whether its tasks may run."""
        return self.state == DagRunState.RUNNING.value

    def states(self) -> str:
        """Return the digest of the states of its tasks."""
        return digest((ti.task_id, ti.map_index, ti.state) for ti in self.tries.values())


@dataclass
class World:
    """All of it."""

    offset: int
    runs: dict[Key, Run]
    dags: dict[str, TaskState]  # rules on Dags, by dag_id
    ended: list[Key]  # runs in our tables that are over

    def tasks(self) -> Iterator[tuple[Run, TaskState]]:
        """All tasks with rules of all runs."""
        for run in self.runs.values():
            for task in run.tasks.values():
                yield run, task


def digest(states: Iterable[tuple[str, int, str]]) -> str:
    """Return what tells states of tasks (task id, map index, state) from other ones: what a start was refused in."""
    return hashlib.blake2b(json.dumps(sorted(states)).encode(), digest_size=8).hexdigest()


def load(
    session: Session,
    registry: Registry,
    consumer: str,
    now_ms: int,
    aside: Collection[Key] = (),
) -> World:
    """Read the consumer's offset, the active runs of Dags with rules, their tries and the state of their rules.

    :param aside: runs that are left out, and Dags as (dag_id, "").
    :raises RunError: a run cannot be read.
    """
    offset = (place_of(session, consumer) or Place(0, None)).offset
    stored = {(r.dag_id, r.run_id): r for r in session.execute(select(models.run))}
    world = World(offset, {}, {}, [])
    active = _active_runs(session, registry)
    begins = noted(session)
    for row in active:
        if (key := (row.dag_id, row.run_id)) not in aside:
            with Blame(key):
                since = max(offset, begins.get(row.id, 0))
                known = stored.get(key)
                # Queued again, or another run of this name, before anybody saw the end of the one that is stored.
                if known is not None and (row.id in begins or known.dag_run_id not in (0, row.id)):
                    known = None
                world.runs[key] = _run(session, registry, row, known, since)
    world.ended = sorted(stored.keys() - {(row.dag_id, row.run_id) for row in active})
    _load_tries(session, {key: run for key, run in world.runs.items() if run.running})
    _load_tasks(session, world, now_ms)
    _load_dags(session, world, registry, now_ms, aside)
    return world


def load_tries(session: Session, run: Run) -> None:
    """Read the task instances of one run again."""
    run.tries.clear()
    _load_tries(session, {(run.dag_id, run.run_id): run})


def save(session: Session, world: World, consumer: str, place: Place) -> None:
    """Write back what changed, forget runs that are over, and move the consumer.

    :raises RunError: what a run knows cannot be written.
    """
    for key, run in world.runs.items():
        with Blame(key):
            _save_run(session, run)
            for task in run.tasks.values():
                _save_task(session, task)
    for dag_id, task in world.dags.items():
        with Blame((dag_id, "")):
            _save_task(session, task)
    for key in world.ended:
        _forget(session, *key)
    session.execute(update(models.consumer).where(models.consumer.c.name == consumer).values(**place._asdict()))


def _active_runs(session: Session, registry: Registry) -> list[Any]:
    """Those of Dags with rules, and those that had some: a Dag may lose them."""
    known = exists().where(models.run.c.dag_id == DagRun.dag_id, models.run.c.run_id == DagRun.run_id)
    columns = (
        DagRun.id,
        DagRun.dag_id,
        DagRun.run_id,
        DagRun.state,
        DagRun.created_dag_version_id,
        DagRun.bundle_version,
        DagRun.clear_number,
    )
    active = DagRun.state.in_([DagRunState.RUNNING, DagRunState.QUEUED])
    return list(session.execute(select(*columns).where(active, or_(DagRun.dag_id.in_(registry.dag_ids()), known))))


def _run(session: Session, registry: Registry, row: Any, stored: Any, since: int) -> Run:
    state = str(getattr(row.state, "value", row.state))
    rules = registry.of_run(session, row.dag_id, row.created_dag_version_id if row.bundle_version else None)
    rules = rules or DagRules(row.dag_id, {}, None)
    who = (row.id, row.dag_id, row.run_id, state, rules)
    if stored is not None:
        seen = json.loads(stored.seen)
        return Run(*who, stored.since, stored.context, seen, stored_seen=stored.seen)
    conf = session.scalar(select(DagRun.conf).where(DagRun.id == row.id))
    found = conf.get("aiflow") if isinstance(conf, dict) else None
    context = found.get("context") if isinstance(found, dict) else None
    return Run(*who, since, context, {}, cleared=row.clear_number > 0)


def _is_context(context: Any) -> bool:
    """Whether an event can have it: what a conf says is anybody's."""
    try:
        return isinstance(context, str) and "\0" not in context and len(context.encode()) <= CONTEXT_MAX
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _load_tries(session: Session, runs: dict[Key, Run]) -> None:
    TI = TaskInstance
    for dag_id in {dag_id for dag_id, _ in runs}:
        rows = session.execute(
            select(
                TI.id,
                TI.run_id,
                TI.task_id,
                TI.map_index,
                TI.state,
                TI.try_number,
                TI.next_method,
                TI.pid,
                TI.hostname,
            ).where(TI.dag_id == dag_id, TI.run_id.in_([run_id for d, run_id in runs if d == dag_id]))
        )
        for row in rows:
            state = str(getattr(row.state, "value", row.state) or "")
            parked = state == TaskInstanceState.DEFERRED.value and row.next_method == RESUME_METHOD
            made = Try(row.id, row.task_id, row.map_index, state, row.try_number, parked, row.pid, row.hostname or "")
            runs[dag_id, row.run_id].tries[made.name] = made


def _load_tasks(session: Session, world: World, now_ms: int) -> None:
    """The state of rules of all runs, and of tasks that have no rules any more, where something is left to do."""
    table = models.rule_state
    rows: dict[Key, dict[str, Any]] = {key: {} for key in world.runs}
    of_run = (models.run.c.dag_id == table.c.dag_id) & (models.run.c.run_id == table.c.run_id)
    for row in session.execute(select(table).join(models.run, of_run)):
        rows.get((row.dag_id, row.run_id), {})[row.task_id] = row
    for key, run in world.runs.items():
        with Blame(key):
            fresh = run.stored_seen is None
            if fresh:  # it may have been there before: what it left
                left = select(table).where(table.c.dag_id == run.dag_id, table.c.run_id == run.run_id)
                rows[key] = {row.task_id: row for row in session.execute(left)}
            for task_id, rules in (dict.fromkeys(_left_over(run, rows[key]), NO_RULES) | run.rules.tasks).items():
                new = new_task(*key, task_id, rules, run.since if fresh else world.offset, now_ms)
                run.tasks[task_id] = _task(rows[key].get(task_id), new, run)


def _left_over(run: Run, rows: dict[str, Any]) -> list[str]:
    """Tasks that wait for rules, have a start pending, or are to stop, whether or not they have rules any more.

    A task that was mapped when the run was made, and is a plain one with rules now, is several that have none.
    """
    parked = {ti.name for ti in run.tries.values() if ti.parked}
    return sorted(parked | {task_id for task_id, row in rows.items() if row.pending != "[]" or row.stopping})


def _load_dags(session: Session, world: World, registry: Registry, now_ms: int, aside: Collection[Key]) -> None:
    """The state of rules on Dags; one that somebody has deleted has no rules, and begins anew where it is made again.

    Its first version tells one from the other.  ``airflow db clean`` may delete that: then it is taken for the same.
    """
    table, dags = models.rule_state, list(registry.with_run_rules())
    of_dag = (table.c.dag_id == DagModel.dag_id) & (table.c.run_id == "") & (table.c.task_id == "")
    is_first = (DagVersion.dag_id == DagModel.dag_id) & (DagVersion.version_number == 1)
    there = select(DagModel.dag_id.label("there"), DagVersion.id.label("first"), table)
    there = there.outerjoin(DagVersion, is_first).outerjoin(table, of_dag)
    stored = {row.there: row for row in session.execute(there.where(DagModel.dag_id.in_([d.dag_id for d in dags])))}
    for dag in dags:
        if dag.run is not None and dag.dag_id in stored and (key := (dag.dag_id, "")) not in aside:
            with Blame(key):
                task, row = new_task(*key, "", dag.run, world.offset, now_ms), stored[dag.dag_id]
                first = {"version": str(row.first)} if row.first else None
                if row.dag_id is not None:
                    known = json.loads(row.started) if row.started else None
                    if first and known not in (None, first):  # it was deleted, and made again
                        task.stored = dict(row._mapping)
                    else:
                        task, first = _task(row, task, None), first or known
                task.started = first
                world.dags[dag.dag_id] = task


def _task(row: Any, new: TaskState, run: Run | None) -> TaskState:
    """Return the stored state, or the new one with what outlives a change of the rules and the end of the run."""
    if row is None:
        return new
    new.stored = dict(row._mapping)
    started = json.loads(row.started) if row.started else None
    if run is not None and run.stored_seen is None:  # it had ended, and was cleared; or is another one of that name
        same = run.cleared and started and started.get("run") == run.id  # SQLite gives an id again
        new.started = started if same else None
        return new
    if not new.fresh:
        try:
            new.due_ms, new.core = new.rules.core.due(bytes(row.state)), bytes(row.state)
        except CorruptError:  # of another version of ours: as other rules
            new.stored["rules_hash"] = None
    new.pending, new.started = json.loads(row.pending), started
    new.stopping = json.loads(row.stopping) if row.stopping else None
    return new


def _save_run(session: Session, run: Run) -> None:
    seen = json.dumps(run.seen, sort_keys=True)
    if run.stored_seen is None:
        if run.context is not None and not _is_context(run.context):
            log.warning(
                "aiflow: the context in a run's conf is not taken: it is not a text of at most 1,024 bytes",
                dag_id=run.dag_id,
                run_id=run.run_id,
            )
            run.context = None
        forget(session, [run.id])
        session.execute(delete(models.run).where(models.run.c.dag_id == run.dag_id, models.run.c.run_id == run.run_id))
        session.execute(
            insert(models.run).values(
                dag_id=run.dag_id,
                run_id=run.run_id,
                since=run.since,
                dag_run_id=run.id,
                context=run.context,
                seen=seen,
            )
        )
    elif seen != run.stored_seen:
        session.execute(
            update(models.run)
            .where(models.run.c.dag_id == run.dag_id, models.run.c.run_id == run.run_id)
            .values(seen=seen)
        )


def _save_task(session: Session, task: TaskState) -> None:
    row = task.row()
    table = models.rule_state
    key = (table.c.dag_id == task.dag_id, table.c.run_id == task.run_id, table.c.task_id == task.task_id)
    if task.stored is None and not task.rules.rules and not (task.pending or task.started or task.stopping):
        return  # an instance of a mapped task, or one that has no rules any more
    if task.stored is None:
        session.execute(insert(table).values(**row))
    elif any(task.stored[name] != value for name, value in row.items()):
        if task.fresh:
            log.info("aiflow: the rules of a task were changed, they begin anew", **task.who)
        session.execute(update(table).where(*key).values(**row))


def _forget(session: Session, dag_id: str, run_id: str) -> None:
    """A run is over: what started its tasks last is kept, since a user may clear them."""
    session.execute(delete(models.run).where(models.run.c.dag_id == dag_id, models.run.c.run_id == run_id))
    table = models.rule_state
    rows = (table.c.dag_id == dag_id, table.c.run_id == run_id)
    session.execute(delete(table).where(*rows, table.c.started.is_(None)))
    session.execute(update(table).where(*rows).values(pending="[]", stopping=None, due_ms=None))
