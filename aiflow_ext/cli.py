"""The command ``aiflow``: events from the shell, and the broker alone.

Commands are a table, so that another program (``airflow aiflow ...``) can offer the same ones: each is a name, a help
line, arguments as for ``add_argument`` and a function of the parsed arguments.
"""

import argparse
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .address import broker_uri, safe_uri

if TYPE_CHECKING:
    from ._core import Broker
    from ._event import Event
    from .events import EventClient

COLUMNS = ("offset", "create_time", "namespace", "key", "type", "value", "sender", "context")


@dataclass(frozen=True)
class Arg:
    """An argument, as ``add_argument`` takes it."""

    flags: tuple[str, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Command:
    """A command; one of a group when its name is two words."""

    name: str
    help: str
    run: Callable[[argparse.Namespace], None]
    args: tuple[Arg, ...]
    epilog: str = ""


def arg(*flags: str, **options: Any) -> Arg:
    return Arg(flags, options)


# --- what the commands do


def events_send(args: argparse.Namespace) -> None:
    """Publish one event and print its offset."""
    from ._event import Event

    value = sys.stdin.read() if args.value == "-" else args.value
    with _client(args) as client:
        print(client.publish(Event(args.key, value, args.type, args.context), args.timeout))


def events_list(args: argparse.Namespace) -> None:
    """Print the events that match."""
    with _client(args) as client:
        _print_all(client.list(**_filters(args), after=args.after, limit=args.limit, timeout=args.timeout), args.output)


def events_count(args: argparse.Namespace) -> None:
    """Print how many events match."""
    with _client(args) as client:
        print(client.count(**_filters(args), after=args.after, timeout=args.timeout))


def events_listen(args: argparse.Namespace) -> None:
    """Print the events that match, as they come, until interrupted."""
    write = {"table": _table_stream(), "json": _json_line, "yaml": _yaml_item}[args.output]
    try:
        with (
            _client(args) as client,
            client.subscribe(**_filters(args), after=args.after, timeout=args.timeout) as events,
        ):
            print(f"listening to {safe_uri(client.uri)}", file=sys.stderr, flush=True)
            for event in events:
                print(write(event), flush=True)
    except KeyboardInterrupt:
        pass


def broker(args: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    from ._core import Broker

    log = args.log or os.environ.get("AIFLOW_LOG", "")
    if not log:
        raise UsageError("which log? --log sqlite:PATH, --log postgresql://..., or the same in $AIFLOW_LOG")
    uri = args.bind or broker_uri()
    if uri.startswith("ipc://"):
        Path(uri.removeprefix("ipc://")).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    ends = {signal.SIGTERM, signal.SIGINT}
    with Broker(uri, log) as served:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        try:
            served.start()
            _say(f"serving {served.uri}, log {safe_uri(log)}")
            _wait_for(served, ends)
            served.stop()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _say(f"stopped; {', '.join(f'{n} {name}' for name, n in served.stats().items())}")


def version(args: argparse.Namespace) -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    print(installed("aiflow-ext"))


class UsageError(ValueError):
    """The command line does not say what to do: exit code 2."""


def _client(args: argparse.Namespace) -> "EventClient":
    from .events import EventClient

    namespace = "default" if args.namespace == "*" else args.namespace
    return EventClient(args.uri, namespace, None if args.sender == "*" else args.sender)


def _filters(args: argparse.Namespace) -> dict[str, Any]:
    return {"key": args.key, "type": args.type, "namespace": args.namespace, "sender": args.sender}


def _say(text: str) -> None:
    print(f"aiflow broker: {text}", file=sys.stderr, flush=True)


def _wait_for(served: "Broker", ends: set[signal.Signals]) -> None:
    """Wait for a signal; once a second look whether the broker still serves."""
    while signal.sigtimedwait(ends, 1.0) is None:
        if error := served.error():
            raise RuntimeError(error)


# --- how events are printed


def _print_all(events: Sequence["Event"], output: str) -> None:
    if output == "json":
        print(json.dumps([event._asdict() for event in events], ensure_ascii=False, indent=1))
    elif output == "yaml":
        print("\n".join(map(_yaml_item, events)) or "[]")
    else:
        _print_table(events)


def _json_line(event: "Event") -> str:
    return json.dumps(event._asdict(), ensure_ascii=False)


def _yaml_item(event: "Event") -> str:
    """Return one item of a YAML list; its strings are JSON's, which YAML reads, with what it forbids escaped."""
    lines = (f"{name}: {_yaml_scalar(value)}" for name, value in event._asdict().items())
    return "- " + "\n  ".join(lines)


def _yaml_scalar(value: object) -> str:
    escape = r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]"
    return re.sub(escape, lambda m: f"\\u{ord(m[0]):04x}", json.dumps(value, ensure_ascii=False))


def _cells(event: "Event") -> list[str]:
    from datetime import UTC, datetime

    time = datetime.fromtimestamp(event.create_time / 1000, UTC)
    cells = {**event._asdict(), "create_time": time.isoformat(" ", "milliseconds")[:23], "context": event.context or ""}
    return [_cell(str(cells[name])) for name in COLUMNS]


def _cell(text: str) -> str:
    """Return text as it may stand in one line of a terminal."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:61])
    return text if len(text) <= 60 else text[:59] + "…"


def _print_table(events: Iterable["Event"]) -> None:
    rows = [list(COLUMNS), *map(_cells, events)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _table_stream() -> Callable[["Event"], str]:
    """Return what makes a line of an event; a column is as wide as it has been so far."""
    widths = [8, 23, 9, 20, 12, 20, 8, 7]

    def line(event: "Event") -> str:
        cells = _cells(event)
        widths[:] = [max(w, len(c)) for w, c in zip(widths, cells, strict=True)]
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    return line


# --- the command line

URI = arg(
    "--uri",
    help="the broker's address, ipc://PATH or tcp://HOST:PORT; default: $AIFLOW_BROKER, "
    "else $AIFLOW__AIFLOW__BROKER, else ipc://$AIRFLOW_HOME/aiflow/broker.sock",
)
TIMEOUT = arg("--timeout", type=float, default=30.0, metavar="SECONDS", help="how long the broker may take (30)")
OUTPUT = arg("-o", "--output", choices=("table", "json", "yaml"), default="table", help="how to print (table)")
LIMIT = arg("--limit", type=int, metavar="N", help="at most so many; default: all")
FILTERS = (
    arg("--key", default="*", help='exact, "*", or a prefix such as "digits*"; default: all'),
    arg("--type", default="*", help="the same for the type"),
    arg("--namespace", default="default", help='the same for the namespace; default: "default"'),
    arg("--sender", default="*", help="the same for the sender"),
)
AFTER = arg("--after", type=int, default=0, metavar="OFFSET", help="only events beyond this offset (0)")
AFTER_NOW = arg("--after", type=int, metavar="OFFSET", help="old events beyond this offset too; default: new ones")

COMMANDS = (
    Command(
        "events send",
        "publish an event; prints its offset once it is durable",
        events_send,
        (
            arg("key", help="what the event is about"),
            arg("value", nargs="?", default="", help='what is said about it; "-": standard input'),
            arg("--type", default="UNDEFINED", help="its type (UNDEFINED)"),
            arg("--namespace", default="default", help="its namespace (default)"),
            arg("--sender", help="who says it"),
            arg("--context", help="reaches only the runs with this context"),
            TIMEOUT,
            URI,
        ),
        "example: aiflow events send digits v7 --type MODEL_GENERATED",
    ),
    Command(
        "events list",
        "print the events in the log that match",
        events_list,
        (*FILTERS, AFTER, LIMIT, OUTPUT, TIMEOUT, URI),
        'example: aiflow events list --key "digits*" --limit 20 -o json',
    ),
    Command(
        "events listen",
        "print events as they come, until Ctrl-C; json is one object a line",
        events_listen,
        (*FILTERS, AFTER_NOW, OUTPUT, TIMEOUT, URI),
        "example: aiflow events listen --type MODEL_GENERATED -o json | jq .value",
    ),
    Command(
        "events count",
        "print how many events in the log match",
        events_count,
        (*FILTERS, AFTER, TIMEOUT, URI),
        "example: aiflow events count --namespace airflow --key my_dag.train",
    ),
    Command(
        "broker",
        "serve a log alone, for more than one machine or without a scheduler",
        broker,
        (
            arg("--bind", metavar="URI", help="tcp://127.0.0.1:PORT or ipc://PATH; default: where clients look"),
            arg("--log", metavar="URI", help="sqlite:PATH or postgresql://...; default: $AIFLOW_LOG, which hides it"),
        ),
        "example: aiflow broker --bind tcp://127.0.0.1:7788 --log sqlite:/var/lib/aiflow/events.db",
    ),
    Command("version", "print the version", version, ()),
)


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = argparse.ArgumentParser(prog="aiflow", description="Events for Airflow: send, read, serve.")
    level = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    events = level.add_parser("events", help="send, list, listen, count", description="Send and read events.")
    group = events.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        under = group if " " in command.name else level
        sub = under.add_parser(
            command.name.split()[-1], help=command.help, description=command.help, epilog=command.epilog
        )
        for a in command.args:
            sub.add_argument(*a.flags, **a.options)
        sub.set_defaults(run=command.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; return the exit code: 0, 1 for a failure, 2 for wrong usage."""
    args = parser().parse_args(argv)
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


def _fail(e: Exception, code: int) -> int:
    print(f"aiflow: {' '.join(str(e).split()) or type(e).__name__}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
