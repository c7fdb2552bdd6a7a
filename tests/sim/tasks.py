"""What firings do to a task, from the sentences R48 to R58 of docs/rules.md: a ledger of the starts that are owed.

The ledger does not say how the scheduler stores anything.  For each reaction it is given what fired and how the task
stood, and says what may be seen afterwards; where a sentence leaves it open, it takes what is seen.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

RESUME = "aiflow_start"
ALIVE = {"scheduled", "queued", "running", "restarting"}
UNDER_WAY = {"up_for_retry", "up_for_reschedule", "deferred", "awaiting_input"}
ENDED = {"success", "failed", "skipped", "upstream_failed", "removed"}


EVENTS = 1000  # R94
KEPT_STARTS, KEPT_EVENTS = 10_000, 100_000  # R93


@dataclass
class Seen:
    """A task instance as a row showed it; `state` is "" for none, "parked" where it waits for its rules."""

    ti_id: str
    state: str
    number: int
    method: str | None
    told: tuple[int, ...]

    @property
    def alive(self) -> bool:
        return self.state in ALIVE or self.state in UNDER_WAY

    @property
    def ended(self) -> bool:
        return self.state in ENDED


@dataclass
class Ledger:
    """One task of one run.

    :param pending: starts that are owed, each with its events.
    :param told: what started the current try, while it may be tried again.
    :param last: what the last start was told, for ever.
    :param stopping: (try, state) of a stop under way.
    :param again: a user cleared it after an event had started it.
    :param edited: its rules were edited while it was in the run.
    :param added: a RESTART gave a try that had not begun more events.
    :param free: somebody (an edit, a clear of what is before it) left open what comes next.
    """

    pending: list[tuple[int, ...]] = field(default_factory=list)
    told: tuple[int, ...] | None = None
    last: tuple[int, ...] | None = None
    stopping: tuple[str, str] | None = None
    again: bool = False
    free: bool = False
    edited: bool = False
    added: bool = False
    restart_of: str | None = None  # a try that waits by itself, and that a RESTART is to end
    cleared: str | None = None  # a try that a user cleared

    def merge(self, offsets: tuple[int, ...]) -> None:
        """R49: one start, with all events since."""
        merge(self.pending, offsets)


def merge(pending: list[tuple[int, ...]], offsets: tuple[int, ...]) -> None:
    pending[:1] = [newest({*(pending[0] if pending else ()), *offsets})]


def newest(offsets: Collection[int]) -> tuple[int, ...]:
    """R94."""
    return tuple(sorted(offsets)[-EVENTS:])


@dataclass
class Outlook:
    """What may be seen of a task after a reaction: `must` a start with these events; `state` an end.

    :param may: other starts, and what is owed after each.
    """

    must: tuple[int, ...] | None = None
    may: dict[tuple[int, ...], list[tuple[int, ...]]] = field(default_factory=dict)
    state: str | None = None
    open: bool = False  # anything may have happened
    why: str = ""


def start(ledger: Ledger, seen: Seen, offsets: tuple[int, ...], rule: dict[str, Any], can: str, out: Outlook) -> None:
    """A START or a RESTART fires.

    :param can: whether the upstream lets an ended task begin again: yes, no or maybe.
    """
    restart = rule["action"] == "restart"
    how = rule.get("while_running") or "once"
    if restart and seen.state in ("scheduled", "queued") and seen.method == RESUME and ledger.stopping is None:
        told = seen.told = newest({*seen.told, *offsets})  # it has not begun: it is told of these as well
        if out.must is not None:
            out.must = told
        else:
            out.may = {told: list(ledger.pending)}
        ledger.added = True
        ledger.told = ledger.last = told
        return
    if restart and (seen.alive or ledger.stopping):
        ledger.merge(offsets)
        if seen.state in UNDER_WAY or seen.state == "scheduled":
            ledger.restart_of = seen.ti_id
            out.open = True
        else:
            ledger.stopping = (seen.ti_id, "restart")
        return
    if (seen.alive or ledger.stopping) and how == "ignore":
        return
    if restart:  # where a start was made just now, that try has not begun: it is told of these as well
        out.may = {newest({*told, *offsets}): owed for told, owed in out.may.items()}
    elif how != "ignore":  # where it was made, it is alive
        for owed in out.may.values():
            owe(owed, offsets, how)
    owe(ledger.pending, offsets, how)
    settle(ledger, seen, can, out)


def owe(pending: list[tuple[int, ...]], offsets: tuple[int, ...], how: str) -> None:
    """R49, R50: one start more for each firing, or one with all events."""
    if how == "each":
        pending.append(newest(offsets))
        while len(pending) > KEPT_STARTS or (len(pending) > 1 and sum(map(len, pending)) > KEPT_EVENTS):
            del pending[0]  # R93
    else:
        merge(pending, offsets)


def stop(ledger: Ledger, seen: Seen, rule: dict[str, Any], out: Outlook) -> None:
    """A STOP fires (R48, R58)."""
    ledger.pending.clear()
    ledger.restart_of = None
    if seen.ended:
        return
    state = rule.get("state") or "success"
    if seen.state == "running" or ledger.stopping:
        ledger.stopping = (seen.ti_id if ledger.stopping is None else ledger.stopping[0], state)
        return
    ledger.again = False
    never_ran = seen.state in ("", "parked", "scheduled", "queued")
    out.state = "skipped" if never_ran else state
    out.must = None
    out.may.clear()
    seen.state = out.state


def settle(ledger: Ledger, seen: Seen, can: str, out: Outlook) -> None:
    """What waited for this moment: the end of a stop, a pending start, a retry, a task that was cleared."""
    if ledger.stopping is not None:
        ti_id, state = ledger.stopping
        if seen.ti_id == ti_id and seen.state in ("running", "restarting", "queued"):
            return
        ledger.stopping = None
        same = seen.ti_id == ti_id or (seen.state == "up_for_retry" and ti_id != ledger.cleared)  # which has a new id
        if state == "restart":  # it does not begin anew with what it was stopped for
            ledger.told, ledger.last, ledger.again = None, None, False
            if same and seen.state in {*UNDER_WAY, "failed", "scheduled", "parked"}:
                out.state = seen.state = "success"
        elif seen.state != "removed" and same:
            out.state = seen.state = state
        elif not seen.ended:
            out.open = True
    if ledger.restart_of is not None and seen.ti_id != ledger.restart_of:
        ledger.restart_of = None
    if seen.ended:
        ledger.told = None
        ledger.again = False
    if seen.state == "parked" and (ledger.told is not None or (ledger.again and ledger.last is not None)):
        told = ledger.told if ledger.told is not None else ledger.last
        out.why = "cleared" if ledger.told is None else "retry"
        _begin(ledger, seen, told, out)
    elif ledger.pending and seen.state == "parked":
        _begin(ledger, seen, ledger.pending.pop(0), out)
    elif ledger.pending and seen.ended:
        if can == "yes":
            out.why = "ended"
            _begin(ledger, seen, ledger.pending.pop(0), out)
        elif can == "maybe":  # R73: it waits, as long as the run goes on
            out.may.setdefault(ledger.pending[0], ledger.pending[1:])
        else:  # R82
            out.why = "branch"


def _begin(ledger: Ledger, seen: Seen, told: tuple[int, ...] | None, out: Outlook) -> None:
    assert told is not None
    out.must = told
    out.state = None
    ledger.told = ledger.last = told
    ledger.again = False
    seen.state, seen.method, seen.told = "scheduled", RESUME, told


def compare(ledger: Ledger, was: Seen, now: Seen, out: Outlook) -> tuple[str, str] | None:
    """Say what is wrong with what a reaction left: the name of the check, and what must be; where it is open, go on."""
    changed = (was.ti_id, was.state, was.number) != (now.ti_id, now.state, now.number)
    began = now.state == "scheduled" and (was.state != "scheduled" or was.number != now.number)
    if out.must is not None:
        if now.state != "scheduled":
            why = "edited" if ledger.edited else out.why or was.state or "none"
            return f"start-lost-{why}", f"; must start with {list(out.must)}"
        if now.told != out.must:
            why = "added" if ledger.added else "edited" if ledger.edited else out.why or was.state
            return f"told-wrong-{why}", f"; must be told {list(out.must)}"
    elif began or (now.state in ("scheduled", "queued") and now.told != was.told):
        if ledger.stopping is not None and was.state in ("running", "restarting") and ledger.pending:
            ledger.stopping = None  # it did not listen: Airflow ends it, and the start that waited for that begins
            out.may.setdefault(ledger.pending[0], ledger.pending[1:])
        if now.told not in out.may:
            return f"start-unasked-{out.why or was.state or 'none'}", f"; may be told {sorted(out.may)}"
        ledger.pending = out.may[now.told]
        ledger.told = ledger.last = now.told
    elif out.state is not None:
        if now.state != out.state:
            return f"stop-state-{was.state or 'none'}", f"; must be {out.state}"
    elif changed and not out.may:
        if ledger.stopping is not None and was.state in ("running", "restarting"):
            state, ledger.stopping = ledger.stopping[1], None  # it did not listen: Airflow ends it
            if state == "restart":
                ledger.told, ledger.last, ledger.again = None, None, False
            elif now.state != state:
                return "stop-state-forced", f"; must be {state}"
        else:
            return f"changed-unasked-{was.state or 'none'}", ""
    return None


def sync(ledger: Ledger, was: Seen, now: Seen) -> None:
    """Take what is seen for what is."""
    if ledger.added and now.told:
        ledger.told = ledger.last = now.told
    if ledger.edited and now.state == "parked":
        ledger.pending.clear()
        ledger.told, ledger.again = None, False
    if (
        now.state in ("scheduled", "queued", "skipped")  # the last: its run was stopped in the same reaction
        and now.method == RESUME
        and (now.told, now.number) != (was.told, was.number)
    ):
        ledger.told = ledger.last = now.told
        owed = tuple(offset for offset in ledger.pending[0] if offset not in now.told) if ledger.pending else ()
        ledger.pending[:1] = [owed] if owed else []
