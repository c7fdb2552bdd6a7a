"""``aiflow events reset-consumer``: what is done in Airflow's database, which must be found as Airflow finds it."""

import argparse
import sys
from importlib import import_module

from .command import OUTPUT, Command, arg
from .output import print_rows


def reset_consumer(args: argparse.Namespace) -> None:
    """Move the scheduler's consumer, and print what nobody will act on."""
    reset = import_module("aiflow_ext.provider.repair.consumer").reset  # only there Airflow is imported
    skipped = reset(args.to, other_log=args.other_log, dry_run=args.dry_run)
    if args.dry_run:
        print("aiflow: nothing is changed yet; without --dry-run this is skipped", file=sys.stderr)
    print_rows(("skipped", "where", "events"), skipped, args.output)


COMMANDS = (
    Command(
        "events reset-consumer",
        "let Airflow's scheduler go on at another offset of its log, or with another log; prints what it skips",
        reset_consumer,
        (
            arg("--to", type=int, metavar="OFFSET", help="it acts on events beyond this one; default: the log's end"),
            arg(
                "--other-log",
                action="store_true",
                help="the log was replaced: all rules begin anew, and starts that were still to come are skipped; "
                "say it only where an older copy was put back without a new id, all else is seen without it",
            ),
            arg("--dry-run", action="store_true", help="change nothing, only say what would be skipped"),
            OUTPUT,
        ),
        "example: aiflow events reset-consumer --dry-run; with AIRFLOW_HOME and the settings of the scheduler",
    ),
)
