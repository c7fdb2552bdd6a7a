"""What is checked: safety at each reaction, liveness when nothing moves any more.

At the point ``apply.locked`` the rows are read as a reaction meets them, at ``apply.committed`` as it leaves them.
Between the two, the model (model.py, tasks.py) says what must, and what may, have happened.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from airflow import settings
from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from sqlalchemy import select

from aiflow_ext.provider.react import decide
from sim import tasks
from sim.dags import ups
from sim.model import Firing, RulesModel
from sim.tasks import RESUME, Ledger, Outlook, Seen
from sim.world import Finding, World

Key = tuple[str, str]
Task = tuple[str, str, str]
TI_SQL = "SELECT id, dag_id, run_id, task_id, map_index, state, try_number, next_method, next_kwargs FROM task_instance"
SKIPS_SQL = "SELECT dag_id, run_id, task_id, value FROM xcom WHERE \"key\" = 'skipmixin_key'"
# Runs that stock looks at (after the clock went back, some are too early for it), with a task that it may schedule.
WAITING_SQL = (
    "SELECT run.id, ti.state, run.run_after > sim_now() FROM dag_run AS run JOIN dag ON dag.dag_id = run.dag_id"
    " JOIN task_instance AS ti ON ti.dag_id = run.dag_id AND ti.run_id = run.run_id WHERE run.state = 'running'"
    " AND NOT dag.is_paused AND NOT dag.is_stale"
    " AND (ti.state IS NULL OR ti.state IN ('up_for_retry', 'up_for_reschedule'))"
)
QUEUED_SQL = "SELECT 1 FROM dag_run WHERE state = 'queued' LIMIT 1"
KEPT_RUNS, KEPT_AT_ONCE = 100, 10  # R85
FINE = {None, "all_success", "all_done", "none_failed", "one_success", "none_failed_min_one_success", "always"}


@dataclass
class RunModel:
    """A run whose rules listen."""

    since: int
    context: str | None


@dataclass
class Shot:
    """What the rows say."""

    tis: dict[Task, Seen] = field(default_factory=dict)  # one of a mapped task is named t1[0]
    runs: dict[Key, str] = field(default_factory=dict)
    choices: dict[Task, dict[str, list[str]]] = field(default_factory=dict)  # of branches and short circuits
    offset: int = 0
    progress: dict[str, int] = field(default_factory=dict)  # of a Dag that is behind; "": of all others

    def of(self, dag_id: str) -> int:
        """Up to which offset the rules of a Dag have heard."""
        return self.progress.get(dag_id, self.progress.get("", self.offset))


def fresh_bag() -> DBDagBag:
    """Dags as they are stored: one that was read before is looked up by its hash, and not read again."""
    bag = DBDagBag(load_op_links=False)
    bag._revalidation_interval = 0
    return bag


class Check:
    """The model of one history, and what was seen of it.

    :param known: names of checks that are passed over, and counted.
    """

    def __init__(self, world: World, known: set[str]) -> None:
        self.world = world
        self.known = known
        self.passed: Counter[str] = Counter()
        self.specs: dict[str, dict[str, Any]] = {}  # as stored last
        self.rules: dict[str, tuple[dict[str, list[Any]], list[Any] | None]] = {}
        self.downstream: dict[Key, set[bool]] = defaultdict(set)  # what rules of (Dag, task) have said, ever
        self.heads: dict[Key, int] = {}  # of the log, when a run began to be active
        self.ended: set[Key] = set()  # runs that a user has ended, and nobody has queued since
        self.anew: set[Key] = set()  # those that have begun since the last reaction
        self.contexts: dict[Key, str | None] = {}
        self.runs: dict[Key, RunModel] = {}
        self.models: dict[Task, list[RulesModel]] = {}
        self.stored: dict[Task, list[Any]] = {}
        self.ledgers: dict[Task, Ledger] = defaultdict(Ledger)
        self.kept: dict[str, list[tuple[Key, int, str | None]]] = defaultdict(list)  # runs that wait for their Dag
        self.last_action = 0
        self.causes: dict[Task, int] = {}  # of the newest firings: the events
        self.fired_at: dict[Task, int] = defaultdict(int)  # the same, of the newest one ever
        self.stops: dict[Key, int] = {}  # of the runs that rules on their Dags have stopped: the first event that did
        self.clock_back = False  # it went back once
        self.before: Shot | None = None
        self.head = 0  # of the log, when the reaction began
        self.offset: tuple[int, dict[str, int]] | None = None  # as the last reaction left it
        self.firings = 0
        self.reactions = 0
        self._bag = fresh_bag()
        # After how many writes nothing was held (and when, where time alone may change that); the same for other looks.
        self._nothing_held: tuple[int, int | None] | None = None
        self._quiet_at = self._runs_at = -1

    def begins(self, key: Key) -> None:
        """A run is queued: what comes into the log from now on is for it (R53)."""
        self.heads[key] = self.world.log.head()
        self.anew.add(key)
        self.ended.discard(key)

    def dag_made_again(self, dag_id: str) -> None:
        """What there was of a Dag that was deleted is gone."""
        for task in [task for task in self.ledgers if task[0] == dag_id]:
            del self.ledgers[task]
        self.anew |= {key for key in self.runs if key[0] == dag_id}
        self.stored.pop((dag_id, "", ""), None)
        self.kept.pop(dag_id, None)

    def fault(self, name: str, text: str) -> None:
        """Something is wrong.  Where it is known the history goes on."""
        if name not in self.known:
            raise Finding(name, text)
        self.passed[name] += 1

    # -- at the points of a reaction

    def point(self, name: str) -> None:
        if not name.startswith("apply."):
            return
        if name == "apply.locked":
            self.before, self.head = self.shot(settings.Session()), self.world.log.head()
            self._alone()
            now = self.before.offset, self.before.progress
            if self.offset not in (None, now):
                self.fault("offset-alone", f"it was {self.offset}, is {now}, and no reaction moved it")
        elif name == "apply.committed" and self.before is not None:
            after = self.shot(settings.Session())
            self.offset = after.offset, after.progress
            self._reaction(self.before, after)
            self.before = None
        settings.Session().rollback()  # a reaction has a session of its own, and on SQLite waits for who reads

    def _alone(self) -> None:
        """While one scheduler reacts, another one cannot: the consumer's row is locked."""
        if self.world.home.store == "sqlite":
            with closing(sqlite3.connect(settings.engine.url.database, timeout=0, isolation_level=None)) as other:
                try:
                    other.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    return
        else:
            row = "SELECT 1 FROM aiflow_consumer WHERE name = 'scheduler' FOR UPDATE SKIP LOCKED"
            with settings.engine.connect() as other:
                if other.exec_driver_sql(row).first() is None:
                    return
        self.fault("not-locked", "a second scheduler could react at the same time")

    def shot(self, session: Any) -> Shot:
        """Read the rows."""
        cursor = session.connection().connection.cursor()  # the driver's: most statements of a history are these
        out = Shot()
        cursor.execute(TI_SQL)
        for ti_id, dag_id, run_id, task_id, index, state, number, method, kwargs in cursor.fetchall():
            told = _told(kwargs) if method == RESUME else ()
            parked = state == "deferred" and method == RESUME
            out.tis[dag_id, run_id, task_id if index < 0 else f"{task_id}[{index}]"] = Seen(
                str(ti_id).replace("-", ""), "parked" if parked else state or "", number, method, told
            )
        cursor.execute("SELECT dag_id, run_id, state FROM dag_run")
        for dag_id, run_id, state in cursor.fetchall():
            out.runs[dag_id, run_id] = state
        cursor.execute(SKIPS_SQL)
        for dag_id, run_id, task_id, value in cursor.fetchall():
            while isinstance(value, str):
                value = json.loads(value)
            out.choices[dag_id, run_id, task_id] = value
        cursor.execute("""SELECT "offset" FROM aiflow_consumer WHERE name = 'scheduler'""")
        row = cursor.fetchone()
        out.offset = row[0] if row else 0
        cursor.execute('SELECT dag_id, "offset" FROM aiflow_progress')
        out.progress = dict(cursor.fetchall())
        cursor.close()
        return out

    def _reaction(self, before: Shot, after: Shot) -> None:
        self.reactions += 1
        self._progress(before, after)
        batches = {dag_id: self._batch(before.of(dag_id), after.of(dag_id)) for dag_id in self.specs}
        self._listen(before)
        actual = self._actions()
        made = self._dag_firings(batches, actual, after)
        self._ended_runs(before, after, made)
        now = self.world.clock.ms
        cleared = self._cleared_below(before, after)
        for key, run in self.runs.items():
            for task_id in self.rules[key[0]][0]:
                task = (*key, task_id)
                if task in cleared:
                    self.ledgers[task].told, self.ledgers[task].again = None, False
                over = key in made and after.runs.get(key) != "running"  # no period is due in it any more
                heard = self._heard(task, batches[key[0]], after)
                # Which of the stops has ended it?  Its rules hear nothing behind that one, and may not hear it.
                end, last = (self.stops[key], made[key]) if over else (None, None)
                fired = self._firings(
                    task, run, [e for e in heard if last is None or e.offset <= last], before, 0 if over else now
                )
                found = actual.pop(task, [])
                fired = self._match(task, fired, found, end)
                was = before.tis.get(task)
                if task in cleared and fired and was is not None and was.state in ("scheduled", "queued"):
                    self.ledgers[task].free = True  # was it given more events, or did it wait anew, first?
                if key in made:  # what fired until its run was stopped was stopped with it
                    fired = [(firing, event) for firing, event in fired if not event or event.offset > made[key]]
                self._task(task, before, after, fired, key in made or task in cleared)
        for task, found in actual.items():
            self.fault("fired-unasked", f"{task}: {found}, and the model has no such rule listening")

    def _progress(self, before: Shot, after: Shot) -> None:
        """The consumer's row has the least of all offsets, no Dag goes back, and the others do not wait for one.

        Where not all was heard, those Dags are behind for which something was done.
        """
        if after.of("") < self.head and not after.progress:
            self.fault("unfair", f"the log ends at {self.head}, Dags are at {after.offset}, and none is behind")
        least = min([after.of(""), *after.progress.values()])
        if after.offset != least:
            self.fault("progress-least", f"the consumer is at {after.offset}, and Dags at {after.progress}")
        for dag_id in {"", *self.specs, *before.progress}:
            if after.of(dag_id) < before.of(dag_id):
                self.fault("progress-back", f"{dag_id!r} was at {before.of(dag_id)}, and is at {after.of(dag_id)}")

    def _batch(self, after: int, until: int) -> list[Any]:
        return self.world.log.read(after, 1000, None, until) if until > after else []

    def _listen(self, before: Shot) -> None:
        """Which runs are active now, and with which rules."""
        now = self.world.clock.ms
        active = {
            key
            for key, state in before.runs.items()
            if state in ("running", "queued") and (key in self.runs or self._has_rules(key[0]))
        }
        for key in [k for k in self.runs if k not in active or k in self.anew]:
            del self.runs[key]
            for task in [t for t in self.models if t[:2] == key]:
                del self.models[task], self.stored[task]
            for task, ledger in self.ledgers.items():
                if task[:2] == key:
                    self.ledgers[task] = Ledger(
                        last=ledger.last, again=ledger.again, added=ledger.added, edited=ledger.edited
                    )
        self.anew.clear()
        for key in sorted(active - set(self.runs)):
            since = max(before.of(key[0]), self.heads.get(key, 0))
            self.runs[key] = RunModel(since, self.contexts.get(key))
            for task_id, rules in self.rules[key[0]][0].items():
                task = (*key, task_id)
                self.models[task] = [RulesModel(key[0], rules, since, now)]
                self.stored[task] = rules
        for key in self.runs:
            for task_id, rules in self.rules[key[0]][0].items():
                self._edit((*key, task_id), rules, before, now)
        for dag_id, (_, rules) in self.rules.items():
            if rules is not None:
                self._edit((dag_id, "", ""), rules, before, now)

    def _has_rules(self, dag_id: str) -> bool:
        found = self.rules.get(dag_id)
        return found is not None and bool(found[0] or found[1])

    def _edit(self, task: Task, rules: list[Any], before: Shot, now: int) -> None:
        """Other rules than before begin anew, all of them; what is pending, or was started, stays (R77).

        Where the Dag is amid an event, it is open whether the old ones have heard it, unless they fired at it.
        """
        if self.stored.get(task) == rules:
            return
        offset = before.of(task[0])
        begins = [offset]
        if task in self.stored:
            self.ledgers[task].edited = True
            if task[0] in before.progress:
                begins = [offset + 1] if self.fired_at[task] > offset else [offset, offset + 1]
        self.models[task] = [RulesModel(task[0], rules, since, now) for since in begins]
        for since, anew in zip(begins, self.models[task], strict=True):
            for rule in anew.rules:
                rule.fired = since
        self.stored[task] = rules

    # -- firings

    def _actions(self) -> dict[Task, list[tuple[str, str, tuple[int, ...], str]]]:
        """The rows of aiflow_action that this reaction has written."""
        out: dict[Task, list[Any]] = defaultdict(list)
        sql = (
            "SELECT id, dag_id, run_id, task_id, rule, action, offsets, cause, after FROM aiflow_action"
            f" WHERE id > {self.last_action} ORDER BY id"
        )
        self.causes = {}
        for number, dag_id, run_id, task_id, rule, action, offsets, cause, after in (
            settings.Session().connection().exec_driver_sql(sql)
        ):
            self.last_action = number
            self.firings += 1
            out[dag_id, run_id, task_id].append((rule, action, tuple(json.loads(offsets))))
            self.causes[dag_id, run_id, task_id] = int(cause) if cause.isdigit() else 0
            self.fired_at[dag_id, run_id, task_id] = max(
                self.fired_at[dag_id, run_id, task_id], self.causes[dag_id, run_id, task_id]
            )
            if after == "error":
                self.fault("action-failed", f"{dag_id}.{task_id}: rule {rule} met an exception")
        return out

    def _heard(self, task: Task, batch: list[Any], after: Shot) -> list[Any]:
        """What its rules have heard: of an event that others hear later, it says so itself where it fired."""
        offset, cause = after.of(task[0]), self.causes.get(task, 0)
        return [*batch, *self._batch(offset, cause)] if cause > offset else batch

    def _dag_firings(self, batches: dict[str, list[Any]], actual: Any, after: Shot) -> dict[Key, int]:
        """Rules on Dags; returns the runs that the events have stopped, and the offset of the last one that did."""
        touched: dict[Key, int] = {}
        self.stops.clear()
        for dag_id, (_, rules) in self.rules.items():
            if rules is None:
                self.kept.pop(dag_id, None)
                continue
            task = (dag_id, "", "")
            kept, closed = self.kept[dag_id], self.paused(dag_id)
            expected = []
            for model in self.models[task]:
                seq = []
                for event in self._heard(task, batches[dag_id], after):
                    if fired := model.feed(event, False):
                        seq.append((fired[0], event))
                expected.append(seq)
            found = actual.pop(task, [])
            chosen = self._match(task, expected, found)
            for firing, event in chosen:
                if firing.action == "stop":
                    kept[:] = [run for run in kept if event.context not in (None, run[2])]
                    for key, run in self.runs.items():
                        if key[0] == dag_id and event.context in (None, run.context) and event.offset > run.since:
                            touched[key] = event.offset
                            self.stops.setdefault(key, event.offset)
                            self._stopped(key, after)
                            if after.runs.get(key) in ("running", "queued") and not self._teardowns(dag_id):
                                self.fault("dag-not-stopped", f"{key} is {after.runs.get(key)} after {firing}")
                    continue
                key = (dag_id, f"aiflow__{firing.rule}__{firing.offsets[-1]}")
                if closed:
                    kept.append((key, firing.offsets[-1], event.context))
                    del kept[:-KEPT_RUNS]
                    continue
                if key not in after.runs:
                    self.fault("run-lost", f"no run {key[1]} of {dag_id} although it is neither paused nor stale")
                    continue
                if key in self.runs:
                    continue
                self.heads[key] = firing.offsets[-1]
                self.contexts[key] = event.context
                self.runs[key] = RunModel(firing.offsets[-1], event.context)
                for task_id, its in self.rules[dag_id][0].items():
                    self.models[*key, task_id] = [RulesModel(dag_id, its, firing.offsets[-1], self.world.clock.ms)]
                    self.stored[*key, task_id] = its
            if not closed:
                for key, _, context in kept[:KEPT_AT_ONCE]:
                    self.heads[key], self.contexts[key] = after.of(dag_id), context
                    if key not in after.runs:
                        self.fault("run-lost-kept", f"no run {key[1]} of {dag_id} although it is back (R85)")
                del kept[:KEPT_AT_ONCE]
            for key, _, _ in kept:
                if key in after.runs:
                    self.fault("run-early", f"{key} is there while its Dag is paused or away, or others come first")
        return touched

    def _ended_runs(self, before: Shot, after: Shot, touched: dict[Key, int]) -> None:
        """A reaction ends no run but by a STOP of its Dag, and that leaves teardowns alone (R86)."""
        for key, state in before.runs.items():
            if state in ("running", "queued") and after.runs.get(key) in ("success", "failed") and key not in touched:
                self.fault("run-ended-unasked", f"{key} is {after.runs[key]}, and no STOP of its Dag reaches it")
        for task, now in after.tis.items():
            was, spec = before.tis.get(task), self._spec(task) or {}
            if task[:2] not in touched or was is None or spec.get("kind") != "teardown" or spec.get("rules"):
                continue
            if now.ended and not was.ended:
                self.fault("teardown-stopped", f"{task} is {now.state} after a STOP of its Dag (R86)")

    def _stopped(self, key: Key, after: Shot) -> None:
        """R91: a rule has stopped the run.  What is skipped there may be started again by an event behind the stop."""
        assert self.before is not None
        for task_id in self.rules[key[0]][0]:  # as where a rule stops the task (R48)
            ledger = self.ledgers[*key, task_id]
            ledger.pending.clear()
            ledger.stopping = ledger.restart_of = None
        for task, was in self.before.tis.items():
            if task[:2] != key or (spec := self._spec(task)) is None:
                continue
            if spec["kind"] == "teardown":
                self.ledgers[task].free = True
            elif was.state == "parked" and after.tis[task].state not in ("skipped", "scheduled"):
                self.fault("stop-state-run", f"{task} waited, and is {after.tis[task].state!r} after a stop of its run")

    def paused(self, dag_id: str) -> bool:
        sql = f"SELECT is_paused, is_stale FROM dag WHERE dag_id = '{dag_id}'"
        row = settings.Session().connection().exec_driver_sql(sql).first()
        return row is None or bool(row[0]) or bool(row[1])

    def _teardowns(self, dag_id: str) -> bool:
        return any(task["kind"] == "teardown" for task in self.specs[dag_id]["tasks"])

    def _firings(self, task: Task, run: RunModel, batch: list[Any], before: Shot, now: int) -> list[list[Any]]:
        """What each model that is still possible says fires, in order; of each event the first rule decides (R2)."""
        out = []
        running = before.runs.get(task[:2]) == "running" and task not in self._left(now)
        for model in self.models[task]:
            seq = []
            for event in batch:
                if event.offset <= run.since or (event.context is not None and event.context != run.context):
                    continue
                own = event.namespace == "airflow" and event.sender == task[1]
                if fired := model.feed(event, own):
                    seq.append((fired[0], event))
            if running and (due := model.due) is not None and due <= now and (fired := model.tick(now)):
                seq.append((fired[0], None))
            out.append(seq)
        return out

    def _left(self, now: int) -> set[Task]:
        """The tasks whose periods are over, and which the next transaction looks at."""
        assert self.world.running is not None
        known = self.world.running.runner._reactor.world
        return {(*key, task_id) for due, key, task_id in known._due if due <= now and known._is_due(due, key, task_id)}

    def _match(self, task: Task, expected: list[list[Any]], found: list[Any], end: int | None = None) -> list[Any]:
        """Keep the models that said what was done; from the event at `end` on, less of that may be done."""

        def fits(seq: list[Any]) -> bool:
            shown = [(f.rule, f.action, f.offsets) for f, _ in seq]
            least = len(seq) if end is None else sum(event is not None and event.offset < end for _, event in seq)
            return found == shown[: len(found)] and len(found) >= least

        if right := [n for n, seq in enumerate(expected) if fits(seq)]:
            self.models[task] = [self.models[task][n] for n in right]
            return expected[right[0]][: len(found)]
        wanted = [(f.rule, f.action, f.offsets) for f, _ in expected[0]]
        name = "fired-twice" if len(set(found)) < len(found) else "fired-wrong"
        if len(found) < len(wanted):
            name = "fired-not-clock" if self.clock_back else "fired-not"
        self.fault(name, f"{task}: must fire {wanted}, fired {list(found)}")
        data = {rule["name"]: rule for rule in self.stored[task]}
        return [(Firing(rule, action, offsets, data[rule]), None) for rule, action, offsets in found if rule in data]

    # -- what firings do to a task

    def _task(self, task: Task, before: Shot, after: Shot, fired: list[Any], is_open: bool) -> None:
        was, now = before.tis.get(task), after.tis.get(task)
        ledger = self.ledgers[task]
        if now is None:  # an edit gave it to a run that is queued: it has no row yet
            self._queued(task, ledger, Seen("", "", 0, None, ()), None, fired)
            return
        if was is None:  # this reaction has made the run
            was = Seen(now.ti_id, "", 0, None, ())
        if before.runs.get(task[:2]) != "running":
            self._queued(task, ledger, was, now, fired)
            return
        kept = deepcopy(ledger)
        seen = Seen(was.ti_id, was.state, was.number, was.method, was.told)
        out = Outlook()
        can = self._can(task, seen, before, after)
        tasks.settle(ledger, seen, can, out)
        for firing, _ in fired:
            if firing.action == "stop":
                tasks.stop(ledger, seen, firing.data, out)
            else:
                tasks.start(ledger, seen, firing.offsets, firing.data, self._can(task, seen, before, after), out)
        tasks.settle(ledger, seen, self._can(task, seen, before, after), out)
        if is_open or out.open or ledger.free:
            tasks.sync(ledger, was, now)
            return
        if out.must is not None and not fired and now == was and self._left_some(before, after):
            self.ledgers[task] = kept  # its turn is in the next transaction
            return
        if fired and was.state == "parked" and self._left_some(before, after) and set(out.must or ()) < set(now.told):
            tasks.sync(ledger, was, now)  # its turn had not come when it fired again
            return
        if out.must is not None and not self._waits(task):
            out.must = ()  # it has lost the rules that it was to be started by, and begins as a plain one (R78)
        self._compare(task, ledger, was, now, out, fired)

    def _left_some(self, before: Shot, after: Shot) -> bool:
        """Whether the reaction has changed as many tasks as one does, so that others may still wait for it."""
        return sum(after.tis.get(task) != was for task, was in before.tis.items()) >= decide.ACTIONS

    def _queued(self, task: Task, ledger: Ledger, was: Seen, now: Seen | None, fired: list[Any]) -> None:
        """The run has not begun, or a user queued it again: starts wait, and a stop is done (R83)."""
        seen, out = Seen(was.ti_id, was.state, was.number, was.method, was.told), Outlook()
        for firing, _ in fired:
            if firing.action == "stop":
                tasks.stop(ledger, seen, firing.data, out)
                if out.state is not None and now is not None and now.state != out.state:
                    self.fault("queued-stop", f"{task} of a queued run is {now.state!r} after a STOP, not {out.state}")
            elif (firing.data.get("while_running") or "once") == "each":
                ledger.pending.append(firing.offsets)
            else:
                ledger.merge(firing.offsets)

    def _compare(self, task: Task, ledger: Ledger, was: Seen, now: Seen, out: Outlook, fired: list[Any]) -> None:
        if wrong := tasks.compare(ledger, was, now, out):
            name, must = wrong
            shown = f"{was.state or None} -> {now.state or None}, told {list(now.told)}; fired {[f for f, _ in fired]}"
            self.fault(name, f"{task}: {shown}{must}")
            tasks.sync(ledger, was, now)

    def _waits(self, task: Task) -> bool:
        """Whether a task has a START or a RESTART rule."""
        of_dag = self.rules.get(task[0], ({}, None))[0]
        return any(rule["action"] in ("start", "restart") for rule in of_dag.get(task[2], ()))

    def _can(self, task: Task, seen: Seen, before: Shot, after: Shot) -> str:
        """Whether an ended task's upstream lets it begin again."""
        spec = self._spec(task)
        if spec is None or seen.state == "removed" or spec["kind"] == "teardown":
            return "maybe"
        names = ups(spec)
        skipped = {self._skipped(task, shot) for shot in (before, after)}
        if True in skipped:
            return "maybe" if False in skipped else "no"
        above = [(up, shot.tis.get((*task[:2], up))) for up in names for shot in (before, after)]
        kinds = {up: (self._spec((*task[:2], up)) or {}).get("kind") for up, _ in above}
        if any(kind in ("setup", "teardown", "mapped", None) for kind in kinds.values()):
            return "maybe"
        fine = spec.get("trigger_rule") in FINE and all(ti is not None and ti.state == "success" for _, ti in above)
        return "yes" if fine else "maybe"

    def _skipped(self, task: Task, shot: Shot) -> bool:
        """Whether a branch or a short circuit right before it, that is over, has skipped it (R82)."""
        for name in ups(self._spec(task) or {}):
            up = (*task[:2], name)
            choice, parent, spec = shot.choices.get(up, {}), shot.tis.get(up), self._spec(up) or {}
            if parent is None or not parent.ended or spec.get("kind") not in ("branch", "short"):
                continue
            if task[2] in choice.get("skipped", ()) or task[2] not in choice.get("followed", [task[2]]):
                return True
        return False

    def _spec(self, task: Task) -> dict[str, Any] | None:
        spec = self.specs.get(task[0])
        name = task[2].partition("[")[0]
        return next((t for t in spec["tasks"] if t["id"] == name), None) if spec else None

    def below(self, dag_id: str, task_id: str) -> set[str]:
        """The tasks that follow one."""
        spec, out, more = self.specs[dag_id], set(), {task_id}
        while more:
            more = {t["id"] for t in spec["tasks"] if set(ups(t)) & more} - out
            out |= more
        return out

    def _cleared_below(self, before: Shot, after: Shot) -> set[Task]:
        """The tasks that follow one which began again, where all its rules say downstream=True (R56, R76).

        Where only some do, or did before an edit, it is open what becomes of those that follow.
        """
        out: set[Task] = set()
        for task, now in after.tis.items():
            was, say = before.tis.get(task), self.downstream[task[0], task[2]]
            again = now.state == "scheduled" and was is not None and was.state != "parked" and now.number != was.number
            if not again or True not in say:
                continue
            below = {(*task[:2], other) for other in self.below(task[0], task[2])}
            if False not in say:
                out |= below
            for other in below if False in say else ():
                self.ledgers[other].free = True
        return out

    # -- at other moments

    def run_seen(self) -> None:
        """After a turn: runs that it made listen from here on."""
        if self._runs_at == self.world.clock.writes:
            return
        self._runs_at = self.world.clock.writes
        with create_session() as session:
            for dag_id, run_id in session.connection().exec_driver_sql("SELECT dag_id, run_id FROM dag_run"):
                if (dag_id, run_id) not in self.heads:
                    self.heads[dag_id, run_id] = self.world.log.head()

    def began(self, task: Task, method: str | None, told: tuple[int, ...]) -> None:
        """A worker was told to run a try."""
        ledger = self.ledgers[task]
        waits = self._waits(task)
        if method == RESUME:
            if not ledger.free and told != (ledger.told if ledger.told is not None else ledger.last):
                self.fault(
                    "told-wrong-added" if ledger.added else "told-wrong-try",
                    f"{task}: the try is told {told}, the model says {ledger.told}",
                )
        elif method is None and waits and not ledger.free:
            self.fault("began-without-rule", f"{task} began by its upstream alone (R52)")
        ledger.free = False

    def quiet(self) -> None:
        """Nothing moves: no limit is exceeded, and no RESTART was forgotten."""
        if self._quiet_at == self.world.clock.writes:
            return
        self._quiet_at = self.world.clock.writes
        with create_session() as session:
            shot = self.shot(session)
        self._limits(shot)
        self._restarts(shot)
        if revived := [key for key in self.ended if shot.runs.get(key) in ("running", "queued")]:
            self.fault("run-revived", f"a user has ended {revived[0]}, and it is {shot.runs[revived[0]]}")

    def heard(self) -> None:
        """Nothing moves: every event has been acted on."""
        with create_session() as session:
            offset = self.shot(session).offset
        if offset < (head := self.world.log.head()):
            self.fault("late-events", f"the scheduler has acted on events up to {offset} of {head}")

    def held(self) -> tuple[Key, str] | None:
        """Ask Airflow what it would schedule now: a run in which that is not nothing."""
        clock = self.world.clock
        if self._nothing_held in ((clock.writes, None), (clock.writes, clock.ms)):
            return None
        with create_session() as session:
            try:
                rows = session.connection().exec_driver_sql(WAITING_SQL).fetchall()
                queued = session.connection().exec_driver_sql(QUEUED_SQL).first() is not None
                found = self._held(session, {run for run, _, early in rows if not early}, queued)
            finally:
                session.rollback()
        timed = queued or any(state or early for _, state, early in rows)
        self._nothing_held = None if found else (clock.writes, clock.ms if timed else None)
        return found

    def _held(self, session: Any, waiting: set[int], queued: bool) -> tuple[Key, str] | None:
        runs = select(DagRun).where(DagRun.id.in_(waiting)).order_by(DagRun.id)
        for run in session.scalars(runs).unique().all() if waiting else ():
            dag = self._bag.get_dag_for_run(dag_run=run, session=session)
            if dag is None:
                continue
            run.dag = dag
            decisions = run.task_instance_scheduling_decisions(session=session)
            ready = [ti for ti in decisions.schedulable_tis if ti.state in (None, "up_for_retry", "up_for_reschedule")]
            if ready:
                names = [f"{ti.task_id} ({ti.state})" for ti in ready]
                return (run.dag_id, run.run_id), f"stock would schedule {names} of {run.dag_id} {run.run_id}"
        for run in DagRun.get_queued_dag_runs_to_set_running(session=session) if queued else ():
            return (run.dag_id, run.run_id), f"stock would begin {run.dag_id} {run.run_id}"
        return None

    def owed(self, key: Key | None = None) -> str:
        """Part of a name: whether a start is pending in this run (or in any)."""
        its = [led for task, led in self.ledgers.items() if key in (None, task[:2])]
        return "-pending" if any(led.pending or led.stopping for led in its) else ""

    def _away(self, session: Any, dag_id: str) -> bool:
        row = (
            session.connection()
            .exec_driver_sql(f"SELECT is_paused, is_stale FROM dag WHERE dag_id = '{dag_id}'")
            .first()
        )
        return row is None or bool(row[0]) or bool(row[1])

    def _limits(self, shot: Shot) -> None:
        busy = Counter()
        for (dag_id, run_id, task_id), seen in shot.tis.items():
            if seen.state not in ("queued", "running"):
                continue
            spec = self._spec((dag_id, run_id, task_id))
            if spec is None:
                continue
            if spec.get("pool"):
                busy["pool", spec["pool"], 1] += 1
            if limit := spec.get("max_active_tis_per_dag"):
                busy["max_active_tis_per_dag", spec["id"], dag_id, limit] += 1
            if limit := self.specs[dag_id].get("max_active_tasks"):
                busy["max_active_tasks", dag_id, run_id, limit] += 1
        for what, n in busy.items():
            if n > what[-1]:
                self.fault("limit", f"{n} of {what}")
        active = Counter(key[0] for key, state in shot.runs.items() if state == "running")
        for dag_id, n in active.items():
            if (limit := self.specs.get(dag_id, {}).get("max_active_runs")) and n > limit:
                self.fault("limit", f"{n} runs of {dag_id}, max_active_runs is {limit}")

    def _restarts(self, shot: Shot) -> None:
        for task, ledger in self.ledgers.items():
            seen = shot.tis.get(task)
            if ledger.restart_of is not None and seen is not None and seen.ti_id == ledger.restart_of:
                if seen.state in tasks.UNDER_WAY and task[:2] in self.runs:
                    self.fault(
                        f"restart-{seen.state}", f"{task} waits by itself ({seen.state}) although a RESTART fired (R48)"
                    )
                ledger.restart_of = None

    def over(self) -> None:
        """The history is over, and everything that could move has moved: each task has a reason, each run an end."""
        with create_session() as session:
            shot = self.shot(session)
            for key, state in shot.runs.items():
                if state != "running" or self._away(session, key[0]):
                    continue
                tis = {task: seen for task, seen in shot.tis.items() if task[:2] == key}
                if all(seen.ended for seen in tis.values()):
                    self.fault(
                        "run-endless" + self.owed(key), f"{key} is running, and its tasks are over: {_states(tis)}"
                    )
                for task, seen in tis.items():
                    self._reason(task, seen, tis)

    def _reason(self, task: Task, seen: Seen, tis: dict[Task, Seen]) -> None:
        """Why is it not over?"""
        ledger = self.ledgers[task]
        if seen.ended:
            return
        if seen.state == "parked":
            if not self._waits(task):
                self.fault("parked-without-rule", f"{task} waits for a rule that it has not (any more)")
            elif ledger.pending and not ledger.free:
                self.fault(
                    "start-lost-edited" if ledger.edited else "start-lost",
                    f"{task} waits, and is owed {ledger.pending}",
                )
            elif ledger.told is not None and not ledger.free:
                self.fault(
                    "start-lost-edited" if ledger.edited else "start-lost-retry",
                    f"{task} waits for its rules, and its retry is owed {ledger.told}",
                )
            return
        if seen.state == "":
            spec = self._spec(task)
            if spec is None:
                self.fault("stuck-none", f"{task} is not in its Dag, and not removed")
                return
            above = [ti for (*_, name), ti in tis.items() if name.partition("[")[0] in ups(spec)]
            if all(up.ended for up in above) and not spec.get("depends_on_past"):
                self.fault(
                    "stuck-none" + self.owed(task[:2]),
                    f"{task} has not begun, and its upstream is over: {_states(tis)}",
                )
            return
        spec = self._spec(task) or {}
        why = "-limit" if seen.state == "scheduled" and spec.get("max_active_tis_per_dag") else self.owed(task[:2])
        self.fault(f"stuck-{seen.state}{why}", f"{task} is {seen.state} for ever: {_states(tis)}")


def _states(tis: dict[Task, Seen]) -> str:
    return ", ".join(f"{task[2]}={seen.state or None}" for task, seen in sorted(tis.items()))


def _told(kwargs: Any) -> tuple[int, ...]:
    if isinstance(kwargs, (bytes, memoryview)):
        kwargs = bytes(kwargs).decode()
    data = json.loads(kwargs) if isinstance(kwargs, str) else kwargs or {}
    data = data.get("__var", data)
    return tuple(fields[6] for fields in json.loads(data.get("events") or "[]"))


__all__ = ["Check", "Firing"]
