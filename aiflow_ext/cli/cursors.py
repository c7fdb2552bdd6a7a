"""``aiflow cursors``: where the subscriptions with a name are, which the log keeps."""

import argparse

from ..events.times import shown
from .command import CONNECTION, OUTPUT, Command, UsageError, arg
from .output import print_rows


def list_(args: argparse.Namespace) -> None:
    """Print the cursors, and how many events the log has beyond each."""
    from ..events.client import EventClient

    with EventClient(args.uri, key_file=args.key_file) as client:
        head = client.head(args.timeout)
        rows = [
            (c.namespace, c.name, c.offset, max(0, head - c.offset), shown(c.moved))
            for c in client.cursors(args.namespace, args.timeout)
        ]
    print_rows(("namespace", "name", "offset", "behind", "moved"), rows, args.output)


def delete(args: argparse.Namespace) -> None:
    """Delete a cursor."""
    from ..events.client import EventClient

    with EventClient(args.uri, key_file=args.key_file) as client:
        if not client.delete_cursor(args.name, args.namespace, args.timeout):
            raise UsageError(f"there is no cursor {args.name!r} of namespace {args.namespace!r}: aiflow cursors list")


COMMANDS = (
    Command(
        "cursors list",
        "print where the subscriptions with a name are, and how many offsets behind the newest event",
        list_,
        (
            arg("--namespace", default="*", help='those of which namespaces: exact, a prefix as "team*"; default: all'),
            OUTPUT,
            *CONNECTION,
        ),
        "example: aiflow cursors list",
    ),
    Command(
        "cursors delete",
        "delete one: the next subscription with its name begins anew, and one that runs ends",
        delete,
        (
            arg("name", help="as in subscribe(resume=NAME)"),
            arg("--namespace", default="default", help='as that subscription has it; default: "default"'),
            *CONNECTION,
        ),
        "example: aiflow cursors delete train",
    ),
)
