"""Named places where a test may kill this process: AIF_CRASH_AT=name, AIF_CRASH_AFTER=n for the n-th time."""

from __future__ import annotations

import os
import signal

_name = os.environ.get("AIF_CRASH_AT")
_left = int(os.environ.get("AIF_CRASH_AFTER", "1"))


def point(name: str) -> None:
    """Die here, as from ``kill -9``, where a test asked for it; otherwise do nothing."""
    global _left
    if _name != name:
        return
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
