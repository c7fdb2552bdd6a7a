"""``aiflow history purge``: what is kept of runs that are over, in Airflow's database, as Airflow finds it."""

import argparse
import sys
import time
from collections import Counter
from datetime import timedelta
from importlib import import_module

from ..events.times import duration
from .command import OUTPUT, Command, arg, saying
from .output import print_rows
from .purge import SAY_EVERY, there


def purge(args: argparse.Namespace) -> None:
    """Let it go, or say how much would; print how many rows of each table that was."""
    history = import_module("aiflow_ext.provider.react.history")  # only there Airflow is imported
    now_ms = time.time_ns() // 1_000_000
    before_ms, log = None, ""
    if args.older_than is not None:
        before_ms = max(0, now_ms - args.older_than // timedelta(milliseconds=1))
        log = there(import_module("aiflow_ext.provider.config").Config.from_airflow().log)
    gone: Counter[str] = Counter()
    said = time.monotonic()
    for table, n in history.purge(before_ms, dry_run=args.dry_run):
        gone[table] += n
        if time.monotonic() - said >= SAY_EVERY:
            said = time.monotonic()
            print(f"aiflow: {gone.total()} rows so far", file=sys.stderr, flush=True)
    if args.dry_run:
        print("aiflow: nothing is gone yet; without --dry-run this goes", file=sys.stderr)
    if before_ms is not None:
        gone["aiflow_cursor"] = _forget_cursors(log, before_ms, now_ms, dry_run=args.dry_run)
    print_rows(("table", "rows"), sorted(gone.items()), args.output)


def _forget_cursors(uri: str, before_ms: int, now_ms: int, *, dry_run: bool) -> int:
    """Of Airflow's log; return how many."""
    from .._core import EventLog
    from ..broker.retention import forget_cursors

    n = 0
    with EventLog(uri) as log:
        for line in forget_cursors(log, before_ms, now_ms, dry_run=dry_run):
            n += 1
            print(f"aiflow: {line}", file=sys.stderr)
    return n


COMMANDS = (
    Command(
        "history purge",
        "delete what is kept of runs that were deleted, as the scheduler does each hour; with --older-than also what "
        "is kept of runs that ended long ago; a run that is not over loses nothing, and the scheduler may be running",
        purge,
        (
            arg(
                "--older-than",
                type=saying(duration),
                metavar="AGE",
                help="also what belongs to runs that ended longer ago than 90s, 2h, 30d or 1d12h: what rules did, and "
                "what started the tasks (one that is cleared there waits for a new event); cursors that nobody has "
                "moved for as long, and for 7 days: a subscription with that name begins anew; and the places of asset "
                "watchers that are gone for as long",
            ),
            arg("--dry-run", action="store_true", help="only say what would go"),
            OUTPUT,
        ),
        "example: aiflow history purge --older-than 30d --dry-run; with AIRFLOW_HOME and the settings of the scheduler",
    ),
)
