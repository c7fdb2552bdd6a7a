"""An event that came by HTTP: its fields checked, and the identity that makes its like a duplicate.  Pure."""

from __future__ import annotations

import hashlib
import uuid
from typing import NamedTuple

from aiflow_ext import _core
from aiflow_ext._event import Event
from aiflow_ext.provider.http.problems import Problem

RESERVED = frozenset({"airflow", "aiflow"})
"""Namespaces of what the scheduler says itself: the states of tasks, and the requests to stop."""

BATCH_MAX = 1000  # events in one request
PRODUCER_MAX = 64  # bytes: AIF_PRODUCER_MAX


class Arrival(NamedTuple):
    """What is to be published."""

    event: Event
    identity: tuple[str, int]


def identity_of(source: str, id: str) -> tuple[str, int]:  # noqa: A002  (CloudEvents calls it so)
    """Return the identity in the log of the event that its source calls id."""
    digest = hashlib.sha256(utf8("source", source) + b"\0" + utf8("id", id)).hexdigest()
    return f"ce:{digest}"[:PRODUCER_MAX], 1


def one_of_its_own() -> tuple[str, int]:
    """Return an identity that no other event has."""
    return f"http:{uuid.uuid4().hex}", 1


def checked(event: Event) -> Event:
    """Return event.

    :raises Problem: 422, a field is not text, too short or too long; 403, its namespace is the scheduler's.
    """
    _fits("key", event.key, 1, _core.KEY_MAX)
    _fits("value", event.value, 0, _core.VALUE_MAX)
    _fits("type", event.type, 1, _core.NAME_MAX)
    _fits("namespace", event.namespace or "default", 1, _core.NAME_MAX)
    _fits("sender", event.sender or "", 0, _core.NAME_MAX)
    _fits("context", event.context or "", 0, _core.CONTEXT_MAX)
    if event.namespace in RESERVED:
        raise Problem(403, f"the namespace {event.namespace!r} is the scheduler's own; publish to another")
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
