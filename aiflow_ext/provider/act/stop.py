"""Stopping a running task, gently first: ask it over its own channel, then SIGTERM, then change its row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from aiflow_ext import _core
from aiflow_ext._event import Event
from aiflow_ext.errors import Error
from aiflow_ext.provider.act.workers import Process, tell_workers, terminate
from aiflow_ext.provider.author.task import STOP_NAMESPACE, STOP_TYPE

log = structlog.get_logger(__name__)

ANSWER_MS = 200


class Stops:
    """The stops under way in this scheduler.

    :param client: where requests are published.
    :param grace_sec: between asking and SIGTERM, and again before the row.
    :param executors: Airflow's, of this scheduler.
    """

    def __init__(self, client: _core.Client, grace_sec: float, executors: Sequence[Any]) -> None:
        self._client = client
        self.grace_ms = int(grace_sec * 1000)
        self.under_way: set[str] = set()  # tries; only of these is it remembered that they were asked
        self.asked: set[str] = set()
        self._executors = executors
        self._to_ask: dict[str, str] = {}
        self._to_term: list[Process] = []

    def forget(self) -> None:
        """The transaction was undone, and what it decided."""
        self._to_ask.clear()
        self._to_term.clear()

    def ask(self, try_id: str, why: str) -> None:
        """Ask this try to stop, once the transaction is committed.

        :param why: which rule stops it; the task's log shows it.
        """
        self._to_ask[try_id] = why

    def term(self, process: Process) -> None:
        """Send SIGTERM to this process, once the transaction is committed."""
        self._to_term.append(process)

    def carry_out(self) -> None:
        """After the commit: send what was decided.  A request that is lost is made up for by the next stage."""
        for try_id, why in self._to_ask.items():
            event = Event(try_id, why, STOP_TYPE, context=None, namespace=STOP_NAMESPACE, sender="scheduler")
            try:
                self._client.publish([event], f"stop:{try_id}", 1, ANSWER_MS)
            except (Error, TimeoutError) as e:
                log.warning("aiflow: a task was not asked to stop, SIGTERM will follow", ti_id=try_id, error=str(e))
        self.asked = (self.asked | self._to_ask.keys()) & self.under_way
        self._to_ask.clear()
        _terminate(self._to_term, self._executors)
        self._to_term.clear()


def _terminate(processes: Sequence[Process], executors: Sequence[Any]) -> None:
    """SIGTERM processes of tasks: children of ours, or of Celery workers.  Others are ended by their rows."""
    elsewhere = [process for process in processes if not terminate(process)]
    for executor in executors if elsewhere else ():
        tell_workers(executor, elsewhere)
