"""What a client has open, and how it asks the broker."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import TIMEOUT_MAX, Lock
from typing import TypeVar

from .. import _core
from ..errors import ClosedError, ForkError, StoreError
from .address import safe_uri
from .keyfile import ClientKey
from .listen import Ears
from .subscription import SLICE, in_ms

T = TypeVar("T")

RETRY = 0.25  # seconds before the broker's failed database is tried again


class Connection:
    """What an EventClient has open, from its first use until it is closed, in the process that made it.

    One request is under way at a time: threads that share it wait for each other.
    """

    def __init__(self, uri: str, curve: ClientKey | None) -> None:
        self._uri = uri
        self._curve = curve
        self._pid = os.getpid()
        self._lock = Lock()  # of the fields below, for moments
        self._turn = Lock()  # of the requests, until the answer is there
        self._client: _core.Client | None = None
        self._ears: Ears | None = None  # of all listeners
        self._closed = False

    def check(self) -> None:
        """Raise where it may not be used.  Looks at the process first: in a child the lock may be held for ever."""
        if os.getpid() != self._pid:
            raise ForkError(
                f"this EventClient was made in process {self._pid}; "
                f"make a new EventClient() in this process ({os.getpid()})"
            )
        if self._closed:
            raise ClosedError("this EventClient is closed")

    def client(self) -> _core.Client:
        """Return the one end for all requests; its calls go through :meth:`answer`."""
        self.check()
        with self._lock:
            if self._client is None:
                self._client = _core.Client(self._uri, self._curve)
            return self._client

    def ears(self) -> Ears:
        """Return what listens for all listeners."""
        self.check()
        with self._lock:
            self.check()
            if self._ears is None or self._ears.deaf:
                self._ears = Ears(self.subscription())
            return self._ears

    def subscription(self) -> _core.Subscription:
        """Return a new one, without streams, that is the caller's to close."""
        self.check()
        return _core.Subscription(self._uri, False, self._curve)

    def answer(self, call: Callable[[int], T], timeout: float) -> T:
        """Make a request when it is our turn, and return its answer."""
        with self.turn(timeout) as left:
            return self.ask(call, left)

    @contextmanager
    def turn(self, timeout: float) -> Iterator[float]:
        """Have the connection until the answer is there: another request would have the first one asked again."""
        start = time.monotonic()
        if not self._turn.acquire(timeout=min(max(timeout, 0), TIMEOUT_MAX)):
            raise self._no_answer(timeout)
        try:
            yield timeout - (time.monotonic() - start)
        finally:
            self._turn.release()

    def ask(self, call: Callable[[int], T], timeout: float) -> T:
        """Make the same call, with ms to wait, until the broker has answered."""
        end = time.monotonic() + timeout
        failed: StoreError | None = None
        while True:
            left = end - time.monotonic()
            try:
                return call(in_ms(min(left, SLICE)))
            except TimeoutError:
                if left <= SLICE:
                    raise failed or self._no_answer(timeout) from None
            except StoreError as e:
                failed = e
                if left <= RETRY:
                    raise
                time.sleep(RETRY)

    def close(self) -> None:
        """Give it back; subscriptions live on."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
            ears, self._ears = self._ears, None
        if ears is not None:
            ears.close()
        if client is not None:
            client.close()

    def _no_answer(self, timeout: float) -> TimeoutError:
        return TimeoutError(
            f"no answer from {safe_uri(self._uri)} in {timeout:.3g} s: "
            "`airflow scheduler --event-mode` or `aiflow broker` must run"
        )
