"""Publish, read and subscribe to events.

No call of the C core below takes longer than a second: what waits longer is the same call made again, and signals are
handled in between.
"""

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock
from types import TracebackType
from typing import Self, TypeVar

from . import _core
from ._event import Event as Event
from .address import broker_uri, check_uri, safe_uri
from .errors import ClosedError, ForkError, StoreError

T = TypeVar("T")
Pattern = tuple[str, str, str, str]
"""(namespace, key, type, sender); each is exact, ``*``, or a prefix ``abc*``."""

Events = list[Event]  # EventClient has a method that is called list
Offsets = list[int]

SLICE = 1.0  # seconds in the core before signals are looked at
RETRY = 0.25  # seconds before the broker's failed database is tried again
PAGE = 1000  # events
CHUNK_BYTES = 7 << 20  # the core cuts frames at 8 MiB; a call that is one frame can be made again and wait on
EVENT_BYTES = 160  # what an event takes in a frame beside its texts, rounded up


def control_patterns() -> Sequence[Pattern]:
    """Return what ends a subscription that does not say so itself; asked by each ``subscribe(control=None)``.

    In a task of Airflow: the request to stop this try, so that ``for event in client.subscribe(...)`` ends when a rule
    stops the task; one that is in the log already ends the subscription too.  Elsewhere: nothing.
    """
    task = sys.modules.get("aiflow_ext.provider.task")  # there where the plug-in is loaded: no import of Airflow here
    return task.stop_patterns() if task is not None else ()


