"""What a command is, and the arguments that many have."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..events.times import moment


class UsageError(ValueError):
    """The command line does not say what to do: exit code 2."""


@dataclass(frozen=True)
class Arg:
    """An argument, as ``add_argument`` takes it."""

    flags: tuple[str, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Command:
    """A command; its name is one word, or two: the second below the first, a group or a command itself."""

    name: str
    help: str
    run: Callable[[argparse.Namespace], None]
    args: tuple[Arg, ...]
    epilog: str = ""


def arg(*flags: str, **options: Any) -> Arg:
    return Arg(flags, options)


def saying(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return parse as argparse wants it, so that its users see what is wrong."""

    def checked(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as e:
            raise argparse.ArgumentTypeError(str(e)) from None

    return checked


def time(text: str) -> datetime:
    return moment(text, datetime.now(UTC))


URI = arg(
    "--uri",
    help="the broker's address, ipc://PATH or tcp://HOST:PORT, or several, separated by commas; default: "
    "$AIFLOW_BROKER, else Airflow's [aiflow] broker, else ipc://$AIRFLOW_HOME/aiflow/broker.sock",
)
KEY_FILE = arg(
    "--key-file",
    metavar="PATH",
    help="of `aiflow keys new`, for tcp://; default: $AIFLOW_KEY_FILE, else Airflow's [aiflow] key_file",
)


def connection(timeout: float) -> tuple[Arg, ...]:
    """Return the arguments that say where the broker is; timeout is the default, in seconds."""
    text = f"how long the broker may take ({timeout:g})"
    return (arg("--timeout", type=float, default=timeout, metavar="SECONDS", help=text), URI, KEY_FILE)


CONNECTION = connection(30)
OUTPUT = arg("-o", "--output", choices=("table", "json", "yaml"), default="table", help="how to print (table)")
LOG = arg(
    "--log",
    metavar="URI",
    help="sqlite:PATH, postgresql://... or mysql://...; default: $AIFLOW_LOG, which hides it",
)
