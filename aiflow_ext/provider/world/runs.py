"""What the rules know of each active run, as objects for one transaction: read from our tables, written back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from aiflow_ext.provider.author.operators import RESUME_METHOD
from aiflow_ext.provider.db import models
from aiflow_ext.provider.db.consumers import offset_of
from aiflow_ext.provider.world.registry import DagRules, Registry, Ruleset

Key = tuple[str, str]  # dag_id, run_id

ALIVE = frozenset({"scheduled", "queued", "running", "restarting"})
# These go on by themselves, so a START meets them as it meets a running task.
UNDER_WAY = frozenset({"up_for_retry", "up_for_reschedule", "deferred", "awaiting_input"})
ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


@dataclass
class Try:
    """A task instance as it is now.  `state` is "" where Airflow has None."""

    id: UUID
    task_id: str
    map_index: int
    state: str
    number: int
    parked: bool
    pid: int | None
    hostname: str

    @property
    def name(self) -> str:
        """Its key in Run.seen."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"

    @property
    def alive(self) -> bool:
        """Whether a START would have to wait for its end."""
        return self.state in ALIVE or (self.state in UNDER_WAY and not self.parked)


@dataclass
class TaskState:
    """One row of aiflow_rule_state: the rules of a task in a run (or of a Dag, with run_id and task_id "")."""

    dag_id: str
    run_id: str
    task_id: str
    rules: Ruleset
    core: bytes
    due_ms: int | None
    pending: list[dict[str, Any]] = field(default_factory=list)
    started: dict[str, Any] | None = None
    stopping: dict[str, Any] | None = None
    stored: dict[str, Any] | None = None  # the row as it was read

    def row(self) -> dict[str, Any]:
        """Return it as columns."""
        return {
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "task_id": self.task_id,
            "rules_hash": self.rules.hash,
            "state": self.core,
            "due_ms": self.due_ms,
            "pending": json.dumps(self.pending),
            "started": json.dumps(self.started) if self.started else None,
            "stopping": json.dumps(self.stopping) if self.stopping else None,
        }


@dataclass
class Run:
    """One row of aiflow_run, with what Airflow has of it."""

    dag_id: str
    run_id: str
    state: str
    rules: DagRules
    since: int
    created_ms: int
    context: str | None
    seen: dict[str, list[str]]
    tries: dict[str, Try] = field(default_factory=dict)
    tasks: dict[str, TaskState] = field(default_factory=dict)
    stored_seen: str | None = None  # None: not in the table yet

    @property
    def running(self) -> bool:
        """Whether its tasks may run."""
        return self.state == DagRunState.RUNNING.value


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


def load(session: Session, registry: Registry, consumer: str, now_ms: int) -> World:
    """Read the consumer's offset, the active runs of Dags with rules, their tries and the state of their rules."""
    offset = offset_of(session, consumer) or 0
    stored = {(r.dag_id, r.run_id): r for r in session.execute(select(models.run))}
    runs: dict[Key, Run] = {}
    for row in _active_runs(session, registry):
        rules = registry.of_run(session, row.dag_id, row.created_dag_version_id if row.bundle_version else None)
        if rules is not None:
            key = (row.dag_id, row.run_id)
            runs[key] = _run(row, rules, stored.get(key), offset)
    world = World(offset, runs, {}, [key for key in stored if key not in runs])
    _load_tries(session, runs)
    _load_tasks(session, world, registry, now_ms)
    return world


def load_tries(session: Session, run: Run) -> None:
    """Read the task instances of one run again."""
    run.tries.clear()
    _load_tries(session, {(run.dag_id, run.run_id): run})


def save(session: Session, world: World, consumer: str, offset: int) -> None:
    """Write back what changed, forget runs that are over, and move the consumer."""
    for run in world.runs.values():
        _save_run(session, run)
    for task in [task for _, task in world.tasks()] + list(world.dags.values()):
        _save_task(session, task)
    for dag_id, run_id in world.ended:
        for table in (models.rule_state, models.run):
            session.execute(delete(table).where(table.c.dag_id == dag_id, table.c.run_id == run_id))
    session.execute(update(models.consumer).where(models.consumer.c.name == consumer).values(offset=offset))


def new_task(dag_id: str, run_id: str, task_id: str, rules: Ruleset, since: int, now_ms: int) -> TaskState:
    """Return the state of rules that begin to listen beyond offset `since`."""
    core = rules.core.start(since, now_ms)
    return TaskState(dag_id, run_id, task_id, rules, core, rules.core.due(core))