class EventClient:
    """One end of a connection to the broker; for any threads of the process that made it.

    It connects at its first use, and again whenever the broker comes back.

    :param uri: ``ipc://PATH`` or ``tcp://HOST:PORT``; None: see :func:`aiflow_ext.address.broker_uri`.
    :param namespace: of events that have none, and of patterns that name none.
    :param sender: of events that have none.
    """

    def __init__(self, uri: str | None = None, namespace: str = "default", sender: str | None = None) -> None:
        self.uri = broker_uri() if uri is None else check_uri(uri)
        self.namespace = namespace
        self.sender = sender
        self._pid = os.getpid()
        self._lock = Lock()
        self._client: _core.Client | None = None
        self._closed = False
        self._producer = os.urandom(16).hex()
        self._sequence = 1

    def publish(self, event: Event, timeout: float = 30.0) -> int:
        """Return event's offset, once it is durable.

        :raises TimeoutError: the broker did not say so in time; the event may be in the log or not.
        :raises StoreError: the broker's database failed until then.
        """
        return self.publish_many((event,), timeout)[0]

    def publish_many(self, events: Iterable[Event], timeout: float = 30.0) -> Offsets:
        """Return the events' offsets, in order, once all are durable.

        Up to 10,000 at a time are one transaction; timeout is for each.  When one fails, a note on the exception says
        how many events before it are in the log.
        """
        offsets: Offsets = []
        for chunk in _chunks(events, 4 * (len(self.namespace) + len(self.sender or ""))):
            try:
                offsets += self._publish(chunk, timeout)
            except Exception as e:
                if offsets:
                    e.add_note(f"the first {len(offsets)} events are in the log")
                raise
        return offsets

    def subscribe(
        self,
        key: str | Sequence[str] = "*",
        type: str = "*",  # noqa: A002
        namespace: str | None = None,
        sender: str = "*",
        after: int | None = None,
        control: Sequence[Pattern] | None = None,
        timeout: float = 30.0,
    ) -> "Subscription":
        """Return the events that match, as they come.

        :param key: exact, ``*``, a prefix ``abc*``, or up to 64 of these.
        :param after: None: those published from now on, when this returns; an offset: all beyond it, old ones first.
        :param control: an event of one of these patterns ends the iteration; None: :data:`control_patterns`.
        :param timeout: how long the broker may take to accept it; after that its absence is waited out for ever.
        """
        self._check()
        control = tuple(control_patterns() if control is None else control)
        keys = (key,) if isinstance(key, str) else tuple(key)
        patterns = [self._pattern(k, type, namespace, sender) for k in keys]
        core = self._ask(lambda ms: _core.Subscription(self.uri, [*patterns, *control], after, False, ms), timeout)
        subscription = Subscription(core, control)
        subscription.stopped = any(self._count(pattern, 0, timeout) for pattern in control)  # before we listened
        return subscription

    def list(
        self,
        key: str = "*",
        type: str = "*",  # noqa: A002
        namespace: str | None = None,
        sender: str = "*",
        after: int = 0,
        limit: int | None = None,
        timeout: float = 30.0,
    ) -> Events:
        """Return the events in the log that match, beyond offset after, oldest first; at most limit of them."""
        client = self._connection()
        pattern = self._pattern(key, type, namespace, sender)
        found: Events = []
        while limit is None or len(found) < limit:
            most = PAGE if limit is None else min(PAGE, limit - len(found))
            start = found[-1].offset if found else after
            page = self._ask(lambda ms, s=start, m=most: client.list(s, m, pattern, ms), timeout)  # type: ignore[misc]
            if not page:
                break
            found += page
        return found

    def count(
        self,
        key: str = "*",
        type: str = "*",  # noqa: A002
        namespace: str | None = None,
        sender: str = "*",
        after: int = 0,
        timeout: float = 30.0,
    ) -> int:
        """Return how many events in the log match, beyond offset after."""
        return self._count(self._pattern(key, type, namespace, sender), after, timeout)

    def hint(self, text: str) -> None:
        """Wake who listens for hints.  Not durable, never blocks, may be lost; up to 255 bytes."""
        self._connection().hint(text)

    def close(self) -> None:
        """Give the connection back; subscriptions have their own and live on."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, cls: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EventClient({safe_uri(self.uri)!r}, namespace={self.namespace!r}, sender={self.sender!r})"

    def _check(self) -> None:
        """Look at the process first: in a child the lock may be held for ever."""
        if os.getpid() != self._pid:
            raise ForkError(
                f"this EventClient was made in process {self._pid}; "
                f"make a new EventClient() in this process ({os.getpid()})"
            )
        if self._closed:
            raise ClosedError("this EventClient is closed")

    def _connection(self) -> _core.Client:
        self._check()
        with self._lock:
            if self._client is None:
                self._client = _core.Client(self.uri)
            return self._client

    def _pattern(self, key: str, type: str, namespace: str | None, sender: str) -> Pattern:  # noqa: A002
        return (self.namespace if namespace is None else namespace, key, type, sender)

    def _count(self, pattern: Pattern, after: int, timeout: float) -> int:
        client = self._connection()
        return self._ask(lambda ms: client.count(after, pattern, ms), timeout)

    def _publish(self, chunk: Events, timeout: float) -> Offsets:
        client = self._connection()
        with self._lock:  # reserved once: a resend is the same event
            first = self._sequence
            self._sequence += len(chunk)
        return self._ask(
            lambda ms: client.publish(chunk, self._producer, first, ms, self.namespace, self.sender or ""), timeout
        )

    def _ask(self, call: Callable[[int], T], timeout: float) -> T:
        """Make the same call, with ms to wait, until the broker has answered."""
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            try:
                return call(_ms(min(left, SLICE)))
            except TimeoutError:
                if left <= SLICE:
                    raise TimeoutError(
                        f"no answer from {safe_uri(self.uri)} in {timeout:g} s: "
                        "`airflow scheduler --event-mode` or `aiflow broker` must run"
                    ) from None
            except StoreError:
                if left <= RETRY:
                    raise
                time.sleep(RETRY)


class Subscription:
    """Events as they come: iterate, or :meth:`poll`.

    It has a connection of its own, and picks up where it was when the broker went away and came back: each event comes
    once, in offset order.  To go on in another process, subscribe with ``after=`` the last event's offset.
    """

    stopped: bool
    """A control event came: the iteration is over."""

    def __init__(self, core: _core.Subscription, control: Sequence[Pattern]) -> None:
        self._core = core
        self._ready: deque[Event] = deque()
        self._closed = False
        self._last = core.cursor
        self._control = _core.Match()
        for pattern in control:
            self._control.add(pattern, 1)
        self.stopped = False

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while not self._ready:
            if self._closed or self.stopped:
                raise StopIteration
            try:
                self._fetch(SLICE)
            except ClosedError:  # by another thread
                raise StopIteration from None
        return self._ready.popleft()

    def poll(self, timeout: float = 0.0) -> Events:
        """Return what has come, waiting up to timeout seconds for the first; [] when nothing did."""
        end = time.monotonic() + timeout
        left = timeout
        while not self._ready and not self.stopped:
            self._fetch(min(left, SLICE))
            left = end - time.monotonic()
            if left <= 0:
                break
        events = list(self._ready)
        self._ready.clear()
        return events

    @property
    def cursor(self) -> int:
        """The offset up to which every event that matches has been handed out."""
        if self._ready:
            return self._ready[0].offset - 1
        if not self._closed:
            self._last = self._core.cursor
        return self._last

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when there may be more; first ``poll()`` until it returns []."""
        return self._core.fileno()

    def close(self) -> None:
        """End it; an iteration in another thread ends too."""
        if not self._closed:
            self._last = self.cursor
            self._closed = True
            self._ready.clear()
            self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, cls: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _fetch(self, timeout: float) -> None:
        events, _ = self._core.next(_ms(timeout))
        for event in events:
            if self._control.find(event):
                self.stopped = True
                break
            self._ready.append(event)


def _chunks(events: Iterable[Event], filled_in: int) -> Iterator[Events]:
    """Cut events into what one publish takes; each grows by filled_in bytes."""
    chunk: Events = []
    size = 0
    for event in events:
        n = _most_bytes(event) + filled_in
        if chunk and (len(chunk) == _core.BATCH_MAX or size + n > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(event)
        size += n
    if chunk:
        yield chunk


def _most_bytes(event: Event) -> int:
    """Return what event takes in a frame at most: a character is up to 4 bytes of UTF-8."""
    if not isinstance(event, Event):
        raise TypeError(f'expected an Event, not {type(event).__name__}: Event("key", "value")')
    value = len(event.value) * (1 if event.value.isascii() else 4)
    names = len(event.key) + len(event.type) + len(event.context or "")
    names += len(event.namespace or "") + len(event.sender or "")
    return EVENT_BYTES + value + 4 * names


def _ms(seconds: float) -> int:
    return max(0, math.ceil(seconds * 1000))
