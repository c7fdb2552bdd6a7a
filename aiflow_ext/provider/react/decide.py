"""What rules fire at a batch of events, and what is done about it, through the transaction's session.

    settle what waited -> feed each event to the rules it touches -> feed Dags that are behind -> what is due by time
    -> settle again

Of the rules of a task the first that fires decides.  docs/rules.md says what each means; starts.py says what follows
for the task, and act/ does it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from airflow.models.dagrun import DagRun
from airflow.utils.sqlalchemy import with_row_locks
from sqlalchemy import insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from aiflow_ext import _core
from aiflow_ext._event import Event
from aiflow_ext.errors import RetentionError
from aiflow_ext.provider.act import runs, tasks
from aiflow_ext.provider.act.stop import Stops
from aiflow_ext.provider.act.workers import Process
from aiflow_ext.provider.db import models
from aiflow_ext.provider.db.session import savepoint
from aiflow_ext.provider.metrics import Work
from aiflow_ext.provider.points import point
from aiflow_ext.provider.react import starts, status
from aiflow_ext.provider.world.begins import known
from aiflow_ext.provider.world.blame import Blame, Key, is_its_own
from aiflow_ext.provider.world.registry import Registry
from aiflow_ext.provider.world.runs import Run, chunks, load_tries, of_keys
from aiflow_ext.provider.world.task import TaskState, Try, new_task
from aiflow_ext.provider.world.world import World

log = structlog.get_logger(__name__)

Fired = tuple[int, str, list[int]]
Read = Callable[[int, int], Sequence[Event]]
Held = dict[str, tuple[int, bool]]
"""Dags that have not heard an event: the offset before it, and whether it has not stopped all runs that it shall."""
T = TypeVar("T")

ACTIONS = 200  # of each part of a transaction: what waited, events, what is due
STOPS = 100  # runs that one firing of a rule on their Dag stops in a transaction: some 10 ms each
SLICE_SEC = 1.0  # that such a part takes, and that react() goes on: then Airflow makes its pass, and gives a heartbeat
KEPT_BYTES = 8 << 20  # of values of events of earlier batches; then one that is asked for again is read again
KEPT_RUNS = 100  # of a Dag that is paused, or away; the newest
KEPT_AT_ONCE = 10  # are made in a transaction, at about 0.1 s each


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
        self._actions, self._began = 0, 0.0  # in this part
        self._most, self._sec = ACTIONS, SLICE_SEC  # that there may be in it
        self._acted: set[str] = set()  # Dags, while events are fed
        self._heard = Counter[str]()  # how many rules of each Dag have heard one
        self._unfinished = False  # a rule has not yet stopped all runs that it shall
        self._done: list[dict[str, Any]] = []  # rows of aiflow_action
        self._events_read: dict[int, Event] = {}
        self._kept_bytes = 0
        self._latest: dict[str, tuple[Any, bool]] = {}
        self._locked: set[Key] = set()

    def decide(self, batch: Sequence[Event], head: int, read: Read) -> Sequence[Event]:
        """Bring every rule up to date with the log and with the time, and act.

        :param batch: the next events of all Dags that are not behind.
        :param head: of the log, when these were read: what comes later may be for runs that are not known yet.
        :param read: returns some of the events beyond an offset, up to another one.
        :return: the events that these Dags have heard, or are behind; the others are for the next transaction.
        """
        progress = self.world.progress
        self._settle()
        heard, held = self._hear(_pages(batch, head, read), lambda dag_id: dag_id not in progress.behind)
        progress.ahead = heard[-1].offset if heard else progress.ahead
        for dag_id, (offset, unfinished) in held.items():
            progress.move(dag_id, offset, unfinished=unfinished)
        if held:
            log.info("aiflow: Dags are behind the others", dags=len(held), such_as=[*held][:10], offset=progress.ahead)
        self._catch_up(read)
        self._tick()
        self._settle()
        self._make_kept_runs()
        self._note_done()
        for task in self.world.touched():
            if lost := task.dropped:
                shown = {"starts": len(lost), "first": lost[0]["events"][-1:], "last": lost[-1]["events"][-1:]}
                log.warning("aiflow: too many starts wait, the oldest are dropped", **shown, **task.who)
                lost.clear()
        return heard

    # Rules

    def _begin_part(self, of: int = 1) -> None:
        """:param of: how many such parts share what may be done in one."""
        self._actions, self._began = 0, time.monotonic()
        self._most, self._sec = max(1, ACTIONS // of), SLICE_SEC / of

    def _is_enough(self) -> bool:
        return self._actions >= self._most or time.monotonic() - self._began >= self._sec

    def _catch_up(self, read: Read) -> None:
        """Feed the Dags that are behind, and whose turn it is."""
        progress = self.world.progress
        if (turn := progress.turn()) is None:
            return
        offset, dags = turn
        of = 1 if len(dags) == 1 and not self._acted else 2
        heard, held = self._hear(read(offset, progress.ahead), dags.__contains__, len(dags), of)
        end = heard[-1].offset if heard else progress.ahead  # a page may be short; after the last one there is none
        for dag_id in sorted(dags):
            at, unfinished = held.get(dag_id, (end, False))
            progress.move(dag_id, at, unfinished=unfinished)

    def _hear(
        self, events: Iterable[Event], meant: Callable[[str], bool], dags: int | None = None, of: int = 2
    ) -> tuple[Sequence[Event], Held]:
        """Feed events to Dags, until enough is done.  Then the busy ones are held where they are, and the others hear
        on, until once more enough is done.

        :param meant: whether the events are for a Dag.
        :param dags: for how many they are, if that is known.
        :param of: see _begin_part().
        :return: the events that were fed, and the Dags that have not heard all of these.
        """
        held: Held = {}
        fed: list[Event] = []
        self._acted.clear()
        self._heard.clear()
        self._begin_part(of)  # what waited is not counted: each transaction gets on with its events
        others = False
        for event in events:
            if fed and self._is_enough():
                held |= dict.fromkeys(self._busy() - held.keys(), (fed[-1].offset, False))
                if others or len(held) == dags:
                    break
                others = True
                self._begin_part(2)
            self._feed(event, meant, held)
            fed.append(event)
        return fed, held

    def _busy(self) -> set[str]:
        """The Dags that have acted, and those whose rules hear most: that takes time, too."""
        most = max(self._heard.values(), default=0)
        return self._acted | {dag_id for dag_id, number in self._heard.items() if 2 * number > most}

    def _feed(self, event: Event, meant: Callable[[str], bool], held: Held) -> None:
        """Let Dags hear an event.  One for which not all can be done now is held: it hears this event again later, and
        those of its rules that have heard it do nothing then (R7)."""
        fires: list[tuple[Run | None, TaskState, bytes, list[Fired]]] = []
        late: set[str] = set()
        for run, task in self.world.listening(event):
            if task.dag_id in held or not meant(task.dag_id) or (run is not None and not _reaches(event, run)):
                continue
            if len(fires) > self._most - self._actions:  # its turn does not come in this transaction
                late.add(task.dag_id)
            if task.dag_id in late:
                continue
            own = run is not None and event.namespace == status.NAMESPACE and event.sender == run.run_id
            key = task.dag_id, task.run_id
            self._events_read[event.offset] = event
            self._heard[task.dag_id] += 1
            with Blame(key):
                core, fired = task.rules.core.feed(task.core, event, own)
                if fired:  # whoever's turn does not come in this transaction has not heard it
                    fires.append((run, task, core, fired))
                elif core != task.core:
                    self.world.touch(key)
                    task.core = core
        self._hold(*{run.key: run for run, *_ in fires[: self._most - self._actions] if run is not None}.values())
        done: set[str] = set()
        for run, task, core, fired in fires:
            dag_id = task.dag_id
            if dag_id in held:
                continue
            if self._acted and self._is_enough():
                held[dag_id] = event.offset - 1, False
                continue
            if run is not None and not run.active:  # it is over, and nobody has told us
                self.world.read_again(run.key)
                continue
            with Blame((dag_id, task.run_id)):
                self.world.touch((dag_id, task.run_id))
                before, task.core = task.core, core
                self._decide(run, task, fired, str(event.offset))
                self._acted.add(dag_id)
                done.add(dag_id)
                if self._unfinished:
                    self._unfinished, task.core = False, before
                    held[dag_id] = event.offset - 1, True
        for dag_id in late - held.keys():
            held[dag_id] = event.offset - 1, False
        for dag_id in done - held.keys():
            self.world.progress.stopped.pop(dag_id, None)

    def _tick(self) -> None:
        self._begin_part()
        due = self.world.due(self.now_ms, ACTIONS)
        self.acted |= len(due) == ACTIONS
        self._hold(*{run.key: run for run, _ in due}.values())
        for n, (run, task) in enumerate(due):
            if n and self._is_enough():  # they were touched, so they are noted as due again
                break
            if not run.running:
                self.world.read_again(run.key)
                continue
            with Blame((task.dag_id, task.run_id)):
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
        if self._unfinished:  # it fires again in the next transaction, and goes on with what is left
            return
        self._actions += 1
        self.reaction.work.actions[kind] += 1
        row = task.who | {
            "rule": rule["name"],
            "cause": cause,
            "action": kind,
            "offsets": json.dumps(offsets),
            "before": before,
            "after": after,
            "at_ms": self.now_ms,
        }
        self._done.append(row)
        shown = {"rule": rule["name"], "action": kind, "offsets": offsets, "before": before, "after": after}
        if cause.isdigit():  # else it was the time
            shown |= {"key": self._events_read[int(cause)].key, "type": self._events_read[int(cause)].type}
        log.info("aiflow: a rule fired", **task.who, **shown)

    def _note_done(self) -> None:
        """Write down what was done; the database refuses what was done before."""
        if not self._done:
            return
        try:
            with savepoint(self.session):
                self.session.execute(insert(models.action), self._done)
        except DBAPIError as e:
            if not is_its_own(e):
                raise
            for row in self._done:  # whose fault was it?
                with Blame((row["dag_id"], row["run_id"])):
                    self.session.execute(insert(models.action), row)

    @contextmanager
    def _contained(self, task: TaskState) -> Iterator[None]:
        """A Dag that makes Airflow raise must not stop the events of all others: undo its part, say so, go on."""
        try:
            with savepoint(self.session):
                yield
        except Exception as e:
            self._give_up(e, **task.who)
            self.world.read_again((task.dag_id, task.run_id))
            if task.task_id:  # of a Dag these are runs that are kept
                task.pending.clear()
                task.started = task.stopping = None

    def _give_up(self, error: Exception, **who: str) -> None:
        """Go on without an action that was undone; it failed, and not a database, a log or a broker."""
        if not is_its_own(error):
            raise error
        self._locked.clear()  # PostgreSQL gives back the locks that were taken since
        log.error("aiflow: an action failed and is given up", exc_info=error, **who)

    # Actions on tasks

    def _act(self, run: Run, task: TaskState, rule: dict[str, Any], kind: str, offsets: list[int]) -> tuple[str, str]:
        self._hold(run)
        ti = run.tries.get(task.task_id)
        before = ti.state if ti else ""
        moment = moment_of(self.means.stops, run, self.now_ms)
        after = self._carry_out(run, task, starts.fire(task, ti, rule, kind, offsets, moment))
        self.reaction.dirty.add((run.dag_id, run.run_id))
        if not after and (ti := run.tries.get(task.task_id)):
            after = ti.state
        return before, after

    def _carry_out(self, run: Run, task: TaskState, decision: starts.Decision[T]) -> T:
        """Do what is decided, act by act, and return what comes of it."""
        stopping = task.stopping
        answer: Any = None
        while True:
            try:
                act = decision.send(answer)
            except StopIteration as end:
                if stopping is not None and task.stopping is None:
                    how = ("asked", "SIGTERM", "row")[stopping["stage"]]
                    took = {"after_ms": self.now_ms - stopping["since"], "restart": stopping["restart"]}
                    log.info("aiflow: a task has stopped", how=how, **task.who, **took)
                    self.reaction.dirty.add((run.dag_id, run.run_id))
                return end.value  # type: ignore[no-any-return]
            if act.do not in ("ask", "term"):  # it is about the row
                self.reaction.dirty.add((run.dag_id, run.run_id))
            done = self._do(act, run, task, run.tries[task.task_id])
            answer = done, run.tries[task.task_id]

    def _do(self, act: starts.Act, run: Run, task: TaskState, ti: Try) -> bool:
        """Carry out one act; return whether it was done."""
        match act.do:
            case "ask":
                self.means.stops.ask(str(ti.id), act.why)
            case "term":
                if ti.pid:
                    self.means.stops.term(Process(ti.pid, ti.hostname, str(ti.id)))
            case "resume":
                return self._resume(run, task, ti, act.start)
            case "again":
                return self._start_again(run, task, act.start)
            case "add":
                return tasks.add_events(self.session, ti, self._events(act.start["events"], task))
            case "restart":
                return tasks.restart_by_airflow(self.session, ti)
            case "set":
                if act.of not in ("", str(ti.id)) and tasks.cleared(self.session, ti, act.of):
                    return False
                if not tasks.set_state(self.session, ti, act.state, [act.expected]):
                    load_tries(self.session, run)
                    return False
        return True

    def _resume(self, run: Run, task: TaskState, ti: Try, start: dict[str, Any]) -> bool:
        if not task.rules.waits and not self._dag(run).has_task(ti.task_id):
            tasks.set_state(self.session, ti, "removed", [ti.state])  # as Airflow does
            return False
        if not start:
            log.info("aiflow: a task has no rules any more, and goes on without an event", **task.who)
        return tasks.resume(self.session, run, ti, self._begin(task, start))

    def _start_again(self, run: Run, task: TaskState, start: dict[str, Any]) -> bool:
        dag, down = self._dag(run), bool(start["downstream"])
        why = tasks.start_again(self.session, run, task, lambda: self._begin(task, start), dag, down=down)
        if why and "refused" not in start:
            shown = {"why": why, "offsets": start["events"]}
            log.info("aiflow: a start waits: the upstream does not allow it", **task.who, **shown)
        return not why

    def _hold(self, *runs: Run) -> None:
        """Lock the rows of runs as the stock scheduler does, and read their tries again: nobody changes them now."""
        for some in chunks(run for run in runs if run.key not in self._locked):
            rows = select(DagRun.id, DagRun.state).where(of_keys(DagRun, [run.key for run in some])).order_by(DagRun.id)
            locked = self.session.execute(with_row_locks(rows, self.session, of=DagRun))
            states = {row.id: str(getattr(row.state, "value", row.state)) for row in locked}
            for run in some:
                run.state = states.get(run.id, "")  # another run of its name is not this one
                self._locked.add(run.key)
                self.world.touch(run.key)
            load_tries(self.session, *some)

    # What waits

    def _settle(self) -> None:
        self._begin_part()
        for run, task in self.world.waiting():
            if can_settle(self.means.stops, run, task, self.now_ms):
                if self._actions and self._is_enough():
                    self.acted, self.world.first = True, run.key
                    return
                with Blame((run.dag_id, run.run_id)):
                    self._hold(run)
                    with self._contained(task):
                        owed, ti = len(task.pending), run.tries.get(task.task_id)
                        moment = moment_of(self.means.stops, run, self.now_ms)
                        self._carry_out(run, task, starts.settle(task, ti, moment))
                        self.acted |= len(task.pending) < owed
                self._actions += not can_settle(self.means.stops, run, task, self.now_ms)

    # Rules on Dags

    def _act_on_dag(self, task: TaskState, rule: dict[str, Any], kind: str, offsets: list[int]) -> tuple[str, str]:
        dag, closed = self._latest_of(task.dag_id)
        events = self._events(offsets, task)
        if dag is None or not events or kind == "none":
            return "", ""
        if kind == "stop":
            task.pending = [kept for kept in task.pending if events[-1].context not in (None, kept["context"])]
            return "", self._stop_runs(dag, rule, events[-1])
        if closed:
            kept = {"rule": rule["name"], "events": offsets, "context": events[-1].context}
            starts.wait(task, starts.bounded(kept), KEPT_RUNS)
            return "", "kept"
        left_out = len(offsets) - len(events)
        with known(self.session):
            made = runs.create(self.session, dag, rule["name"], events, self.means.job_id, left_out)
        if made is None:
            return "", ""
        self.reaction.made_runs = True
        self._adopt(made, events[-1])
        return "", "queued"

    def _latest_of(self, dag_id: str) -> tuple[Any, bool]:
        """Return the newest version of a Dag, and whether it makes no runs now; as of its first event here."""
        if dag_id not in self._latest:
            dag = self.means.dag_bag.get_latest_version_of_dag(dag_id, session=self.session)
            self._latest[dag_id] = dag, runs.closed(self.session, dag_id)
        return self._latest[dag_id]

    def _make_kept_runs(self) -> None:
        """Make runs of Dags that were paused, or away; some at a time, so that stock scheduling goes on."""
        for task in self.world.dags.values():
            if not task.pending or runs.closed(self.session, task.dag_id):
                continue
            now, rest = task.pending[:KEPT_AT_ONCE], task.pending[KEPT_AT_ONCE:]
            with Blame((task.dag_id, "")), known(self.session):  # they hear what their Dag has not heard yet
                dag = self.means.dag_bag.get_latest_version_of_dag(task.dag_id, session=self.session)
                for kept in now:
                    with self._contained(task):
                        if events := self._events(kept["events"], task):
                            left_out = starts.number_of(kept) - len(events)
                            runs.create(self.session, dag, kept["rule"], events, self.means.job_id, left_out)
            point("kept.made")
            self.world.touch((task.dag_id, ""))
            task.pending = rest
            self.reaction.made_runs = True
            self.reaction.busy |= bool(rest)

    def _adopt(self, made: DagRun, event: Event) -> None:
        """The rest of this batch is for the new run, too."""
        rules = self.means.registry.of_run(self.session, made.dag_id, None)
        assert rules is not None
        run = Run(made.id, made.dag_id, made.run_id, "queued", rules, event.offset, event.context, {})
        for task_id, ruleset in rules.tasks.items():
            run.tasks[task_id] = new_task(made.dag_id, made.run_id, task_id, ruleset, event.offset, self.now_ms)
        self.world.put(run)
        self.world.touch(run.key)  # it is stored now: who reads it anew must not let it hear this event

    def _stop_runs(self, dag: Any, rule: dict[str, Any], event: Event) -> str:
        """Stop the runs that an event reaches; where they are too many for one transaction, this is amid the event."""
        state = rule.get("state") or "success"
        stopped = self.world.progress.stopped.setdefault(dag.dag_id, set())
        before = len(stopped)
        for run in [run for run in self.world.of_dag(dag.dag_id) if _reaches(event, run)]:
            if run.key in stopped:
                continue
            now = len(stopped) - before
            if now >= STOPS or (now and self._is_enough()):
                self._unfinished = True
                break
            self._hold(run)
            if not run.active:
                self.world.read_again(run.key)
                continue
            running = [ti for ti in run.tries.values() if ti.state == "running"]
            stopped.add(run.key)
            try:
                with savepoint(self.session):
                    of_run = self._dag(run)
                    teardowns = {task.task_id for task in of_run.tasks if task.is_teardown}
                    run.state = runs.stop(self.session, of_run, run.run_id, state)
            except Exception as e:
                self._give_up(e, dag_id=run.dag_id, run_id=run.run_id)
                self.world.read_again(run.key)
                continue
            for ti in running:
                if ti.task_id not in teardowns:
                    self.means.stops.ask(str(ti.id), starts.reason(rule, [event.offset]))
            load_tries(self.session, run)
            for task in run.tasks.values():
                task.pending.clear()
                task.stopping = None
                if task.task_id in teardowns and task.started is None and run.running:  # it does not wait any more
                    task.started = {"events": [event.offset], "rule": rule["name"], "run": run.id}
            self.reaction.dirty.add((run.dag_id, run.run_id))
        return state

    # What actions are given

    def _dag(self, run: Run) -> Any:
        row = self.session.scalar(select(DagRun).where(DagRun.dag_id == run.dag_id, DagRun.run_id == run.run_id))
        return self.means.dag_bag.get_dag_for_run(dag_run=row, session=self.session)

    def _begin(self, task: TaskState, start: dict[str, Any]) -> tasks.Begin:
        """How a try begins; a task that has no rules any more begins as a plain one."""
        if not (start and task.rules.waits):
            return tasks.PLAIN
        events = self._events(start["events"], task)
        if len(events) < (number := starts.number_of(start)):
            log.warning("aiflow: a start does not carry all its events", carried=len(events), of=number, **task.who)
        return tasks.with_events(events, start.get("rule", ""))

    def _events(self, offsets: Sequence[int], task: TaskState) -> list[Event]:
        """What is carried of the events at these offsets: those of earlier batches from the log, if they are there."""
        found = (self._events_read.get(offset) or self._stored(offset, task) for offset in reversed(offsets))
        return tasks.carried(event for event in found if event is not None)

    def _keep(self, event: Event) -> None:
        """Many runs may begin with the same events of earlier batches: each is read once in a transaction."""
        self._kept_bytes += len(event.value)
        if self._kept_bytes <= KEPT_BYTES:
            self._events_read[event.offset] = event

    def _stored(self, offset: int, task: TaskState) -> Event | None:
        """Ask by namespace: what was let go is known of each.  The rules may have changed since: ask for any, too."""
        for namespace in [*dict.fromkeys(pattern[0] for pattern in task.rules.patterns), "*"]:
            with suppress(RetentionError):
                for event in self.means.log.read(offset - 1, 1, (namespace, "*", "*", "*", "*")):
                    if event.offset == offset:
                        self._keep(event)
                        return event
        log.warning("aiflow: an event that started it is no longer in the log", offset=offset, **task.who)
        return None


def _pages(batch: Sequence[Event], head: int, read: Read) -> Iterator[Event]:
    """These events, and those that follow them."""
    while batch:
        yield from batch
        batch = read(batch[-1].offset, head) if batch[-1].offset < head else ()


def can_settle(stops: Stops, run: Run, task: TaskState, now_ms: int) -> bool:
    """Whether what waited for this moment can be done."""
    return starts.can_settle(task, run.tries.get(task.task_id), moment_of(stops, run, now_ms))


def moment_of(stops: Stops, run: Run, now_ms: int) -> starts.Moment:
    """Return when, and in which run, it is decided."""
    return starts.Moment(now_ms, stops.grace_ms, stops.asked, run.id, run.running, run.states)


def _reaches(event: Event, run: Run) -> bool:
    """Whether an event is for a run: not older than it, and of its context or of none."""
    return event.offset > run.since and event.context in (None, run.context)
