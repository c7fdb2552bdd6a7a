"""Events as they come."""

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Self

from .. import _core
from .._event import Event
from ..errors import ClosedError, ForkError

Pattern = tuple[str, str, str, str, str]
"""(namespace, key, type, sender, context); each is exact, ``*``, or a prefix ``abc*``."""

AnyPattern = Pattern | tuple[str, str, str, str]
"""The same, or without a context: any."""

Events = list[Event]

SLICE = 1.0  # seconds in the core before signals are looked at


class Subscription:
    """Events as they come: iterate, or :meth:`poll`.

    It has a connection of its own, and picks up where it was when the broker went away and came back, or at the next
    broker: each event comes once, in offset order.  What is not read waits in the log.  To go on in another process,
    subscribe with ``after=`` the last event's offset.

    An error of the broker's (RetentionError: it fell so far behind that events were let go; AccessError: its key was
    revoked) closes it.
    """

    stopped: bool
    """A control event came: the iteration is over."""

    def __init__(self, core: _core.Subscription, stream: int, control: Sequence[AnyPattern]) -> None:
        self._core = core
        self._stream = stream
        self._ready: deque[Event] = deque()
        self._closed = False
        self._last = core.cursor(stream)
        self._control = _core.Match()
        for pattern in control:
            self._control.add(pattern, 1)
        self.stopped = False

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while True:
            with suppress(IndexError):
                return self._ready.popleft()
            if self._closed or self.stopped:
                raise StopIteration
            try:
                self._fetch(SLICE)
            except ClosedError:  # by another thread
                raise StopIteration from None

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
            self._last = self._core.cursor(self._stream)
        return self._last

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when there may be more; first ``poll()`` until it returns []."""
        return self._core.fileno()

    def close(self) -> None:
        """End it; an iteration in another thread ends too."""
        if not self._closed:
            with suppress(ForkError):
                self._last = self.cursor
            self._closed = True
            self._ready.clear()
            self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _fetch(self, timeout: float) -> None:
        try:
            _, events, _ = self._core.next(in_ms(timeout))
        except Exception as e:
            if getattr(e, "stream", None) is not None:  # there is nothing to come
                self._closed = True
                self._core.close()
            raise
        if events:
            self._last = events[-1].offset
        for event in events:
            if self._control.find(event):
                self.stopped = True
                break
            self._ready.append(event)


def in_ms(seconds: float) -> int:
    """Return seconds as the core takes them: not less, and none below 0."""
    return max(0, math.ceil(seconds * 1000))
