"""Where a subscription is, kept in the log under a name, so that the next one goes on from there."""

import logging
import os
import time
from contextlib import suppress
from typing import NamedTuple

from ..errors import ConflictError, Error, ForkError, ReplacedError
from .connection import Connection

AT_ONCE = 1000  # events that were handed out, after which the cursor moves
MOVE = 0.1  # seconds, after which it moves
BEAT = 60.0  # seconds, after which it moves though nothing was handed out: it is in use
CLOSE = 2.0  # seconds that the last move may take

log = logging.getLogger(__name__)


class SavedCursor(NamedTuple):
    """A named cursor as the log has it.

    :param namespace: which namespaces its subscription reads: exact, a prefix ``abc*``, or ``*``.
    :param offset: up to where all was done.
    :param moved: when it was taken or moved last, in ms since the epoch.
    """

    namespace: str
    name: str
    offset: int
    moved: int


class Cursor:
    """A named cursor, from when it is taken until another one takes it.

    One move covers many events: after a crash those since the last move come again, which are the events of
    :data:`MOVE` seconds, and :data:`AT_ONCE` at most.

    :param connection: its own; closed with it.
    """

    def __init__(self, connection: Connection, namespace: str, name: str) -> None:
        self._connection = connection
        self._namespace = namespace
        self._name = name
        self._holder = 1 + int.from_bytes(os.urandom(7))
        self._log_id = 0
        self._moved = 0.0  # when
        self._offset = 0  # as the broker has it
        self._done = 0  # as it is to be
        self._events = 0  # between the two

    def take(self, after: int | None, timeout: float) -> int:
        """Return where it is; from now on nobody else holds it.

        :param after: where a new one begins; None: behind the newest event.
        """
        client = self._connection.client()
        self._offset, self._log_id = self._connection.answer(
            lambda ms: client.take(self._namespace, self._name, self._holder, after, ms), timeout
        )
        self._done, self._moved = self._offset, time.monotonic()
        return self._offset

    def done(self, offset: int, events: int = 0) -> None:
        """Note that all up to offset was dealt with, and so many events since the last time."""
        if offset > self._done:
            self._done = offset
            self._events += events

    @property
    def log_id(self) -> int:
        """Which log it was taken from."""
        return self._log_id

    @property
    def behind(self) -> bool:
        """Something was done that the broker has not been told."""
        return self._done > self._offset

    def due(self) -> float:
        """Return in how many seconds it is to move; 0 or less: now."""
        if self._events >= AT_ONCE:
            return 0.0
        return self._moved + (MOVE if self.behind else BEAT) - time.monotonic()

    def move(self, timeout: float) -> None:
        """Move it to where all is done.

        :raises ConflictError: another subscription has taken it, or it was deleted.
        :raises ReplacedError: the log is another one now.
        """
        client, done, events = self._connection.client(), self._done, self._events
        try:
            self._connection.answer(
                lambda ms: client.move(self._namespace, self._name, self._holder, done, self._log_id, ms), timeout
            )
        except (ConflictError, ReplacedError):
            self._done = self._offset  # close() does not try again
            raise
        self._offset, self._moved = done, time.monotonic()
        self._events -= events

    def close(self) -> None:
        """Move it a last time, and give the connection back."""
        if self.behind:
            try:
                self.move(CLOSE)
            except ForkError:  # the parent's goes on
                pass
            except (Error, TimeoutError) as e:
                log.warning("aiflow: cursor %r stays at offset %d: %s", self._name, self._offset, e)
        with suppress(Error):
            self._connection.close()
