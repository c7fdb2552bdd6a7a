"""What the rules know of each active run: read from our tables and Airflow's, written back to ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import structlog
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import ColumnElement, Table, bindparam, delete, exists, insert, or_, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from aiflow_ext.errors import CorruptError
from aiflow_ext.provider.author.operators import RESUME_METHOD
from aiflow_ext.provider.db import models
from aiflow_ext.provider.db.session import savepoint
from aiflow_ext.provider.world.begins import forget, noted
from aiflow_ext.provider.world.blame import Blame, Key, is_its_own
from aiflow_ext.provider.world.registry import DagRules, Registry
from aiflow_ext.provider.world.task import NO_RULES, TaskState, Try, new_task

log = structlog.get_logger(__name__)

CONTEXT_MAX = 1024  # bytes, as of an event
CHUNK = 500  # runs that are read or written at once


@dataclass(slots=True)
class Run:
    """One row of aiflow_run, with what Airflow has of it.

    :param stored_seen: `seen` in its row; None: it has none yet.
    :param cleared: once, or more often.
    :param bad_context: its conf has one that no event can have.
    :param quiet: a scheduler has found nothing to do in it, see scheduler/quiet.py.
    """

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
    stored_seen: str | None = None
    cleared: bool = False
    bad_context: bool = False
    quiet: bool = False

    @property
    def key(self) -> Key:
        """What tells it from others."""
        return self.dag_id, self.run_id

    @property
    def running(self) -> bool:
        """Whether its tasks may run."""
        return self.state == DagRunState.RUNNING.value

    @property
    def active(self) -> bool:
        """Whether its rules hear events."""
        return self.running or self.state == DagRunState.QUEUED.value

    def states(self) -> str:
        """Return the digest of the states of its tasks."""
        return digest((ti.task_id, ti.map_index, ti.state) for ti in self.tries.values())

    def as_read(self) -> Any:
        """Return what the database has of it, as far as is known: equal, where nothing has changed there."""
        tasks = {task_id: task.stored for task_id, task in self.tasks.items() if task.stored is not None}
        rules = {task_id: task.rules.hash for task_id, task in self.tasks.items()}
        tries = self.tries if self.running else {}
        return self.id, self.state, self.since, self.context, self.stored_seen, rules, tries, tasks


def digest(states: Iterable[tuple[str, int, str]]) -> str:
    """Return what tells states of tasks (task id, map index, state) from other ones: what a start was refused in."""
    return hashlib.blake2b(json.dumps(sorted(states)).encode(), digest_size=8).hexdigest()


def active_runs(
    session: Session, registry: Registry, *which: ColumnElement[bool], most: int | None = None
) -> list[Any]:
    """Return the rows of active runs of Dags with rules, and of those that had some: a Dag may lose them.

    :param which: conditions on DagRun.
    :param most: return so many, in the order of their ids.
    """
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
    ours = select(*columns).where(active, or_(DagRun.dag_id.in_(registry.dag_ids()), known), *which)
    return list(session.execute(ours if most is None else ours.order_by(DagRun.id).limit(most)))


def read_runs(
    session: Session, registry: Registry, rows: Iterable[Any], heard: Callable[[str], int], now_ms: int
) -> Iterator[tuple[Key, Run]]:
    """Read what is stored of active runs, and their tries.

    :param rows: of active_runs().
    :param heard: up to which offset the rules of a Dag have heard: a run that is new hears what comes beyond it, or
        beyond where it was queued.
    :raises RunError: a run cannot be read.
    """
    by_key = {(row.dag_id, row.run_id): row for row in rows}
    for keys in chunks(by_key):
        stored = {(row.dag_id, row.run_id): row for row in session.execute(_rows_of(models.run, keys))}
        states: dict[Key, dict[str, Any]] = {key: {} for key in keys}
        for row in session.execute(_rows_of(models.rule_state, keys)):
            states[row.dag_id, row.run_id][row.task_id] = row
        begins = noted(session, [by_key[key].id for key in keys])
        runs = {}
        for key in keys:
            with Blame(key):
                row, known = by_key[key], stored.get(key)
                # Queued again, or another run of this name, before anybody saw the end of the one that is stored.
                if known is not None and (row.id in begins or known.dag_run_id not in (0, row.id)):
                    known = None
                runs[key] = _run(session, registry, row, known, max(heard(row.dag_id), begins.get(row.id, 0)))
        _load_tries(session, {key: run for key, run in runs.items() if run.running})
        for key, run in runs.items():
            with Blame(key):
                _add_tasks(run, states[key], heard(run.dag_id), now_ms)
        yield from runs.items()


def load_tries(session: Session, *runs: Run) -> None:
    """Read the task instances of runs again."""
    for run in runs:
        run.tries.clear()
    _load_tries(session, {run.key: run for run in runs})


def save_runs(session: Session, runs: Collection[Run], version: int) -> None:
    """Write back what changed; what `stored` says of it is right where the transaction is committed.

    :param version: of the reaction; each run has that of the last one that changed it.
    :raises RunError: what a run knows cannot be written.
    """
    for some in chunks(runs):
        if len(some) > 1:
            try:
                with savepoint(session):
                    _save_runs(session, some, version)
                continue
            except DBAPIError as e:
                if not is_its_own(e):
                    raise
        for run in some:  # whose fault was it?
            with Blame(run.key):
                _save_runs(session, [run], version)


def save_tasks(session: Session, tasks: Iterable[TaskState]) -> None:
    """Write back what changed of the rules of some tasks, or Dags."""
    new, changed = [], []
    for task in tasks:
        row = task.row()
        if task.stored is None:
            # else an instance of a mapped task, or one that has no rules any more
            if task.rules.rules or task.pending or task.started or task.stopping:
                new.append((task, row))
        elif task.stored != row:
            changed.append((task, row))
            if task.fresh:
                log.info("aiflow: the rules of a task were changed, they begin anew", **task.who)
    if new:
        session.execute(insert(models.rule_state), [row for _, row in new])
    if changed:
        key = [column.name for column in models.rule_state.primary_key]
        _update_many(session, models.rule_state, key, [row for _, row in changed])
    for task, row in new + changed:
        task.stored = row


def forget_runs(session: Session, keys: Collection[Key]) -> None:
    """Runs are over: what started their tasks last is kept, since a user may clear them."""
    table = models.rule_state
    for some in chunks(keys):
        rows = of_keys(table.c, some)
        session.execute(delete(models.run).where(of_keys(models.run.c, some)))
        session.execute(delete(table).where(rows, table.c.started.is_(None)))
        session.execute(update(table).where(rows).values(pending="[]", stopping=None, due_ms=None))


def chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Some at a time."""
    listed = list(items)
    for n in range(0, len(listed), CHUNK):
        yield listed[n : n + CHUNK]


