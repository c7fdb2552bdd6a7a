"""Where rules live on a Dag: put there by the Dag file, read back from what Airflow stored.

    start_on(evaluate, event("digits", type="MODEL_GENERATED"))
    restart_on(serve, event("digits", type="MODEL_VALIDATED") & event("window", "open").repeated())
    start_on(b, status(a, "running"))
    stop_on(train, event("stop"))
    restart_on(report, every(hours=1))

A task carries them as one JSON string in ``executor_config["aiflow"]``, a Dag in ``default_args["aiflow"]``: both
survive Airflow's serialization and mean nothing to anybody else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from airflow.sdk import DAG, BaseOperator
from airflow.sdk.bases.operator import BaseOperatorMeta  # noqa: F401  (documents what `target` may be)
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.exceptions import TaskAwaitingInput, TaskDeferred
from airflow.triggers.base import StartTriggerArgs

from aiflow_ext._event import Event
from aiflow_ext.rules import Condition, Rule
from aiflow_ext.rules.check import dag_rule_errors
from aiflow_ext.rules.conditions import from_json
from aiflow_ext.rules.written import by_the_author, line, name_of

log = logging.getLogger(__name__)

KEY = "aiflow"
LINES = "aiflow_lines"  # an attribute of the operator, which Airflow does not serialize
RESUME_METHOD = "aiflow_start"  # next_method of a parked task; also how we know that it is ours
VALUE_SHOWN = 60  # characters of an event's value in a log line
TRIGGER = "aiflow_ext.provider.author.waiting.EventTrigger"

Rules = dict[str, Any]
T = TypeVar("T")


@by_the_author
def start_on(
    target: T, when: Condition, *, while_running: str = "once", downstream: bool = False, name: str | None = None
) -> T:
    """Start a task of a run, or a run of a Dag, when a condition is met.

    :param target: an operator, what a ``@task`` function returned, or a Dag.
    :param when: event(), status(), every() or several of them joined by ``&`` and ``|``.
    :param while_running: the task is alive already: start it ``once`` more when it ends, ``each`` time, or ``ignore``.
    :param downstream: a further start in the same run also re-runs what follows the task.
    :param name: shown in logs and in the run_id of a started run; default ``start_<n>``, n being its place
        among all rules of the target.
    :return: `target`.
    :raises ValueError: a wrong rule; says what to write instead.
    :raises TypeError: `when` is not a condition or `target` not a task or Dag.
    """
    return _attach(target, Rule(name, "start", when, while_running, downstream))


@by_the_author
def restart_on(
    target: T, when: Condition, *, while_running: str = "once", downstream: bool = False, name: str | None = None
) -> T:
    """Stop a task if it is alive, then start it, when a condition is met.  Parameters as start_on(), but no Dag."""
    return _attach(target, Rule(name, "restart", when, while_running, downstream))


@by_the_author
def stop_on(target: T, when: Condition, *, state: str = "success", name: str | None = None) -> T:
    """Stop a task of a run, or the runs of a Dag, when a condition is met.

    :param target: an operator, what a ``@task`` function returned, or a Dag.
    :param when: event(), status(), every() or several of them joined by ``&`` and ``|``.
    :param state: what a stopped task becomes: success, skipped or failed.  One that had not begun is skipped.
    :param name: shown in logs; default ``stop_<n>``, n being its place among all rules of the target.
    :return: `target`.
    :raises ValueError: a wrong rule; says what to write instead.
    :raises TypeError: `when` is not a condition or `target` not a task or Dag.
    """
    return _attach(target, Rule(name, "stop", when, state=state))


def holds(rules: Rules) -> bool:
    """Return whether a task with these rules waits for them: it has a START or a RESTART."""
    return any(rule["action"] in {"start", "restart"} for rule in rules["rules"])


def task_rules(operator: Any) -> Rules | None:
    """Return the rules of a task of a Dag file, or None."""
    return _decode(getattr(operator, "executor_config", None))


def dag_rules(dag: Any) -> Rules | None:
    """Return the rules of a Dag of a Dag file, or None."""
    return _decode(getattr(dag, "default_args", None))


def rule_lines(dag: DAG) -> dict[tuple[str, str], str]:
    """Return where the rules of a Dag file's tasks were written, "file.py:12", by task_id and name of the rule."""
    lines = ((t.task_id, getattr(t, LINES, {})) for t in dag.tasks)
    return {(task_id, name): where for task_id, of_task in lines for name, where in of_task.items()}


def stored_rules(data: Mapping[str, Any]) -> tuple[dict[str, Rules], Rules | None]:
    """Return the rules in a serialized Dag: those of its tasks by task id, and the Dag's own.

    :param data: ``SerializedDagModel.data``, not deserialized: reading the whole Dag would cost 100 times as much.
    """
    dag = data["dag"]
    tasks = {
        var["task_id"]: rules
        for task in dag["tasks"]
        if (var := task["__var"]) and (rules := _decode(_plain(var.get("executor_config")))) is not None
    }
    return tasks, _decode(_plain(dag.get("default_args")))


def start(context: Mapping[str, Any], events: str = "", event: Any = None, rule: str = "") -> Any:
    """Run the task's own ``execute``; Airflow calls this instead of it when an event starts a parked task.

    What started it stays where Airflow put it: triggering_events() reads it from there.

    :param rule: the rule that fired; "" under a stock scheduler, where `event` has the events.
    """
    told = events or event or "[]"
    log.info("started by %s", in_words(rule, [Event(*fields) for fields in json.loads(told)]))
    try:
        return context["ti"].task.execute(context)
    except (TaskDeferred, TaskAwaitingInput):
        context["ti"].xcom_push(KEY, told)  # it goes on in another process, which is to know what started it
        raise


