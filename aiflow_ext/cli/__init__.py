"""The command ``aiflow``: events from the shell, and the broker alone.

One noun a file.  Commands are a table, so that another program (``airflow aiflow ...``) can offer the same ones.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from . import broker, cursors, events, history, keys, purge, repair
from .command import Command, UsageError
from .output import COLUMNS as COLUMNS

GROUPS = {
    "events": "send, list, listen, count, latest, purge, reset-consumer",
    "cursors": "list, delete",
    "history": "purge",
    "keys": "new, list, revoke",
}
"""What a first word is about that is no command itself."""


def version(args: argparse.Namespace) -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    print(installed("aiflow-ext"))


COMMANDS = (
    *events.COMMANDS,
    *purge.COMMANDS,
    *cursors.COMMANDS,
    *repair.COMMANDS,
    *history.COMMANDS,
    *broker.COMMANDS,
    *keys.COMMANDS,
    Command("version", "print the version", version, (), "example: aiflow version"),
)


class _Parser(argparse.ArgumentParser):
    """One that also says where a command is that was looked for in another place."""

    def error(self, message: str) -> NoReturn:
        word = re.search(r"invalid choice: '([a-z]+)'", message)
        meant = [f"`aiflow {c.name}`" for c in COMMANDS if word and word[1] in c.name.split()]
        super().error(message + (f"; did you mean {' or '.join(meant)}?" if meant else ""))


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = _Parser(prog="aiflow", description="Events for Airflow: send, read, serve.")
    levels = {"": top.add_subparsers(title="commands", required=True, metavar="COMMAND")}
    for name, text in GROUPS.items():
        group = levels[""].add_parser(name, help=text, description=text)
        levels[name] = group.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        above, _, word = command.name.rpartition(" ")
        sub = levels[above].add_parser(word, help=command.help, description=command.help, epilog=command.epilog)
        for a in command.args:
            sub.add_argument(*a.flags, **a.options)
        sub.set_defaults(run=command.run)
        if any(c.name.startswith(f"{command.name} ") for c in COMMANDS):  # it does something itself, and has others
            levels[command.name] = sub.add_subparsers(title="commands", metavar="[COMMAND]")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; return the exit code: 0, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C."""
    args = parser().parse_args(_joined(sys.argv[1:] if argv is None else argv))
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    except UsageError as e:
        return _fail(e, 2)
    except Exception as e:
        return _fail(e, 1)
    return 0


def _joined(argv: Sequence[str]) -> list[str]:
    """Make ``--since=-2h`` of ``--since -2h``, which argparse takes for two options."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] in ("--since", "--until") and re.match(r"-\d", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _fail(e: Exception, code: int) -> int:
    print(f"aiflow: {' '.join(str(e).split()) or type(e).__name__}", file=sys.stderr)
    return code
