"""The same client for asyncio.

``async with AsyncEventClient() as client: await client.publish(Event("key"))``
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from .._event import Event
from .client import EventClient
from .subscription import Subscription

P = ParamSpec("P")
T = TypeVar("T")


def _in_thread(
    method: Callable[Concatenate[EventClient, P], T],
) -> Callable[Concatenate["AsyncEventClient", P], Coroutine[Any, Any, T]]:
    async def call(self: "AsyncEventClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(method, self.client, *args, **kwargs)

    call.__name__ = method.__name__
    call.__doc__ = method.__doc__
    return call


class AsyncEventClient:
    """An :class:`aiflow_ext.EventClient` whose calls are awaited; its parameters, and theirs, are the same.

    A call runs in a thread of asyncio's.  One that is cancelled goes on there, until its timeout at most: its event may
    be in the log or not.  Subscriptions need no thread.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.client = EventClient(*args, **kwargs)

    publish = _in_thread(EventClient.publish)
    publish_many = _in_thread(EventClient.publish_many)
    list = _in_thread(EventClient.list)
    page = _in_thread(EventClient.page)
    count = _in_thread(EventClient.count)
    count_by_sender = _in_thread(EventClient.count_by_sender)
    latest = _in_thread(EventClient.latest)
    head = _in_thread(EventClient.head)
    cursors = _in_thread(EventClient.cursors)
    delete_cursor = _in_thread(EventClient.delete_cursor)
    offset_at = _in_thread(EventClient.offset_at)
    status = _in_thread(EventClient.status)
    hint = _in_thread(EventClient.hint)
    listen = _in_thread(EventClient.listen)
    close = _in_thread(EventClient.close)

    @property
    def client_id(self) -> str:
        """Whose events these are."""
        return self.client.client_id

    async def sequence(self) -> int:
        """Return the sequence of the next event; asks the broker where that is not known yet."""
        return await asyncio.to_thread(lambda: self.client.sequence)

    async def subscribe(self, *args: Any, **kwargs: Any) -> "AsyncSubscription":
        """Return the events that match, as they come; parameters as for :meth:`EventClient.subscribe`."""
        return AsyncSubscription(await asyncio.to_thread(self.client.subscribe, *args, **kwargs))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class AsyncSubscription:
    """Events as they come: ``async for``, or :meth:`poll`.  It waits on a descriptor, not in a thread.

    One task at a time may wait.
    """

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._waiting: asyncio.Future[None] | None = None

    @property
    def stopped(self) -> bool:
        """A control event came: the iteration is over."""
        return self._subscription.stopped

    @property
    def cursor(self) -> int:
        """The offset up to which every event that matches has been handed out."""
        return self._subscription.cursor

    @property
    def log_id(self) -> int:
        """Of which log :attr:`cursor` is an offset."""
        return self._subscription.log_id

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when there may be more."""
        return self._subscription.fileno()

    async def commit(self, timeout: float = 30.0) -> None:
        """Say that all that was handed out is done, as :meth:`Subscription.commit`."""
        await asyncio.to_thread(self._subscription.commit, timeout)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while await self._fetch():
            if self._subscription._ready:
                return next(self._subscription)  # does not wait
        raise StopAsyncIteration

    async def poll(self, timeout: float = 0.0) -> list[Event]:
        """Return what has come, waiting up to timeout seconds for the first; [] when nothing did."""
        try:
            async with asyncio.timeout(timeout):
                while await self._fetch() and not self._subscription._ready:
                    pass
        except TimeoutError:
            pass
        return self._subscription.poll() if self._subscription._ready else []

    def close(self) -> None:
        """End it; an iteration in another task ends too."""
        self._end_wait()
        self._subscription.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    async def _fetch(self) -> bool:
        """Take what has come, or wait until there may be something; False when nothing will come."""
        events = self._subscription
        events._asked()
        while events._due() and not await asyncio.to_thread(events._settle):
            pass
        if not events._ready and not events.stopped and not events._closed:
            events._fetch(0)
            if not events._ready and not events.stopped:
                await self._readable()
        return bool(events._ready) or not (events._closed or events.stopped)

    async def _readable(self) -> None:
        if self._waiting is not None:
            raise RuntimeError("another task waits for this subscription")
        loop = asyncio.get_running_loop()
        waiting = self._waiting = loop.create_future()
        loop.add_reader(self.fileno(), _wake, waiting)
        try:
            async with asyncio.timeout(self._subscription._rest()):
                await waiting
        except TimeoutError:  # the cursor is to move
            pass
        finally:
            self._end_wait()

    def _end_wait(self) -> None:
        """Forget the descriptor while it is still ours: once it is closed, its number may be another's."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.get_loop().remove_reader(self.fileno())
            _wake(waiting)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
