"""Figures for Airflow's StatsD or OpenTelemetry, whichever is configured; docs/metrics.md names them all."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from airflow.observability.stats import Stats


@dataclass
class Work:
    """What one reaction did."""

    events: int = 0
    backlog: int = 0
    oldest_ms: int | None = None
    actions: Counter[str] = field(default_factory=Counter)
    stored: int = 0
    told: int = 0

    def saw(self, create_time_ms: int) -> None:
        """Note when an event came that it acts on."""
        self.oldest_ms = min(create_time_ms, self.oldest_ms or create_time_ms)

    def tell(self, began: float, woken: float | None) -> None:
        """Give it to Airflow.

        :param began: time.monotonic() at its beginning.
        :param woken: the same, when an event woke the scheduler for it.
        """
        now = time.monotonic()
        Stats.gauge("aiflow.scheduler.backlog", self.backlog)
        if not (self.events or self.actions or self.stored or self.told):
            return
        Stats.timing("aiflow.scheduler.reaction", (now - began) * 1000)
        if woken is not None:
            Stats.timing("aiflow.scheduler.wake_to_reaction", (now - woken) * 1000)
        if self.oldest_ms is not None:
            Stats.timing("aiflow.scheduler.event_age", max(0.0, time.time() * 1000 - self.oldest_ms))
        for action, n in self.actions.items():
            Stats.incr("aiflow.scheduler.actions", n, tags={"action": action})
        count("aiflow.scheduler.events", self.events)
        count("aiflow.assets.stored", self.stored)
        count("aiflow.assets.told", self.told)


class BrokerFigures:
    """The embedded broker's: counters as differences, and how long things took since the last time."""

    def __init__(self) -> None:
        self._pid = 0
        self._counters: dict[str, int] = {}
        self._buckets: dict[str, list[int]] = {}

    def tell(self, now: dict[str, Any]) -> None:
        """Give them to Airflow.

        :param now: its status; another process has counted from 0.
        """
        if now["pid"] != self._pid:
            self._pid, self._counters, self._buckets = now["pid"], {}, {}
        Stats.gauge("aiflow.broker.subscribers", now["subscribers"])
        for name, value in now["counters"].items():
            count(f"aiflow.broker.{name}", value - self._counters.get(name, 0))
        self._counters = now["counters"]
        for name, figures in now["latency_us"].items():
            self._latency(name, figures["buckets"])

    def _latency(self, name: str, buckets: list[int]) -> None:
        before = self._buckets.get(name, [])
        self._buckets[name] = buckets
        fresh = [n - old for n, old in zip_longest(buckets, before, fillvalue=0)]
        if any(fresh):
            for percent in (50, 99):
                Stats.gauge(f"aiflow.broker.{name}.p{percent}", percentile(fresh, percent) / 1000)


def percentile(buckets: Sequence[int], percent: int) -> float:
    """Return what `percent` of the values do not exceed, to a factor of two.

    :param buckets: the i-th counts the values from 2**(i-1) to 2**i.
    """
    missing = sum(buckets) * percent / 100
    for i, n in enumerate(buckets):
        missing -= n
        if missing <= 0:
            return float(1 << i)
    return float(1 << len(buckets))


def count(name: str, n: int = 1) -> None:
    """Add to a counter; nothing is sent for nothing."""
    if n > 0:
        Stats.incr(name, n)
