"""What is decided of one task: which starts are pending, and which stop is under way.  Knows no Airflow.

    a rule fires -> fire()      whenever something may have waited for this moment -> settle()

Both change what is kept of the task (`pending`, `started`, `stopping`), and yield acts, which decide.py carries out.
What comes next may depend on an act: another process was faster, or the upstream does not allow it.  So each is
answered by whether it was done, and by the try as it is then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from aiflow_ext.provider.world.task import ENDED, EVENTS_MAX, TaskState, Try

KEPT_STARTS = 10_000  # of a task, one after the other; the newest
KEPT_EVENTS = 100_000  # of all starts that a task, or a Dag, keeps: their offsets are 1 MB in its row

ASK, TERM, ROW = 0, 1, 2  # the stages of a stop: the task is asked, gets SIGTERM, and then its row is changed
NEVER = 1 << 62  # ms


@dataclass(frozen=True)
class Act:
    """What is to be done with the task.

    :param do: "resume" a try that waits for its rules, with a `start` or as a plain one; start it "again", with a
        `start`; "add" the events of a `start` to a try that has not begun; "set" its `state`, where it has the
        `expected` one, and is no retry of a try (`of`) that a user has cleared; "restart": let Airflow end it and make
        a new try; "ask" it to stop, and say `why`; "term": send its process SIGTERM.
    """

    do: str
    start: dict[str, Any] = field(default_factory=dict)
    state: str = ""
    expected: str = ""
    of: str = ""
    why: str = ""


class Moment(NamedTuple):
    """When, and in which run, it is decided.

    :param grace_ms: between the stages of a stop.
    :param asked: tries that were asked to stop by this scheduler.
    :param run: its id.
    :param running: tasks of the run may run.
    :param states: returns the digest of the states of its tasks.
    """

    ms: int
    grace_ms: int
    asked: Collection[str]
    run: int
    running: bool
    states: Callable[[], str]


T = TypeVar("T")
Decision = Generator[Act, tuple[bool, Try], T]


def fire(
    task: TaskState, ti: Try | None, rule: dict[str, Any], kind: str, offsets: list[int], moment: Moment
) -> Decision[str]:
    """A rule fires: return what follows, "pending" or "stopping", or "" where the try's state says it."""
    if kind == "none":
        return ""
    if kind == "stop":
        return (yield from _stop(task, ti, rule, offsets, moment))
    return (yield from _start(task, ti, rule, kind, offsets, moment))


def can_settle(task: TaskState, ti: Try | None, moment: Moment) -> bool:
    """Whether what waited for this moment can be done: the end of a stop, a pending start, a retry."""
    if ti is None or not moment.running:
        return False
    if task.stopping is not None:
        return _over(task.stopping, ti) or due_ms(task.stopping, moment.grace_ms, moment.asked) <= moment.ms
    if ti.parked:
        return bool(task.pending) or task.started is not None or not task.rules.waits
    return ti.state in ENDED and has_start(task.pending, moment.states)


def settle(task: TaskState, ti: Try | None, moment: Moment) -> Decision[None]:
    """Do what waited for this moment: the end of a stop, the start of a task that begins anew, a pending start."""
    if ti is None or not moment.running:
        return
    if task.stopping is not None:
        ti = yield from _go_on(task, task.stopping, ti, moment)
        if task.stopping is not None:
            return
    if ti.parked and task.started is not None:  # Airflow retries, or a user has cleared it
        yield Act("resume", task.started)
    elif ti.parked and task.pending:
        if (yield Act("resume", task.pending[0]))[0]:
            _made(task, moment)
    elif ti.state in ENDED and task.pending:
        if (yield Act("again", task.pending[0]))[0]:
            _made(task, moment)
        else:  # until these change, its end is the run's
            task.pending[0]["refused"] = moment.states()
    elif ti.parked and not task.rules.waits:
        yield Act("resume")


# Starts


def _start(
    task: TaskState, ti: Try | None, rule: dict[str, Any], kind: str, offsets: list[int], moment: Moment
) -> Decision[str]:
    entry = bounded({"events": offsets, "downstream": bool(rule.get("downstream")), "rule": rule["name"]})
    alive = ti is not None and (ti.alive or task.stopping is not None)
    if kind == "restart" and ti is not None and alive:
        if ti.state in ("scheduled", "queued"):
            added, ti = yield Act("add", entry)
            if added:
                if task.started is not None:
                    _add(task.started, entry)
                return ""
        _merge(task.pending, entry)
        return (yield from _begin_stop(task, ti, reason(rule, offsets), moment, restart=True, state="success"))
    how = rule.get("while_running") or "once"
    if alive and how == "ignore":
        return ""
    if how == "each":
        wait(task, entry, KEPT_STARTS)
    else:
        _merge(task.pending, entry)
    yield from settle(task, ti, moment)
    return "pending" if task.pending else ""


def _made(task: TaskState, moment: Moment) -> None:
    """The first of the pending starts was made."""
    first = task.pending.pop(0)
    task.started = {"events": first["events"], "rule": first.get("rule", ""), "run": moment.run}
    if "older" in first:
        task.started["older"] = first["older"]


def wait(task: TaskState, entry: dict[str, Any], most: int) -> None:
    """Let a start wait behind those that wait already; the oldest makes room, where they are too many."""
    task.pending.append(entry)
    events = sum(len(start["events"]) for start in task.pending)
    while len(task.pending) > most or (events > KEPT_EVENTS and len(task.pending) > 1):
        events -= len(task.pending[0]["events"])
        task.dropped.append(task.pending.pop(0))


