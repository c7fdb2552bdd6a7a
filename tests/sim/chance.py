"""Dags, rules and conditions by chance; knows no Airflow."""

from __future__ import annotations

from random import Random
from typing import Any

from aiflow_ext import rules as dsl
from aiflow_ext._event import Event
from aiflow_ext.rules import Condition, Rule

DSL = {name: getattr(dsl, name) for name in ("event", "status", "every", "all_of", "any_of", "asset_updated")}
Spec = dict[str, Any]

KEYS = ("e0", "e1", "e2")
VALUES = ("x", "y")
CONTEXTS = (None, None, None, "c0", "c1")
STATES = ("running", "success", "failed", "skipped", "up_for_retry")


def condition(text: str) -> Condition:
    """Return the condition that a text in our language means."""
    return eval(text, dict(DSL))


def some_dag(r: Random, dag_id: str) -> Spec:
    """A Dag by chance; its file may have an import error.  Most have a theme: things that seldom meet, met."""
    ids = [f"t{n}" for n in range(r.choice((1, 2, 2, 3, 3, 4, 5)))]
    spec: Spec = {"id": dag_id, "tasks": []}
    for n, task_id in enumerate(ids):
        spec["tasks"].append(some_task(r, task_id, ids[:n], ids))
    if r.random() < 0.3:
        spec["max_active_runs"] = r.choice((1, 2))
    if r.random() < 0.2:
        spec["max_active_tasks"] = r.choice((1, 2))
    if r.random() < 0.05:
        spec["fail_fast"] = True
    if r.random() < 0.15:
        spec["schedule"] = r.choice((300, 3600))
        spec["catchup"] = r.random() < 0.4
    if r.random() < 0.1:
        spec["timeout"] = 600
    if r.random() < 0.15:
        spec["rules"] = [some_dag_rule(r)]
        if r.random() < 0.3:
            spec["rules"].append(some_dag_stop(r))
    if r.random() < 0.6:
        r.choice(THEMES)(r, spec)
    return spec


def _stops(r: Random, spec: Spec) -> None:
    """A STOP meets a task that runs, in each state that it can ask for."""
    task = _plain(r, spec)
    task["rules"] = [{"on": "stop", "when": plain_event(r), "state": r.choice(("skipped", "failed", "success"))}]
    if r.random() < 0.4:
        task["rules"].append({"on": "start", "when": plain_event(r)})


def _branches(r: Random, spec: Spec) -> None:
    """Events meet what a branch or a short circuit has skipped."""
    first, *rest = spec["tasks"]
    first |= {"kind": r.choice(("branch", "short")), "rules": first.get("rules", []) if r.random() < 0.3 else []}
    for task in rest or [spec["tasks"].append(some_task(r, "t1", [], ["t0"])) or spec["tasks"][-1]]:
        if r.random() < 0.7:
            task["up"] = [first["id"]]
            task.pop("trigger_rule", None)
        if task["kind"] in ("work", "sensor") and r.random() < 0.7:
            task["rules"] = [{"on": r.choice(("start", "restart")), "when": plain_event(r)}]


def _elsewhere(r: Random, spec: Spec) -> None:
    """RESTART and STOP meet a task that waits for its retry, its reschedule, or in a trigger of its own."""
    task = _plain(r, spec)
    task |= {"kind": r.choice(("work", "sensor", "deferrable")), "retries": 2, "retry_delay": 60}
    task["rules"] = [{"on": r.choice(("restart", "restart", "stop")), "when": plain_event(r)}]
    task["rules"] += [{"on": "start", "when": plain_event(r)}] * (r.random() < 0.4)


def _queued(r: Random, spec: Spec) -> None:
    """Runs that are queued, and runs that rules make."""
    spec["max_active_runs"] = 1
    if r.random() < 0.5:
        spec["rules"] = [some_dag_rule(r)]
    _stops(r, spec)


def _dag_rules(r: Random, spec: Spec) -> None:
    """Runs that events make, keep and end."""
    spec["rules"] = [{"on": "start", "when": plain_event(r)}]
    spec["rules"] += [some_dag_stop(r)] * (r.random() < 0.8)
    if r.random() < 0.4:
        spec["max_active_runs"] = 1


def _teardowns(r: Random, spec: Spec) -> None:
    """A setup and its teardown, in a group or not, in runs that events end."""
    group = {"group": "g0"} if r.random() < 0.5 else {}
    work = {"id": "t1", "kind": "work", "up": ["t0"], **group}
    if r.random() < 0.4:
        work["rules"] = [some_rule(r, ["t0", "t1"])]
    spec["tasks"] = [
        {"id": "t0", "kind": "setup", **group},
        work,
        {"id": "t2", "kind": "teardown", "up": ["t0", "t1"], "setups": ["t0"], **group},
        *[some_task(r, "t3", ["t0", "t1"], ["t0", "t1", "t3"])] * (r.random() < 0.5),
    ]
    spec["rules"] = [some_dag_stop(r)]


def _slots(r: Random, spec: Spec) -> None:
    """Tasks that wait for their rules, beside a limit that they must not use up."""
    task = _plain(r, spec)
    task["rules"] = [{"on": "start", "when": plain_event(r)}]
    task |= r.choice(({"max_active_tis_per_dag": 1}, {"max_active_tis_per_dagrun": 1}, {"pool": "deferred"}))


def _mapped(r: Random, spec: Spec) -> None:
    """A mapped task, beside tasks with rules."""
    task = _plain(r, spec)
    task["kind"] = "mapped"
    task.pop("rules", None)
    for other in spec["tasks"][spec["tasks"].index(task) + 1 :]:
        if r.random() < 0.6:
            other["up"] = [task["id"]]


