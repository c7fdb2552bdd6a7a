"""``aiflow events``: send, list, listen, count, latest."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ..events.address import safe_uri
from .command import CONNECTION, OUTPUT, Command, arg, saying, time
from .output import json_line, print_all, print_rows, table_stream, yaml_item

if TYPE_CHECKING:
    from ..events.client import EventClient


def send(args: argparse.Namespace) -> None:
    """Publish one event and print its offset."""
    from .._event import Event

    value = sys.stdin.read() if args.value == "-" else args.value
    with _client(args, args.namespace, args.sender) as client:
        print(client.publish(Event(args.key, value, args.type, args.context), args.timeout))


def list_(args: argparse.Namespace) -> None:
    """Print the events that match."""
    with _client(args) as client:
        found = client.list(**_filters(args), **_range(args), limit=args.limit, timeout=args.timeout)
    print_all(found, args.output)
    if not found:
        others = "" if args.namespace == "*" else f" in namespace {args.namespace!r}; --namespace '*' asks for all"
        print(f"aiflow: no event matches{others}", file=sys.stderr)


def count(args: argparse.Namespace) -> None:
    """Print how many events match."""
    with _client(args) as client:
        if args.by_sender:
            counts = client.count_by_sender(**_filters(args), **_range(args), timeout=args.timeout)
            print_rows(("sender", "events"), counts.items(), args.output)
        else:
            print(client.count(**_filters(args), **_range(args), timeout=args.timeout))


def latest(args: argparse.Namespace) -> None:
    """Print the offset of the newest event that matches."""
    with _client(args) as client:
        print(client.latest(**_filters(args), **_range(args), timeout=args.timeout))


def listen(args: argparse.Namespace) -> None:
    """Print the events that match, as they come, until interrupted."""
    write = {"table": table_stream(), "json": json_line, "yaml": yaml_item}[args.output]
    with (
        _client(args) as client,
        client.subscribe(
            **_filters(args), after=args.after, since=args.since, resume=args.resume, timeout=args.timeout
        ) as events,
    ):
        print(f"listening to {safe_uri(client.uri)}", file=sys.stderr, flush=True)
        for event in events:
            print(write(event), flush=True)


def _client(args: argparse.Namespace, namespace: str = "default", sender: str | None = None) -> "EventClient":
    from ..events.client import EventClient

    return EventClient(args.uri, namespace, sender, key_file=args.key_file)


def _filters(args: argparse.Namespace) -> dict[str, Any]:
    names = ("type", "namespace", "sender", "context")
    return {"key": args.key or "*", **{name: getattr(args, name) for name in names}}


def _range(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("after", "upto", "since", "until")}


LIMIT = arg("--limit", type=int, metavar="N", help="at most so many; default: all")
FILTERS = (
    arg("--key", action="append", help='exact, "*", or a prefix as "digits*"; several: any of them; default: all'),
    arg("--type", default="*", help="which type, in the same way"),
    arg("--namespace", default="default", help='which namespace, in the same way; default: "default"'),
    arg("--sender", default="*", help='which sender; "": events without one'),
    arg("--context", default="*", help='which context; "": events without one'),
)
SINCE = arg(
    "--since",
    type=saying(time),
    metavar="TIME",
    help="only from then on: 2026-05-01T12:30 (UTC), 2026-05-01T12:30+02:00, or ago: 90s, 2h, 7d",
)
RANGE = (
    arg("--after", type=int, default=0, metavar="OFFSET", help="only beyond this offset (0)"),
    arg("--upto", type=int, metavar="OFFSET", help="none beyond this offset"),
    SINCE,
    arg("--until", type=saying(time), metavar="TIME", help="only before then"),
)
AFTER_NOW = arg("--after", type=int, metavar="OFFSET", help="old events beyond this offset too; default: new ones")
RESUME = arg("--resume", metavar="NAME", help="go on where the last one with this name ended, which then ends")

COMMANDS = (
    Command(
        "events send",
        "publish an event; prints its offset once it is durable",
        send,
        (
            arg("key", help="what the event is about"),
            arg("value", nargs="?", default="", help='what is said about it; "-": standard input'),
            arg("--type", default="UNDEFINED", help="its type (UNDEFINED)"),
            arg("--namespace", default="default", help="its namespace (default)"),
            arg("--sender", help="who says it"),
            arg("--context", help="reaches only the runs with this context"),
            *CONNECTION,
        ),
        "example: aiflow events send digits v7 --type MODEL_GENERATED",
    ),
    Command(
        "events list",
        "print the events in the log that match",
        list_,
        (*FILTERS, *RANGE, LIMIT, OUTPUT, *CONNECTION),
        'example: aiflow events list --key "digits*" --key mnist --since 2h --limit 20 -o json',
    ),
    Command(
        "events listen",
        "print events as they come, until Ctrl-C; json is one object a line",
        listen,
        (*FILTERS, AFTER_NOW, SINCE, RESUME, OUTPUT, *CONNECTION),
        "example: aiflow events listen --type MODEL_GENERATED -o json | jq .value",
    ),
    Command(
        "events count",
        "print how many events in the log match",
        count,
        (
            *FILTERS,
            *RANGE,
            arg("--by-sender", action="store_true", help="one line a sender; with -o"),
            OUTPUT,
            *CONNECTION,
        ),
        "example: aiflow events count --namespace airflow --since 1d --by-sender",
    ),
    Command(
        "events latest",
        "print the offset of the newest event that matches; 0: none does",
        latest,
        (*FILTERS, *RANGE, *CONNECTION),
        "example: aiflow events latest --key digits",
    ),
)
