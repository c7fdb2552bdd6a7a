"""Make a failing history short: take out steps, tasks, rules and options while it still fails in the same way."""

from __future__ import annotations

import copy
import pprint
from collections.abc import Iterator
from typing import Any

from sim import dags
from sim.history import History, Result, Stage

TRIES = 400


def shrink(stage: Stage, history: History, result: Result, known: set[str]) -> History:
    """Return a shorter history with the same finding."""
    best = History(history.dags, history.steps[: result.at + 1])
    tries = 0
    if stage.play(best, known).name != result.name:
        best = history
    again = True
    while again and tries < TRIES:
        again = False
        for candidate in _smaller(best):
            tries += 1
            if tries > TRIES:
                break
            if all(map(dags.is_right, candidate.dags)) and stage.play(candidate, known).name == result.name:
                best, again = candidate, True
                break
    return best


def _smaller(history: History) -> Iterator[History]:
    steps = history.steps
    for size in (len(steps) // 2, len(steps) // 4, len(steps) // 8, 2, 1):
        if size < 1:
            continue
        for at in range(len(steps) - size, -1, -size):
            yield History(history.dags, steps[:at] + steps[at + size :])
    for n in range(len(history.dags)):
        if len(history.dags) > 1:
            yield History(history.dags[:n] + history.dags[n + 1 :], steps)
        for spec in _smaller_dags(history.dags[n]):
            yield History([*history.dags[:n], spec, *history.dags[n + 1 :]], steps)
    for n, step in enumerate(steps):
        for simpler in _simpler(step):
            yield History(history.dags, [*steps[:n], simpler, *steps[n + 1 :]])


def _smaller_dags(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key in [k for k in spec if k not in ("id", "tasks")]:
        yield {k: v for k, v in spec.items() if k != key}
    for n, task in enumerate(spec["tasks"]):
        if len(spec["tasks"]) > 1:
            out = copy.deepcopy(spec)
            del out["tasks"][n]
            for other in out["tasks"]:
                other["up"] = [up for up in other.get("up", ()) if up != task["id"]]
            yield out
        for key in [k for k in task if k not in ("id", "kind")]:
            out = copy.deepcopy(spec)
            del out["tasks"][n][key]
            yield out
        for k in range(len(task.get("rules", ()))):
            if len(task["rules"]) > 1:
                out = copy.deepcopy(spec)
                del out["tasks"][n]["rules"][k]
                yield out
            for key in [x for x in task["rules"][k] if x not in ("on", "when")]:
                out = copy.deepcopy(spec)
                del out["tasks"][n]["rules"][k][key]
                yield out
            if task["rules"][k]["when"] != "event('e0')":
                out = copy.deepcopy(spec)
                out["tasks"][n]["rules"][k]["when"] = "event('e0')"
                yield out
        if task["kind"] != "work":
            out = copy.deepcopy(spec)
            out["tasks"][n]["kind"] = "work"
            yield out


def _simpler(step: Any) -> Iterator[Any]:
    if step[0] == "and":
        yield step[1:]
        return
    if step[0] == "event":
        for other in (("event", step[1], step[2], None, 1), ("event", "e0", step[2], step[3], step[4])):
            if other != step:
                yield other
    elif step[0] == "run" and step[2] is not None:
        yield ("run", step[1], None)
    else:
        for n, value in enumerate(step):
            if isinstance(value, int) and not isinstance(value, bool) and value > 0 and step[0] != "time":
                yield (*step[:n], 0, *step[n + 1 :])
            elif value is True:
                yield (*step[:n], False, *step[n + 1 :])


def as_test(history: History, seed: int, result: Result) -> str:
    """Print it as a test for tests/sim/test_found.py."""
    specs = pprint.pformat(history.dags, width=100, sort_dicts=False)
    steps = pprint.pformat(history.steps, width=100)
    name = result.name.replace("-", "_").lower()
    return (
        f"def test_{name}() -> None:  # seed {seed}\n    dags = {specs}\n    steps = {steps}\n    holds(dags, steps)\n"
    )
