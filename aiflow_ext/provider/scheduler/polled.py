"""How often Celery's executor asks its result backend what has ended: not more often than in the stock scheduler.

It asks in each pass, and event mode makes more of them.  That a task has ended is heard without it: its worker tells
the API server.  What is learned by asking is that a process has ended and left its slot, and that it vanished.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any


class Polls:
    """The executors of a scheduler that ask.

    :param executors: Airflow's; those that hear by themselves are left alone, and so is Celery's of an old provider.
    :param every_sec: between two times, at least: what a stock scheduler that is idle sleeps.
    """

    def __init__(self, executors: Sequence[Any], every_sec: float) -> None:
        asks = [e for e in executors if hasattr(e, "celery_app") and hasattr(e, "workloads")]
        self._all = [_Poll(executor, every_sec) for executor in asks]

    def until(self) -> float:
        """Return how many seconds it may be to the next pass, for the sake of those that have no slot free."""
        return min((poll.until() for poll in self._all), default=math.inf)

    def close(self) -> None:
        """Let them ask whenever they like."""
        for poll in self._all:
            poll.close()


class _Poll:
    def __init__(self, executor: Any, every_sec: float) -> None:
        self._executor, self._every_sec = executor, every_sec or 1.0  # 0: without a pause, which stock's loop can do
        self._next = 0.0
        self._stock = executor.sync
        executor.sync = self._sync

    def until(self) -> float:
        if not self._executor.workloads or self._executor.slots_available > 0:
            return math.inf
        return max(0.0, self._next - time.monotonic())

    def close(self) -> None:
        del self._executor.sync

    def _sync(self) -> None:
        if self._executor.workloads:  # else it asks nobody
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + self._every_sec
        self._stock()
