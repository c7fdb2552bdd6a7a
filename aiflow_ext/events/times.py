"""Times and durations as people write them, and as the core takes them.  The clock comes in as an argument."""

import math
import re
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)
SLICE = 1.0  # seconds in the core before signals are looked at
UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_PART = r"(\d+(?:\.\d+)?)(ms|[smhdw])"


def duration(text: str) -> timedelta:
    """Return what ``90s``, ``2h``, ``7d`` or ``1d12h`` says; units are ms, s, m, h, d and w.

    :raises ValueError: it says nothing of the kind, or more than there are years.
    """
    parts = re.findall(_PART, text)
    if not parts or "".join(map("".join, parts)) != text:
        raise ValueError(f"{text!r} is no duration: write 90s, 15m, 2h, 7d, 4w or 1d12h")
    try:
        return sum((timedelta(**{UNITS[unit]: float(n)}) for n, unit in parts), timedelta())
    except OverflowError:
        raise ValueError(f"{text!r} is too long") from None


def moment(text: str, now: datetime) -> datetime:
    """Return when ``2026-05-01``, ``2026-05-01T12:30:00+02:00``, ``2h`` or ``-2h`` (ago) is; UTC unless it says more.

    :raises ValueError: it is none of these.
    """
    try:
        if re.match(r"-?[\d.]+[a-z]", text):
            return now - duration(text.removeprefix("-"))
        found = datetime.fromisoformat(text)
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no time: write 2026-05-01, 2026-05-01T12:30, 2026-05-01T12:30:00+02:00 or, for ago, 2h or 7d"
        ) from None


def since_epoch(moment: datetime | int) -> int:
    """Return the ms since the epoch that moment is in: what is created after it was not created before that ms.

    :raises ValueError: it has no time zone.
    :raises TypeError: it is neither.
    """
    if isinstance(moment, int):
        return moment
    if not isinstance(moment, datetime):
        raise TypeError(f"a time is a datetime, or ms since the epoch as an int, not {type(moment).__name__}")
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone: as in datetime.now(timezone.utc)")
    return max(0, (moment - EPOCH) // MS)


def shown(ms: int) -> str:
    """Return a time in ms since the epoch as it is printed, and as :func:`moment` reads it: UTC; "" for 0."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "milliseconds")[:23] + "Z" if ms else ""


def in_ms(seconds: float) -> int:
    """Return seconds as the core takes them: not less, and none below 0."""
    return max(0, math.ceil(seconds * 1000))
