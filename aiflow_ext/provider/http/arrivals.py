"""An event that came by HTTP: its fields checked, its sender, and what makes its like a duplicate.  Pure."""

from __future__ import annotations

import hashlib
import uuid
from typing import NamedTuple

from aiflow_ext import _core
from aiflow_ext._event import Event
from aiflow_ext.provider.http.problems import Problem

RESERVED = {
    "airflow": "the scheduler's",  # the states of tasks
    "aiflow": "the scheduler's",  # the requests to stop
    "github": "the webhook's",
    "mlflow": "the webhook's",
}
"""Namespaces that nobody publishes to by hand, and whose they are."""

BATCH_MAX = 1000  # events in one request
PRODUCER_MAX = 64  # bytes: AIF_PRODUCER_MAX


class Arrival(NamedTuple):
    """What is to be published."""

    event: Event
    identity: tuple[str, int]


class Caller(NamedTuple):
    """Who publishes.

    :param name: the user's name, at most 255 bytes of UTF-8.
    :param for_others: whether this user may publish events that say they are another's.
    """

    name: str
    for_others: bool

    def says(self, arrival: Arrival) -> Arrival:
        """Return what arrival is where this user publishes it.

        The sender of an event is the user, unless the user may publish for others.  So is a part of its identity:
        else an event that the user sends before another one does would make the other's a duplicate.
        """
        if self.for_others:
            return arrival
        producer, sequence = arrival.identity
        mine = identity_of(self.name, producer) if producer.startswith("ce:") else (producer, sequence)
        return Arrival(arrival.event._replace(sender=self.name), mine)


def identity_of(source: str, id: str) -> tuple[str, int]:  # noqa: A002  (CloudEvents calls it so)
    """Return the identity in the log of the event that its source calls id."""
    digest = hashlib.sha256(utf8("source", source) + b"\0" + utf8("id", id)).hexdigest()
    return f"ce:{digest}"[:PRODUCER_MAX], 1


def one_of_its_own() -> tuple[str, int]:
    """Return an identity that no other event has."""
    return f"http:{uuid.uuid4().hex}", 1


def checked(event: Event, by_hand: bool = True) -> Event:
    """Return event.

    :param by_hand: whether a user publishes it, and not a webhook.
    :raises Problem: 422, a field is not text, too short or too long; 403, its namespace is not for users.
    """
    _fits("key", event.key, 1, _core.KEY_MAX)
    _fits("value", event.value, 0, _core.VALUE_MAX)
    _fits("type", event.type, 1, _core.NAME_MAX)
    _fits("namespace", event.namespace or "default", 1, _core.NAME_MAX)
    _fits("sender", event.sender or "", 0, _core.NAME_MAX)
    _fits("context", event.context or "", 0, _core.CONTEXT_MAX)
    if by_hand and event.namespace in RESERVED:
        raise Problem(403, f"the namespace {event.namespace!r} is {RESERVED[event.namespace]} own; publish to another")
    return event


def utf8(name: str, text: str) -> bytes:
    """Return text's bytes.

    :raises Problem: 422, there are none: it has a NUL, or half of a surrogate pair.
    """
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise Problem(422, f"{name} is not Unicode text: it has half of a surrogate pair") from None
    if b"\0" in raw:
        raise Problem(422, f"{name} has a NUL character")
    return raw


def _fits(name: str, text: str, least: int, most: int) -> None:
    n = len(utf8(name, text))
    if n < least:
        raise Problem(422, f"{name} is empty")
    if n > most:
        raise Problem(422, f"{name} has {n:,} bytes of UTF-8, at most {most:,} are allowed")
