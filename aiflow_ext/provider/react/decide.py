"""What rules fire at a batch of events, and what is done about it, through the transaction's session.

    settle what waited -> feed each event to the rules it touches -> what is due by time -> settle again

Of the rules of a task the first that fires decides.  docs/rules.md says what each means; act/ does it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from airflow.models.dagrun import DagRun
from airflow.utils.state import DagRunState
from sqlalchemy import insert, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from aiflow_ext import _core
from aiflow_ext._event import Event
from aiflow_ext.errors import RetentionError
from aiflow_ext.provider.act import runs, tasks
from aiflow_ext.provider.act.stop import Stops
from aiflow_ext.provider.db import models
from aiflow_ext.provider.metrics import Work
from aiflow_ext.provider.react import status
from aiflow_ext.provider.world.registry import Registry
from aiflow_ext.provider.world.runs import Key, Run, TaskState, Try, World, load_tries, new_task

log = structlog.get_logger(__name__)

Fired = tuple[int, str, list[int]]


@dataclass(frozen=True)
class Means:
    """What decisions are made and carried out with; a scheduler has one, for as long as it lives."""

    registry: Registry
    log: _core.EventLog
    stops: Stops
    dag_bag: Any
    job_id: int | None


@dataclass
class Reaction:
    """What a reaction left behind: runs to examine, whether to look again soon, when something is due (ms)."""

    dirty: set[Key] = field(default_factory=set)
    busy: bool = False
    due_ms: int | None = None
    made_runs: bool = False
    work: Work = field(default_factory=Work)


class Decisions:
    """What one transaction decides, and does.

    `acted` says that a rule fired or a start was carried out, so there may be more to do in the next round.
    """

    def __init__(self, means: Means, session: Session, reaction: Reaction, world: World, now_ms: int) -> None:
        self.means = means
        self.session = session
        self.reaction = reaction
        self.world = world
        self.now_ms = now_ms
        self.acted = False
        self._events_read: dict[int, Event] = {}
        self._locked: set[Key] = set()

    def decide(self, batch: Sequence[Event]) -> None:
        """Bring every rule up to date with the batch and with the time, and act."""
        self._events_read = {event.offset: event for event in batch}
        self._settle()
        self._index()
        for event in batch:
            self._feed(event)
        self._tick()
        self._settle()

    # Rules

    def _index(self) -> None:
        """Which rules does an event touch?"""
        self._match = _core.Match()
        self._listeners: list[tuple[Run | None, TaskState]] = [*self.world.tasks()]
        self._listeners += [(None, task) for task in self.world.dags.values()]
        for number, (_, task) in enumerate(self._listeners):
            self._add(number, task)

    def _add(self, number: int, task: TaskState) -> None:
        for pattern in task.rules.patterns:
            self._match.add(pattern, number)

    def _feed(self, event: Event) -> None:
        for number in self._match.find(event):
            run, task = self._listeners[number]
            if run is not None and not _reaches(event, run):
                continue
            own = run is not None and event.namespace == status.NAMESPACE and event.sender == run.run_id
            task.core, fired = task.rules.core.feed(task.core, event, own)
            self._decide(run, task, fired, str(event.offset))

    def _tick(self) -> None:
        for run, task in self.world.tasks():
            if task.due_ms is not None and task.due_ms <= self.now_ms and run.running:
                task.core, fired = task.rules.core.tick(task.core, self.now_ms)
                self._decide(run, task, fired, f"t{task.due_ms}")
                task.due_ms = task.rules.core.due(task.core)

    def _decide(self, run: Run | None, task: TaskState, fired: Sequence[Fired], cause: str) -> None:
        """The first rule that fires decides; all that fired have consumed their events."""
        if not fired:
            return
        index, kind, offsets = fired[0]
        rule = task.rules.rules[index]
        before, after = "", "error"
        with self._contained(task):
            if run is None:
                before, after = self._act_on_dag(task, rule, kind, offsets)
            else:
                before, after = self._act(run, task, rule, kind, offsets)
        self.acted = True
        self.reaction.work.actions[kind] += 1
        row = {
            "dag_id": task.dag_id,
            "run_id": task.run_id,
            "task_id": task.task_id,
            "rule": rule["name"],
            "cause": cause,
            "action": kind,
            "offsets": json.dumps(offsets),
            "before": before,
            "after": after,
            "at_ms": self.now_ms,
        }
        self.session.execute(insert(models.action).values(**row))
        shown = {"rule": rule["name"], "action": kind, "offsets": offsets, "before": before, "after": after}
        log.info("aiflow: a rule fired", **_fields(task), **shown)

    @contextmanager
    def _contained(self, task: TaskState) -> Iterator[None]:
        """A Dag that makes Airflow raise must not stop the events of all others: undo its part, say so, go on."""
        try:
            with self.session.begin_nested():
                yield
        except OperationalError:
            raise
        except Exception:
            log.exception("aiflow: an action failed and is given up", **_fields(task))
            task.pending.clear()
            task.stopping = None

    # Actions on tasks

    def _act(self, run: Run, task: TaskState, rule: dict[str, Any], kind: str, offsets: list[int]) -> tuple[str, str]:
        self._hold(run)
        ti = run.tries.get(task.task_id)
        before = ti.state if ti else ""
        after = self._stop(run, task, ti, rule) if kind == "stop" else self._start(run, task, ti, rule, kind, offsets)
        self.reaction.dirty.add((run.dag_id, run.run_id))
        return before, after

    def _start(
        self, run: Run, task: TaskState, ti: Try | None, rule: dict[str, Any], kind: str, offsets: list[int]
    ) -> str:
        entry = {"events": offsets, "downstream": bool(rule.get("downstream"))}
        alive = ti is not None and (ti.alive or task.stopping is not None)
        if kind == "restart" and ti is not None and alive:
            if ti.state in ("scheduled", "queued") and tasks.add_events(self.session, ti, self._events(offsets, task)):
                return ti.state
            _merge(task.pending, entry)
            if task.stopping is None:
                task.stopping = self.means.stops.begin(ti, self.now_ms, restart=True, state="success")
            else:
                task.stopping["restart"] = True
            return "stopping"
        how = rule.get("while_running") or "once"
        if alive and how == "ignore":
            return ti.state if ti else ""
        if how == "each":
            task.pending.append(entry)
        else:
            _merge(task.pending, entry)
        self._settle_task(run, task)
        ti = run.tries.get(task.task_id)
        return "pending" if task.pending else (ti.state if ti else "")

    def _stop(self, run: Run, task: TaskState, ti: Try | None, rule: dict[str, Any]) -> str:
        task.pending.clear()
        if ti is None or tasks.ended(ti):
            return ti.state if ti else ""
        state = rule.get("state") or "success"
        if ti.state == "running" or task.stopping is not None:
            if task.stopping is None:
                task.stopping = self.means.stops.begin(ti, self.now_ms, restart=False, state=state)
            else:
                task.stopping |= {"restart": False, "state": state}
            return "stopping"
        never_ran = ti.parked or ti.state in ("", "scheduled", "queued")
        wanted = "skipped" if never_ran else state
        if tasks.set_state(self.session, ti, wanted, [ti.state]):
            return wanted
        load_tries(self.session, run)  # it began to run meanwhile: the stop is kept for it
        now = run.tries[task.task_id]
        task.stopping = self.means.stops.begin(now, self.now_ms, restart=False, state=state)
        return "stopping"

    def _hold(self, run: Run) -> None:
        """Lock the run's row as the stock scheduler does, and read its tries again: nobody changes them now."""
        key = (run.dag_id, run.run_id)
        if key in self._locked:
            return
        row = select(DagRun.state).where(DagRun.dag_id == run.dag_id, DagRun.run_id == run.run_id)
        state = self.session.scalar(row.with_for_update(of=DagRun))
        run.state = str(getattr(state, "value", state) or "")
        self._locked.add(key)
        load_tries(self.session, run)

    # What waits

    def _settle(self) -> None:
        for run, task in list(self.world.tasks()):
            if can_settle(self.means.stops, run, task, self.now_ms):
                self._hold(run)
                with self._contained(task):
                    self._settle_task(run, task)

    def _settle_task(self, run: Run, task: TaskState) -> None:
        """Do what waited for this moment: the end of a stop, a pending start, a retry of what an event started."""
        ti = run.tries.get(task.task_id)
        if ti is None or not run.running:
            return
        if task.stopping is not None:
            if not self.means.stops.settle(self.session, task, ti, self.now_ms):
                return
            self.reaction.dirty.add((run.dag_id, run.run_id))
        if tasks.ended(ti):
            task.started = None
        if task.pending and (ti.parked or tasks.ended(ti)):
            self._start_now(run, task, ti)
        elif ti.parked and task.started is not None:  # Airflow retries: the same events start it again
            tasks.resume(self.session, ti, self._events(task.started["events"], task))

    def _start_now(self, run: Run, task: TaskState, ti: Try) -> None:
        entry = task.pending[0]
        events = self._events(entry["events"], task)
        if ti.parked:
            done = tasks.resume(self.session, ti, events)
        else:
            done = tasks.start_again(
                self.session, run, task, events, self._dag(run), down=bool(entry.get("downstream"))
            )
        if done:
            task.started = task.pending.pop(0)
            self.acted = True
        elif tasks.ended(ti) and not self._upstream_moves(run, task):
            dropped = task.pending.pop(0)
            log.warning(
                "aiflow: no start, the upstream did not end as it needs", offsets=dropped["events"], **_fields(task)
            )
        self.reaction.dirty.add((run.dag_id, run.run_id))

    def _upstream_moves(self, run: Run, task: TaskState) -> bool:
        upstream = self._dag(run).get_task(task.task_id).upstream_task_ids
        return any(ti.task_id in upstream and not tasks.ended(ti) for ti in run.tries.values())

    # Rules on Dags

    def _act_on_dag(self, task: TaskState, rule: dict[str, Any], kind: str, offsets: list[int]) -> tuple[str, str]:
        dag = self.means.dag_bag.get_latest_version_of_dag(task.dag_id, session=self.session)
        if dag is None or not offsets:
            return "", ""
        events = self._events(offsets, task)
        if not events:
            return "", ""
        if kind == "stop":
            return "", self._stop_runs(dag, events[-1], rule.get("state") or "success")
        made = runs.create(self.session, dag, rule["name"], events, self.means.job_id)
        if made is None:
            return "", ""
        self.reaction.made_runs = True
        self._adopt(made, events[-1])
        return "", "queued"

    def _adopt(self, made: DagRun, event: Event) -> None:
        """The rest of this batch is for the new run, too."""
        rules = self.means.registry.of_run(self.session, made.dag_id, None)
        assert rules is not None
        run = Run(made.dag_id, made.run_id, "queued", rules, event.offset, 0, event.context, {})
        self.world.runs[made.dag_id, made.run_id] = run
        for task_id, ruleset in rules.tasks.items():
            task = new_task(made.dag_id, made.run_id, task_id, ruleset, event.offset, self.now_ms)
            run.tasks[task_id] = task
            self._listeners.append((run, task))
            self._add(len(self._listeners) - 1, task)

    def _stop_runs(self, dag: Any, event: Event, state: str) -> str:
        for run in [r for r in self.world.runs.values() if r.dag_id == dag.dag_id and _reaches(event, r)]:
            self._hold(run)
            if run.state not in (DagRunState.RUNNING.value, DagRunState.QUEUED.value):
                continue
            for ti in run.tries.values():
                if ti.state == "running":
                    self.means.stops.ask(str(ti.id))
            runs.stop(self.session, dag, run.run_id, state)
            run.state = state
            self.reaction.dirty.add((run.dag_id, run.run_id))
        return state

    # What actions are given

    def _dag(self, run: Run) -> Any:
        row = self.session.scalar(select(DagRun).where(DagRun.dag_id == run.dag_id, DagRun.run_id == run.run_id))
        return self.means.dag_bag.get_dag_for_run(dag_run=row, session=self.session)

    def _events(self, offsets: Iterable[int], task: TaskState) -> list[Event]:
        """The events at these offsets; those of earlier batches from the log, where they still are."""
        found = (self._events_read.get(offset) or self._stored(offset, task) for offset in offsets)
        return [event for event in found if event is not None]

    def _stored(self, offset: int, task: TaskState) -> Event | None:
        """Ask by namespace: what was let go is known of each."""
        for namespace in {pattern[0] for pattern in task.rules.patterns}:
            with suppress(RetentionError):
                for event in self.means.log.read(offset - 1, 1, (namespace, "*", "*", "*", "*")):
                    if event.offset == offset:
                        return event
        log.warning("aiflow: an event that started it is no longer in the log", offset=offset, **_fields(task))
        return None


def can_settle(stops: Stops, run: Run, task: TaskState, now_ms: int) -> bool:
    """Whether what waited for this moment can be done: the end of a stop, a pending start, a retry."""
    ti = run.tries.get(task.task_id)
    if ti is None or not run.running:
        return False
    if task.stopping is not None:
        return stops.over(task.stopping, ti) or stops.due_ms(task.stopping) <= now_ms
    waiting = bool(task.pending) or task.started is not None
    return waiting and (ti.parked or tasks.ended(ti))


def _reaches(event: Event, run: Run) -> bool:
    """Whether an event is for a run: not older than it, and of its context or of none."""
    if event.offset <= run.since or event.create_time < run.created_ms:
        return False
    return event.context is None or event.context == run.context


def _fields(task: TaskState) -> dict[str, str]:
    """Which one, for the log."""
    return {"dag_id": task.dag_id, "run_id": task.run_id, "task_id": task.task_id}


def _merge(pending: list[dict[str, Any]], entry: dict[str, Any]) -> None:
    """Keep one start, with all events."""
    if not pending:
        pending.append(entry)
        return
    first = pending[0]
    first["events"] = sorted({*first["events"], *entry["events"]})
    first["downstream"] = first["downstream"] or entry["downstream"]
