"""One task of one run, without Airflow: react/starts.py decides, a row does as Airflow does, tasks.py keeps the ledger.

    a step moves the row, or publishes -> a reaction, as decide.py makes it -> the row, and what is kept, are as the
    ledger says

The upstream is a switch, other tasks of the run are a number that changes.  Where an act meets a row that somebody has
moved meanwhile, the ledger is told, and the act is lost.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any

from aiflow_ext import _core
from aiflow_ext.provider.react import starts
from aiflow_ext.provider.world.task import NO_RULES, Ruleset, Try, new_task
from aiflow_ext.rules import compile_rules
from sim import chance, tasks
from sim.tasks import RESUME, Ledger, Outlook, Seen

STEPS = 200  # of one history
GRACE_MS = 2000
TASKS = ["t0", "t1"]
ENDS = ("success",) * 6 + ("failed",) * 4 + ("skipped", "up_for_reschedule", "deferred")
WEIGHTS = {
    "event": 40, "passes": 24, "begin": 18, "end": 18, "time": 8, "clear": 5, "mark": 3, "reset": 2, "upstream": 4,
    "edit": 2, "again": 2, "below": 1, "die": 1, "trigger": 3,
}  # fmt: skip


@dataclass
class Row:
    """The task instance.

    :param told: the events in its `next_kwargs`.
    """

    id: int = 1
    state: str = ""
    number: int = 0
    method: str | None = None
    told: tuple[int, ...] = ()
    retries: int = 0

    @property
    def parked(self) -> bool:
        return self.state == "deferred" and self.method == RESUME

    def begin(self, state: str, method: str | None, told: tuple[int, ...]) -> None:
        self.state, self.method, self.told = state, method, told

    def end(self, state: str) -> None:
        self.begin(state, None, ())

    def seen(self) -> Seen:
        return Seen(str(self.id), "parked" if self.parked else self.state, self.number, self.method, self.told)


@contextmanager
def bounded(small: bool) -> Iterator[None]:
    """Let what is kept be little, so that it is too much (R93, R94)."""
    real = starts.EVENTS_MAX, starts.KEPT_STARTS, starts.KEPT_EVENTS
    _bound(*((4, 3, 6) if small else real))
    try:
        yield
    finally:
        _bound(*real)


def _bound(events: int, kept: int, kept_events: int) -> None:
    starts.EVENTS_MAX = tasks.EVENTS = events
    starts.KEPT_STARTS = tasks.KEPT_STARTS = kept
    starts.KEPT_EVENTS = tasks.KEPT_EVENTS = kept_events


def play(seed: int) -> Counter[str]:
    """Play one history; return what was done, and how often.

    :raises AssertionError: something is wrong.
    """
    return Alone(seed).play()


class Alone:
    """One history."""

    def __init__(self, seed: int) -> None:
        self.seed, self.step = seed, 0
        self.r = Random(seed)
        self.now = 1_000_000
        self.offset = self.acted = self.r.randrange(3)
        self.ids = count(2)
        self.row = Row()
        self.retries = self.r.randrange(3)
        self.running = self.r.random() < 0.9  # else its run is queued
        self.can, self.others = True, 0
        self.batch: list[Any] = []
        self.asked: set[str] = set()  # by this scheduler
        self.ever: dict[str, int] = {}  # by any, and when
        self.termed: dict[str, int] = {}  # and when it was sent SIGTERM
        self.ledger = Ledger()
        self.did = Counter[str]()
        self.edits = 0
        self.task = new_task("d0", "run1", "t0", self._rules(), self.offset, self.now)
        weights = {kind: weight * self.r.choice((0.3, 1, 1, 2.5)) for kind, weight in WEIGHTS.items()}
        self.kinds = self.r.choices(list(weights), list(weights.values()), k=STEPS)

    def play(self) -> Counter[str]:
        with bounded(self.r.random() < 0.5):
            for kind in self.kinds:
                self.step += 1
                self.now += self.r.choice((0, 1, 500, 2000, 2000, 30_000))
                getattr(self, f"do_{kind}")()
                if self.r.random() < 0.5:
                    self.react()
        return self.did

    # -- what others do

    def do_event(self) -> None:
        for _ in range(self.r.choice((1, 1, 1, 2, 4))):
            self.offset += 1
            self.batch.append(chance.heard_event(self.r, TASKS, self.offset, self.now))

    def do_passes(self) -> None:
        """The scheduler reacts, and then examines the run."""
        self.react()
        row = self.row
        if not self.running:
            self.running = self.r.random() < 0.5
        elif row.state == "scheduled":
            row.state = "queued"
        elif row.state == "restarting":  # its process has ended
            row.end("")
        elif row.state == "up_for_retry" and self.task.stopping is not None:
            pass  # ADR 0012
        elif row.state in ("up_for_retry", "up_for_reschedule") or (row.state == "" and self.can):
            row.number += row.state != "up_for_reschedule"
            row.begin(*(("deferred", RESUME, ()) if self.task.rules.waits else ("scheduled", None, ())))

    def do_begin(self) -> None:
        row, ledger = self.row, self.ledger
        if row.state != "queued":
            return
        row.state = "running"
        if row.method == RESUME:
            told = ledger.told if ledger.told is not None else ledger.last
            self.right(row.told == told, "told-wrong-try", f"it is told {row.told}, must be {told}")

    def do_end(self) -> None:
        row = self.row
        how = "success" if str(row.id) in self.asked and self.r.random() < 0.7 else self.r.choice(ENDS)
        if row.state == "running" or (row.state in ("queued", "restarting") and how == "failed"):  # or it vanishes
            self.end(how)

    def end(self, how: str) -> None:
        row = self.row
        if how == "failed" and row.retries:
            row.retries -= 1
            row.id, how = next(self.ids), "up_for_retry"
        row.begin(how, "done" if how == "deferred" else None, ())

    def do_trigger(self) -> None:
        if self.row.state == "deferred" and not self.row.parked:
            self.row.state = "scheduled"

    def do_time(self) -> None:
        self.now += self.r.choice((60_000, 300_000))

    def do_clear(self) -> None:
        """A user clears it."""
        if self.row.state == "":
            return
        self.ledger.again, self.ledger.told = self.ledger.last is not None, None
        self.ledger.cleared = str(self.row.id)
        self.clear()

    def clear(self) -> None:
        row = self.row
        row.id, row.retries = next(self.ids), self.retries
        row.end("restarting" if row.state == "running" else "")

    def do_below(self) -> None:
        """What is above it begins again, with downstream=True: it waits for its rules anew (R76)."""
        self.ledger.again, self.ledger.told, self.ledger.last = False, None, None
        self.task.started = None
        self.clear()
        self.others += 1

    def do_mark(self) -> None:
        if self.row.state:
            self.row.end(self.r.choice(("success", "failed", "skipped")))

    def do_reset(self) -> None:
        """The executor has forgotten it."""
        if self.row.state in ("queued", "running", "restarting"):
            self.row.id = next(self.ids)
            self.row.end("")

    def do_upstream(self) -> None:
        self.others += 1
        if self.r.random() < 0.7:
            self.can = not self.can

    def do_edit(self) -> None:
        """Other rules, or none, begin anew; all else stays (R77)."""
        task = self.task
        new = new_task("d0", "run1", "t0", self._rules(), self.acted, self.now)
        new.pending, new.started, new.stopping = task.pending, task.started, task.stopping
        self.task, self.ledger.edited = new, True

    def do_again(self) -> None:
        """Its run ends, and a user clears that: the run is queued again (R75)."""
        task, ledger = self.task, self.ledger
        self.react()
        if self.row.state not in tasks.ENDED or task.stopping or starts.has_start(task.pending, self.states):
            return
        self.task = new_task("d0", "run1", "t0", task.rules, self.offset, self.now)
        self.task.started, self.acted = task.started, self.offset
        self.ledger = Ledger(last=ledger.last, again=ledger.last is not None, added=ledger.added, edited=ledger.edited)
        self.clear()
        self.running = False

    def do_die(self) -> None:
        """Another scheduler takes over."""
        self.asked = set()

    def _rules(self) -> Ruleset:
        self.edits += 1
        if self.edits > 1 and self.r.random() < 0.2:
            return NO_RULES
        rules = chance.stored_rules(self.r, TASKS, plain=0.6)
        core = _core.Rules(compile_rules({"v": 1, "rules": rules}, "d0"))
        waits = any(rule["action"] in ("start", "restart") for rule in rules)
        return Ruleset(tuple(rules), core, (), str(self.edits), waits)

    # -- a reaction, as decide.py makes it

    def react(self) -> None:
        batch, self.batch = self.batch, []
        self.was, self.seen, self.out = self.row.seen(), self.row.seen(), Outlook()
        self.ti = self.read()
        self.fired: list[Any] = []
        self.to_ask: set[str] = set()
        task = self.task
        due = task.due_ms is not None and task.due_ms <= self.now and self.running
        races = len(batch) + due < 2 and self.r.random() < 0.1
        self.races = races and not (batch or due)
        self._settle()
        self.races = races
        for event, own in batch:
            self.acted = event.offset
            task.core, fired = task.rules.core.feed(task.core, event, own)
            self._fire(fired)
        if due:
            task.core, fired = task.rules.core.tick(task.core, self.now)
            self._fire(fired)
            task.due_ms = task.rules.core.due(task.core)
        self.races = False
        self._settle()
        self._compare()
        under_way = {task.stopping["try"]} if task.stopping is not None else set()
        self.asked = (self.asked | self.to_ask) & under_way

    def _settle(self) -> None:
        moment = self.moment()
        if starts.can_settle(self.task, self.ti, moment):
            self.carry_out(starts.settle(self.task, self.ti, moment))
        if self.running:
            self._settled()

    def _settled(self) -> None:
        """The ledger's part; a task without rules that wait goes on as a plain one (R78)."""
        seen, out = self.seen, self.out
        tasks.settle(self.ledger, seen, "yes" if self.can else "no", out)
        if not self.task.rules.waits and (out.must is not None or seen.state == "parked"):
            out.must = ()
            seen.state, seen.method, seen.told = "scheduled", None, ()

    def _fire(self, fired: Any) -> None:
        if not fired:
            return
        index, kind, offsets = fired[0]
        rule, offsets = self.task.rules.rules[index], tuple(offsets)
        self.did[kind] += 1
        self.fired.append((kind, rule.get("while_running"), rule.get("state"), offsets))
        self.carry_out(starts.fire(self.task, self.ti, rule, kind, list(offsets), self.moment()))
        ledger, seen, out = self.ledger, self.seen, self.out
        if kind == "none":
            return
        if kind == "stop":
            tasks.stop(ledger, seen, rule, out)
        elif not self.running:  # of a run that is queued
            tasks.owe(ledger.pending, offsets, rule.get("while_running") or "once")
        else:
            tasks.start(ledger, seen, offsets, rule, "yes" if self.can else "no", out)
            if ledger.restart_of is not None:  # R79: at once
                ledger.stopping, ledger.restart_of = (ledger.restart_of, "restart"), None
            if not self.task.rules.waits:
                self._settled()

    def moment(self) -> starts.Moment:
        return starts.Moment(self.now, GRACE_MS, self.asked, 1, self.running, self.states)

    def states(self) -> str:
        return f"{self.row.state} {self.others}"

    def read(self) -> Try:
        row: Any = self.row
        return Try(row.id, "t0", -1, row.state, row.number, row.parked, 1 if row.state == "running" else None, "")

    def carry_out(self, decision: Any) -> None:
        answer = None
        while True:
            try:
                act = decision.send(answer)
            except StopIteration:
                return
            self.did[act.do] += 1
            done = getattr(self, f"act_{act.do}")(act)
            self.did["lost"] += not done
            self.ti = self.read()
            answer = done, self.ti

    def act_resume(self, act: starts.Act) -> bool:
        if self.races:
            self.meanwhile("success")
        if not self.row.parked:
            return False
        self.begin(act)
        return True

    def act_again(self, act: starts.Act) -> bool:
        if not self.can:
            return False
        assert self.row.state in tasks.ENDED
        self.clear()
        self.row.number += 1
        self.begin(act)
        return True

    def begin(self, act: starts.Act) -> None:
        if act.start and self.task.rules.waits:
            self.row.begin("scheduled", RESUME, tuple(act.start["events"]))
        else:
            self.row.begin("scheduled", None, ())

    def act_add(self, act: starts.Act) -> bool:
        if self.races:
            self.meanwhile("running")
        if self.row.state not in ("scheduled", "queued") or self.row.method != RESUME:
            return False
        self.row.told = tasks.newest({*self.row.told, *act.start["events"]})
        return True

    def act_ask(self, act: starts.Act) -> bool:
        assert act.why.startswith("stopped by rule r"), act
        self.to_ask.add(str(self.ti.id))
        self.ever.setdefault(str(self.ti.id), self.now)
        return True

    def act_term(self, act: starts.Act) -> bool:
        self.late(GRACE_MS)
        self.termed[str(self.ti.id)] = self.now
        return True

    def act_restart(self, act: starts.Act) -> bool:
        return self.force("restart")

    def act_set(self, act: starts.Act) -> bool:
        if act.expected == "running":
            return self.force(act.state)
        if self.races and act.expected in ("scheduled", "queued"):
            self.meanwhile("running")
        if act.of not in ("", str(self.row.id)) and act.of == self.ledger.cleared:
            return False
        if self.row.state != act.expected:
            return False
        self.row.end(act.state)
        return True

    def force(self, state: str) -> bool:
        """It did not listen: its row is changed, and it ends at its next heartbeat."""
        self.late(2 * GRACE_MS)
        termed = self.termed.get(str(self.ti.id), self.now - GRACE_MS)
        self.right(self.now >= termed + GRACE_MS, "stop-early", f"SIGTERM at {termed}, now {self.now}")
        if self.races:
            self.meanwhile("success")
        if self.row.state != "running":
            return False
        stopping = self.ledger.stopping
        self.right(stopping is not None and stopping[1] == state, "forced-wrong", f"{stopping}, forced: {state}")
        if state == "restart":
            self.clear()
            self.was.ti_id = self.seen.ti_id = str(self.row.id)
            state = "restarting"
        else:
            self.row.end(state)
        self.was.state = self.seen.state = state
        return True

    def late(self, ms: int) -> None:
        since = self.ever.get(str(self.ti.id), self.now)
        self.right(self.now >= since + ms, "stop-early", f"asked at {since}, now {self.now}")

    def meanwhile(self, state: str) -> None:
        """Somebody is faster."""
        if self.row.seen() == self.was:  # what this reaction has changed is not committed, and so nobody's
            self.row.state = self.was.state = self.seen.state = state

    # -- what is right

    def _compare(self) -> None:
        task, ledger, now = self.task, self.ledger, self.row.seen()
        wrong = tasks.compare(ledger, self.was, now, self.out)
        self.right(wrong is None, *(wrong or ("", "")))
        pending = [tuple(start["events"]) for start in task.pending]
        self.right(pending == ledger.pending, "pending", f"kept {pending}, owed {ledger.pending}")
        if task.stopping is not None and ledger.stopping is not None:
            kept = task.stopping["try"], "restart" if task.stopping["restart"] else task.stopping["state"]
            self.right(kept == ledger.stopping, "stopping", f"kept {kept}, must be {ledger.stopping}")
            asked = now.state != "running" or now.ti_id in self.ever
            self.right(asked, "stop-unasked", "it runs, is to stop, and nobody has asked it")
        else:
            self.right(task.stopping is ledger.stopping, "stopping", f"{task.stopping}, must be {ledger.stopping}")
        started = task.started and tuple(task.started["events"])
        self.right(started == ledger.last, "started", f"kept {started}, must be {ledger.last}")
        row = task.row()
        assert json.loads(row["pending"]) == task.pending

    def right(self, is_right: bool, name: str, text: str) -> None:
        if not is_right:
            moved = f"{self.was.state or None} -> {self.row.state or None}, told {self.row.told}; fired {self.fired}"
            kept = f"{self.task.pending}, {self.task.started}, {self.task.stopping}; {self.ledger}"
            raise AssertionError(f"seed {self.seed}, step {self.step}: {name}: {moved}; {text.strip('; ')}; {kept}")