def of_keys(columns: Any, keys: Collection[Key]) -> ColumnElement[bool]:
    """Which rows are of these runs.

    :param columns: has dag_id and run_id.
    """
    by_dag = groupby(sorted(keys), key=lambda key: key[0])
    return or_(
        *(
            (columns.dag_id == dag_id) & columns.run_id.in_([run_id for _, run_id in of_dag])
            for dag_id, of_dag in by_dag
        )
    )


def _rows_of(table: Table, keys: Collection[Key]) -> Any:
    return select(table).where(of_keys(table.c, keys))


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
    bad = context is not None and not _is_context(context)
    return Run(*who, since, None if bad else context, {}, cleared=row.clear_number > 0, bad_context=bad)


def _is_context(context: Any) -> bool:
    """Whether an event can have it: what a conf says is anybody's."""
    try:
        return isinstance(context, str) and "\0" not in context and len(context.encode()) <= CONTEXT_MAX
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _load_tries(session: Session, runs: dict[Key, Run]) -> None:
    if not runs:
        return
    TI = TaskInstance
    columns = (
        TI.id,
        TI.dag_id,
        TI.run_id,
        TI.task_id,
        TI.map_index,
        TI.state,
        TI.try_number,
        TI.next_method,
        TI.pid,
        TI.hostname,
    )
    for row in session.execute(select(*columns).where(of_keys(TI, runs))):
        state = str(getattr(row.state, "value", row.state) or "")
        parked = state == TaskInstanceState.DEFERRED.value and row.next_method == RESUME_METHOD
        made = Try(row.id, row.task_id, row.map_index, state, row.try_number, parked, row.pid, row.hostname or "")
        runs[row.dag_id, row.run_id].tries[made.name] = made


