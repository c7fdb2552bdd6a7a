"""Rules, condition -> action: made in Dag files, carried as JSON, checked, compiled for the C core.

Pure: imports neither Airflow nor the C core.  docs/rules.md has the meaning, sentence by sentence.
"""

from .check import check_dag
from .conditions import (
    STATES,
    AllOf,
    AnyOf,
    Condition,
    EventCondition,
    PeriodCondition,
    StatusCondition,
    all_of,
    any_of,
    asset_updated,
    event,
    every,
    from_json,
    status,
)
from .rules import Rule
from .spec import compile_rules, describe, read_rules

__all__ = [
    "STATES",
    "AllOf",
    "AnyOf",
    "Condition",
    "EventCondition",
    "PeriodCondition",
    "Rule",
    "StatusCondition",
    "all_of",
    "any_of",
    "asset_updated",
    "check_dag",
    "compile_rules",
    "describe",
    "event",
    "every",
    "from_json",
    "read_rules",
    "status",
]
