"""How events are printed: as a table, as JSON, as YAML."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..events.times import shown

if TYPE_CHECKING:
    from .._event import Event

COLUMNS = ("offset", "create_time", "namespace", "key", "type", "value", "sender", "context")


def print_all(events: Sequence["Event"], output: str) -> None:
    if not _print_data([event._asdict() for event in events], output):
        _print_table([list(COLUMNS), *map(_cells, events)])


def _print_data(found: Sequence[Mapping[str, object]], output: str) -> bool:
    """Print it as JSON or YAML; False: it was to be a table."""
    if output == "json":
        print(json.dumps(found, ensure_ascii=False, indent=1))
    elif output == "yaml":
        print("\n".join(map(_yaml_row, found)) or "[]")
    return output != "table"


def json_line(event: "Event") -> str:
    return json.dumps(event._asdict(), ensure_ascii=False)


def yaml_item(event: "Event") -> str:
    """Return one item of a YAML list; its strings are JSON's, which YAML reads, with what it forbids escaped."""
    return _yaml_row(event._asdict())


def _yaml_row(row: Mapping[str, object]) -> str:
    lines = (f"{name}: {_yaml_scalar(value)}" for name, value in row.items())
    return "- " + "\n  ".join(lines)


def _yaml_scalar(value: object) -> str:
    escape = r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]"
    return re.sub(escape, lambda m: f"\\u{ord(m[0]):04x}", json.dumps(value, ensure_ascii=False))


def _cells(event: "Event") -> list[str]:
    cells = {**event._asdict(), "create_time": shown(event.create_time), "context": event.context or ""}
    return [_cell(str(cells[name])) for name in COLUMNS]


def _cell(text: str) -> str:
    """Return text as it may stand in one line of a terminal."""
    text = _printable(text[:61])
    return text if len(text) <= 60 else text[:59] + "…"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[object]], output: str) -> None:
    """Print what is no event."""
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    if not _print_data(found, output):
        _print_table([columns, *([_cell(str(value)) for value in row.values()] for row in found)])


def table_stream() -> Callable[["Event"], str]:
    """Return what makes a line of an event, the first one below the head; a column is as wide as it has been so far."""
    widths = [8, 24, 9, 20, 12, 20, 8, 7]
    head: list[Sequence[str]] = [COLUMNS]

    def lines(event: "Event") -> str:
        rows = [*head, _cells(event)]
        head.clear()
        widths[:] = [max(width, *map(len, cells)) for width, *cells in zip(widths, *rows, strict=True)]
        return "\n".join(map(line, rows))

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    return lines


def print_tree(found: Sequence[Mapping[str, Any]], output: str) -> None:
    """Print things that have parts; as a table: a line for each part's name and value, and an empty line between."""
    if not _print_data(found, output):
        for i, one in enumerate(found):
            if i:
                print()
            _print_table([(name, _printable(str(value))) for name, value in _leaves(one)])


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict) and "buckets" in value:
            yield f"{above}{name}", _latency(value)
        elif isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}.")
        elif isinstance(value, list):
            yield from _leaves({str(i): one for i, one in enumerate(value)}, f"{above}{name}.")
        else:
            yield f"{above}{name}", "" if value is None else value


def _latency(histogram: Mapping[str, Any]) -> str:
    """Say what half of them and 99 of 100 took at most; a bucket i is up to 2**i."""
    parts = [f"{histogram['n']} times"]
    for percent in (50, 99):
        seen = 0
        for i, n in enumerate(histogram["buckets"]):
            seen += n
            if n and seen * 100 >= histogram["n"] * percent:
                parts.append(f"p{percent} <= {2**i}")
                break
    return ", ".join(parts)