def resume_execution(next_method: str, next_kwargs: dict[str, Any] | None, context: Mapping[str, Any]) -> Any:
    """Begin as :func:`start` says, or go on as the task's class says.

    A sensor's class takes each exception of a task that goes on for its trigger's.  With ``soft_fail`` it skips the
    task then, and also where the task only asks to be rescheduled.
    """
    if next_method == RESUME_METHOD:
        return start(context, **(next_kwargs or {}))
    task = context["ti"].task
    return type(task).resume_execution(task, next_method, next_kwargs, context)


def in_words(rule: str, events: Sequence[Event]) -> str:
    """Return what fired, as the log of its task shows it: ``rule start_1: window=open (offset 48)``."""
    text = f"rule {rule}" if rule else "a rule"
    if not events:
        return f"{text}: its period is over"
    newest = events[-1]
    value = newest.value if len(newest.value) <= VALUE_SHOWN else newest.value[:VALUE_SHOWN] + "…"
    before = f", {len(events) - 1} more before it" if len(events) > 1 else ""
    return f"{text}: {newest.key}={value} (offset {newest.offset}{before})"


def _attach(target: T, rule: Rule) -> T:
    if isinstance(target, DAG):
        _attach_to_dag(target, rule)
    else:
        _attach_to_task(getattr(target, "operator", target), rule.to_json())
    return target


def _attach_to_task(operator: Any, rule: Rules) -> None:
    if not isinstance(operator, BaseOperator):
        raise TypeError(_no_target(f"{rule['action']}_on", operator))
    if next(operator.iter_mapped_task_groups(), None) is not None:
        raise TypeError(
            f"{rule['action']}_on: task {operator.task_id!r} is in a mapped task group, and a mapped task has no rules "
            "yet: let a plain task start on the event, and map the group after it"
        )
    rules = _with(f"task {operator.task_id!r}", task_rules(operator), rule)
    operator.__dict__.setdefault(LINES, {})[rules["rules"][-1]["name"]] = line()
    operator.executor_config = {**(operator.executor_config or {}), KEY: json.dumps(rules)}
    if holds(rules):
        _park(operator, rules)


def _attach_to_dag(dag: DAG, rule: Rule) -> None:
    if errors := dag_rule_errors(dag.dag_id, rule):
        raise ValueError(f"{rule.action}_on: Dag {dag.dag_id!r}: {errors[0]}")
    if rule.while_running != "once":
        raise ValueError(
            f"start_on({dag.dag_id!r}, ..., while_running={rule.while_running!r}): each firing makes a run of its "
            "own; leave while_running out, and bound the runs with max_active_runs of the Dag."
        )
    rules = _with(f"Dag {dag.dag_id!r}", dag_rules(dag), rule.to_json())
    dag.default_args = {**(dag.default_args or {}), KEY: json.dumps(rules)}
    if dag.schedule is None and rule.action == "start":
        _show_as_schedule(dag, rules)


def _show_as_schedule(dag: DAG, rules: Rules) -> None:
    """Let Airflow's column *Schedule* say which rules make the runs of the Dag."""
    from aiflow_ext.provider.author.timetable import EventTimetable

    starts = [rule for rule in rules["rules"] if rule["action"] == "start"]
    dag.timetable = EventTimetable("; ".join(f"{rule['name']}: {from_json(rule['when'])}" for rule in starts))


def _no_target(call: str, target: Any) -> str:
    """Say what is wrong with what a rule was to be put on."""
    if isinstance(target, MappedOperator):
        return (
            f"{call}: task {target.task_id!r} is mapped, and a mapped task has no rules yet: let a plain task start "
            "on the event, and map the one after it"
        )
    name = name_of(target)
    if callable(target):
        return f"{call}: {name} is a function; call it, and give what it returns: {call}({name}(), ...)"
    return (
        f"{call}: {name} is neither a task nor a Dag; give an operator, what a @task function returned, or a Dag: "
        f"{call}(task, ...)"
    )


def _with(whose: str, rules: Rules | None, rule: Rules) -> Rules:
    before = rules["rules"] if rules else []
    name = rule.get("name") or f"{rule['action']}_{len(before) + 1}"
    if any(r["name"] == name for r in before):
        raise ValueError(f"{whose} has a rule of the name {name!r} already; give each a name= of its own")
    return {"v": 1, "rules": [*before, {**rule, "name": name}]}


def _park(operator: BaseOperator, rules: Rules) -> None:
    """Make Airflow defer the task instead of running it, once its upstream is done."""
    if operator.inherits_from_empty_operator:  # such a task succeeds without being deferred, or run
        operator.inherits_from_empty_operator = False  # type: ignore[misc]
    operator.start_from_trigger = True
    operator.start_trigger_args = StartTriggerArgs(
        trigger_cls=TRIGGER,
        trigger_kwargs={"rules": json.dumps(rules), "dag_id": operator.dag_id, "task_id": operator.task_id},
        next_method=RESUME_METHOD,
        next_kwargs=None,
        timeout=None,
    )
    # An attribute of the operator, so that the copy which Airflow runs has it too.
    operator.__dict__[RESUME_METHOD] = start
    if type(operator).resume_execution is not BaseOperator.resume_execution:
        operator.__dict__["resume_execution"] = resume_execution


def _decode(config: Any) -> Rules | None:
    text = config.get(KEY) if isinstance(config, Mapping) else None
    return json.loads(text) if isinstance(text, str) else None


def _plain(encoded: Any) -> Any:
    return encoded.get("__var", encoded) if isinstance(encoded, Mapping) else None
