"""Callbacks for events: one thread and one connection for all listeners of a client."""

import logging
import os
import select
from collections.abc import Callable
from threading import RLock, Thread, current_thread

from .. import _core
from .._event import Event
from ..errors import AccessError, ClosedError

log = logging.getLogger(__name__)

Callback = Callable[[list[Event]], object]

WAIT_MS = 1000


class Listener:
    """A callback that is called with the events of its patterns, until it is stopped."""

    error: BaseException | None
    """What ended it: raised by the callback, or the broker (RetentionError, ReplacedError, AccessError); else None."""

    log_id: int
    """Of which log :attr:`cursor` is an offset: in another one it means another event."""

    def __init__(self, ears: "Ears", callback: Callback, stream: int, log_id: int) -> None:
        self.error = None
        self.log_id = log_id
        self._ears = ears
        self._callback = callback
        self._stream = stream
        self._cursor: int | None = None  # None: not called yet

    def stop(self) -> None:
        """End it.

        When this returns, the callback is not running and will not be called again; called by a callback of the same
        client, it does not wait for that one.  While another thread's ``listen()`` waits for the broker, it waits too.
        """
        self._ears.stop(self._stream)

    @property
    def cursor(self) -> int:
        """The offset up to which the callback has had everything: where to go on, as ``after=``, with ``log_id=``."""
        found = self._ears.cursor(self._stream, wait=self._cursor is None)
        if found is not None:
            self._cursor = found
        return self._cursor or 0

    def call(self, events: list[Event]) -> bool:
        """Call the callback; False when it raised."""
        if self._cursor is None:
            self._cursor = events[0].offset - 1
        try:
            self._callback(events)
        except BaseException as e:  # sys.exit() too: the others go on
            log.exception("aiflow: a listener ended: its callback raised after offset %d", self._cursor)
            self.error = e
            return False
        self._cursor = events[-1].offset
        return True

    def end(self, error: Exception) -> None:
        """End for an error of the broker's."""
        log.error("aiflow: a listener ended: %s", error)
        self.error = error


class Ears:
    """What listens for all listeners; it begins with the first of them and ends with the last.

    :param core: without streams; it is closed at the end.
    """

    def __init__(self, core: _core.Subscription) -> None:
        self.deaf = False  # it has ended
        self._core = core
        self._listeners: dict[int, Listener] = {}
        # RLocks, because the handler of a signal, which may listen and stop, interrupts a thread that has one.
        self._adding = RLock()  # held from a new stream to its place in listeners
        self._coming = 0  # such streams: several, where a handler of a signal listens
        self._ending = RLock()  # held while it begins, is told to end, and gives back what it has
        self._turn = RLock()  # held by the thread while it takes events and hands them out
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = Thread(target=self._run, name="aiflow-listen", daemon=True)

    def listen(self, callback: Callback, add: Callable[[_core.Subscription], int]) -> Listener | None:
        """Return a listener of the stream that add makes; None when the last one was stopped meanwhile."""
        with self._adding:
            if self.deaf:
                return None
            self._coming += 1
            try:
                stream = add(self._core)
                with self._ending:
                    if self.deaf:
                        raise ClosedError("this EventClient is closed")
                    listener = self._listeners[stream] = Listener(self, callback, stream, self._core.log_id(stream))
                    if self._thread.ident is None:
                        self._thread.start()
            finally:
                self._coming -= 1
                self._end_unused()
        return listener

    def stop(self, stream: int) -> None:
        """End a stream and wait for its callback."""
        try:
            self._core.remove(stream)
        except ClosedError:
            return
        self._listeners.pop(stream, None)
        with self._adding:
            self._end_unused()
        if current_thread() is self._thread:
            return
        with self._turn:
            pass
        if self.deaf:
            self._thread.join()

    def cursor(self, stream: int, wait: bool) -> int | None:
        """Return how far a stream is, unless events of it may be on the way to the callback."""
        if current_thread() is self._thread:
            return None
        taken: list[bool] = []
        try:
            taken.extend(map(self._turn.acquire, (wait,)))  # one call of C, as in Connection.turn
            return self._core.cursor(stream) if taken[0] else None
        except (ClosedError, ValueError):  # it has ended
            return None
        finally:
            if True in taken:
                self._turn.release()

    def close(self) -> None:
        """End it with all its listeners."""
        self._end()
        if self._thread.ident is not None and current_thread() is not self._thread:
            self._thread.join()

    def _end_unused(self) -> None:
        if not self._listeners and not self._coming:
            self._end()

    def _end(self) -> None:
        """Have the thread end, which closes the rest; without one, close it here."""
        with self._ending:
            if self.deaf:
                return
            self.deaf = True
            if self._thread.ident is None:
                self._give_back()
            else:
                os.eventfd_write(self._wake, 1)

    def _give_back(self) -> None:
        self._core.close()
        os.close(self._wake)

    def _run(self) -> None:
        try:
            poller = select.poll()
            poller.register(self._core, select.POLLIN)
            poller.register(self._wake, select.POLLIN)
            while not self.deaf:
                poller.poll(WAIT_MS)
                with self._turn:
                    while not self.deaf and self._take():
                        pass
        except Exception as e:
            log.exception("aiflow: listening ended")
            self._end_all(e)
        finally:
            with self._ending:  # who ends it has written by then
                self.deaf = True
                self._give_back()

    def _take(self) -> bool:
        """Hand out some events; False when none were there."""
        try:
            stream, events, _ = self._core.next(0)
        except Exception as e:
            return self._failed(e)
        if stream is None:
            return False
        listener = self._listener(stream)
        if listener is not None and not listener.call(events):
            self.stop(stream)
        return True

    def _listener(self, stream: int) -> Listener | None:
        """Return whose stream it is; one that is just being added is waited for."""
        listener = self._listeners.get(stream)
        if listener is None:
            with self._adding:
                listener = self._listeners.get(stream)
        return listener

    def _failed(self, error: Exception) -> bool:
        stream = getattr(error, "stream", None)
        if stream is not None:
            if listener := self._listener(stream):
                listener.end(error)
            self.stop(stream)
            return True
        if isinstance(error, AccessError):  # of the key, so of all
            self._end_all(error)
        else:  # a frame that was none, no memory: what was lost comes again
            log.warning("aiflow: listening goes on after: %s", error)
        return False

    def _end_all(self, error: Exception) -> None:
        for listener in list(self._listeners.values()):
            listener.end(error)
        self.deaf = True
