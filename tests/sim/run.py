#!/usr/bin/env python3
"""Simulate histories, and print those in which something is wrong as short tests.

tests/sim/run.py --seeds 0-1000 --steps 30 --jobs 2
tests/sim/run.py --store postgresql --hours 2 --seeds 5000-      (below tests/with_postgres)
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from random import Random
from threading import Event, Lock
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-100", help="FIRST-LAST, or FIRST- (default 0-100)")
    parser.add_argument("--steps", type=int, default=30, help="of a history (default 30)")
    parser.add_argument("--store", choices=("sqlite", "postgresql", "mysql"), default="sqlite")
    parser.add_argument("--hours", type=float, help="stop after so long")
    parser.add_argument("--without-known", default="", metavar="NAMES", help="known findings to stop at, or `all`")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first finding")
    parser.add_argument("--no-shrink", action="store_true", help="print a finding as it was found")
    parser.add_argument("--play", metavar="FILE", help="one history, as JSON; - reads it from stdin")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the seeds (default 1)")
    options = parser.parse_args()
    if options.play:
        return play(options)
    began = time.perf_counter()
    if options.jobs == 1:
        shares = [share(options, 0)]
    else:
        context = get_context("spawn")  # each has an Airflow of its own
        with ProcessPoolExecutor(options.jobs, context, _inherit, (context.Lock(), context.Event())) as pool:
            shares = list(pool.map(share, [options] * options.jobs, range(options.jobs)))
    done = sum(one[0] for one in shares)
    totals, passed, found = (sum((one[n] for one in shares), Counter()) for n in (1, 2, 3))
    rate = done / (time.perf_counter() - began)
    print(f"\n{options.store}: {done} histories of {options.steps} steps, {rate:.2f}/s; {json.dumps(totals)}")
    print(f"known findings passed over: {json.dumps(passed) if passed else 'none'}")
    print(f"findings: {json.dumps(found) if found else 'none'}")
    return 1 if found else 0


def _inherit(lock: Any, stop: Any) -> None:
    """What the processes share: one prints at a time, and the first finding stops all."""
    global PRINTS, STOP
    PRINTS, STOP = lock, stop


PRINTS: Any = Lock()
STOP: Any = Event()


def stage_of(options: argparse.Namespace) -> tuple[Any, set[str]]:
    """Import Airflow, and return where histories are played, and the findings to pass over."""
    from sim.home import Home

    home = Home(options.store)
    from sim.history import Stage

    stage = Stage(home)
    known = set() if options.without_known == "all" else set(stage.known)
    return stage, known - set(options.without_known.split(","))


def play(options: argparse.Namespace) -> int:
    """Play one history that is given as JSON."""
    stage, known = stage_of(options)
    from sim.history import History

    data = json.loads(sys.stdin.read() if options.play == "-" else Path(options.play).read_text())
    result = stage.play(History(data["dags"], [_tuple(step) for step in data["steps"]]), known)
    print(result.error or "nothing is found")
    return 1 if result.error else 0


def share(options: argparse.Namespace, n: int) -> tuple[int, Counter[str], Counter[str], Counter[str]]:
    """Play the seeds of process n; return how many, what happened, what is known, and what was found."""
    stage, known = stage_of(options)
    began = shown = time.perf_counter()
    totals, passed, found = Counter[str](), Counter[str](), Counter[str]()
    first, _, last = options.seeds.partition("-")
    seed, done = int(first) + n, 0
    while (
        (not last or seed <= int(last))
        and (options.hours is None or time.perf_counter() - began < options.hours * 3600)
        and not STOP.is_set()
    ):
        history = stage.some(Random(seed), options.steps)
        result = stage.play(history, known)
        done += 1
        passed += result.passed
        totals += result.totals
        now = time.perf_counter()
        if now - shown > 20:
            shown = now
            say(f"seed {seed}: {done} histories, {done / (now - began):.2f}/s, {dict(totals)}")
        if result.error is not None:
            found[result.name] += 1
            text = f"\nseed {seed}: {result.error}"
            if not options.keep_going:
                STOP.set()
            if not options.no_shrink and found[result.name] == 1:
                from sim.shrink import as_test, shrink

                text += "\n" + as_test(shrink(stage, history, result, known), seed, result)
            say(text)
        seed += options.jobs
    return done, totals, passed, found


def say(text: str) -> None:
    """Print it as a whole."""
    with PRINTS:
        print(text, flush=True)


def _tuple(step: Any) -> Any:
    return tuple(map(_tuple, step)) if isinstance(step, list) else step


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # a seed is the same history each time, also where a set has an order
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    sys.exit(main())
