"""JSON from outside, read strictly: what two readers could read differently is refused.  Pure."""

from __future__ import annotations

import json
from math import isinf
from typing import Any, NoReturn

from aiflow_ext.provider.http.problems import Problem


def read(raw: bytes) -> Any:
    """Return the value that raw is.

    :raises Problem: 400, it is not JSON (RFC 8259) in UTF-8, has a member twice, or is nested too deeply.
    """
    try:
        return json.loads(raw.decode(), parse_constant=_constant, parse_float=_float, object_pairs_hook=_object)
    except UnicodeDecodeError as e:
        raise Problem(400, f"the body is not UTF-8: byte {e.start} cannot be decoded") from None
    except json.JSONDecodeError as e:
        raise Problem(400, f"the body is not JSON: {e.msg}, line {e.lineno} column {e.colno}") from None
    except RecursionError:
        raise Problem(400, "the body is nested too deeply") from None
    except ValueError as e:  # a number of thousands of digits, or one of ours
        raise Problem(400, f"the body is not JSON: {e}") from None


def write(value: Any) -> str:
    """Return value as compact JSON text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _float(text: str) -> float:
    if isinf(found := float(text)):
        raise ValueError(f"{text[:40]} is too great a number")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the member {twice[:100]!r} is there twice")
    return found
