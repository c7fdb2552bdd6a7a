"""What can only be seen wrong with the whole Dag in view; see check_dag()."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from .conditions import KEY_MAX, AllOf, AnyOf, Condition, Json, PeriodCondition, StatusCondition, walk
from .rules import Rule
from .spec import read_rules

NEEDS_A_START = {"running", "success", "failed", "up_for_retry", "up_for_reschedule", "restarting"}
"""States that a task which was never started does not come to."""


def check_dag(
    dag_id: str,
    tasks: Mapping[str, Json],
    all_task_ids: set[str],
    dag_rules: Json | None = None,
    lines: Mapping[tuple[str, str], str] | None = None,
) -> list[str]:
    """Return what is wrong with the rules of a Dag, each with what to write instead.

    :param dag_id: the Dag.
    :param tasks: the rules of each task that has any, by task_id.
    :param all_task_ids: also of the tasks without rules.
    :param dag_rules: the Dag's own rules.
    :param lines: where a task's rule was written, "file.py:12", by task_id and name of the rule; may lack some.
    """
    lines = lines or {}
    errors: list[str] = []
    rules = {task_id: _read(f"task {task_id!r}", json, errors) for task_id, json in tasks.items()}
    for task_id, of_task in rules.items():
        for rule in of_task:
            where = f"{_line(lines, task_id, rule)}task {task_id!r}, rule {rule.name!r}"
            errors += [f"{where}: {e}" for e in _task_rule_errors(task_id, rule, all_task_ids)]
    if dag_rules is not None:
        for rule in _read(f"Dag {dag_id!r}", dag_rules, errors):
            errors += [f"Dag {dag_id!r}, rule {rule.name!r}: {e}" for e in dag_rule_errors(dag_id, rule)]
    for task_id in sorted(all_task_ids):
        if (size := len(f"{dag_id}.{task_id}".encode())) > KEY_MAX:
            errors.append(
                f"task {task_id!r}: its status is told with the key 'Dag.task', which would have {size} bytes; at most "
                f"{KEY_MAX} are possible: give the task, or the Dag, a shorter id"
            )
    return errors or _cycle_errors(rules, lines)


def dag_rule_errors(dag_id: str, rule: Rule) -> list[str]:
    """Return what a rule on a Dag has that only a rule on a task can have.

    :param dag_id: the Dag.
    :param rule: a rule on it.
    """
    errors = []
    if rule.action == "restart":
        errors.append("a run is not restarted; write stop_on(dag, ...) and start_on(dag, ...)")
    if rule.downstream:
        errors.append("downstream= is for a task; a started run runs all its tasks")
    for when in walk(rule.when):
        if isinstance(when, PeriodCondition):
            errors.append(f"{when} is for a task; give the Dag schedule=timedelta(seconds={when.seconds!r}) instead")
        if isinstance(when, StatusCondition):
            errors.append(
                f"{when} is of a task in the same run, and this rule belongs to no run; write "
                f'event("{dag_id}.{when.task}", "{when.state}", namespace="airflow", type="TASK_STATUS_CHANGED")'
            )
    return errors


def _line(lines: Mapping[tuple[str, str], str], task_id: str, rule: Rule) -> str:
    line = lines.get((task_id, rule.name or ""))
    return f"{line}: " if line else ""


def _read(whose: str, json: Json, errors: list[str]) -> list[Rule]:
    try:
        rules = read_rules(json)
    except (TypeError, ValueError) as e:
        errors.append(f"{whose}: {e}")
        return []
    names = [rule.name for rule in rules]
    for name in dict.fromkeys(n for n in names if names.count(n) > 1):
        errors.append(f"{whose}: there are {names.count(name)} rules named {name!r}; give each its own name=")
    return rules


def _statuses(when: Condition) -> Iterator[StatusCondition]:
    return (c for c in walk(when) if isinstance(c, StatusCondition))


def _task_rule_errors(task_id: str, rule: Rule, all_task_ids: set[str]) -> Iterator[str]:
    for when in _statuses(rule.when):
        if when.task not in all_task_ids:
            yield f"{when}: there is no task {when.task!r} in this Dag{_instead(when, all_task_ids)}"
        elif when.task == task_id and rule.action in {"start", "restart"}:
            yield (
                f"{when} is the task's own status, so each start would make the next; {rule.action} it on the status "
                "of another task, on event(...) or on every(...), and use retries= to try again after a failure"
            )


def _instead(when: StatusCondition, all_task_ids: set[str]) -> str:
    task_id = when.task
    near = get_close_matches(task_id, sorted(all_task_ids), n=1)
    # In a task group the id has the group's in front.
    near = near or [t for t in sorted(all_task_ids) if t.endswith(f".{task_id}")][:1]
    if near:
        return f"; did you mean {near[0]!r}? Then write status({near[0]!r}, {when.state!r})"
    known = ", ".join(sorted(all_task_ids)[:10])
    return f"; the tasks are {known}{', ...' if len(all_task_ids) > 10 else ''}"


# -- tasks that only wait for each other --------------------------------------------------------------------------


def _cycle_errors(rules: Mapping[str, list[Rule]], lines: Mapping[tuple[str, str], str]) -> list[str]:
    """Begin with the tasks that start by themselves; add what these can start, until nothing is added."""
    starts = {task_id: [r for r in of if r.action in {"start", "restart"}] for task_id, of in rules.items()}
    waiting = {task_id: of for task_id, of in starts.items() if of}
    while True:
        free = [t for t, of in waiting.items() if any(_can_be_met(rule.when, set(waiting)) for rule in of)]
        if not free:
            break
        for task_id in free:
            del waiting[task_id]
    if not waiting:
        return []
    names = ", ".join(sorted(waiting))
    first = min(waiting)
    return [
        f"tasks {names} can only start after each other, so none of them ever does: "
        + "; ".join(f"{_line(lines, t, rule)}{t} has {rule}" for t in sorted(waiting) for rule in waiting[t])
        + f'. Let one start otherwise, e.g. start_on({first}, event("go")), or leave it without a start rule'
    ]


def _can_be_met(when: Condition, waiting: set[str]) -> bool:
    if isinstance(when, AllOf):
        return all(_can_be_met(c, waiting) for c in when.conditions)
    if isinstance(when, AnyOf):
        return any(_can_be_met(c, waiting) for c in when.conditions)
    if isinstance(when, StatusCondition):
        return when.task not in waiting or when.state not in NEEDS_A_START
    return True