def _active_runs(session: Session, registry: Registry) -> list[Any]:
    return list(
        session.execute(
            select(
                DagRun.dag_id,
                DagRun.run_id,
                DagRun.state,
                DagRun.conf,
                DagRun.queued_at,
                DagRun.created_dag_version_id,
                DagRun.bundle_version,
            ).where(
                DagRun.state.in_([DagRunState.RUNNING, DagRunState.QUEUED]),
                DagRun.dag_id.in_(registry.dag_ids()),
            )
        )
    )


def _run(row: Any, rules: DagRules, stored: Any, offset: int) -> Run:
    state = str(getattr(row.state, "value", row.state))
    if stored is not None:
        seen = json.loads(stored.seen)
        return Run(
            row.dag_id,
            row.run_id,
            state,
            rules,
            stored.since,
            stored.created_ms,
            stored.context,
            seen,
            stored_seen=stored.seen,
        )
    conf = row.conf if isinstance(row.conf, dict) else {}
    found = conf.get("aiflow")
    ours: dict[str, Any] = found if isinstance(found, dict) else {}
    return Run(
        row.dag_id,
        row.run_id,
        state,
        rules,
        max(offset, int(ours.get("since", 0))),
        int(row.queued_at.timestamp() * 1000) if isinstance(row.queued_at, datetime) and "since" not in ours else 0,
        ours.get("context"),
        {},
    )


def _load_tries(session: Session, runs: dict[Key, Run]) -> None:
    TI = TaskInstance
    running = [key for key, run in runs.items() if run.running]
    for dag_id in {dag_id for dag_id, _ in running}:
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
            ).where(TI.dag_id == dag_id, TI.run_id.in_([run_id for d, run_id in running if d == dag_id]))
        )
        for row in rows:
            state = str(getattr(row.state, "value", row.state) or "")
            parked = state == TaskInstanceState.DEFERRED.value and row.next_method == RESUME_METHOD
            made = Try(row.id, row.task_id, row.map_index, state, row.try_number, parked, row.pid, row.hostname or "")
            runs[dag_id, row.run_id].tries[made.name] = made


def _load_tasks(session: Session, world: World, registry: Registry, now_ms: int) -> None:
    stored = {(r.dag_id, r.run_id, r.task_id): r for r in session.execute(select(models.rule_state))}
    for run in world.runs.values():
        for task_id, rules in run.rules.tasks.items():
            row = stored.get((run.dag_id, run.run_id, task_id))
            since = run.since if run.stored_seen is None else world.offset
            run.tasks[task_id] = _task(row, rules) or new_task(run.dag_id, run.run_id, task_id, rules, since, now_ms)
    for dag in registry.with_run_rules():
        assert dag.run is not None
        row = stored.get((dag.dag_id, "", ""))
        world.dags[dag.dag_id] = _task(row, dag.run) or new_task(dag.dag_id, "", "", dag.run, world.offset, now_ms)


def _task(row: Any, rules: Ruleset) -> TaskState | None:
    if row is None or row.rules_hash != rules.hash:  # other rules: the Dag file changed; they begin anew
        return None
    return TaskState(
        row.dag_id,
        row.run_id,
        row.task_id,
        rules,
        bytes(row.state),
        row.due_ms,
        json.loads(row.pending),
        json.loads(row.started) if row.started else None,
        json.loads(row.stopping) if row.stopping else None,
        dict(row._mapping),
    )


def _save_run(session: Session, run: Run) -> None:
    seen = json.dumps(run.seen, sort_keys=True)
    if run.stored_seen is None:
        session.execute(
            insert(models.run).values(
                dag_id=run.dag_id,
                run_id=run.run_id,
                since=run.since,
                created_ms=run.created_ms,
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
    if task.stored is None:
        table = models.rule_state
        key = (table.c.dag_id == task.dag_id, table.c.run_id == task.run_id, table.c.task_id == task.task_id)
        session.execute(delete(table).where(*key))  # of other rules
        session.execute(insert(table).values(**row))
    elif any(task.stored[name] != value for name, value in row.items()):
        table = models.rule_state
        session.execute(
            update(table)
            .where(table.c.dag_id == task.dag_id, table.c.run_id == task.run_id, table.c.task_id == task.task_id)
            .values(**row)
        )
