"""The time of a simulation: it stands still until a step moves it, for Python, for Airflow's SQL and for the loop.

time-machine replaces ``datetime.now`` and ``time.time`` in C, also where they were imported before.  It leaves
``time.monotonic`` alone, so the two places that use it (ours and the stock timers) are given ours, and ``now()`` in
SQL becomes a literal.
"""

from __future__ import annotations

import sched
import sys
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import time_machine
from sqlalchemy import event
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import now as sql_now

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
WORD = "sim_now()"


@compiles(sql_now)
def _now(element: Any, compiler: Any, **_: Any) -> str:
    return WORD


class Clock:
    """Wall clock and monotonic clock."""

    def __init__(self, engine: Any) -> None:
        self._travel = time_machine.travel(BEGIN, tick=False)
        self._coordinates: Any = None
        self._mono = 0.0
        self.writes = 0  # statements that may have changed a row
        event.listen(engine, "before_cursor_execute", self._literal, retval=True)
        init = sched.scheduler.__init__
        init.__defaults__ = (self.monotonic, self._no_sleep)  # type: ignore[misc]

    def begin(self) -> None:
        """A new history begins: the same moment each time."""
        if self._coordinates is None:
            self._coordinates = self._travel.start()
        self._coordinates.move_to(BEGIN)
        self._mono = 1000.0

    def end(self) -> None:
        """The real time again."""
        if self._coordinates is not None:
            self._travel.stop()
            self._coordinates = None

    def patch(self) -> None:
        """Give our clock to every module of ours that looks at ``time``."""
        shim = SimpleNamespace(
            monotonic=self.monotonic, time=time.time, time_ns=time.time_ns, sleep=self._no_sleep, perf_counter=_zero
        )
        for name, module in list(sys.modules.items()):
            if name.startswith("aiflow_ext.provider") and getattr(module, "time", None) is time:
                module.time = shim  # type: ignore[attr-defined]

    def monotonic(self) -> float:
        return self._mono

    def move(self, seconds: float) -> None:
        """Both clocks go on; backwards, only the wall clock moves."""
        self._coordinates.shift(timedelta(seconds=seconds))
        self._mono += max(0.0, seconds)

    @property
    def ms(self) -> int:
        return time.time_ns() // 1_000_000

    @staticmethod
    def _no_sleep(seconds: float) -> None:
        if seconds > 0:
            raise AssertionError(f"something slept for {seconds} s in a simulation")

    def _literal(self, conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> Any:
        if not statement.startswith(
            ("SELECT", "UPDATE job ")
        ):  # a scheduler's heartbeat changes nothing that is looked at
            self.writes += 1
        if WORD in statement:
            text = datetime.now(UTC).isoformat(sep=" ", timespec="microseconds")
            zone = conn.dialect.name == "postgresql"
            statement = statement.replace(WORD, f"'{text}'::timestamptz" if zone else f"'{text[:26]}'")
        return statement, parameters


def _zero() -> float:
    return 0.0
