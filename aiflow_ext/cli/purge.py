"""``aiflow events purge``: let old events go, once; ``aiflow broker --retain`` does it all the time."""

import argparse
import sqlite3
import sys
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from ..events.times import duration, shown
from .broker import log_uri
from .command import LOG, OUTPUT, Command, UsageError, arg, saying
from .output import print_rows

SAY_EVERY = 1.0  # seconds


def purge(args: argparse.Namespace) -> None:
    """Let events go, or say which would; print what it was."""
    from .._core import EventLog
    from ..broker.retention import Policy, apply, plan, time_of

    policy = _policy(args)
    now_ms = time.time_ns() // 1_000_000
    with EventLog(there(log_uri(args))) as log:
        (cut,) = plan(log, [Policy(args.namespace, *policy)], now_ms)
        for note in cut.notes:
            print(f"aiflow: {note}", file=sys.stderr)
        until = time_of(log, cut.upto, now_ms) if cut.events else 0
        gone = 0
        said = time.monotonic()
        for _, n in apply(log, () if args.dry_run else (cut,)):
            gone += n
            if time.monotonic() - said >= SAY_EVERY:
                said = time.monotonic()
                print(f"aiflow: {gone} of {cut.events} events are gone", file=sys.stderr, flush=True)
    if args.dry_run:
        print("aiflow: nothing is gone yet; without --dry-run this goes", file=sys.stderr)
    row = (args.namespace, cut.events if args.dry_run else gone, cut.upto, shown(until))
    print_rows(("namespace", "events", "upto", "time"), [row], args.output)


def _policy(args: argparse.Namespace) -> tuple[timedelta | None, int | None]:
    if args.older_than is None and args.keep is None:
        raise UsageError("which events? --older-than 30d, --keep 1000000, or both: then beyond either they go")
    return args.older_than, args.keep


def there(uri: str) -> str:
    """Return uri; to open a log that is not there would make it."""
    if uri.startswith("sqlite:") and not _is_log(Path(uri.removeprefix("sqlite:"))):
        raise UsageError(f"there is no log at {uri}")
    return uri


def _is_log(path: Path) -> bool:
    if not path.exists():
        return False
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        return db.execute("SELECT 1 FROM sqlite_master WHERE name = 'aiflow_event'").fetchone() is not None


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is no number of events")
    return int(text)


COMMANDS = (
    Command(
        "events purge",
        "let the oldest events of a log go, for good; brokers may be running",
        purge,
        (
            arg("--older-than", type=saying(duration), metavar="AGE", help="those older than 90s, 2h, 30d or 1d12h"),
            arg("--keep", type=saying(_natural), metavar="N", help="all but the newest N of the namespace"),
            arg("--namespace", required=True, help='exact, a prefix as "airflow*", or "*": all'),
            arg("--dry-run", action="store_true", help="only say what would go"),
            LOG,
            OUTPUT,
        ),
        "example: aiflow events purge --namespace airflow --older-than 30d --dry-run --log sqlite:events.db",
    ),
)
