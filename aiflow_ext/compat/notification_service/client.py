"""AI Flow's client: ``notification_service.client``, over :class:`aiflow_ext.EventClient`.

A version is an offset of our log.  What AI Flow 0.3.1 got wrong (docs/notification.md has the list) is not repeated.
"""

import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Self

from ..._core import PATTERNS_MAX
from ..._event import Event
from ...errors import ClosedError, ConflictError, Error
from ...events.client import EventClient
from .base_notification import (
    ANY_CONDITION,
    DEFAULT_NAMESPACE,
    UNDEFINED_EVENT_TYPE,
    BaseEvent,
    EventWatcher,
    EventWatcherHandle,
    SenderEventCount,
)
from .listener import Filters, Listener, base_event, distinct

ENABLE_IDEMPOTENCE_CONFIG = "enable.idempotence"
CLIENT_ID = "client.id"
INITIAL_SEQUENCE_NUMBER = "initial.sequence.number"
GRPC_MAX_RECEIVE_MESSAGE_LENGTH = "grpc.max_receive_message_length"
KEY_FILE = "key.file"

STOP_SEC = 1.0  # for the question up to where a listener that is stopped has to go
CLIENT_IDS = 1 << 53  # a client id is any number below; whole in JSON, too
NOW = -1  # the default start_time of start_listen_events: the moment of the call

Keys = str | Iterable[str]


