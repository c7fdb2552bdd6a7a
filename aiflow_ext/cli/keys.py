"""``aiflow keys``: new, list, revoke; and what ``aiflow broker`` does with them."""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .command import OUTPUT, Command, UsageError, arg
from .output import print_rows

if TYPE_CHECKING:
    from .._core import Broker

log = logging.getLogger("aiflow_ext.access")


def keys_new(args: argparse.Namespace) -> None:
    """Make a key and print the path of its client's file."""
    from ..broker import keys

    if not args.publish and not args.read:
        raise UsageError(
            f'what may {args.name} do? Write `aiflow keys new {args.name} --publish "team-a.*" --read "*"`, '
            "or one of the two, each as often as needed"
        )
    folder = _folder(args)
    out, first = keys.new_key(args.name, args.publish, args.read, folder, args.out)
    if first:
        _say(f"made {folder / keys.BROKER}: it stays where the broker is")
    _say(f"{folder / keys.ACCESS} has {args.name} now; a broker that runs sees it within a second")
    _say(f"give this file to {args.name}, who sets AIFLOW_KEY_FILE to its path; nobody else may have it")
    print(out)


def keys_list(args: argparse.Namespace) -> None:
    """Print which key may do what."""
    from ..broker import keys

    grants = sorted(keys.load_access(_folder(args)), key=lambda grant: grant.name)
    join = " ".join if args.output == "table" else list
    rows = [(grant.name, join(grant.publish), join(grant.read), grant.public) for grant in grants]
    print_rows(("name", "publish", "read", "public"), rows, args.output)


def keys_revoke(args: argparse.Namespace) -> None:
    """Take keys out of the access file."""
    from ..broker import keys

    for name in args.names:
        removed = keys.revoke_key(name, _folder(args))
        _say(f"{name} may do nothing any more; a broker that runs sees it within a second")
        if removed:
            _say(f"removed {removed}")


def _folder(args: argparse.Namespace) -> Path:
    from ..broker import keys

    return (args.keys or keys.keys_folder()).expanduser()


def _say(text: str) -> None:
    print(f"aiflow keys: {text}", file=sys.stderr)


class Access:
    """Which keys a broker asks for, and what they may do now."""

    def __init__(self, args: argparse.Namespace, uri: str) -> None:
        """Look whether there are keys.

        :raises UsageError: both keys and --insecure, or a folder without keys.
        """
        from ..broker import keys

        folder = _folder(args)
        named = args.keys or os.environ.get("AIFLOW_KEYS")  # then they must be there
        has = uri.startswith("tcp://") and bool(named or (folder / keys.BROKER).exists())
        if has and args.insecure:
            raise UsageError(f"--insecure is without keys, and there are some in {folder}: leave one of the two out")
        if has and not (folder / keys.BROKER).exists():
            raise UsageError(
                f"{'--keys' if args.keys else '$AIFLOW_KEYS'} names {folder}, where no {keys.BROKER} is: make one with "
                f'`aiflow keys new NAME --publish "*" --read "*" --keys {folder}`, or name the folder that has it'
            )
        self.insecure: bool = args.insecure
        self.secret = keys.load_broker_key(folder) if has else None
        self._file = keys.AccessFile(folder) if has else None

    def first(self, broker: "Broker") -> str:
        """Give broker its table, before it starts; return what to say of it.

        :raises ValueError, AccessError: the file is broken.
        """
        if self._file is None:
            return "; INSECURE: whoever reaches it may do everything, and read along" if self.insecure else ""
        grants = self._file.changed() or []
        broker.set_access([grant.row() for grant in grants])
        return f"; keys in {self._file.folder}: {len(grants)} may come in"

    def look(self, broker: "Broker") -> None:
        """Give broker a new table where the file has changed; a broken one is said, and changes nothing."""
        if self._file is None:
            return
        try:
            grants = self._file.changed()
        except (OSError, ValueError) as e:
            log.error("the access file is broken, what it said before stays in force: %s", e)
            return
        if grants is not None:
            broker.set_access([grant.row() for grant in grants])
            log.info("access has changed: %d keys", len(grants))


KEYS = arg(
    "--keys",
    type=Path,
    metavar="DIR",
    help="the folder with the keys; default: $AIFLOW_KEYS, else $AIRFLOW_HOME/aiflow/keys",
)
INSECURE = arg(
    "--insecure", action="store_true", help="serve other machines without keys: whoever reaches it may do everything"
)

COMMANDS = (
    Command(
        "keys new",
        "make a key for a client; prints the path of its file",
        keys_new,
        (
            arg("name", help="whose key it is: letters, digits, - and _"),
            arg(
                "--publish",
                action="append",
                default=[],
                metavar="NAMESPACE",
                help='what it may publish to: exact, a prefix such as "team-a.*", or "*"; as often as needed',
            ),
            arg(
                "--read", action="append", default=[], metavar="NAMESPACE", help="what it may read, in the same manner"
            ),
            arg("--out", type=Path, metavar="FILE", help="where its file goes; default: NAME.key in the folder"),
            KEYS,
        ),
        'example: aiflow keys new team-a --publish "team-a.*" --read "*" --out team-a.key',
    ),
    Command(
        "keys list",
        "print which key may do what; no secrets",
        keys_list,
        (OUTPUT, KEYS),
        "example: aiflow keys list -o json | jq -r '.[].name'",
    ),
    Command(
        "keys revoke",
        "take keys out of the access file; a broker that runs ends what they do within a second",
        keys_revoke,
        (arg("names", nargs="+", metavar="name", help="whose"), KEYS),
        "example: aiflow keys revoke team-a",
    ),
)
