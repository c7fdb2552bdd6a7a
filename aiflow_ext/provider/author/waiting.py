"""How a parked task waits under a stock scheduler: in the triggerer, for real, on the broker."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from aiflow_ext.provider.author.carried import carried

if TYPE_CHECKING:
    from aiflow_ext._event import Event

log = logging.getLogger(__name__)

KEPT = 10_000  # events that a rule has not met yet; the newest


class EventTrigger(BaseTrigger):
    """Fires once a START or RESTART rule of the task is met.

    In event mode no triggerer sees it: the scheduler starts the task itself.

    :param rules: the task's rules, as JSON.
    :param dag_id: its Dag.
    :param task_id: its id.
    :param began: when the task began to wait; given by the triggerer's supervisor, never by a Dag.
    """

    def __init__(self, rules: str, dag_id: str, task_id: str, began: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rules, self.dag_id, self.of_task = rules, dag_id, task_id
        self.began = datetime.fromisoformat(began) if began else None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class and arguments."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {"rules": self.rules, "dag_id": self.dag_id, "task_id": self.of_task},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the rules, in all that the log has since the task began to wait: it may be another triggerer now.

        Where the log is replaced, they begin anew in the new one.

        :raises RetentionError: it fell so far behind that events were let go, which may have been those it waits for.
        """
        from aiflow_ext.errors import ReplacedError, RetentionError, StoreError
        from aiflow_ext.events.replaced import AWAY_SEC, MISSED

        began = self.began or datetime.now(UTC)
        after = None if self.began is None else await _end_at(began)
        while True:
            try:
                events = await self._wait(after, began)
                yield TriggerEvent(json.dumps(events))
                return
            except ReplacedError as e:
                log.warning("aiflow: the rules begin anew, with what the log has since the task began to wait: %s", e)
                after = await _end_at(began)
            except (TimeoutError, StoreError) as e:
                log.warning("aiflow: waiting for the broker: %s", e)
                await asyncio.sleep(AWAY_SEC)
            except RetentionError as e:
                raise RetentionError(f"{e}; {MISSED}") from None

    async def _wait(self, after: int | None, began: datetime) -> list[Event]:
        """Return the events that meet a rule, of those beyond `after`; None: of those that come."""
        from aiflow_ext import _core
        from aiflow_ext.events.times import since_epoch
        from aiflow_ext.provider.config import Config
        from aiflow_ext.rules import compile_rules

        spec = compile_rules(json.loads(self.rules), self.dag_id)
        core = _core.Rules(spec)
        patterns = [cond[1:5] for _, conds in spec for cond in conds if cond[0] == "event"]
        config = Config.from_airflow()
        sub = _core.Subscription(config.broker, False, config.curve())
        try:
            stream = await asyncio.to_thread(sub.add, patterns or [("-", "-", "-", "-")], after, 30_000)
            state = core.start(sub.cursor(stream) if after is None else after, since_epoch(began))
            seen: dict[int, Any] = {}
            while True:
                _, events, _ = await asyncio.to_thread(sub.next, 500)
                seen |= {event.offset: event for event in events}
                for offset in list(seen)[:-KEPT]:
                    del seen[offset]
                state, fired = core.tick(state, _now_ms())
                for event in events:
                    state, more = core.feed(state, event, False)
                    fired += more
                for _, action, offsets in fired:
                    if action in ("start", "restart"):
                        kept = carried(seen[o] for o in reversed(offsets) if o in seen)
                        if len(kept) < len(offsets):
                            log.warning("aiflow: a start carries the newest %d of %d events", len(kept), len(offsets))
                        return kept
        finally:
            sub.close()


async def _end_at(began: datetime) -> int | None:
    """Where the log ended then."""
    from aiflow_ext.events.replaced import offset_since
    from aiflow_ext.provider.config import Config

    with Config.from_airflow().client() as client:
        return await asyncio.to_thread(offset_since, client, began)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
