"""Events as they come."""

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Self

from .. import _core
from .._event import Event
from ..errors import ClosedError, ConflictError, ForkError, ReplacedError, StoreError
from .cursor import Cursor
from .times import SLICE, in_ms

Pattern = tuple[str, str, str, str, str]
"""(namespace, key, type, sender, context); each is exact, ``*``, or a prefix ``abc*``."""

AnyPattern = Pattern | tuple[str, str, str, str]
"""The same, or without a context: any."""

Events = list[Event]

log = logging.getLogger(__name__)


class Subscription:
    """Events as they come: iterate, or :meth:`poll`.

    It has a connection of its own, and picks up where it was when the broker went away and came back, or at the next
    broker: each event comes once, in offset order.  What is not read waits in the log.  To go on in another process,
    subscribe with ``resume=`` a name, or with ``after=`` :attr:`cursor` and ``log_id=`` :attr:`log_id`.

    With a name, an event is done when the next one is asked for.  What was not done comes again in the next
    subscription of that name, so each event comes at least once.  ``break`` leaves the last event undone;
    :meth:`commit` says that it is done.

    An error of the broker's (RetentionError: it fell so far behind that events were let go; ReplacedError: the log was
    replaced by another one, or by an older copy; AccessError: its key was revoked; ConflictError: another subscription
    took its name) closes it.
    """

    stopped: bool
    """A control event came: the iteration is over."""

    def __init__(
        self, core: _core.Subscription, stream: int, control: Sequence[AnyPattern], resume: Cursor | None = None
    ) -> None:
        self._core = core
        self._resume = resume
        self._stream = stream
        self._ready: deque[Event] = deque()  # taken, and not handed out
        self._looked = True  # for control events among them
        self._closed = False
        self._last = core.cursor(stream)
        self._log_id = core.log_id(stream)
        self._handed = 0  # how many events, since the cursor was told
        self._control = _core.Match()
        for pattern in control:
            self._control.add(pattern, 1)
        self.stopped = False

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        self._asked()
        while True:
            self._look()
            if not self._settle():
                continue
            try:
                event = self._ready[0]
                self._last = event.offset
                self._handed += 1
                del self._ready[0]  # no call from here on: a signal's handler that raises would lose it
                return event
            except IndexError:  # there is none, or another thread closed it just now
                pass
            if self._closed or self.stopped:
                raise StopIteration
            try:
                self._fetch(self._slice(SLICE))
            except ClosedError:  # by another thread
                raise StopIteration from None

    def poll(self, timeout: float = 0.0) -> Events:
        """Return what has come, waiting up to timeout seconds for the first; [] when nothing did.

        With ``resume=``, what the last call returned is done; to say so to a broker that is away takes a second more.
        """
        end = time.monotonic() + timeout
        left = timeout
        self._asked()
        while not (settled := self._settle()) or not (self._ready or self.stopped):
            if settled:
                self._fetch(self._slice(left))
            left = end - time.monotonic()
            if left <= 0:
                break
        if not settled:
            return []
        self._look()
        events, none = list(self._ready), deque[Event]()
        if events:
            self._last = events[-1].offset
            self._handed += len(events)
        self._ready = none  # no call from here on, as above
        return events

    @property
    def cursor(self) -> int:
        """The offset up to which every event that matches has been handed out."""
        if self._ready:
            return self._ready[0].offset - 1
        if not self._closed and not self.stopped:
            self._last = self._core.cursor(self._stream)
        return self._last

    @property
    def log_id(self) -> int:
        """Of which log :attr:`cursor` is an offset: in another one it means another event."""
        if not self._closed:
            self._log_id = self._core.log_id(self._stream)
        return self._log_id

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when there may be more; first ``poll()`` until it returns []."""
        return self._core.fileno()

    def close(self) -> None:
        """End it; an iteration in another thread ends too."""
        if not self._closed:
            with suppress(ForkError):
                self._last, self._log_id = self.cursor, self.log_id
            self._closed = True
            self._ready.clear()
            self._core.close()
            if self._resume:
                self._resume.close()

    def commit(self, timeout: float = 30.0) -> None:
        """Say that all that was handed out is done: it does not come again; only with ``resume=``.

        :param timeout: seconds for the broker's answer.
        :raises ConflictError: another subscription took the name, or it was deleted.
        """
        if self._resume is None:
            raise ValueError("a subscription without a name has nothing to commit: subscribe(..., resume='name')")
        self._asked()
        self._move(self._resume, timeout)

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
                if self._resume:
                    self._resume.close()
            raise
        self._look()

    def _asked(self) -> None:
        """More is asked for: what was handed out is done."""
        if self._resume:
            self._resume.done(self._last, self._handed)
            self._handed = 0

    def _due(self) -> bool:
        """Is the cursor to move now?"""
        cursor = self._resume
        if cursor is None or self._closed:
            return False
        return cursor.due() <= 0 or (cursor.behind and self.stopped and not self._ready)

    def _settle(self) -> bool:
        """Move the cursor where that is due; False: the broker has not done so in a second."""
        cursor = self._resume
        if cursor is None or not self._due():
            return True
        try:
            if not cursor.behind and not self._ready and not self.stopped:
                cursor.done(self._core.cursor(self._stream))
            self._move(cursor, SLICE)
        except (TimeoutError, StoreError):
            return self.stopped
        except ClosedError:
            if not self._closed:  # by another thread
                raise
        return True

    def _move(self, cursor: Cursor, timeout: float) -> None:
        try:
            cursor.move(timeout)
        except (ConflictError, ReplacedError):  # what comes is another's
            self.close()
            raise

    def _rest(self) -> float | None:
        """Return in how many seconds the cursor is to move; None: there is none."""
        return max(0.0, self._resume.due()) if self._resume else None

    def _slice(self, seconds: float) -> float:
        """Return how long to wait at once."""
        rest = self._rest()
        return min(seconds, SLICE if rest is None else min(rest, SLICE))

    def _look(self) -> None:
        """At a control event the iteration is over: what is behind it is not handed out."""
        if self._looked:
            return
        for n, event in enumerate(list(self._ready)):
            if self._control.find(event):
                self.stopped = True
                log.info("the subscription ends: %s", event.value)
                with suppress(IndexError):  # another thread closed it just now
                    while len(self._ready) > n:
                        self._ready.pop()
                break
        self._looked = True
