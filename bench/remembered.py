"""What runs that wait take in a scheduler's memory, and how long it takes to find whom an event is for.  No database.

    bench/remembered.py --runs 1000 100000

Each run has one task, which waits for an event of one key with the run's own context.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import uuid
from pathlib import Path

import report


def main(numbers: list[int], output: Path) -> str:
    """Measure in a process of its own for each number; a table."""
    found = {}
    for runs in numbers:
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            os.write(write, json.dumps(remember(runs)).encode())
            os._exit(0)
        os.close(write)
        with open(read) as said:
            found[str(runs)] = json.loads(said.read())
        os.waitpid(pid, 0)
    report.write(output, {"machine": report.machine(), "found": found})
    rows = [[name, *(f"{of[name]:.2f}" for of in found.values())] for name in next(iter(found.values()))]
    return report.table(["", *(f"{runs} runs" for runs in found)], rows)


def remember(runs: int) -> dict[str, float]:
    """Have so many in memory."""
    from aiflow_ext import Event, _core
    from aiflow_ext.provider.world.registry import DagRules, Registry
    from aiflow_ext.provider.world.runs import Run
    from aiflow_ext.provider.world.task import Ruleset, Try, new_task
    from aiflow_ext.provider.world.world import World

    core = _core.Rules([("start", [("event", "default", "go", "UNDEFINED", "*", None, False, 1, 0, False)])])
    rules = Ruleset(({"name": "start_1"},), core, (("default", "go", "UNDEFINED", "*"),), "0" * 64, waits=True)
    dag = DagRules("waits", {"nothing": rules}, None)
    world = World(Registry(), "scheduler", lambda: None)
    before, began = resident(), time.perf_counter()
    for n in range(runs):
        ti = Try(uuid.uuid4(), "nothing", -1, "deferred", 1, parked=True, pid=None, hostname="")
        seen = {"nothing": [str(ti.id), "deferred"]}
        run = Run(
            n, "waits", f"run{n}", "running", dag, 5, f"c{n}", seen, {"nothing": ti}, stored_seen=json.dumps(seen)
        )
        task = run.tasks["nothing"] = new_task("waits", run.run_id, "nothing", rules, 5, 0)
        task.stored = task.row()
        world.put(run)
    taken, filled = resident() - before, time.perf_counter() - began
    event = Event("go", context=f"c{runs // 2}", namespace="default")
    began = time.perf_counter()
    for _ in range(1000):
        assert len(world.listening(event)) == 1
    each = (time.perf_counter() - began) * 1000
    return {"memory, MiB": taken, "to fill it, s": filled, "an event for one of them, us": each}


def resident() -> float:
    """MiB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=int, default=[1000, 10_000, 100_000], help="how many wait")
    parser.add_argument("--output", type=Path, default=report.RESULTS / "remembered.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aiflow-bench.") as home:
        os.environ["AIRFLOW_HOME"] = home
        print(main(args.runs, args.output))
