"""One history: some Dags and some steps, as data; and the stage on which it is played."""

from __future__ import annotations

import gc
import traceback
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

from sim import chance, dags
from sim.check import Check
from sim.clock import Clock
from sim.known import KNOWN
from sim.steps import Player, Step, some_steps
from sim.world import Finding, Killed, World


@dataclass
class History:
    """What happens."""

    dags: list[dict[str, Any]]
    steps: list[Step]


@dataclass
class Result:
    """What came of it.  `error` is None where all was right."""

    error: str | None = None
    name: str = ""
    at: int = 0  # the step
    passed: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)


class Stage:
    """Plays one history after the other in one database."""

    known = KNOWN

    def __init__(self, home: Any) -> None:
        self.home = home
        self.clock = Clock(home.engine)
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)

    def some(self, r: Random, steps: int) -> History:
        """A history by chance."""
        specs = [self._dag(r, "d0")]
        if r.random() < 0.25:
            specs.append(self._dag(r, "d1"))
        return History(specs, some_steps(r, specs, steps))

    def _dag(self, r: Random, dag_id: str) -> dict[str, Any]:
        while not dags.is_right(spec := chance.some_dag(r, dag_id)):
            pass
        return spec

    def play(self, history: History, known: set[str]) -> Result:
        """Play it; the first thing that is wrong ends it."""
        self.home.empty()
        self.clock.begin()
        world = World(self.home, self.clock)
        check = Check(world, known)
        world.observer = check
        result = Result()
        try:
            player = Player(world, check, history.dags)
            world.start_scheduler()
            for result.at, step in enumerate(history.steps):
                if step[0] == "and":
                    player.play(step[1:])
                else:
                    player.play(step)
                    player.settle()
            result.at = len(history.steps)
            player.finish()
        except Finding as e:
            result.name, result.error = e.name, str(e)
        except (Exception, Killed) as e:
            where = traceback.extract_tb(e.__traceback__)
            ours = [f for f in where if "aiflow_ext" in f.filename] or where[-1:]
            result.name = f"raised-{type(e).__name__}"
            result.error = f"{result.name}: {e!s:.300} at {ours[-1].filename}:{ours[-1].lineno}\n" + "".join(
                traceback.format_exception(e)[-12:]
            )
        finally:
            result.passed = check.passed
            result.totals = Counter(
                turns=world.turns, kills=world.kills, firings=check.firings, reactions=check.reactions,
                events=world.log.head(), tries=len(world.workers),
            )  # fmt: skip
            world.observer = None
            world.close()
            self.clock.end()
        return result
