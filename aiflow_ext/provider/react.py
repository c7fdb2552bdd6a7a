"""One transaction: the events after our offset, through the rules, into actions; all of it, or nothing.

    lock the consumer -> read events -> read runs, tries and rule state -> task states become events
    -> feed rules -> act -> save state, actions and offset -> commit

docs/rules.md says what each rule means, docs/design.md why twice is impossible.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import get_dialect_name
from airflow.utils.state import DagRunState
from sqlalchemy import insert, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from aiflow_ext import _core
from aiflow_ext._event import Event
from aiflow_ext.errors import CorruptError, RetentionError
from aiflow_ext.provider import apply, dagruns, status, stop
from aiflow_ext.provider.assets import AssetNews, Watchers
from aiflow_ext.provider.config import Config
from aiflow_ext.provider.db import models
from aiflow_ext.provider.metrics import Work
from aiflow_ext.provider.points import point
from aiflow_ext.provider.registry import Registry
from aiflow_ext.provider.state import Key, Run, TaskState, Try, World, load, load_tries, new_task, save
from aiflow_ext.provider.tell import Teller
from aiflow_ext.provider.watcher import go_on_from

log = structlog.get_logger(__name__)

CONSUMER = "scheduler"
BATCH = 1000  # events a transaction reads
ROUNDS = 20  # transactions of one react(); the rest waits for the next pass, so stock scheduling goes on

Fired = tuple[int, str, list[int]]


@dataclass
class Reaction:
    """What a reaction left behind: runs to examine, whether to look again soon, when something is due (ms)."""

    dirty: set[Key] = field(default_factory=set)
    busy: bool = False
    due_ms: int | None = None
    made_runs: bool = False
    work: Work = field(default_factory=Work)


class Reactor:
    """The consumer of the log in a scheduler.  Opens its handles in the process and at the moment it is made.

    :param broker_up: whether a broker may answer.
    """

    def __init__(self, config: Config, dag_bag: Any, job_id: int | None, broker_up: Callable[[], bool]) -> None:
        self.registry = Registry()
        self._config = config
        self._dag_bag = dag_bag
        self._job_id = job_id
        self._log = _core.EventLog(config.log)
        self._client = _core.Client(config.broker, config.curve())
        self._stops = stop.Stops(self._client, config.stop_grace_sec)
        self._watchers = Watchers(self._log)
        self._teller = Teller(self._client, AssetNews() if config.asset_events else None, broker_up)

    def close(self) -> None:
        """Close the handles."""
        self._client.close()
        self._log.close()

    def react(self) -> Reaction:
        """Act on everything that has happened.

        :raises Error: the log or Airflow's database failed; nothing was done, the next call does it.
        """
        reaction = Reaction()
        for _ in range(ROUNDS):
            try:
                with create_session() as session:
                    again = _Transaction(self, session, reaction).run()
            except BaseException:
                self._watchers.forget()
                self._teller.forget()
                raise
            self._stops.carry_out()
            if not again:
                return reaction
        reaction.busy = True
        return reaction


class _Transaction:
    """One round.  Everything it changes, it changes through its session."""

    def __init__(self, reactor: Reactor, session: Session, reaction: Reaction) -> None:
        self.r = reactor
        self.session = session
        self.reaction = reaction
        self.now_ms = time.time_ns() // 1_000_000
        self.events: dict[int, Event] = {}
        self.locked: set[Key] = set()
        self.acted = False
        self.head = 0

    def run(self) -> bool:
        """Do the round; return whether there is (or may be) more."""
        self.r.registry.refresh(self.session)
        offset = self.session.scalar(select(models.consumer.c.offset).where(models.consumer.c.name == CONSUMER))
        if offset is None:
            offset = self._first_offset()
        if not self._something_to_do(offset):
            return False
        if not self._lock():
            self.reaction.busy = True
            return False
        point("apply.locked")
        batch = self._read_events()
        self.world = load(self.session, self.r.registry, CONSUMER, self.now_ms)
        told = self.r._teller.tell(self.session, self.world, self.reaction.work)
        self._settle()
        self._index()
        for event in batch:
            self._feed(event)
        self._tick()
        self._settle()
        more = self._feed_watchers(batch)
        point("apply.acted")
        save(self.session, self.world, CONSUMER, batch[-1].offset if batch else self.world.offset)
        point("apply.saved")
        self.session.commit()
        point("apply.committed")
        self._note_due()
        return told or more or self.acted or (bool(batch) and batch[-1].offset < self.head)

    # What there is

    def _first_offset(self) -> int:
        """A new consumer begins at the log's end: what was published before has nobody waiting for it."""
        head = self.r._log.head()
        insert_ignore = 'INSERT INTO aiflow_consumer (name, "offset") VALUES (:n, :o) ON CONFLICT (name) DO NOTHING'
        self.session.execute(text(insert_ignore), {"n": CONSUMER, "o": head})
        self.session.commit()
        return head

    def _something_to_do(self, offset: int) -> bool:
        """Look without a lock and without a write: an idle scheduler must not wake itself."""
        self.head = head = self.r._log.head()
        if head < offset:
            raise CorruptError(
                f"the log ends at offset {head}, but events up to {offset} have been acted on: it is another log. "
                f"To go on with it: UPDATE aiflow_consumer SET \"offset\" = {head} WHERE name = '{CONSUMER}'"
            )
        if head > offset:
            self.reaction.work.backlog = max(self.reaction.work.backlog, head - offset)
            return True
        world = load(self.session, self.r.registry, CONSUMER, self.now_ms)
        self._due(world)
        fresh = any(run.stored_seen is None for run in world.runs.values())
        due = self.reaction.due_ms is not None and self.reaction.due_ms <= self.now_ms
        waiting = any(self._can_settle(run, task) for run, task in world.tasks())
        if world.ended or fresh or due or waiting:
            return True
        return self.r._teller.waiting(self.session, world) or self.r._watchers.behind(self.session, offset)

    def _lock(self) -> bool:
        """Hold the consumer's row: one scheduler reacts at a time, another one goes on with its own work."""
        if get_dialect_name(self.session) == "sqlite":
            self.session.execute(
                text('UPDATE aiflow_consumer SET "offset" = "offset" WHERE name = :n'), {"n": CONSUMER}
            )
            return True
        row = select(models.consumer.c.offset).where(models.consumer.c.name == CONSUMER)
        return self.session.execute(row.with_for_update(skip_locked=True)).first() is not None

    def _read_events(self) -> list[Event]:
        """Before the runs are read: a run made before an event was published is then always seen."""
        offset = self.session.scalar(select(models.consumer.c.offset).where(models.consumer.c.name == CONSUMER)) or 0
        try:
            batch = self.r._log.read(offset, BATCH)
        except RetentionError as e:
            raise RetentionError(
                f"{e}; rules have not seen those. To go on without them: "
                f"UPDATE aiflow_consumer SET \"offset\" = {go_on_from(e)} WHERE name = '{CONSUMER}'"
            ) from None
        self.events = {event.offset: event for event in batch}
        self.reaction.work.events += len(batch)
        if batch and self.reaction.work.oldest_ms is None:
            self.reaction.work.oldest_ms = batch[0].create_time
        return batch

    def _feed_watchers(self, batch: Sequence[Event]) -> bool:
        """Events become asset events, which may start Dag runs: a full pass looks."""
        stored, more = self.r._watchers.feed(self.session, self.world.offset, batch)
        self.reaction.made_runs |= bool(stored)
        self.reaction.work.stored += stored
        return more

    # Rules

    def _index(self) -> None:
        """Which rules does an event touch?"""
        self.match = _core.Match()
        self.listeners: list[tuple[Run | None, TaskState]] = [*self.world.tasks()]
        self.listeners += [(None, task) for task in self.world.dags.values()]
        for number, (_, task) in enumerate(self.listeners):
            self._add(number, task)

    def _add(self, number: int, task: TaskState) -> None:
        for pattern in task.rules.patterns:
            self.match.add(pattern, number)

    def _feed(self, event: Event) -> None:
        for number in self.match.find(event):
            run, task = self.listeners[number]
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
            if ti.state in ("scheduled", "queued") and apply.add_events(self.session, ti, self._events(offsets, task)):
                return ti.state
            _merge(task.pending, entry)
            if task.stopping is None:
                task.stopping = self.r._stops.begin(ti, self.now_ms, restart=True, state="success")
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
        if ti is None or apply.ended(ti):
            return ti.state if ti else ""
        state = rule.get("state") or "success"
        if ti.state == "running" or task.stopping is not None:
            if task.stopping is None:
                task.stopping = self.r._stops.begin(ti, self.now_ms, restart=False, state=state)
            else:
                task.stopping |= {"restart": False, "state": state}
            return "stopping"
        never_ran = ti.parked or ti.state in ("", "scheduled", "queued")
        wanted = "skipped" if never_ran else state
        if apply.set_state(self.session, ti, wanted, [ti.state]):
            return wanted
        load_tries(self.session, run)  # it began to run meanwhile: the stop is kept for it
        now = run.tries[task.task_id]
        task.stopping = self.r._stops.begin(now, self.now_ms, restart=False, state=state)
        return "stopping"

    def _hold(self, run: Run) -> None:
        """Lock the run's row as the stock scheduler does, and read its tries again: nobody changes them now."""
        key = (run.dag_id, run.run_id)
        if key in self.locked:
            return
        row = select(DagRun.state).where(DagRun.dag_id == run.dag_id, DagRun.run_id == run.run_id)
        state = self.session.scalar(row.with_for_update(of=DagRun))
        run.state = str(getattr(state, "value", state) or "")
        self.locked.add(key)
        load_tries(self.session, run)

    # What waits

    def _settle(self) -> None:
        for run, task in list(self.world.tasks()):
            if self._can_settle(run, task):
                self._hold(run)
                with self._contained(task):
                    self._settle_task(run, task)

    def _can_settle(self, run: Run, task: TaskState) -> bool:
        ti = run.tries.get(task.task_id)
        if ti is None or not run.running:
            return False
        if task.stopping is not None:
            return self.r._stops.over(task.stopping, ti) or self.r._stops.due_ms(task.stopping) <= self.now_ms
        if task.started is not None and (ti.parked or apply.ended(ti)):
            return True
        return bool(task.pending) and (ti.parked or apply.ended(ti))

    def _settle_task(self, run: Run, task: TaskState) -> None:
        """Do what waited for this moment: the end of a stop, a pending start, a retry of what an event started."""
        ti = run.tries.get(task.task_id)
        if ti is None or not run.running:
            return
        if task.stopping is not None:
            if not self.r._stops.settle(self.session, task, ti, self.now_ms):
                return
            self.reaction.dirty.add((run.dag_id, run.run_id))
        if apply.ended(ti):
            task.started = None
        if task.pending and (ti.parked or apply.ended(ti)):
            self._start_now(run, task, ti)
        elif ti.parked and task.started is not None:  # Airflow retries: the same events start it again
            apply.resume(self.session, ti, self._events(task.started["events"], task))

    def _start_now(self, run: Run, task: TaskState, ti: Try) -> None:
        entry = task.pending[0]
        events = self._events(entry["events"], task)
        if ti.parked:
            done = apply.resume(self.session, ti, events)
        else:
            done = apply.start_again(
                self.session, run, task, events, self._dag(run), down=bool(entry.get("downstream"))
            )
        if done:
            task.started = task.pending.pop(0)
            self.acted = True
        elif apply.ended(ti) and not self._upstream_moves(run, task):
            dropped = task.pending.pop(0)
            log.warning(
                "aiflow: no start, the upstream did not end as it needs", offsets=dropped["events"], **_fields(task)
            )
        self.reaction.dirty.add((run.dag_id, run.run_id))

    def _upstream_moves(self, run: Run, task: TaskState) -> bool:
        upstream = self._dag(run).get_task(task.task_id).upstream_task_ids
        return any(ti.task_id in upstream and not apply.ended(ti) for ti in run.tries.values())

    # Rules on Dags

    def _act_on_dag(self, task: TaskState, rule: dict[str, Any], kind: str, offsets: list[int]) -> tuple[str, str]:
        dag = self.r._dag_bag.get_latest_version_of_dag(task.dag_id, session=self.session)
        if dag is None or not offsets:
            return "", ""
        events = self._events(offsets, task)
        if not events:
            return "", ""
        if kind == "stop":
            return "", self._stop_runs(dag, events[-1], rule.get("state") or "success")
        made = dagruns.create(self.session, dag, rule["name"], events, self.r._job_id)
        if made is None:
            return "", ""
        self.reaction.made_runs = True
        self._adopt(made, events[-1])
        return "", "queued"

    def _adopt(self, made: DagRun, event: Event) -> None:
        """The rest of this batch is for the new run, too."""
        rules = self.r.registry.of_run(self.session, made.dag_id, None)
        assert rules is not None
        run = Run(made.dag_id, made.run_id, "queued", rules, event.offset, 0, event.context, {})
        self.world.runs[made.dag_id, made.run_id] = run
        for task_id, ruleset in rules.tasks.items():
            task = new_task(made.dag_id, made.run_id, task_id, ruleset, event.offset, self.now_ms)
            run.tasks[task_id] = task
            self.listeners.append((run, task))
            self._add(len(self.listeners) - 1, task)

    def _stop_runs(self, dag: Any, event: Event, state: str) -> str:
        for run in [r for r in self.world.runs.values() if r.dag_id == dag.dag_id and _reaches(event, r)]:
            self._hold(run)
            if run.state not in (DagRunState.RUNNING.value, DagRunState.QUEUED.value):
                continue
            for ti in run.tries.values():
                if ti.state == "running":
                    self.r._stops.ask(str(ti.id))
            dagruns.stop(self.session, dag, run.run_id, state)
            run.state = state
            self.reaction.dirty.add((run.dag_id, run.run_id))
        return state

    # Small things

    def _dag(self, run: Run) -> Any:
        row = self.session.scalar(select(DagRun).where(DagRun.dag_id == run.dag_id, DagRun.run_id == run.run_id))
        return self.r._dag_bag.get_dag_for_run(dag_run=row, session=self.session)

    def _events(self, offsets: Iterable[int], task: TaskState) -> list[Event]:
        """The events at these offsets; those of earlier batches from the log, where they still are."""
        found = (self.events.get(offset) or self._stored(offset, task) for offset in offsets)
        return [event for event in found if event is not None]

    def _stored(self, offset: int, task: TaskState) -> Event | None:
        """Ask by namespace: what was let go is known of each."""
        for namespace in {pattern[0] for pattern in task.rules.patterns}:
            with suppress(RetentionError):
                for event in self.r._log.read(offset - 1, 1, (namespace, "*", "*", "*", "*")):
                    if event.offset == offset:
                        return event
        log.warning("aiflow: an event that started it is no longer in the log", offset=offset, **_fields(task))
        return None

    def _note_due(self) -> None:
        self.reaction.due_ms = None
        self._due(self.world)

    def _due(self, world: World) -> None:
        times = [t.due_ms for run, t in world.tasks() if t.due_ms is not None and run.running]
        times += [self.r._stops.due_ms(t.stopping) for _, t in world.tasks() if t.stopping is not None]
        self.reaction.due_ms = min(times, default=None)


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
