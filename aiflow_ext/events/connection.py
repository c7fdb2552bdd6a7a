"""What a client has open, and how it asks the broker."""

import logging
import os
import time
from collections.abc import Callable
from threading import TIMEOUT_MAX, RLock
from typing import TypeVar

from .. import _core
from ..errors import ClosedError, ForkError, StoreError
from .address import safe_uri, seen_of
from .keyfile import ClientKey
from .listen import Ears
from .times import SLICE, in_ms

log = logging.getLogger(__name__)

T = TypeVar("T")

TELL = 2.0  # seconds without an answer, after which a line says so
RETRY = 0.25  # seconds before the broker's failed database is tried again


class Connection:
    """What an EventClient has open, from its first use until it is closed, in the process that made it.

    One request is under way at a time: threads that share it wait for each other.  The handler of a signal interrupts
    one thread's own request, which would never end while the handler waits for it: so a handler's request goes first,
    and the interrupted one is sent again (a publish has its identity, so it is in the log once).
    """

    def __init__(self, uri: str, curve: ClientKey | None, key_file: str | os.PathLike[str]) -> None:
        self._uri = uri
        self._curve = curve
        self._key_file = key_file  # of curve; "": none
        self._told = False  # that there is no answer, since the last one
        self._pid = os.getpid()
        self._lock = RLock()  # of the fields below, for moments
        self._turn = RLock()  # of the requests, until the answer is there
        self._client: _core.Client | None = None
        self._ears: Ears | None = None  # of all listeners
        self._closed = False

    def another(self) -> "Connection":
        """Return one to the same brokers, which is not closed with this one."""
        return Connection(self._uri, self._curve, self._key_file)

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
            self.check()
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
        return self.turn(lambda left: self.ask(call, timeout, left), timeout)

    def turn(self, work: Callable[[float], T], timeout: float) -> T:
        """Return what work returns, which has the connection and is told how many seconds are left.

        The handler of a signal may raise after any call, also between `acquire` and what would note that it worked.
        So one call of C does both.
        """
        start = time.monotonic()
        taken: list[bool] = []
        try:
            taken.extend(map(self._turn.acquire, (True,), (min(max(timeout, 0), TIMEOUT_MAX),)))
            if not taken[0]:
                raise self._no_answer(timeout)
            return work(timeout - (time.monotonic() - start))
        finally:
            if True in taken:
                self._turn.release()

    def ask(self, call: Callable[[int], T], timeout: float, rest: float | None = None) -> T:
        """Make the same call, with ms to wait, until the broker has answered.

        :param timeout: the caller's, in seconds.
        :param rest: how much of it is left; None: all.
        """
        start = time.monotonic()
        failed: StoreError | None = None
        while True:
            waited = time.monotonic() - start
            left = (timeout if rest is None else rest) - waited
            if waited >= TELL and left > SLICE and not self._told:
                self._tell(left, failed)
            try:
                answer = call(in_ms(min(left, SLICE)))
                self._told = False
                return answer
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
            self._closed = True  # nothing new is opened from here on
        if self._ears is not None:
            self._ears.close()
        if self._client is not None:
            self._client.close()

    def _tell(self, left: float, failed: StoreError | None) -> None:
        """Say once what is waited for."""
        self._told = True
        uri = safe_uri(self._uri)
        if failed:
            log.warning("aiflow: the broker at %s waits for its database, %.0f s more at most: %s", uri, left, failed)
        else:
            log.warning("aiflow: no answer from %s yet, waiting %.0f s more at most%s", uri, left, self._cure())

    def _no_answer(self, timeout: float) -> TimeoutError:
        return TimeoutError(f"no answer from {safe_uri(self._uri)} in {timeout:.3g} s{self._cure()}")

    def _cure(self) -> str:
        """Say what is seen of why there is no answer, and what to try."""
        seen = seen_of(self._uri)
        key = f"; if {self._key_file} is the key file of another broker, its log says `connection refused`"
        return (
            f"{f' ({seen})' if seen else ''}: start `airflow scheduler --event-mode` or `aiflow broker`, "
            f"or set AIFLOW_BROKER to the address of one, or AIRFLOW_HOME to its Airflow{key if self._key_file else ''}"
        )
