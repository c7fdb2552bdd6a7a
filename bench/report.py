"""What every figure needs beside it: where it was measured, its distribution, a table, a file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def server() -> str:
    """The PostgreSQL server to measure on."""
    if not (uri := os.environ.get("AIF_TEST_PG")):
        sys.exit("AIF_TEST_PG is not set: run this by tests/with_postgres, as `make bench` and `make bench-broker` do")
    return uri


def machine(postgres: str | None = None) -> dict[str, Any]:
    """Hardware, versions, and what the database does about durability."""
    found: dict[str, Any] = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "fdatasync_ms": _fdatasync_ms(),
        "commit": _commit(),
        "versions": {name: _version(name) for name in ("apache-airflow-core", "aiflow-ext", "SQLAlchemy")},
    }
    if postgres:
        found["postgresql"] = _settings(postgres)
    return found


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], p: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(p / 100 * len(ordered)))]


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a file of results: JSON, each series of timings on one line."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(_lines(content) + "\n")


def _lines(value: Any, indent: str = "\n") -> str:
    """JSON: a list or dict of plain values is one line, any other has one member a line."""
    deeper = f"{indent} "
    if isinstance(value, dict) and any(isinstance(part, dict | list) for part in value.values()):
        members = (f"{json.dumps(name)}: {_lines(part, deeper)}" for name, part in value.items())
        return f"{{{deeper}{f',{deeper}'.join(members)}{indent}}}"
    if isinstance(value, list) and any(isinstance(part, dict | list) for part in value):
        return f"[{deeper}{f',{deeper}'.join(_lines(part, deeper) for part in value)}{indent}]"
    return json.dumps(value)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table: the first column to the left, the others to the right."""
    text = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(3, *(len(row[i]) for row in text)) for i in range(len(head))]
    rule = [("-" * w if i == 0 else "-" * (w - 1) + ":") for i, w in enumerate(widths)]
    lines = [
        "| "
        + " | ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in [text[0], rule, *text[1:]]
    ]
    return "\n".join(line + " |" for line in lines)


def describe(where: dict[str, Any]) -> str:
    pg = where.get("postgresql", {})
    database = f", PostgreSQL {pg['version']} (fsync {pg['fsync']}, commit {pg['synchronous_commit']})" if pg else ""
    airflow = where["versions"]["apache-airflow-core"]
    return (
        f"{where['cores']} cores of {where['cpu']}, {where['memory']}, Linux {where['kernel']}, "
        f"Python {where['python']}, Airflow {airflow}{database}, fdatasync {where['fdatasync_ms']:.3f} ms, "
        f"load before {where['load_before']:.1f}"
    )


def _fdatasync_ms() -> float:
    """The median of writing 4 KiB over a file's own bytes and fdatasync: what a durable commit costs at the least."""
    took = []
    with tempfile.TemporaryFile() as file:
        for _ in range(300):
            os.pwrite(file.fileno(), os.urandom(4096), 0)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return median(took) * 1e3


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.split(":", 1)[1].strip()
    return "unknown"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    here = Path(__file__).parent
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    return done.stdout.strip()


def _settings(uri: str) -> dict[str, str]:
    import psycopg2

    connection = psycopg2.connect(uri)
    cursor = connection.cursor()
    found = {}
    for name in ("server_version", "fsync", "synchronous_commit", "shared_buffers"):
        cursor.execute(f"SHOW {name}")
        found[name.removeprefix("server_")] = cursor.fetchone()[0]
    connection.close()
    return found
