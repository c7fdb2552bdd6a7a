"""One rule: a condition, and what to do when it is met."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any

from .conditions import Condition, Json, check_condition, from_json, walk

CONDITIONS_MAX = 256  # of one rule, groups included, as in csrc/core/rules/rules.h

_CHOICES = {
    "action": ("start", "restart", "stop", "none"),
    "while_running": ("once", "each", "ignore"),
    "state": ("success", "skipped", "failed"),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """What to do when a condition is met.

    :param name: letters, digits, ``_ . -``, at most 100; None until the rule is on a task.
    :param action: start, restart, stop, or none: fire and do nothing, so that no later rule decides.
    :param when: the condition.
    :param while_running: start or restart while the task is alive: ``once`` more when it ends, with all events since;
        ``each`` firing in order; ``ignore`` it.
    :param downstream: a further start in the same run also re-runs what follows the task.
    :param state: of a stopped task: success, skipped or failed.
    :raises ValueError: a field has a value it cannot have.
    :raises TypeError: a field is not of its type.
    """

    name: str | None
    action: str
    when: Condition
    while_running: str = "once"
    downstream: bool = False
    state: str = "success"

    def __post_init__(self) -> None:
        check_condition(self.when, f"{self.action}_on")
        for field, choices in _CHOICES.items():
            if (value := getattr(self, field)) not in choices:
                raise ValueError(f"{field} is {value!r}, must be one of {', '.join(map(repr, choices))}")
        if not isinstance(self.downstream, bool):
            raise TypeError(f"downstream is {self.downstream!r}, must be True or False")
        if self.name is not None and not (
            isinstance(self.name, str) and re.fullmatch(r"[\w.-]{1,100}", self.name, re.ASCII)
        ):
            raise ValueError(f"name is {self.name!r}, must be 1 to 100 letters, digits, '_', '.' or '-'")
        if (n := sum(1 for _ in walk(self.when))) > CONDITIONS_MAX:
            raise ValueError(f"a rule of {n} conditions, must be at most {CONDITIONS_MAX}; make several rules of it")

    def to_json(self) -> Json:
        """Return it as a dict of plain values; no name while there is none."""
        named = {} if self.name is None else {"name": self.name}
        return {
            **named,
            "action": self.action,
            "when": self.when.to_json(),
            "while_running": self.while_running,
            "downstream": self.downstream,
            "state": self.state,
        }

    @classmethod
    def from_json(cls, rule: Any) -> Rule:
        """Return the rule that `rule` was made from by ``to_json``.

        :raises ValueError: it was not, or the rule is wrong.
        :raises TypeError: a field is not of its type.
        """
        if not isinstance(rule, Mapping):
            raise ValueError(f"a rule is a dict, not {short(rule)}")
        fields = {"name": None, **rule}
        if unknown := sorted(map(str, set(fields) - set(cls.__slots__))):
            raise ValueError(f"no such field of a rule: {', '.join(unknown)}; there are {', '.join(cls.__slots__)}")
        if "action" not in fields or "when" not in fields:
            raise ValueError("a rule needs an action and a when")
        return cls(**{**fields, "when": from_json(fields["when"])})

    def __str__(self) -> str:
        options = [f"while_running={self.while_running!r}"] * (self.while_running != "once")
        options += ["downstream=True"] * self.downstream + [f"state={self.state!r}"] * (self.state != "success")
        tail = f" ({', '.join(options)})" if options else ""
        return f"{self.name or 'a rule'}: {self.action} on {self.when}{tail}"