def _add_tasks(run: Run, rows: dict[str, Any], heard: int, now_ms: int) -> None:
    """The state of its rules, and of tasks that have no rules any more, where something is left to do."""
    since = run.since if run.stored_seen is None else heard
    for task_id, rules in (dict.fromkeys(_left_over(run, rows), NO_RULES) | run.rules.tasks).items():
        new = new_task(*run.key, task_id, rules, since, now_ms)
        run.tasks[task_id] = stored_task(rows.get(task_id), new, run, now_ms)


def _left_over(run: Run, rows: dict[str, Any]) -> list[str]:
    """Tasks that wait for rules, have a start pending, or are to stop, whether or not they have rules any more.

    A task that was mapped when the run was made, and is a plain one with rules now, is several that have none.
    """
    parked = {ti.name for ti in run.tries.values() if ti.parked}
    return sorted(parked | {task_id for task_id, row in rows.items() if row.pending != "[]" or row.stopping})


def stored_row(row: Any) -> dict[str, Any]:
    """Return a row of aiflow_rule_state as a TaskState keeps it."""
    names = (column.name for column in models.rule_state.columns)
    return {name: row._mapping[name] for name in names} | {"state": bytes(row.state)}


def stored_task(row: Any, new: TaskState, run: Run | None, now_ms: int) -> TaskState:
    """Return the stored state, or the new one with what outlives a change of the rules and the end of the run.

    :param row: of aiflow_rule_state; None: there is none.
    :param run: None for the rules of a Dag.
    """
    if row is None:
        return new
    new.stored = stored = stored_row(row)
    started = json.loads(row.started) if row.started else None
    if run is not None and run.stored_seen is None:  # it had ended, and was cleared; or is another one of that name
        same = run.cleared and started and started.get("run") == run.id  # SQLite gives an id again
        new.started = started if same else None
        return new
    try:
        if not new.fresh:
            new.due_ms, new.core = new.rules.core.due(stored["state"]), stored["state"]
        elif (old := new.rules.core.heard(stored["state"])) > new.rules.core.heard(new.core):  # amid an event
            new.core = new.rules.core.start(old, now_ms)
    except CorruptError:  # of another version of ours: as other rules
        stored["rules_hash"] = None
    new.pending, new.started = json.loads(row.pending), started
    new.stopping = json.loads(row.stopping) if row.stopping else None
    return new


def _save_runs(session: Session, runs: Sequence[Run], version: int) -> None:
    seen = {run.key: json.dumps(run.seen, sort_keys=True) for run in runs}
    new = [run for run in runs if run.stored_seen is None]
    told = [run for run in runs if run.stored_seen not in (None, seen[run.key])]
    same = [run.key for run in runs if run.stored_seen == seen[run.key]]
    table = models.run
    for run in new:
        if run.bad_context:
            log.warning(
                "aiflow: the context in a run's conf is not taken: it is not a text of at most 1,024 bytes",
                dag_id=run.dag_id,
                run_id=run.run_id,
            )
    if new:
        forget(session, [run.id for run in new])
        session.execute(delete(table).where(of_keys(table.c, [run.key for run in new])))
        rows = [
            {
                "dag_id": run.dag_id,
                "run_id": run.run_id,
                "since": run.since,
                "version": version,
                "dag_run_id": run.id,
                "context": run.context,
                "seen": seen[run.key],
            }
            for run in new
        ]
        session.execute(insert(table), rows)
    if told:
        rows = [{"dag_id": r.dag_id, "run_id": r.run_id, "seen": seen[r.key], "version": version} for r in told]
        _update_many(session, table, ["dag_id", "run_id"], rows)
    if same:
        session.execute(update(table).where(of_keys(table.c, same)).values(version=version))
    save_tasks(session, (task for run in runs for task in run.tasks.values()))
    for run in new + told:
        run.stored_seen = seen[run.key]


def _update_many(session: Session, table: Table, key: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Give rows, found by their key, all values that these have."""
    where = [table.c[name] == bindparam(f"key_{name}") for name in key]
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in rows[0] if name not in key}
    parameters = [{f"{'key' if name in key else 'new'}_{name}": value for name, value in row.items()} for row in rows]
    session.connection().execute(update(table).where(*where).values(**values), parameters)
