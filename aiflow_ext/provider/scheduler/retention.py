"""What the scheduler's process lets go: events, by [aiflow] retention, and what is kept of runs that are over."""

from __future__ import annotations

import logging
import time
from collections import Counter
from datetime import timedelta

from airflow.utils.session import create_session

from aiflow_ext._core import EventLog
from aiflow_ext.broker.retention import Chore, Keeper, forget_cursors, parse_all
from aiflow_ext.provider.config import Config
from aiflow_ext.provider.db.consumers import stand_of
from aiflow_ext.provider.react import history
from aiflow_ext.provider.react.transaction import CONSUMER
from aiflow_ext.provider.scheduler.children import no_fork

EVERY = 3600.0  # seconds between two looks at all that is kept of runs

log = logging.getLogger(__name__)


def chores(config: Config) -> list[Chore]:
    """Return what lets things go; to be started.  What the scheduler has not read of the log stays."""
    keeper = [Keeper(config.log, parse_all(config.retention), _offset)] if config.retention else []
    return [*keeper, History(config.log, config.history)]


class History(Chore):
    """Lets go what is kept of runs that were deleted, and of those that are over for long enough.

    :param uri: of the log, whose cursors go when nobody has moved them for as long.
    :param keep: for how long; None: runs as long as they are there, cursors for ever.
    """

    def __init__(self, uri: str, keep: timedelta | None) -> None:
        super().__init__("history", EVERY)
        self._uri = uri
        self._keep = keep

    def work(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        before_ms = None if self._keep is None else now_ms - self._keep // timedelta(milliseconds=1)
        self._purge(before_ms)
        if before_ms is not None:
            with EventLog(self._uri) as event_log:
                for line in forget_cursors(event_log, before_ms, now_ms):
                    log.warning("aiflow: history: deleted: %s", line)

    def _purge(self, before_ms: int | None) -> None:
        gone = Counter[str]()
        steps = history.purge(before_ms)
        while True:
            with no_fork:
                step = next(steps, None)
            if step is not None:
                gone[step[0]] += step[1]
            if step is None or self.pause():
                break
        for table, n in gone.items():
            if n:
                log.info("aiflow: history: %d rows of %s are gone", n, table)


def _offset(event_log: EventLog) -> int:
    """Return up to where the scheduler has read the log: 0 of one that it does not go on with."""
    with no_fork, create_session() as session:
        stand = stand_of(session, CONSUMER)
    head, log_id = event_log.head_and_id()
    if stand is None or stand.place.log_id != log_id or stand.place.offset > head:
        return 0
    return stand.place.offset
