"""One task of one run: its rules and their state, what is pending, and the try that is there.  Knows no Airflow."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from aiflow_ext import _core
from aiflow_ext.provider.author.carried import EVENTS_MAX as EVENTS_MAX

Pattern = tuple[str, str, str, str]

ALIVE = frozenset({"scheduled", "queued", "running", "restarting"})
# These go on by themselves, so a START meets them as it meets a running task.
UNDER_WAY = frozenset({"up_for_retry", "up_for_reschedule", "deferred", "awaiting_input"})
ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


@dataclass(slots=True)
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


@dataclass(frozen=True)
class Ruleset:
    """The rules of one task, or of a Dag, ready to run.

    :param rules: as the Dag file wrote them, in order.
    :param core: the same, compiled.
    :param patterns: which events touch them.
    :param hash: says when a stored state belongs to other rules.
    :param waits: the task waits for its rules.
    """

    rules: tuple[dict[str, Any], ...]
    core: _core.Rules
    patterns: tuple[Pattern, ...]
    hash: str
    waits: bool


# Of a task whose rules were taken out of the Dag while it waited, or had a start pending.
NO_RULES = Ruleset((), _core.Rules([]), (), "", waits=False)


@dataclass(slots=True)
class TaskState:
    """One row of aiflow_rule_state: the rules of a task in a run (or of a Dag, with run_id and task_id "").

    :param pending: starts: offsets of "events", how many "older" ones are not kept, "downstream", and "refused": in
        which states of the run it was in vain.
        Of a Dag that is paused or away: runs that are to be made, with "rule", "events" and "context".
    :param started: the last start, which is made again where the task begins anew: "events", and the id of its "run".
    :param stopping: the stop under way: of which "try", "since" when (ms), its "stage", whether a "restart"
        follows, else which "state", and "why".
    :param stored: the row as it was read.
    :param dropped: starts that made room for newer ones in this transaction.
    """

    dag_id: str
    run_id: str
    task_id: str
    rules: Ruleset
    core: bytes
    due_ms: int | None
    pending: list[dict[str, Any]] = field(default_factory=list)
    started: dict[str, Any] | None = None
    stopping: dict[str, Any] | None = None
    stored: dict[str, Any] | None = None
    dropped: list[dict[str, Any]] = field(default_factory=list)

    @property
    def who(self) -> dict[str, str]:
        """Which one, for the log."""
        return {"dag_id": self.dag_id, "run_id": self.run_id, "task_id": self.task_id}

    @property
    def fresh(self) -> bool:
        """Whether the rules begin, or begin anew because they were changed."""
        return self.stored is None or self.stored["rules_hash"] != self.rules.hash

    def row(self) -> dict[str, Any]:
        """Return it as columns."""
        return self.who | {
            "rules_hash": self.rules.hash,
            "state": self.core,
            "due_ms": self.due_ms,
            "pending": json.dumps(self.pending),
            "started": json.dumps(self.started) if self.started else None,
            "stopping": json.dumps(self.stopping) if self.stopping else None,
        }


def new_task(dag_id: str, run_id: str, task_id: str, rules: Ruleset, since: int, now_ms: int) -> TaskState:
    """Return the state of rules that begin to listen beyond offset `since`."""
    core = rules.core.start(since, now_ms)
    return TaskState(dag_id, run_id, task_id, rules, core, rules.core.due(core))
