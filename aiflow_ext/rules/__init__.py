"""Rules: condition -> action.  Pure: imports neither Airflow nor the C core."""

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
from .rules import Rule, check_dag, compile_rules, describe, read_rules, restart_on, start_on, stop_on

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
    "restart_on",
    "start_on",
    "status",
    "stop_on",
]
