"""A short look at Airflow's MySQL, which cannot tell its clients that something has changed (docs/adr/0016).

What goes through an api-server, it tells the scheduler itself.  This finds most of what does not: runs that a command
or another scheduler makes, tasks that a triggerer lets go on, asset events.  All else waits for the next full pass.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine

INTERVAL_MS = 100  # 0.15 ms of CPU each
TIMES = 50  # so many times as long as a look takes there is none: 10,000 tasks of a triggerer make it 3 to 7 ms
RETRY_SEC = 1.0
# Each part reads the end of an index, or of an index alone the few rows that it is about.
LOOK = (
    "SELECT (SELECT MAX(id) FROM dag_run), (SELECT MAX(id) FROM asset_event),"
    " (SELECT COUNT(*) FROM asset_dag_run_queue), (SELECT MAX(created_at) FROM asset_dag_run_queue),"
    " (SELECT COUNT(*) FROM task_instance WHERE trigger_id IS NOT NULL)"  # what waits for rules has none
)


class Look:
    """As `_core.Watch`, over a connection of its own, in which there is never a transaction.

    :param engine: Airflow's.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Any = None
        self._seen: Any = None
        self._next_try = 0.0
        os.register_at_fork(before=self.close)  # executors fork: it is no child's

    def close(self) -> None:
        """Close the connection; the next look makes another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # the server has ended it
                connection.close()

    def fileno(self) -> int:
        """Return -1: nothing becomes readable."""
        return -1

    def interval_ms(self) -> int:
        """Return after how many ms it is worth while to look again."""
        return INTERVAL_MS

    def sync(self) -> int:
        """Return 0: nobody says which runs have changed, so all are read again."""
        return 0

    def poll(self) -> tuple[bool, list[str]]:
        """Return whether anything has changed since the last look, and no payloads.

        While the server is away nothing has; once it is back something may have.
        """
        began = time.monotonic()
        if began < self._next_try:
            return False, []
        self._next_try = 0.0
        seen, self._seen = self._seen, self._look()
        if self._seen is None:
            return False, []
        self._next_try = time.monotonic() + TIMES * (time.monotonic() - began)
        return self._seen != seen, []

    def _look(self) -> Any:
        try:
            if self._connection is None:
                self._connection = self._connect()
            with self._connection.cursor() as cursor:
                cursor.execute(LOOK)
                return cursor.fetchone()
        except Exception:  # of the driver, whichever it is; the scheduler's own statements fail as well, and say it
            self.close()
            self._next_try = time.monotonic() + RETRY_SEC
            return None

    def _connect(self) -> Any:
        pooled = self._engine.raw_connection()
        connection: Any = pooled.dbapi_connection
        pooled.detach()
        connection.autocommit(True)
        return connection
