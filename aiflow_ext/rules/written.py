"""Where the author of a Dag wrote a call: an error begins with it, as Airflow shows the last lines of a traceback."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

PACKAGE = __name__.partition(".")[0]


def line() -> str:
    """Return "file.py:12", the place of the nearest caller outside this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _ours(frame):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "?"


def by_the_author(call: Callable[P, R]) -> Callable[P, R]:
    """Have the errors of a call begin with the author's line, and with no traceback through this package."""

    @functools.wraps(call)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except (TypeError, ValueError) as e:
            if _ours(sys._getframe(1)):  # it is said where the author's own call ends
                raise
            usage = ""
            if e.__traceback__ is not None and e.__traceback__.tb_next is None:  # these arguments cannot be passed
                usage = f"; write {call.__name__}{_signature(call)}"
            kind = ValueError if isinstance(e, ValueError) else TypeError
            raise kind(f"{line()}: {e}{usage}") from None

    return checked


def name_of(value: Any) -> str:
    """Return how an error calls what the author gave: a function or a class by its name, plain values as written."""
    if isinstance(value, str | int | float | None):
        return repr(value)
    name = getattr(value, "__name__", None) or getattr(getattr(value, "__wrapped__", None), "__name__", None)
    return name if isinstance(name, str) else f"a {type(value).__name__}"


def _ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == PACKAGE


def _signature(call: Callable[..., Any]) -> str:
    found = inspect.signature(call)
    plain = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    return str(found.replace(parameters=plain, return_annotation=found.empty))
