"""The trigger behind ``MessageQueueTrigger(scheme="aiflow", ...)``: an asset has changed when an event came.

Where it begins is not its own business: the process that stores the asset events says so (offsets.py), and an
offset moves in the transaction that stores them.  So killing the triggerer neither loses nor doubles anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

if TYPE_CHECKING:
    from aiflow_ext._event import Event
    from aiflow_ext.events.client import EventClient
    from aiflow_ext.events.subscription import Pattern, Subscription

log = logging.getLogger(__name__)

SCHEME = "aiflow"
LATEST = "latest"  # a new watcher: find the log's end, and say so
SERVED = "served"  # the event scheduler does it: nothing to do here
LIFE = 1000  # events, then the supervisor begins a new one: that many wait in memory at most
PROGRESS_SEC = 60.0  # between two words on how far we have come where nothing matched
CONNECT_SEC = 10.0
RETRY_SEC = 10.0
ELSEWHERE = (
    "The watcher's offset is of another log: delete its row of aiflow_consumer, and it begins in this one as a new "
    "watcher does"
)


class EventLogTrigger(BaseEventTrigger):
    """Fires for each event in the log that matches.

    :param key: exact, ``*``, a prefix ``abc*``, or up to 64 of these.
    :param type: exact, ``*`` or a prefix; so are namespace, sender and context.
    :param after: where a new watcher begins: None at the log's end, 0 at its oldest event, else beyond this offset.
    :param broker: addresses of the broker; None: ``[aiflow] broker`` of the configuration.
    :param start: given by the triggerer's supervisor, never by a Dag; so is log_id, of the log that has this offset,
        and began, when the task that waits began to.
    :raises TypeError: a filter is not text, or after is not a number.
    """

    def __init__(
        self,
        key: str | Sequence[str] = "*",
        type: str = "*",  # noqa: A002  (the field's name)
        namespace: str = "default",
        sender: str = "*",
        context: str = "*",
        after: int | None = None,
        broker: str | None = None,
        start: int | str | None = None,
        log_id: int | None = None,
        began: str | None = None,
    ) -> None:
        super().__init__()
        self.keys = [key] if isinstance(key, str) else list(key)
        self.type, self.namespace, self.sender, self.context = type, namespace, sender, context
        self.after, self.broker, self.start, self.log_id = after, broker, start, log_id
        self.began = datetime.fromisoformat(began) if began else None
        self._check()

    def _check(self) -> None:
        texts = [*self.keys, self.type, self.namespace, self.sender, self.context]
        if not self.keys or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"key, type, namespace, sender and context are text, or key a list of texts: {texts}")
        if self.after is not None and (not isinstance(self.after, int) or self.after < 0):
            raise TypeError(f"after is an offset, 0 or more, or None for the log's end: {self.after!r}")

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class and arguments, defaults left out, so that a new option does not make it another watcher."""
        given = {
            "key": self.keys[0] if len(self.keys) == 1 else self.keys,
            "type": self.type,
            "namespace": self.namespace,
            "sender": self.sender,
            "context": self.context,
            "after": self.after,
            "broker": self.broker,
        }
        return CLASSPATH, {name: value for name, value in given.items() if value != _DEFAULTS[name]}

    @property
    def digest(self) -> str:
        """Which watcher this is: the same arguments are the same one, in any process and version."""
        return hashlib.sha256(json.dumps(self.serialize()[1], sort_keys=True).encode()).hexdigest()[:32]

    @property
    def patterns(self) -> list[Pattern]:
        """What the core matches events with."""
        return [(self.namespace, key, self.type, self.sender, self.context) for key in self.keys]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield the events, and marks that say how far it has come."""
        if self.start == SERVED:
            await asyncio.Event().wait()
        if self.start is None and self.asset_state_store is not None:
            raise RuntimeError(
                "this triggerer does not keep offsets: aiflow-ext's plug-in is not loaded there, or does not know "
                "this version of Airflow. See docs/assets.md"
            )
        async with contextlib.aclosing(self._for_a_task() if self.start is None else self._life()) as marks:
            async for mark in marks:
                yield TriggerEvent(mark)

    async def _for_a_task(self) -> AsyncGenerator[dict[str, Any], None]:
        """Bring what a task waits for, since it began to: it may be another triggerer now, and another log."""
        from aiflow_ext.errors import ReplacedError, RetentionError
        from aiflow_ext.events.replaced import MISSED, offset_since
        from aiflow_ext.provider.config import Config

        began, after = self.began or datetime.now(UTC), self.after
        with Config.from_airflow().client(self.namespace, self.broker) as client:
            if after is None and self.began is not None:
                after = await asyncio.to_thread(offset_since, client, began)
            while True:
                try:
                    with await self._subscribe(client, after) as sub:
                        async with contextlib.aclosing(arrivals(sub)) as batches:
                            async for mark in self._marks(sub, batches):
                                yield mark
                    return
                except ReplacedError as e:
                    log.warning("aiflow: waiting on, for what the log has since the task began to wait: %s", e)
                    after = await asyncio.to_thread(offset_since, client, began)
                except RetentionError as e:
                    raise RetentionError(f"{e}; {MISSED}") from None

    async def _life(self) -> AsyncGenerator[dict[str, Any], None]:
        """Bring what an asset waits for; each mark says of which log it is."""
        from aiflow_ext.errors import Error, ReplacedError, RetentionError
        from aiflow_ext.provider.config import Config

        after = self.start if isinstance(self.start, int) else None
        try:
            with (
                Config.from_airflow().client(self.namespace, self.broker) as client,
                await self._subscribe(client, after, self.log_id) as sub,
            ):
                if self.start == LATEST:
                    yield {"scheme": SCHEME, "begin": sub.cursor, "log_id": sub.log_id}
                    return
                if self.log_id is None:  # the row does not have it yet
                    yield {"scheme": SCHEME, "seen": after, "log_id": sub.log_id}
                async with contextlib.aclosing(arrivals(sub)) as batches:
                    async for mark in self._marks(sub, batches):
                        yield mark | {"log_id": sub.log_id}
        except RetentionError as e:
            log.error("aiflow: events were let go before they became asset events, going on behind them: %s", e)
            yield {"scheme": SCHEME, "seen": max(after or 0, go_on_from(e)), "log_id": self.log_id}
        except ReplacedError as e:
            log.error(
                "aiflow: no asset events, trying again in %g s. %s (..%s): %s", RETRY_SEC, ELSEWHERE, self.digest, e
            )
            await asyncio.sleep(RETRY_SEC)
        except (
            Error,
            OSError,
            ValueError,
        ) as e:  # denied, no such key file, another log, ...: an administrator's, so neither fail nor hurry
            log.error("aiflow: no asset events, trying again in %g s: %s", RETRY_SEC, e)
            await asyncio.sleep(RETRY_SEC)

    async def _marks(
        self, sub: Subscription, batches: AsyncIterator[list[Event]]
    ) -> AsyncGenerator[dict[str, Any], None]:
        loop = asyncio.get_running_loop()
        told, told_at, count = sub.cursor, loop.time(), 0
        async for events in batches:
            for event in events:
                yield payload(event)
                told = event.offset
            count += len(events)
            if count >= LIFE:
                return
            if self.start is not None and loop.time() - told_at >= PROGRESS_SEC:
                told_at = loop.time()
                if sub.cursor > told:
                    told = sub.cursor
                    yield {"scheme": SCHEME, "seen": told}

    async def _subscribe(self, client: EventClient, after: int | None, log_id: int | None = None) -> Subscription:
        """Wait for the broker as long as it takes."""
        from aiflow_ext.errors import StoreError

        while True:
            try:
                return await asyncio.to_thread(self._open, client, after, log_id)
            except (TimeoutError, StoreError) as e:
                log.warning("aiflow: waiting for the broker: %s", e)

    def _open(self, client: EventClient, after: int | None, log_id: int | None) -> Subscription:
        return client.subscribe(
            self.keys,
            self.type,
            sender=self.sender,
            context=self.context,
            after=after,
            log_id=log_id,
            control=(),
            timeout=CONNECT_SEC,
        )


CLASSPATH = f"{EventLogTrigger.__module__}.{EventLogTrigger.__qualname__}"
_DEFAULTS = {
    "key": "*",
    "type": "*",
    "namespace": "default",
    "sender": "*",
    "context": "*",
    "after": None,
    "broker": None,
}


def payload(event: Event) -> dict[str, Any]:
    """Return what an asset event's ``extra["payload"]`` has of an event: its fields, and whose it is."""
    return {"scheme": SCHEME, **event._asdict()}


def go_on_from(error: Exception) -> int:
    """Return the offset that a RetentionError says to go on from; 0: from the oldest kept."""
    found = re.search(r"from offset (\d+)", str(error))
    return int(found[1]) if found else 0


def is_payload(found: Any) -> bool:
    """Whether this is one of ours."""
    return isinstance(found, dict) and found.get("scheme") == SCHEME


async def arrivals(sub: Subscription) -> AsyncGenerator[list[Event], None]:
    """Yield what has come, at least once a second, [] for nothing; takes no thread to wait.  Close it before `sub`."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    fd = sub.fileno()
    loop.add_reader(fd, ready.set)
    try:
        while True:
            ready.clear()
            yield (events := sub.poll(0))
            if not events:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ready.wait(), 1.0)
            await asyncio.sleep(0)
    finally:
        loop.remove_reader(fd)
