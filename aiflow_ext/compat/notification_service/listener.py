"""One listener: a thread that gives a subscription's events to a watcher."""

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..._event import Event
from ...events.subscription import Subscription
from .base_notification import ANY_CONDITION, BaseEvent, EventWatcher, EventWatcherHandle

BEAT_MS = 1000  # a subscription wants to be looked at about each second
DRAIN_SEC = 5.0  # how long a listener that was stopped goes on, at most, to give what was sent before

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Filters:
    """Which events: of one of these keys, and of this namespace, type and sender.  No key covers another."""

    keys: tuple[str, ...]
    namespace: str = ANY_CONDITION
    type: str = ANY_CONDITION
    sender: str = ANY_CONDITION

    def parts(self, most: int) -> Iterator[dict[str, Any]]:
        """Return the same as arguments of an EventClient's methods, of at most so many keys each."""
        for i in range(0, len(self.keys), most):
            keys = self.keys[i : i + most]
            yield {"key": keys, "namespace": self.namespace, "type": self.type, "sender": self.sender}

    def have_key(self, key: str) -> bool:
        return any(key.startswith(k[:-1]) if k.endswith("*") else key == k for k in self.keys)


def distinct(keys: Iterator[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Return keys without those that another one covers, so that no event is found twice."""
    kept = sorted(set(keys), key=lambda key: (len(key), key))  # the same keys are the same filters, in any order
    prefixes = [k[:-1] for k in kept if k.endswith("*")]
    return tuple(k for k in kept if not any(k.startswith(p) and k != f"{p}*" for p in prefixes))


def base_event(event: Event) -> BaseEvent:
    """Return an event of the log as AI Flow has it: texts that it has not are empty."""
    return BaseEvent(
        event.key,
        event.value,
        event.type,
        event.offset,
        event.create_time or None,
        event.context or "",
        event.namespace,
        event.sender or "",
    )


class Listener(EventWatcherHandle):
    """Calls ``watcher.process`` with what comes, until it is stopped.

    :param everything: it was started by ``start_listen_events``.
    :param wants: says of an event that came whether it is for the watcher.
    :param newest: asks for the offset of the newest event that matches.
    :param ended: is told when the thread ends.
    """

    def __init__(
        self,
        filters: Filters,
        everything: bool,
        subscription: Subscription,
        watcher: EventWatcher,
        wants: Callable[[Event], bool],
        newest: Callable[[], int],
        ended: Callable[["Listener"], None],
    ) -> None:
        self.filters = filters
        self.everything = everything
        self.error: BaseException | None = None
        """What the watcher raised last, or what ended the thread."""
        self._subscription = subscription
        self._watcher = watcher
        self._wants = wants
        self._newest = newest
        self._ended = ended
        self._last: tuple[int, float] | None = None
        self._lock = threading.RLock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._awake = True
        self._thread = threading.Thread(target=self._run, name=f"listen {filters.keys[0]}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, after the events that are in the log now have been given to the watcher; at most 5 s later.

        From within the watcher: no further call comes after this one.  No broker answers: what came, came.
        """
        if self._last is None:
            self.end()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def end(self) -> None:
        """Say that it is to end, and do not wait for it."""
        alone = threading.current_thread() is self._thread or not self._thread.is_alive()
        self._last = (0 if alone else self._newest(), time.monotonic() + DRAIN_SEC)
        with self._lock:
            if self._awake:
                os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        try:
            with self._subscription:
                while not self._done():
                    events = self._subscription.poll()
                    self._give(events) if events else self._wait()
        except Exception as e:
            self.error = e
            log.exception("aiflow: listening to %s ended", ", ".join(self.filters.keys[:10]))
        finally:
            with self._lock:
                self._awake = False
                os.close(self._wake)
            self._ended(self)

    def _done(self) -> bool:
        if self._last is None:
            return False
        offset, deadline = self._last
        return self._subscription.cursor >= offset or time.monotonic() >= deadline

    def _wait(self) -> None:
        ready = select.poll()
        ready.register(self._subscription, select.POLLIN)
        ready.register(self._wake, select.POLLIN)
        ready.poll(BEAT_MS)

    def _give(self, events: list[Event]) -> None:
        wanted = [base_event(event) for event in events if self._wants(event)]
        if not wanted:
            return
        try:
            self._watcher.process(wanted)
        except BaseException as e:  # sys.exit(), too
            self.error = e
            log.exception(
                "aiflow: %s failed with events of the versions %s to %s; it goes on with those after them",
                type(self._watcher).__name__,
                wanted[0].version,
                wanted[-1].version,
            )
