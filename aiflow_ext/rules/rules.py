"""Rules: condition -> action, written in Dag files, carried as JSON, compiled for the C core.

    start_on(evaluate, event("digits", type="MODEL_GENERATED"))
    restart_on(serve, event("digits", type="MODEL_VALIDATED") & event("window", "open").repeated())
    start_on(b, status(a, "running"))
    stop_on(train, event("stop"))
    restart_on(report, every(hours=1))

Pure: imports no Airflow and no C.  docs/rules.md has the meaning, sentence by sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any, TypeVar

from .conditions import (
    AllOf,
    AnyOf,
    Condition,
    EventCondition,
    Json,
    PeriodCondition,
    StatusCondition,
    check_condition,
    from_json,
)

VERSION = 1
RULES_MAX = 64  # of one task; these two are those of csrc/core/rules/rules.h
CONDITIONS_MAX = 256  # of one rule, groups included
STATUS_NAMESPACE = "airflow"
STATUS_TYPE = "TASK_STATUS_CHANGED"

Cond = tuple[Any, ...]
Spec = list[tuple[str, list[Cond]]]
T = TypeVar("T")

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


# -- what users write ---------------------------------------------------------------------------------------------


def start_on(
    target: T, when: Condition, *, while_running: str = "once", downstream: bool = False, name: str | None = None
) -> T:
    """Start a task of a run, or a run of a Dag, when a condition is met.

    :param target: an operator, what a ``@task`` function returned, or a Dag.
    :param when: event(), status(), every() or several of them joined by ``&`` and ``|``.
    :param while_running: the task is alive already: start it ``once`` more when it ends, ``each`` time, or ``ignore``.
    :param downstream: a further start in the same run also re-runs what follows the task.
    :param name: shown in logs and in the run_id of a started run; default ``start_<n>``.
    :return: `target`.
    :raises ValueError: a wrong rule; says what to write instead.
    :raises TypeError: `when` is not a condition or `target` not a task or Dag.
    """
    return _attach(target, Rule(name, "start", when, while_running, downstream))


def restart_on(
    target: T, when: Condition, *, while_running: str = "once", downstream: bool = False, name: str | None = None
) -> T:
    """Stop a task if it is alive, then start it, when a condition is met.  Parameters as start_on(), but no Dag."""
    return _attach(target, Rule(name, "restart", when, while_running, downstream))


def stop_on(target: T, when: Condition, *, state: str = "success", name: str | None = None) -> T:
    """Stop a task of a run, or the runs of a Dag, when a condition is met.

    :param target: an operator, what a ``@task`` function returned, or a Dag.
    :param when: event(), status(), every() or several of them joined by ``&`` and ``|``.
    :param state: what a stopped task becomes: success, skipped or failed.  One that had not begun is skipped.
    :param name: shown in logs; default ``stop_<n>``.
    :return: `target`.
    :raises ValueError: a wrong rule; says what to write instead.
    :raises TypeError: `when` is not a condition or `target` not a task or Dag.
    """
    return _attach(target, Rule(name, "stop", when, state=state))


def _attach(target: T, rule: Rule) -> T:
    if hasattr(target, "dag_id") and not hasattr(target, "task_id"):
        from .check import dag_rule_errors

        if errors := dag_rule_errors(str(target.dag_id), rule):
            raise ValueError(errors[0])
    from ..provider.author.operators import attach

    attach(target, rule.to_json())
    return target


# -- what the scheduler reads -------------------------------------------------------------------------------------


def read_rules(rules_json: Any) -> list[Rule]:
    """Return the rules of a task in their order.

    :param rules_json: ``{"v": 1, "rules": [...]}``.
    :raises ValueError: it is not that, or a rule is wrong.
    :raises TypeError: a field is not of its type.
    """
    if not isinstance(rules_json, Mapping) or not isinstance(rules_json.get("rules"), list):
        raise ValueError(f'rules are {{"v": {VERSION}, "rules": [...]}}, not {short(rules_json)}')
    if rules_json.get("v") != VERSION:
        raise ValueError(f"rules of version {rules_json.get('v')!r}, this aiflow-ext reads {VERSION}; upgrade it")
    rules = [Rule.from_json(rule) for rule in rules_json["rules"]]
    if len(rules) > RULES_MAX:
        raise ValueError(f"a task with {len(rules)} rules, must be at most {RULES_MAX}; join conditions with any_of()")
    return rules


def compile_rules(rules_json: Json, dag_id: str) -> Spec:
    """Return the rules as ``_core.Rules`` takes them.

    :param rules_json: ``{"v": 1, "rules": [...]}``.
    :param dag_id: whose tasks a status() is about.
    :raises ValueError: a rule is wrong.
    :raises TypeError: a field is not of its type.
    """
    return [(rule.action, [_compile(c, dag_id) for c in walk(rule.when)]) for rule in read_rules(rules_json)]


def describe(rules_json: Json) -> str:
    """Return the rules in one line, for people and logs.

    :raises ValueError: a rule is wrong.
    :raises TypeError: a field is not of its type.
    """
    return "; ".join(map(str, read_rules(rules_json)))


def check_dag(
    dag_id: str, tasks: Mapping[str, Json], all_task_ids: set[str], dag_rules: Json | None = None
) -> list[str]:
    """Return what is wrong with the rules of a Dag, each with what to write instead.

    :param dag_id: the Dag.
    :param tasks: the rules of each task that has any, by task_id.
    :param all_task_ids: also of the tasks without rules.
    :param dag_rules: the Dag's own rules.
    """
    from .check import check

    return check(dag_id, tasks, all_task_ids, dag_rules)


def walk(when: Condition) -> Iterator[Condition]:
    """The tree in prefix order, groups before what is in them."""
    yield when
    if isinstance(when, AllOf | AnyOf):
        for child in when.conditions:
            yield from walk(child)


def _compile(when: Condition, dag_id: str) -> Cond:
    match when:
        case EventCondition():
            within = round((when.within or 0) * 1000)
            fields = (when.namespace, when.key, when.type, when.sender, when.value)
            return ("event", *fields, when.is_repeated, when.count, within, False)
        case StatusCondition():
            fields = (STATUS_NAMESPACE, f"{dag_id}.{when.task}", STATUS_TYPE, "*", when.state)
            return ("event", *fields, when.is_repeated, 1, 0, True)
        case PeriodCondition():
            return ("every", round(when.seconds * 1000))
        case AllOf() | AnyOf():
            return (when.word, len(when.conditions))
    raise TypeError(f"not a condition: {when!r}")
