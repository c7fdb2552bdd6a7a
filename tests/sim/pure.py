#!/usr/bin/env python3
"""Without Airflow, with the rules and events of the same generator: the rules, and what they do to one task.

The C core is compared with model.py, react/starts.py with the ledger of tasks.py (alone.py).

tests/sim/pure.py --steps 1000000             (of each)
tests/sim/pure.py --steps 1 --seed 17         (one history of each again)
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from aiflow_ext import _core
from aiflow_ext.rules import compile_rules
from sim import alone, chance
from sim.model import RulesModel

TASKS = ["t0", "t1", "t2"]
STEPS = 40  # with one set of rules


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for play, steps, what in (
        (play_rules, STEPS, "the core and the model agree"),
        (alone.play, alone.STEPS, "starts.py and the ledger agree"),
    ):
        began = time.perf_counter()
        did = Counter[str]()
        for seed in range(options.seed, options.seed + max(1, options.steps // steps)):
            did += play(seed)
        print(f"{options.steps} steps in {time.perf_counter() - began:.0f} s: {what}; {dict(did)}", flush=True)
    return 0


def play_rules(seed: int) -> Counter[str]:
    """Give both the same; return which rules fired, and how often.

    :raises AssertionError: they differ.
    """
    r = Random(seed)
    stored: dict[str, Any] = {"v": 1, "rules": chance.stored_rules(r, TASKS)}
    core = _core.Rules(compile_rules(stored, "d0"))
    since, now = r.randrange(3), r.randrange(1_000_000)
    state = core.start(since, now)
    model = RulesModel("d0", stored["rules"], since, now)
    offset = since
    did = Counter[str]()
    for step in range(STEPS):
        now += r.choice((0, 1, 500, 30_000, 61_000))
        if r.random() < 0.15:
            state, real = core.tick(state, now)
            expected = model.tick(now)
        else:
            offset = max(1, offset + r.choice((1, 1, 1, 2, 0)))  # 0: a replay
            event, own = chance.heard_event(r, TASKS, offset, now)
            state, real = core.feed(state, event, own)
            expected = model.feed(event, own)
        seen = [(stored["rules"][n]["name"], action, tuple(offsets)) for n, action, offsets in real]
        wanted = [(f.rule, f.action, f.offsets) for f in expected]
        assert seen == wanted, f"seed {seed}, step {step}: core {seen}, model {wanted}; {stored}"
        assert core.due(state) == model.due, f"seed {seed}, step {step}: due {core.due(state)}, {model.due}"
        did.update(action for _, action, _ in real)
    return did


if __name__ == "__main__":
    sys.exit(main())
