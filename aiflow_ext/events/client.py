"""Publish, read and subscribe to events.

No call of the C core below takes longer than a second: what waits longer is the same call made again, and signals are
handled in between.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Self, TypeVar

from .. import _core
from .._event import Event as Event
from ..errors import RetentionError
from .address import broker_uri, check_uri, safe_uri
from .chunks import chunks
from .connection import Connection
from .cursor import Cursor, SavedCursor
from .keyfile import key_path, load_client_key
from .listen import Callback, Listener
from .subscription import AnyPattern, Pattern, Subscription
from .times import since_epoch

T = TypeVar("T")
Keys = str | Sequence[str]
"""Exact, ``*``, a prefix ``abc*``, or 1 to 64 of these: an event with any of them."""

Time = datetime | int
"""A moment: with a time zone, or in ms since the epoch."""

Identity = tuple[str, int]
"""(producer, sequence) of an event: the log has each once; the producer is 1 to 64 bytes, the sequence from 1."""

Events = list[Event]  # EventClient has a method that is called list
CursorList = list[SavedCursor]
Offsets = list[int]
Patterns = list[Pattern]
Filters = tuple[Keys, str, str | None, str, str]  # key, type, namespace, sender, context
Bounds = tuple[int, int | None, Time | None, Time | None]  # after, upto, since, until
Part = tuple[int, int | None] | None
"""Of the log: beyond an offset, and not beyond another; None: nothing of it."""

TIMEOUT = 30.0  # seconds for an answer
PAGE = 1000  # events
PRODUCER_BYTES = 64  # of a client_id


def control_patterns() -> Sequence[AnyPattern]:
    """Return what ends a subscription that does not say so itself; asked by each ``subscribe(control=None)``.

    In a task of Airflow: the request to stop this try, so that ``for event in client.subscribe(...)`` ends when a rule
    stops the task; one that is in the log already ends the subscription too.  Elsewhere: nothing.
    """
    task = sys.modules.get("aiflow_ext.provider.author.task")  # loaded by the plug-in: no import of Airflow here
    return task.stop_patterns() if task is not None else ()


class EventClient:
    """One end of a connection to the broker; for any threads of the process that made it.

    It connects at its first use, and again whenever the broker comes back.  Of several brokers over one log it talks to
    one, at first to any of them, and to the next when that one is gone or silent; what was not answered is sent again,
    and is not in the log twice.  One request is under way at a time: threads that share a client wait for each other,
    and who wants more opens more.  The handler of a signal may use it too, also while it interrupts a call of it.

    Every call takes a timeout, in seconds for each answer of the broker, and raises TimeoutError after it; StoreError
    when the broker's database failed until then; ClosedError and ForkError where this client may not be used.

    Filters are the same everywhere: ``key`` (one, or up to 64), ``type``, ``namespace`` (None: the client's),
    ``sender``, ``context``; each is exact, ``*``, or a prefix ``abc*``.  An empty ``sender`` or ``context`` means that
    the event has none.  ``after`` and ``upto`` are offsets: beyond, and not beyond.  ``since`` and ``until`` are times:
    created in that millisecond or after, and created before it; one that has not come is a ValueError.

    :param uri: ``ipc://PATH`` or ``tcp://HOST:PORT``, or several with commas between; None: what
        :func:`aiflow_ext.events.address.broker_uri` says.
    :param namespace: of events that have none, and of patterns that name none.
    :param sender: of events that have none.
    :param key_file: what ``aiflow keys new`` wrote, for ``tcp://``; None: see
        :func:`aiflow_ext.events.keyfile.client_key`.
    :param client_id: whose events these are, 1 to 64 bytes, also after a restart: the log has one event for each
        (client_id, sequence).  Only one process at a time may publish with it.  None: a random one.
    :param sequence: of the next event; None: the one after the greatest in the log, which is asked for at the first
        publish.  Who keeps it beside its work, and publishes the same again after a crash, has each event once.
    """

    def __init__(
        self,
        uri: str | None = None,
        namespace: str = "default",
        sender: str | None = None,
        *,
        client_id: str | None = None,
        sequence: int | None = None,
        key_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self.uri = broker_uri() if uri is None else check_uri(uri)
        key_file = key_path(self.uri, key_file)
        self._connection = Connection(self.uri, load_client_key(key_file) if key_file else None, key_file)
        self.namespace = namespace
        self.sender = sender
        self._producer = os.urandom(16).hex() if client_id is None else _checked_id(client_id)
        if sequence is not None and (client_id is None or sequence < 1):
            raise ValueError(f"sequence={sequence}: it counts from 1, and belongs to a client_id")
        self._sequence = 1 if client_id is None else sequence

    @property
    def client_id(self) -> str:
        """Whose events these are."""
        return self._producer

    @property
    def sequence(self) -> int:
        """The sequence of the next event; asks the broker where that is not known yet."""
        client = self._connection.client()
        return self._connection.turn(lambda left: self._next_sequence(client, TIMEOUT, left), TIMEOUT)

    def publish(self, event: Event, timeout: float = TIMEOUT, identity: Identity | None = None) -> int:
        """Return event's offset, once it is durable.

        :param identity: (producer, sequence) that an event of its own has elsewhere; None: the next of this client.
            The log keeps one event of an identity: the same again has the offset of the first.
        :raises TimeoutError: the broker did not say so in time; the event may be in the log or not.
        :raises StoreError: the broker's database failed until then.
        """
        return self.publish_many((event,), timeout, None if identity is None else (identity,))[0]

    def publish_many(
        self, events: Iterable[Event], timeout: float = TIMEOUT, identities: Sequence[Identity] | None = None
    ) -> Offsets:
        """Return the events' offsets, in order, once all are durable.

        Up to 10,000 at a time are one transaction; timeout is for each.  When one fails, a note on the exception says
        how many events before it are in the log.  identities: one for each event, see :meth:`publish`.
        """
        offsets: Offsets = []
        if identities is not None:
            events = tuple(events)
            if len(identities) != len(events):
                raise ValueError(f"{len(identities)} identities for {len(events)} events")
        for chunk in chunks(events, 4 * (len(self.namespace) + len(self.sender or ""))):
            try:
                first = len(offsets)
                theirs = None if identities is None else tuple(identities[first : first + len(chunk)])
                offsets += self._publish(chunk, timeout, theirs)
            except Exception as e:
                if offsets:
                    e.add_note(f"the first {len(offsets)} events are in the log")
                raise
        return offsets

    def subscribe(
        self,
        key: Keys = "*",
        type: str = "*",  # noqa: A002
        namespace: str | None = None,
        sender: str = "*",
        after: int | None = None,
        control: Sequence[AnyPattern] | None = None,
        timeout: float = TIMEOUT,
        *,
        context: str = "*",
        since: Time | None = None,
        resume: str | None = None,
        log_id: int | None = None,
    ) -> Subscription:
        """Return the events that match, as they come, on a connection of their own.

        :param after: None: those published from now on, when this returns; an offset: all beyond it, old ones first.
        :param since: also those that are older, from this time on.
        :param log_id: of which log ``after`` is an offset, as :attr:`Subscription.log_id` said beside it.  Without it
            another log that is as long has other events there, and nobody notices.
        :param resume: a name, 1 to 255 bytes: go on where the last subscription of this name ended, in this or in
            another process; see :class:`Subscription`.  Only the first one begins as ``after`` and ``since`` say.
            Names are kept for each ``namespace`` apart.  Only the newest subscription has the name: the one before
            ends with ConflictError.
        :param control: an event of one of these patterns ends the iteration; None: :data:`control_patterns`.
        :param timeout: how long the broker may take to accept it; after that its absence is waited out for ever.
        :raises RetentionError: of the events beyond ``after``, or beyond where ``resume`` is, some have been let go.
        :raises ReplacedError: the log ends before where ``resume`` is, or is another one than ``log_id``.
        :raises ConflictError: the log has 10,000 names, and this would be one more.
        """
        self._connection.check()
        of_log = _checked_log(log_id, after, resume)
        control = tuple(control_patterns() if control is None else control)
        patterns = self._patterns(key, type, namespace, sender, context)
        if since is not None:
            after = max(after or 0, self.offset_at(since, timeout))
        cursor = None if resume is None else Cursor(self._connection.another(), patterns[0][0], resume)
        core = self._connection.subscription()

        def add(some: Sequence[AnyPattern], start: int | None) -> int:
            return self._connection.ask(lambda ms: core.add(some, start, ms, of_log if start else 0), timeout)

        try:
            if cursor is not None:
                after, of_log = cursor.take(after, timeout), cursor.log_id
            try:
                stream = add([*patterns, *control], after)
            except RetentionError:  # of the control's namespace, perhaps: that is no loss
                stream = add(patterns, after)
                if control:
                    add([*control], None)
            subscription = Subscription(core, stream, control, cursor)
            if control:  # it may have come before we listened
                client = self._connection.client()
                subscription.stopped = any(self._parts(client.count, control, (0, None), timeout))
        except BaseException as e:
            core.close()
            if cursor is not None:
                cursor.close()
                if isinstance(e, RetentionError):
                    raise RetentionError(
                        f"{e}; cursor {resume!r} is before it: delete it, and begin again with after="
                    ) from None
            raise
        return subscription

    def cursors(self, namespace: str = "*", timeout: float = TIMEOUT) -> CursorList:
        """Return the names that ``subscribe(resume=...)`` keeps in the log, and where they are.

        :param namespace: those of which namespaces.
        """
        client = self._connection.client()
        rows = self._connection.answer(lambda ms: client.cursors(namespace, ms), timeout)
        return [SavedCursor(*row) for row in rows]

    def delete_cursor(self, name: str, namespace: str | None = None, timeout: float = TIMEOUT) -> bool:
        """Delete a name of ``subscribe(resume=...)``; a subscription that has it ends.  False: there was none.

        :param namespace: as that subscription had it; None: the client's.
        """
        client = self._connection.client()
        where = self.namespace if namespace is None else namespace
        return self._connection.answer(lambda ms: client.forget(where, name, ms), timeout) > 0

    def listen(
        self,
        callback: Callback,
        key: Keys = "*",
        type: str = "*",  # noqa: A002
        namespace: str | None = None,
        sender: str = "*",
        after: int | None = None,
        timeout: float = TIMEOUT,
        *,
        context: str = "*",
        since: Time | None = None,
        log_id: int | None = None,
    ) -> Listener:
        """Have callback called with lists of the events that match, as they come, until :meth:`Listener.stop`.

        One thread and one connection serve all listeners of this client: a callback that takes long keeps the others
        waiting, and their events wait in the log.  It may publish with this client, and stop listeners.  What it raises
        is logged, and ends its listener.

        :param callback: gets ``list[Event]``, in offset order, each event once.
        :param after: None: those published from now on, when this returns; an offset: all beyond it, old ones first.
        :param since: also those that are older, from this time on.
        :param timeout: how long the broker may take to accept it; after that its absence is waited out for ever.
        :param log_id: of which log ``after`` is an offset, as for :meth:`subscribe`.
        :raises RetentionError: of the events beyond ``after`` some have been let go.
        :raises ReplacedError: the log is another one than ``log_id``.
        """
        self._connection.check()
        patterns = self._patterns(key, type, namespace, sender, context)
        of_log = _checked_log(log_id, after)
        if since is not None:
            after = max(after or 0, self.offset_at(since, timeout))
        connection, listener = self._connection, None
        while listener is None:
            listener = connection.ears().listen(
                callback,
                lambda core: connection.ask(lambda ms: core.add(patterns, after, ms, of_log if after else 0), timeout),
            )
        return listener

    def list(
        self,
        key: Keys = "*",
        type: str = "*",  # noqa: A002
        namespace: str | None = None,
        sender: str = "*",
        after: int = 0,
        limit: int | None = None,
        timeout: float = TIMEOUT,
        *,
        context: str = "*",
        upto: int | None = None,
        since: Time | None = None,
        until: Time | None = None,
    ) -> Events:
        """Return the events in the log that match, oldest first; at most limit of them.

        :raises RetentionError: of the events beyond ``after`` some have been let go.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit is a number of events, 0 or more, not {limit}")
        self._connection.check()
        start, upto = self._part(after, upto, since, until, timeout) or (None, 0)
        found: Events = []
        kept = False
        while start is not None and (limit is None or len(found) < limit):
            most = PAGE if limit is None else min(PAGE, limit - len(found))
            page, start = self.page(
                key, type, namespace, sender, start, most, timeout, context=context, upto=upto, kept=kept
            )
            found += page
            kept = True
        return found

    def page(
        self,
        key: Keys = "*",
        type: str = "*",  # noqa: A002
        namespace: str | None = None,
        sender: str = "*",
        after: int = 0,
        limit: int = PAGE,
        timeout: float = TIMEOUT,
        *,
        context: str = "*",
        upto: int | None = None,
        since: Time | None = None,
        until: Time | None = None,
        kept: bool = False,
    ) -> tuple[Events, int | None]:
        """Return what :meth:`list` begins with, as far as one answer of the broker goes, and where to go on.

        That is ``after`` of the next page, or None: there is none.  The broker answers with 8 MiB at most, and looks at
        so much of the log at a time: a page may have fewer events than limit, or none, and a next one all the same.

        :param limit: at most so many events, from 1 on; more than 10,000 are never given.
        :param kept: this goes on from another page: what was let go since then is passed over.
        :raises RetentionError: of the events beyond ``after`` some have been let go.
        """
        filters = (key, type, namespace, sender, context)
        client, patterns, part = self._question(filters, (after, upto, since, until), timeout)
        if part is None:
            return [], None
        ask = partial(client.list, part[0], limit, patterns, upto=part[1], kept=kept)
        return self._connection.answer(ask, timeout)

    def count(
        self,
        key: Keys = "*",
        type: str = "*",  # noqa: A002
        namespace: str | None = None,
        sender: str = "*",
        after: int = 0,
        timeout: float = TIMEOUT,
        *,
        context: str = "*",
        upto: int | None = None,
        since: Time | None = None,
        until: Time | None = None,
    ) -> int:
        """Return how many events in the log match."""
        filters = (key, type, namespace, sender, context)
        client, patterns, part = self._question(filters, (after, upto, since, until), timeout)
        return sum(self._parts(client.count, patterns, part, timeout))

    def count_by_sender(
        self,
        key: Keys = "*",
        type: str = "*",  # noqa: A002
        namespace: str | None = None,
        sender: str = "*",
        after: int = 0,
        timeout: float = TIMEOUT,
        *,
        context: str = "*",
        upto: int | None = None,
        since: Time | None = None,
        until: Time | None = None,
    ) -> dict[str, int]:
        """Return how many events in the log match, for each sender that has any; ``""`` for those without."""
        filters = (key, type, namespace, sender, context)
        client, patterns, part = self._question(filters, (after, upto, since, until), timeout)
        found: Counter[str] = Counter()
        for some in self._parts(client.senders, patterns, part, timeout):
            found.update(some)
        return dict(found)

    def latest(
        self,
        key: Keys = "*",
        type: str = "*",  # noqa: A002
        namespace: str | None = None,
        sender: str = "*",
        after: int = 0,
        timeout: float = TIMEOUT,
        *,
        context: str = "*",
        upto: int | None = None,
        since: Time | None = None,
        until: Time | None = None,
    ) -> int:
        """Return the offset of the newest event in the log that matches; 0: none does."""
        filters = (key, type, namespace, sender, context)
        client, patterns, part = self._question(filters, (after, upto, since, until), timeout)
        offset = 0
        while part:
            offset, end = self._connection.answer(partial(client.last, part[0], patterns, upto=part[1]), timeout)
            part = None if end is None else (part[0], end)
        return offset

    def head(self, timeout: float = TIMEOUT) -> int:
        """Return the offset of the newest event of all; 0: the log is empty."""
        client = self._connection.client()
        return self._connection.answer(client.head, timeout)

    def offset_at(self, time: Time, timeout: float = TIMEOUT) -> int:
        """Return the offset of the newest event that was created before the millisecond of time; 0: none was.

        Events are created, by the log's clock, in the order of their offsets: those beyond it are of then or later.

        :raises ValueError: that time has not come.
        """
        client = self._connection.client()
        at = since_epoch(time)
        return self._connection.answer(lambda ms: client.at(at, ms), timeout)

    def status(self, timeout: float = TIMEOUT) -> dict[str, Any]:
        """Return how the broker does: what `aiflow broker status` prints."""
        client = self._connection.client()
        found: dict[str, Any] = json.loads(self._connection.answer(client.status, timeout))
        return found

    def hint(self, text: str) -> None:
        """Wake who listens for hints.  Not durable, never blocks, may be lost; up to 255 bytes."""
        self._connection.client().hint(text)

    def close(self) -> None:
        """Give the connection back and stop the listeners; subscriptions have their own connections and live on."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EventClient({safe_uri(self.uri)!r}, namespace={self.namespace!r}, sender={self.sender!r})"

    def _question(self, filters: Filters, bounds: Bounds, timeout: float) -> tuple[_core.Client, Patterns, Part]:
        """Return what a question about the log is made of: whom to ask, for what, and about which part."""
        client = self._connection.client()
        return client, self._patterns(*filters), self._part(*bounds, timeout)

    def _patterns(self, key: Keys, type: str, namespace: str | None, sender: str, context: str) -> Patterns:  # noqa: A002
        where = self.namespace if namespace is None else namespace
        keys = (key,) if isinstance(key, str) or not isinstance(key, Iterable) else tuple(key)
        if not keys:
            raise ValueError("no key, no pattern: at least one belongs there, '*' is any")
        return [(where, k, type, sender, context) for k in keys]

    def _part(self, after: int, upto: int | None, since: Time | None, until: Time | None, timeout: float) -> Part:
        if upto is not None and upto < 0:
            raise ValueError(f"upto is an offset, 0 or more, not {upto}")
        if since is not None:
            after = max(after, self.offset_at(since, timeout))
        if until is not None:
            last = self.offset_at(until, timeout)
            upto = last if upto is None else min(upto, last)
        return None if upto is not None and upto <= after else (after, upto)

    def _parts(
        self, ask: Callable[..., tuple[T, int | None]], patterns: Sequence[AnyPattern], part: Part, timeout: float
    ) -> Iterator[T]:
        """Ask about part of the log; the broker looks at so much of it in one answer."""
        while part:
            answer, start = self._connection.answer(partial(ask, part[0], patterns, upto=part[1]), timeout)
            yield answer
            part = None if start is None else (start, part[1])

    def _publish(self, chunk: Events, timeout: float, identities: tuple[Identity, ...] | None) -> Offsets:
        client = self._connection.client()
        sender = self.sender or ""
        n = len(chunk)

        def publish(left: float) -> Offsets:
            first = 0
            if identities is None:  # reserved once: a resend is the same event
                self._next_sequence(client, timeout, left)
                assert self._sequence is not None
                first = self._sequence  # no call from here to the next line: the handler of a signal may publish
                self._sequence = first + n
            producer = self._producer if identities is None else identities
            return self._connection.ask(
                lambda ms: client.publish(chunk, producer, first, ms, self.namespace, sender), timeout, left
            )

        return self._connection.turn(publish, timeout)

    def _next_sequence(self, client: _core.Client, timeout: float, rest: float) -> int:
        if self._sequence is None:
            after = self._connection.ask(lambda ms: client.sequence(self._producer, ms), timeout, rest)
            if self._sequence is None:  # else a handler of a signal has asked, and published
                self._sequence = after + 1
        return self._sequence


def _checked_log(log_id: int | None, after: int | None, resume: str | None = None) -> int:
    """Return what the core takes for it: 0 for none."""
    if log_id is not None and (after is None or resume is not None):
        raise ValueError("log_id says of which log after= is an offset: give both, and no resume=, which knows its log")
    return log_id or 0


def _checked_id(client_id: str) -> str:
    if not isinstance(client_id, str):
        raise TypeError(f"a client_id is text, not {client_id!r}")
    n = len(client_id.encode())
    if not 1 <= n <= PRODUCER_BYTES:
        raise ValueError(f"a client_id of {n} bytes: 1 to {PRODUCER_BYTES} belong")
    return client_id
