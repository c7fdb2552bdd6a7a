"""How a parked task waits under a stock scheduler: in the triggerer, for real, on the broker."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent


class EventTrigger(BaseTrigger):
    """Fires once a START or RESTART rule of the task is met.

    In event mode no triggerer sees it: the scheduler starts the task itself.

    :param rules: the task's rules, as JSON.
    :param dag_id: its Dag.
    :param task_id: its id.
    """

    def __init__(self, rules: str, dag_id: str, task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rules, self.dag_id, self.of_task = rules, dag_id, task_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class and arguments."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {"rules": self.rules, "dag_id": self.dag_id, "task_id": self.of_task},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the rules."""
        from aiflow_ext import _core
        from aiflow_ext.provider.config import Config
        from aiflow_ext.rules import compile_rules

        rules = json.loads(self.rules)
        spec = compile_rules(rules, self.dag_id)
        core = _core.Rules(spec)
        patterns = [cond[1:5] for _, conds in spec for cond in conds if cond[0] == "event"]
        config = Config.from_airflow()
        sub = _core.Subscription(config.broker, False, config.curve())
        try:
            stream = await asyncio.to_thread(sub.add, patterns or [("-", "-", "-", "-")], None, 30_000)
            state = core.start(sub.cursor(stream), _now_ms())
            seen: dict[int, Any] = {}
            while True:
                _, events, _ = await asyncio.to_thread(sub.next, 500)
                seen |= {event.offset: event for event in events}
                state, fired = core.tick(state, _now_ms())
                for event in events:
                    state, more = core.feed(state, event, False)
                    fired += more
                for _, action, offsets in fired:
                    if action in ("start", "restart"):
                        yield TriggerEvent(json.dumps([seen[o] for o in offsets if o in seen]))
                        return
        finally:
            sub.close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
