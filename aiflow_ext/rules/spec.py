"""All rules of a task or a Dag: read from JSON, compiled for the C core, told in one line."""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as short
from typing import Any

from .conditions import AllOf, AnyOf, Condition, EventCondition, Json, PeriodCondition, StatusCondition, walk
from .rules import Rule

VERSION = 1
RULES_MAX = 64  # of one task, as in csrc/core/rules/rules.h
STATUS_NAMESPACE = "airflow"
STATUS_TYPE = "TASK_STATUS_CHANGED"

Cond = tuple[Any, ...]
Spec = list[tuple[str, list[Cond]]]


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
