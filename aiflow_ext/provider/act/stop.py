"""Stopping a running task, gently first: ask it over its own channel, then SIGTERM, then change its row."""

from __future__ import annotations

from typing import Any

import psutil
import structlog
from sqlalchemy.orm import Session

from aiflow_ext import _core
from aiflow_ext._event import Event
from aiflow_ext.errors import Error
from aiflow_ext.provider.act import tasks
from aiflow_ext.provider.author.task import STOP_NAMESPACE, STOP_TYPE
from aiflow_ext.provider.world.runs import TaskState, Try
from aiflow_ext.rules.conditions import STATES

log = structlog.get_logger(__name__)

ASK, TERM, ROW = 0, 1, 2
ANSWER_MS = 200


class Stops:
    """The stops under way in this scheduler.

    :param client: where requests are published.
    :param grace_sec: between asking and SIGTERM, and again before the row.
    """

    def __init__(self, client: _core.Client, grace_sec: float) -> None:
        self._client = client
        self._grace_ms = int(grace_sec * 1000)
        self._asked: set[str] = set()
        self._to_ask: set[str] = set()
        self._to_term: dict[int, str] = {}

    def begin(self, ti: Try, now_ms: int, *, restart: bool, state: str) -> dict[str, Any]:
        """Return the record of a stop that starts now; the task is asked once the transaction is committed.

        :param restart: a start follows.
        :param state: what the task ends as, where none does.
        """
        self.ask(str(ti.id))
        return {"try": str(ti.id), "since": now_ms, "stage": ASK, "restart": restart, "state": state}

    def due_ms(self, stopping: dict[str, Any]) -> int:
        """When the next stage begins; at once where nobody has asked yet."""
        if stopping["stage"] == ASK and stopping["try"] not in self._asked:
            return int(stopping["since"])
        return int(stopping["since"]) + self._grace_ms * (int(stopping["stage"]) + 1)

    def over(self, stopping: dict[str, Any], ti: Try) -> bool:
        """Whether the try that was to stop has ended."""
        return str(ti.id) != stopping["try"] or ti.state not in ("running", "queued", "restarting")

    def settle(self, session: Session, task: TaskState, ti: Try, now_ms: int) -> bool:
        """Go on with a stop; True when it is over, and the task in its state."""
        stopping = task.stopping
        assert stopping is not None
        if self.over(stopping, ti):
            self._asked.discard(stopping["try"])
            # Ended by SIGTERM it stands as failed, or waits for a retry: neither is what the rule said.
            wrong = ("failed", "up_for_retry") if stopping["restart"] else STATES
            if ti.state in wrong and ti.state != stopping["state"]:
                tasks.set_state(session, ti, stopping["state"], [ti.state])
            task.stopping = None
            return True
        self._escalate(session, task, ti, now_ms)
        return task.stopping is None

    def ask(self, try_id: str) -> None:
        """Ask this try to stop, once the transaction is committed."""
        self._to_ask.add(try_id)

    def carry_out(self) -> None:
        """After the commit: send what was decided.  A request that is lost is made up for by the next stage."""
        for try_id in sorted(self._to_ask):
            event = Event(try_id, "stop", STOP_TYPE, context=None, namespace=STOP_NAMESPACE, sender="scheduler")
            try:
                self._client.publish([event], f"stop:{try_id}", 1, ANSWER_MS)
            except (Error, TimeoutError) as e:
                log.warning("aiflow: a task was not asked to stop, SIGTERM will follow", ti_id=try_id, error=str(e))
        self._asked |= self._to_ask
        self._to_ask.clear()
        for pid, try_id in self._to_term.items():
            _terminate(pid, try_id)
        self._to_term.clear()

    def _escalate(self, session: Session, task: TaskState, ti: Try, now_ms: int) -> None:
        stopping = task.stopping
        assert stopping is not None
        if stopping["stage"] == ASK and stopping["try"] not in self._asked:
            self.ask(stopping["try"])
        if now_ms < int(stopping["since"]) + self._grace_ms * (int(stopping["stage"]) + 1):
            return
        stopping["stage"] += 1
        if stopping["stage"] == TERM:
            if ti.pid:
                self._to_term[ti.pid] = str(ti.id)
        elif stopping["restart"]:
            tasks.restart_by_airflow(session, ti)
            task.stopping = None
        else:
            tasks.set_state(session, ti, stopping["state"], ["running"])
            task.stopping = None


def _terminate(pid: int, try_id: str) -> None:
    """SIGTERM a task's process, if it is a child (of a child ...) of ours: another host's pid is nobody's business."""
    try:
        process = psutil.Process(pid)
        if psutil.Process() in process.parents():
            log.info("aiflow: SIGTERM, the task did not stop by itself", pid=pid, ti_id=try_id)
            process.terminate()
    except psutil.Error as e:
        log.info("aiflow: no SIGTERM", pid=pid, ti_id=try_id, error=str(e))