def _merge(pending: list[dict[str, Any]], entry: dict[str, Any]) -> None:
    """Keep one start, with all events."""
    if not pending:
        pending.append(entry)
        return
    first = pending[0]
    _add(first, entry)
    first["downstream"] = first["downstream"] or entry["downstream"]


def _add(start: dict[str, Any], more: dict[str, Any]) -> None:
    """Let a start be also for the events of another one."""
    start["events"] = sorted({*start["events"], *more["events"]})
    if "older" in more:
        start["older"] = start.get("older", 0) + more["older"]
    bounded(start)


def bounded(start: dict[str, Any]) -> dict[str, Any]:
    """Keep those of its events that it may carry, and how many "older" ones there are."""
    if (more := len(start["events"]) - EVENTS_MAX) > 0:
        start["events"] = start["events"][more:]
        start["older"] = start.get("older", 0) + more
    return start


def number_of(start: dict[str, Any]) -> int:
    """Return how many events a start is for."""
    return len(start["events"]) + int(start.get("older", 0))


def has_start(pending: list[dict[str, Any]], states: Callable[[], str]) -> bool:
    """Whether a start can be tried on a task that has ended: one is pending, and was not refused in these states."""
    return bool(pending) and pending[0].get("refused") != states()


# Stops


def _stop(task: TaskState, ti: Try | None, rule: dict[str, Any], offsets: list[int], moment: Moment) -> Decision[str]:
    task.pending.clear()
    if ti is None or ti.state in ENDED:
        return ""
    state = rule.get("state") or "success"
    if ti.state != "running" and task.stopping is None:
        never_ran = ti.parked or ti.state in ("", "scheduled", "queued")
        done, ti = yield Act("set", state="skipped" if never_ran else state, expected=ti.state)
        if done:
            return ""
        # it began to run meanwhile: the stop is kept for it
    return (yield from _begin_stop(task, ti, reason(rule, offsets), moment, restart=False, state=state))


def _begin_stop(task: TaskState, ti: Try, why: str, moment: Moment, *, restart: bool, state: str) -> Decision[str]:
    """Stop a try that is alive; of the rules that stop it, the last says what comes then.

    :param why: which rule stops it, as in ``stopped by rule stop_1 (offset 52)``; the task's log shows it.
    :param restart: a start follows.
    :param state: what the task ends as, where none does.
    """
    if task.stopping is not None:
        task.stopping |= {"restart": restart, "state": state}
        return "stopping"
    task.stopping = {
        "try": str(ti.id),
        "since": moment.ms,
        "stage": ASK,
        "restart": restart,
        "state": state,
        "why": why,
    }
    yield Act("ask", why=why)
    return "stopping"


def _go_on(task: TaskState, stopping: dict[str, Any], ti: Try, moment: Moment) -> Decision[Try]:
    """Go on with a stop, until its try has ended and has its state."""
    if _over(stopping, ti):
        # Ended by SIGTERM it stands as failed, or waits for a retry, which has a new id; or it waits elsewhere.
        # Another try in another state is a user's, who has cleared it; so is a retry of one that was cleared before.
        # One that Airflow was restarting has no state.
        same = str(ti.id) == stopping["try"] or ti.state == "up_for_retry"
        fine = {stopping["state"], "removed"} | ({"success", "skipped", ""} if stopping["restart"] else set())
        if same and ti.state not in fine:
            _, ti = yield Act("set", state=stopping["state"], expected=ti.state, of=stopping["try"])
    else:
        if stopping["stage"] == ASK and stopping["try"] not in moment.asked:
            yield Act("ask", why=stopping.get("why", "stopped by a rule"))
        if moment.ms < _next_ms(stopping, moment.grace_ms):
            return ti
        stopping["stage"] += 1
        if stopping["stage"] == TERM:
            stopping["term"] = moment.ms  # it has its time from now on, however late this comes
            yield Act("term")
            return ti
        row = Act("restart") if stopping["restart"] else Act("set", state=stopping["state"], expected="running")
        done, ti = yield row
        if not done and ti.state == "restarting":  # it is changed already: Airflow ends the try, when it sees that
            return ti
        if not done:  # it does not run yet: ask again
            stopping |= {"stage": ASK, "since": moment.ms}
            return ti
    task.stopping = None
    if stopping["restart"]:  # it does not begin anew with what it was stopped for
        task.started = None
    return ti


def _over(stopping: dict[str, Any], ti: Try) -> bool:
    """Whether the try that was to stop has ended."""
    return str(ti.id) != stopping["try"] or ti.state not in ("running", "queued", "restarting")


def due_ms(stopping: dict[str, Any], grace_ms: int, asked: Collection[str]) -> int:
    """When the next stage of a stop begins; at once where nobody has asked yet."""
    if stopping["stage"] == ASK and stopping["try"] not in asked:
        return int(stopping["since"])
    return _next_ms(stopping, grace_ms)


def _next_ms(stopping: dict[str, Any], grace_ms: int) -> int:
    if stopping["stage"] == ROW:
        return NEVER
    heard = int(stopping["since"]) + grace_ms
    return heard if stopping["stage"] == ASK else max(heard, int(stopping.get("term", 0))) + grace_ms


def reason(rule: dict[str, Any], offsets: Sequence[int]) -> str:
    """Which rule stops a task, as its log shows it."""
    return f"stopped by rule {rule['name']} ({f'offset {offsets[-1]}' if offsets else 'its period is over'})"