class NotificationClient:
    """AI Flow's ``NotificationClient``, for any threads of the process that made it.

    :param server_uri: ``host:port``, ``tcp://host:port`` or ``ipc://PATH``; several brokers of one log, separated by
        commas; None: see :func:`aiflow_ext.events.address.broker_uri`.
    :param default_namespace: of all events sent (None: ``default``), and of queries that name none (None: all).
    :param retry_timeout_ms: how long a call goes on trying when no broker answers.
    :param sender: of all events sent.
    :param properties: ``enable.idempotence`` (true), ``client.id`` and ``initial.sequence.number`` of a producer that
        goes on; ``key.file`` is ours: a key of ``aiflow keys new``.
    :raises TimeoutError: no broker answers.

    ``enable_ha``, ``list_member_interval_ms`` and ``retry_interval_ms`` change nothing: the client moves to the next
    of its brokers by itself.  Nor does ``grpc.max_receive_message_length``: there are limits, and they are fixed.
    """

    def __init__(
        self,
        server_uri: str | None = None,
        default_namespace: str | None = None,
        enable_ha: bool = False,
        list_member_interval_ms: int = 5000,
        retry_interval_ms: int = 1000,
        retry_timeout_ms: int = 10000,
        sender: str | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        self.conf = dict(properties or {})
        self.server_uri = server_uri
        self.enable_ha = enable_ha
        self.list_member_interval_ms = list_member_interval_ms
        self.retry_interval_ms = retry_interval_ms
        self.retry_timeout_ms = retry_timeout_ms
        self._default_namespace = default_namespace
        self._sender = sender
        self._timeout = retry_timeout_ms / 1000
        self._lock = threading.RLock()  # the handler of a signal may send while it interrupts who has it
        self._listeners: list[Listener] = []
        self._closed = False
        self._failed = threading.local()  # each thread's last send, when that failed
        self._resumable = self.conf.get(ENABLE_IDEMPOTENCE_CONFIG, "true").strip().lower() != "false"
        given = self.conf.get(CLIENT_ID) if self._resumable else None
        self._client_id = random.SystemRandom().randrange(1, CLIENT_IDS) if given is None else int(given)
        self._producer = f"notification-client-{self._client_id}"
        self._events = EventClient(_uris(server_uri), client_id=self._producer, key_file=self.conf.get(KEY_FILE))
        try:
            self._next = self._first_sequence()
        except BaseException:
            self._events.close()
            raise

    def close(self) -> None:
        """Stop what listens, and give the connection back."""
        with self._lock:
            self._closed = True
        self._stop(lambda listener: True)
        self._events.close()

    @property
    def client_id(self) -> int | None:
        """Who this is to the log, for ``client.id`` of the client that goes on; None without idempotence."""
        return self._client_id if self._resumable else None

    @property
    def sequence_number(self) -> int | None:
        """The next event's number, for ``initial.sequence.number`` of the client that goes on."""
        if not self._resumable:
            return None
        with self._lock:  # after a failed send it is still that one's: sent again, it is not a second event
            return self._next - (self._failed_number() == self._next - 1)

    def send_event(self, event: BaseEvent) -> BaseEvent:
        """Send it, with this client's namespace and sender; return it with its version and time.

        When it fails, send the same event next (in this thread): it does not come twice, whether or not it had
        arrived.  The time is None where this client may not read what it sends.

        :raises TimeoutError: no broker said in ``retry_timeout_ms`` that it is durable.
        :raises ConflictError: the log has another event of this ``client.id`` and number.
        """
        sent = Event(
            event.key,
            event.value if event.value is not None else "",
            event.event_type or UNDEFINED_EVENT_TYPE,
            event.context or None,
            self._default_namespace or DEFAULT_NAMESPACE,
            self._sender or "",
        )
        offset = self._send_once(sent)
        return base_event(sent._replace(offset=offset, create_time=self._create_time(sent, offset)))

    def list_events(
        self,
        key: Keys,
        namespace: str | None = None,
        version: int | None = None,
        event_type: str | None = None,
        start_time: int | None = None,
        sender: str | None = None,
    ) -> list[BaseEvent]:
        """Return the events that match, by version.

        :param key: one or several; ``*`` is any, ``abc*`` a prefix, and so in all filters.
        :param namespace: None: the client's default, or any.
        :param version: only greater ones.
        :param event_type: None: any.
        :param start_time: only of this time, in ms since the epoch, or later.
        :param sender: None: any.
        """
        return self._list(self._filters(key, namespace, event_type, sender), version, start_time)

    def count_events(
        self,
        key: Keys,
        namespace: str | None = None,
        version: int | None = None,
        event_type: str | None = None,
        start_time: int | None = None,
        sender: str | None = None,
    ) -> tuple[int, list[SenderEventCount]]:
        """Return how many events match, as :meth:`list_events` finds them, and how many of each sender."""
        counts: dict[str, int] = {}
        after = self._after(version, start_time)
        try:
            for part in self._filters(key, namespace, event_type, sender).parts(PATTERNS_MAX):
                for name, n in self._events.count_by_sender(**part, after=after, timeout=self._timeout).items():
                    counts[name] = counts.get(name, 0) + n
        except ValueError:
            if after <= self._events.head(self._timeout):  # beyond the end there is nothing, and that is no error
                raise
        return sum(counts.values()), [SenderEventCount(name, n) for name, n in sorted(counts.items())]

    def list_all_events(
        self, start_time: int | None = None, start_version: int | None = None, end_version: int | None = None
    ) -> list[BaseEvent]:
        """Return the events of all namespaces, by version.

        :param start_time: only of this time, in ms since the epoch, or later.
        :param start_version: only greater ones.
        :param end_version: none greater.
        """
        return self._list(Filters((ANY_CONDITION,)), start_version, start_time, end_version or None)

    def get_latest_version(self, key: str | None = None, namespace: str | None = None) -> int:
        """Return the version of the newest event of key (None: any) and namespace, 0 when there is none."""
        (part,) = self._filters(key or ANY_CONDITION, namespace).parts(PATTERNS_MAX)
        return self._events.latest(**part, timeout=self._timeout)

    def start_listen_event(
        self,
        key: Keys,
        watcher: EventWatcher,
        namespace: str | None = None,
        version: int | None = None,
        event_type: str | None = None,
        start_time: int | None = None,
        sender: str | None = None,
    ) -> EventWatcherHandle:
        """Give watcher the events that :meth:`list_events` finds, and then each as it comes, in a thread of its own.

        A watcher that raises is logged with the versions it was given, and goes on with those after them.

        :raises ValueError: version is beyond the newest event.
        """
        return self._listen(self._filters(key, namespace, event_type, sender), watcher, version, start_time)

    def stop_listen_event(
        self,
        key: Keys | None = None,
        namespace: str | None = None,
        event_type: str | None = None,
        sender: str | None = None,
    ) -> None:
        """Stop the listeners that were started with these; without key: all but :meth:`start_listen_events`'s."""
        filters = None if key is None else self._filters(key, namespace, event_type, sender)
        self._stop(lambda one: not one.everything and filters in (None, one.filters))

    def start_listen_events(
        self, watcher: EventWatcher, start_time: int | None = NOW, version: int | None = None
    ) -> EventWatcherHandle:
        """Give watcher all events of all namespaces.

        :param start_time: from when on, in ms since the epoch; left out: from this call on; None or 0: all.
        :param version: from which one on, not included; start_time does not count then.
        :raises RuntimeError: it was called before; see :meth:`stop_listen_events`.
        """
        if version is None and start_time == NOW:
            version = self._events.head(self._timeout)
        start_time = None if version is not None else start_time
        return self._listen(Filters((ANY_CONDITION,)), watcher, version, start_time, everything=True)

    def stop_listen_events(self) -> None:
        """Stop what :meth:`start_listen_events` started."""
        self._stop(lambda listener: listener.everything)

    def disable_high_availability(self) -> None:
        """Do nothing: there is no thread that looks for servers."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __str__(self) -> str:
        return (
            f"NotificationClient(id={self.client_id}, namespace={self._default_namespace}, sender={self._sender}, "
            f"server_uri={self._events.uri}, properties={self.conf})"
        )

    def _first_sequence(self) -> int:
        """Ask the log where this producer was, unless the user says so; AI Flow's first number is 0, the log's 1."""
        if INITIAL_SEQUENCE_NUMBER in self.conf or CLIENT_ID not in self.conf or not self._resumable:
            self._events.head(self._timeout)  # here, as in AI Flow, it is seen that no server answers
            return int(self.conf.get(INITIAL_SEQUENCE_NUMBER, 0))
        return self._events.sequence - 1

    def _send_once(self, event: Event) -> int:
        """Publish event under the next number, or under the one it had when sending it failed just now."""
        with self._lock:
            failed = self._failed_number(event)
            number = self._next if failed is None else failed  # no call from here on: the handler of a signal may send
            self._next = number + 1 if number >= self._next else self._next
        self._failed.event = None
        try:
            return self._events.publish(event, self._timeout, (self._producer, number + 1))
        except ConflictError as e:
            raise ConflictError(
                f"number {number} of client {self._client_id} was another event's: {INITIAL_SEQUENCE_NUMBER} must be "
                f"what sequence_number was, or be left out; {e}"
            ) from e
        except (TypeError, ValueError):  # it never left
            with self._lock:
                self._next -= self._next == number + 1
            raise
        except BaseException:  # a time-out, Ctrl-C: it may have arrived
            self._failed.event, self._failed.number = event, number
            raise

    def _failed_number(self, event: Event | None = None) -> int | None:
        """Return the number of this thread's last send if that failed, and was event if one is given."""
        last = getattr(self._failed, "event", None)
        return None if last is None or event not in (None, last) else self._failed.number

    def _create_time(self, event: Event, offset: int) -> int:
        """Ask when the log got it; 0 when it does not say: the event is durable, and that must not look otherwise."""
        try:
            found = self._events.list(
                event.key, namespace=event.namespace, after=offset - 1, limit=1, timeout=self._timeout
            )
        except (Error, TimeoutError):
            return 0
        return found[0].create_time if found and found[0].offset == offset else 0

    def _filters(
        self, key: Keys, namespace: str | None, event_type: str | None = None, sender: str | None = None
    ) -> Filters:
        keys = distinct((key,) if isinstance(key, str) else tuple(key))
        if not keys:
            raise ValueError('which key? "*" is any')
        namespace = self._default_namespace if namespace is None else namespace
        return Filters(keys, namespace or ANY_CONDITION, event_type or ANY_CONDITION, sender or ANY_CONDITION)

    def _list(
        self, filters: Filters, version: int | None, start_time: int | None, upto: int | None = None
    ) -> list[BaseEvent]:
        after = self._after(version, start_time)
        found: list[Event] = []
        try:
            for part in filters.parts(PATTERNS_MAX):
                found += self._events.list(**part, after=after, upto=upto, timeout=self._timeout)
        except ValueError:
            if after <= self._events.head(self._timeout):  # beyond the end there is nothing, and that is no error
                raise
        found.sort(key=lambda event: event.offset)
        return [base_event(event) for event in found if event.create_time >= (start_time or 0)]

    def _after(self, version: int | None, start_time: int | None) -> int:
        """Return the offset beyond which events are greater than version and not older than start_time."""
        after = max(version or 0, 0)
        if start_time is None or start_time <= 0:
            return after
        try:
            return max(after, self._events.offset_at(start_time, self._timeout))
        except ValueError:  # in the future
            return max(after, self._events.head(self._timeout))

    def _listen(
        self,
        filters: Filters,
        watcher: EventWatcher,
        version: int | None,
        start_time: int | None,
        everything: bool = False,
    ) -> Listener:
        part, *more = filters.parts(PATTERNS_MAX)
        if more:  # more keys than a subscription has patterns: all are taken, and looked at here
            (part,) = replace(filters, keys=(ANY_CONDITION,)).parts(1)
        since = start_time or 0
        subscription = self._events.subscribe(
            **part, after=self._after(version, start_time), control=(), timeout=self._timeout
        )
        with self._lock:
            wrong: Exception | None = None
            if self._closed:
                wrong = ClosedError("this NotificationClient is closed")
            elif everything and any(one.everything for one in self._listeners):
                wrong = RuntimeError("already listening to all events: stop_listen_events() first")
            if wrong is not None:
                subscription.close()
                raise wrong
            listener = Listener(
                filters,
                everything,
                subscription,
                watcher,
                lambda event: event.create_time >= since and (not more or filters.have_key(event.key)),
                lambda: self._newest(part),
                self._forget,
            )
            self._listeners.append(listener)
        return listener

    def _newest(self, part: Mapping[str, Any]) -> int:
        try:
            return self._events.latest(**part, timeout=min(self._timeout, STOP_SEC))
        except (Error, TimeoutError):
            return 0

    def _stop(self, which: Callable[[Listener], bool]) -> None:
        with self._lock:
            chosen = [listener for listener in self._listeners if which(listener)]
        for stop in (Listener.end, Listener.stop):  # all at once
            for listener in chosen:
                stop(listener)

    def _forget(self, listener: Listener) -> None:
        with self._lock:
            self._listeners.remove(listener)


def _uris(server_uri: str | None) -> str | None:
    """Return AI Flow's ``host:port,host:port`` as our addresses."""
    if not server_uri:
        return None
    uris = (uri.strip() for uri in server_uri.split(","))
    return ",".join(uri if "://" in uri else f"tcp://{uri}" for uri in uris if uri)
