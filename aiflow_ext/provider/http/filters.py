"""Which events are meant: the query parameters."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Depends, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from aiflow_ext._core import PATTERNS_MAX
from aiflow_ext.provider.http.problems import Problem

OFFSET_MAX = 2**63 - 1
LIMIT_MAX = 1000  # events on a page

Time = Annotated[
    str,
    AfterValidator(lambda text: (_time(text), text)[1]),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": 0}]}),
]
Offset = Annotated[int, Field(ge=0, le=OFFSET_MAX)]


class Filters(BaseModel):
    """Each text is exact, ``*`` for any, or a prefix ``abc*``."""

    model_config = ConfigDict(extra="forbid")

    key: list[str] = Field(
        ["*"],
        min_length=1,
        max_length=PATTERNS_MAX,
        description="What the event is about; up to 64 times: any of them.",
        examples=[["digits", "model/*"]],
    )
    type: str = Field("*", description="Which kind of event it is.", examples=["MODEL_GENERATED"])
    namespace: str = Field("default", description="`*` for all.", examples=["*"])
    sender: str = Field("*", description="Who says it; empty: events without a sender.")
    context: str = Field("*", description="Which runs it is for; empty: events without a context.")

    def patterns(self) -> dict[str, Any]:
        """Return the arguments that EventClient's methods call the same."""
        return {name: getattr(self, name) for name in ("key", "type", "namespace", "sender", "context")}


class Since(Filters):
    """From where on."""

    after: Offset | None = Field(None, description="Only events beyond this offset.")
    since: Time | None = Field(
        None, description="Only events that the log got at this time or later: RFC 3339, or ms since the epoch."
    )

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of EventClient.subscribe."""
        return {**self.patterns(), "after": self.after, "since": _time(self.since)}


class Range(Since):
    """From where on, and how far."""

    upto: Offset | None = Field(None, description="Only events up to this offset, it too.")
    until: Time | None = Field(None, description="Only events that the log got before this time.")

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of EventClient.list and its like."""
        return {**super().arguments(), "after": self.after or 0, "upto": self.upto, "until": _time(self.until)}


class Page(Range):
    """A range, some events at a time."""

    limit: int = Field(100, ge=1, le=LIMIT_MAX, description="At most so many events; fewer where they are long.")


class Count(Range):
    """A range to count."""

    by: Literal["sender"] | None = Field(None, description="Count each sender's too.")


def _once(request: Request) -> None:
    names = Counter(name for name, _ in request.query_params.multi_items() if name != "key")
    for name, n in names.items():
        if n > 1:  # the framework would take the last
            raise Problem(422, f"query.{name}: it is there {n} times")


ONCE = Depends(_once)
"""Of each parameter but key there is one."""


def _time(text: str | None) -> datetime | int | None:
    if text is None:
        return None
    if text.isascii() and text.isdecimal():
        ms = int(text)
        if ms > OFFSET_MAX:
            raise ValueError("a time in ms since the epoch has at most 63 bits")
        return ms
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("a time is as 2026-11-21T09:30:00Z (a + in a URL is %2B), or in ms since the epoch") from None
    if time.tzinfo is None:
        raise ValueError("a time needs its zone, as in 2026-11-21T09:30:00Z (a + in a URL is %2B)")
    return time