def _past(r: Random, spec: Spec) -> None:
    """Runs of a schedule, which depend on the one before."""
    spec |= {"schedule": r.choice((300, 3600)), "catchup": r.random() < 0.7}
    _plain(r, spec)["depends_on_past"] = True


THEMES = (
    _stops,
    _stops,
    _branches,
    _elsewhere,
    _elsewhere,
    _queued,
    _dag_rules,
    _dag_rules,
    _teardowns,
    _slots,
    _mapped,
    _past,
)


def _plain(r: Random, spec: Spec) -> Spec:
    """One of its tasks, made a plain one."""
    task: Spec = r.choice(spec["tasks"])
    task["kind"] = "work"
    task.pop("setups", None)
    return task


def some_task(r: Random, task_id: str, before: list[str], all_ids: list[str]) -> Spec:
    """A task by chance."""
    kinds = ("work",) * 12 + ("branch", "short", "sensor", "deferrable", "empty", "setup", "teardown", "mapped")
    task: Spec = {"id": task_id, "kind": r.choice(kinds)}
    if before and r.random() < 0.6:
        task["up"] = sorted(r.sample(before, 1 if r.random() < 0.7 else min(2, len(before))))
    if task["kind"] == "teardown":
        task["setups"] = task.get("up", [])[:1]
    elif r.random() < 0.25:
        task["trigger_rule"] = r.choice(
            (
                "all_done",
                "one_success",
                "none_failed",
                "all_failed",
                "none_failed_min_one_success",
                "one_failed",
                "always",
            )
        )
    if r.random() < 0.3:
        task["retries"] = r.choice((1, 2))
        task["retry_delay"] = r.choice((1, 60))
    if r.random() < 0.05:
        task["depends_on_past"] = True
    if r.random() < 0.1:
        task["pool"] = r.choice(("narrow", "deferred"))
    if r.random() < 0.07:
        task["max_active_tis_per_dag"] = 1
    if r.random() < 0.15:
        task["group"] = r.choice(("g0", "g1"))
    if r.random() < 0.55 and task["kind"] not in ("empty", "mapped"):
        task["rules"] = [some_rule(r, all_ids) for _ in range(r.choice((1, 1, 1, 2, 2, 3)))]
    return task


def plain_event(r: Random) -> str:
    """The simplest event condition."""
    return f"event({r.choice(KEYS)!r})"


def some_event(r: Random) -> str:
    """An event condition by chance."""
    parts = [repr(r.choice((*KEYS, *KEYS, "e*")))]
    if r.random() < 0.35:
        parts.append(repr(r.choice(VALUES)))
    if r.random() < 0.15:
        parts.append(f"count={r.choice((2, 3))}")
        if r.random() < 0.4:
            parts.append("within=60")
    text = f"event({', '.join(parts)})"
    return text + ".repeated()" if r.random() < 0.12 else text


def some_condition(r: Random, tasks: list[str], depth: int = 0) -> str:
    """A condition by chance."""
    pick = r.random()
    if depth == 0 and r.random() < 0.25:
        return plain_event(r)
    if depth < 2 and pick < 0.22:
        word = r.choice(("all_of", "any_of"))
        return f"{word}({some_condition(r, tasks, depth + 1)}, {some_condition(r, tasks, depth + 1)})"
    if pick < 0.38:
        return f"status({r.choice(tasks)!r}, {r.choice(STATES)!r})"
    if pick < 0.46:
        return f"every(seconds={r.choice((60, 300))})"
    return some_event(r)


def some_rule(r: Random, tasks: list[str]) -> Spec:
    """A rule on a task by chance."""
    rule: Spec = {"on": r.choice(("start",) * 5 + ("restart",) * 2 + ("stop",) * 2), "when": some_condition(r, tasks)}
    if rule["on"] == "stop":
        if r.random() < 0.7:
            rule["state"] = r.choice(("skipped", "failed", "success"))
    else:
        if r.random() < 0.4:
            rule["while_running"] = r.choice(("each", "ignore"))
        if r.random() < 0.12:
            rule["downstream"] = True
    return rule


def some_dag_rule(r: Random) -> Spec:
    """A rule on a Dag by chance."""
    return {"on": "start", "when": some_event(r)}


def some_dag_stop(r: Random) -> Spec:
    """A rule that ends the runs of a Dag."""
    when = plain_event(r) if r.random() < 0.6 else some_event(r)
    return {"on": "stop", "when": when, "state": r.choice(("success", "failed"))}


def stored_rules(r: Random, tasks: list[str], plain: float = 0.0) -> list[Spec]:
    """Rules of one task by chance, as they are stored.

    :param plain: how many have the simplest condition.
    """
    out: list[Spec] = []
    while len(out) < r.choice((1, 1, 2, 3)):
        rule = some_rule(r, tasks)
        try:
            when = condition(plain_event(r) if r.random() < plain else rule["when"])
            options = {name: rule[name] for name in ("while_running", "state", "downstream") if name in rule}
            action = "none" if r.random() < 0.05 else rule["on"]
            out.append(Rule(f"r{len(out)}", action, when, **options).to_json())
        except (ValueError, TypeError):
            continue
    return out


def heard_event(r: Random, tasks: list[str], offset: int, now: int) -> tuple[Event, bool]:
    """An event as the log has it, and whether it is of the rules' own run."""
    own = False
    if r.random() < 0.3:
        own = r.random() < 0.7
        sender = "run1" if own else "run2"
        fields = (f"d0.{r.choice(tasks)}", r.choice(STATES), "TASK_STATUS_CHANGED", None, "airflow", sender)
    else:
        fields = (r.choice(KEYS), r.choice(VALUES), "t", None, "default", r.choice(("", "a")))
    key, value, kind, context, namespace, sender = fields
    return Event(key, value, kind, context, namespace, sender, offset, now), own
