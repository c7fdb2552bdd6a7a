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
        self._ready: deque[Event] = deque()  # taken, and not handed out
        self._looked = True  # for control events among them
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
            self._look()
            try:
                event = self._ready[0]
                self._last = event.offset
                del self._ready[0]  # no call from here on: a signal's handler that raises would lose it
                return event
            except IndexError:  # there is none, or another thread closed it just now
                pass
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
        self._look()
        events, none = list(self._ready), deque[Event]()
        if events:
            self._last = events[-1].offset
        self._ready = none  # no call from here on, as above
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
        """Take what has come, so that nothing is lost where the handler of a signal raises at any moment."""
        self._looked = False
        try:
            self._core.next(in_ms(timeout), self._ready)
        except Exception as e:
            if getattr(e, "stream", None) is not None:  # there is nothing to come
                self._closed = True
                self._core.close()
            raise
        self._look()

    def _look(self) -> None:
        """At a control event the iteration is over: what is behind it is not handed out."""
        if self._looked:
            return
        for n, event in enumerate(list(self._ready)):
            if self._control.find(event):
                self.stopped = True
                with suppress(IndexError):  # another thread closed it just now
                    while len(self._ready) > n:
                        self._ready.pop()
                break
        self._looked = True


def in_ms(seconds: float) -> int:
    """Return seconds as the core takes them: not less, and none below 0."""
    return max(0, math.ceil(seconds * 1000))
