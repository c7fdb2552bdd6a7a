"""Publish what came, each once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from aiflow_ext.errors import ConflictError
from aiflow_ext.provider.http.arrivals import Arrival
from aiflow_ext.provider.http.link import PATIENCE

if TYPE_CHECKING:
    from aiflow_ext._event import Event
    from aiflow_ext.events.client import EventClient

# What the log says of an event whose identity is that of another (log.c); producers of ours have no space.
_CONFLICT = re.compile(r"of producer (\S+) is in the log already, as another event \(offset (\d+)\)")


class Receipt(NamedTuple):
    """Where an event is in the log, and whether it was there before."""

    offset: int
    duplicate: bool


def publish(client: EventClient, arrivals: Sequence[Arrival]) -> list[Receipt]:
    """Make all durable in one transaction, and return where they are.

    An event whose identity is in the log, with whatever content, is a duplicate.  So is the second of two in arrivals.
    Of two requests with the same event at the same moment, both may be told that theirs was the first; the log has one.
    """
    before = client.head(PATIENCE)
    waiting: dict[tuple[str, int], Event] = {}
    for arrival in arrivals:
        waiting.setdefault(arrival.identity, arrival.event)
    offsets: dict[tuple[str, int], int] = {}
    while waiting:
        try:
            found = client.publish_many(waiting.values(), PATIENCE, list(waiting))
        except ConflictError as e:
            match = _CONFLICT.search(str(e))
            if match is None or (identity := (match[1], 1)) not in waiting:
                raise
            offsets[identity] = int(match[2])
            del waiting[identity]
            continue
        offsets |= zip(waiting, found, strict=True)
        break
    return _receipts(arrivals, offsets, before)


def _receipts(arrivals: Sequence[Arrival], offsets: dict[tuple[str, int], int], before: int) -> list[Receipt]:
    receipts = []
    seen = set()
    for _, identity in arrivals:
        offset = offsets[identity]
        receipts.append(Receipt(offset, offset <= before or identity in seen))
        seen.add(identity)
    return receipts
