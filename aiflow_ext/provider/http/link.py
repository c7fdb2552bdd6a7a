"""The event clients of this process: a few connections, and threads of their own to wait in.

The api-server's own requests wait in a pool of 40 threads.  Ours have another one, or a broker that is away would take
the whole api-server with it.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread

from aiflow_ext.provider.http.problems import of_error, unavailable
from aiflow_ext.provider.http.settings import HttpConfig

if TYPE_CHECKING:
    from aiflow_ext.events.client import EventClient

T = TypeVar("T")
THREADS = 8
PATIENCE = 5.0  # seconds to wait for a thread, and again for the broker


class Link:
    """Connections to the broker, each used by one call at a time."""

    def __init__(self, config: HttpConfig) -> None:
        self.config = config
        self.streams = 0  # that are being served
        self._gate = asyncio.Semaphore(THREADS)
        self._threads = anyio.CapacityLimiter(THREADS)
        self._idle: deque[EventClient] = deque()

    async def ask(self, call: Callable[[EventClient], T], *, sending: bool = False) -> T:
        """Return what call does with a client, in a thread.

        :raises Problem: it failed, or there was no thread for it in time.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                await self._gate.acquire()
        except TimeoutError:
            raise unavailable("too many requests wait for the event log") from None
        try:
            return await anyio.to_thread.run_sync(self._call, call, limiter=self._threads)
        except Exception as e:
            if problem := of_error(e, sending):
                raise problem from None
            raise
        finally:
            self._gate.release()

    def _call(self, call: Callable[[EventClient], T]) -> T:
        try:
            client = self._idle.pop()
        except IndexError:
            client = self.config.common.client()
        try:
            return call(client)
        finally:
            self._idle.append(client)


_handles: dict[str, Any] = {}
os.register_at_fork(after_in_child=_handles.clear)


def link() -> Link:
    """Return this process' one, which opens its connections at their first use."""
    if "link" not in _handles:
        _handles["link"] = Link(HttpConfig.from_airflow())
    found: Link = _handles["link"]
    return found
