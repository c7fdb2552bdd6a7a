"""Which events a start carries to its task, or a run in its conf: the newest.  Imports nothing that is not cheap."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiflow_ext._event import Event

EVENTS_MAX = 1000
EVENTS_BYTES = 1 << 20


def carried(events: Iterable[Event]) -> list[Event]:
    """Return the events that a start, or a run, carries: 1,000, and no more than fit in 1 MiB of JSON, but one.

    :param events: the newest first; no more are taken than needed.
    :return: the oldest first.
    """
    kept: list[Event] = []
    size = 0
    for event in islice(events, EVENTS_MAX):
        size += len(json.dumps(list(event)))
        if size > EVENTS_BYTES and kept:
            break
        kept.append(event)
    return kept[::-1]
