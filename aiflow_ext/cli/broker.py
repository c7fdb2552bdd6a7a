"""``aiflow broker``: serve a log alone; ``aiflow broker status``."""

import argparse
import logging
import os
import resource
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..events.address import broker_uri, safe_uri, split_uri
from .command import CONNECTION, LOG, OUTPUT, Command, UsageError, arg
from .keys import INSECURE, KEYS, Access
from .output import print_tree

if TYPE_CHECKING:
    from .._core import Broker
    from ..broker.retention import Policy


def broker(args: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    from .._core import Broker

    log = log_uri(args)
    policies = _policies(args.retain)
    if policies and log.startswith("mem:"):
        raise UsageError("--retain: a mem: log is the broker's alone, and nobody else can look after it")
    uri = args.bind or broker_uri()
    if uri.startswith("ipc://"):
        Path(uri.removeprefix("ipc://")).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    ends = {signal.SIGTERM, signal.SIGINT}
    logging.basicConfig(format="%(asctime)s %(levelname)s aiflow broker: %(message)s", level=logging.INFO)
    _allow_connections()
    access = Access(args, uri)
    with Broker(uri, log, access.secret, access.insecure) as served, ExitStack() as stack:
        said = access.first(served)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        try:
            served.start()
            _say(f"serving {served.uri}, log {safe_uri(log)}{said}")
            if args.health:
                from ..broker.health import Health

                _say(f"health at {stack.enter_context(Health(served, args.health)).url}/health")
            if policies:
                from ..broker.retention import Keeper

                keeper = Keeper(log, policies)
                keeper.start()  # with the signals blocked: they are for this thread
                stack.callback(keeper.stop)
            _wait_for(served, ends, access)
            stack.close()
            served.stop()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _say(f"stopped; {', '.join(f'{n} {name}' for name, n in served.stats().items())}")


def status(args: argparse.Namespace) -> None:
    """Print what each broker says of itself."""
    from ..broker.health import problem
    from ..errors import Error
    from ..events.client import EventClient

    found: list[dict[str, Any]] = []
    for uri in split_uri(args.uri or broker_uri()):
        said: dict[str, Any] = {"uri": safe_uri(uri), "problem": None}
        try:
            with EventClient(uri, key_file=args.key_file) as client:
                said |= client.status(args.timeout)
                said["problem"] = problem(said)
        except (Error, TimeoutError) as e:
            said["problem"] = str(e)
        found.append(said)
    print_tree(found, args.output)
    if wrong := sum(said["problem"] is not None for said in found):
        raise Error(f"{wrong} of {len(found)} brokers are not well")


def log_uri(args: argparse.Namespace) -> str:
    """Return which log is meant."""
    uri: str = args.log or os.environ.get("AIFLOW_LOG", "")
    if not uri:
        raise UsageError(
            "which log? --log sqlite:PATH, --log postgresql://..., --log mysql://..., or the same in $AIFLOW_LOG"
        )
    return uri


def _policies(texts: list[str] | None) -> "list[Policy]":
    from ..broker.retention import parse_all

    try:
        return parse_all(texts or ())
    except ValueError as e:
        raise UsageError(f"--retain: {e}") from None


def _say(text: str) -> None:
    print(f"aiflow broker: {text}", file=sys.stderr, flush=True)


def _allow_connections() -> None:
    """Each connection is a descriptor, and the usual limit of 1,024 is one for select(), which is not used."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _wait_for(served: "Broker", ends: set[signal.Signals], access: Access) -> None:
    """Wait for a signal; once a second look whether it still serves, who may do what, and what it has to say."""
    log = logging.getLogger("aiflow_ext.broker")
    ended = None
    while ended is None:
        ended = signal.sigtimedwait(ends, 1.0)
        for level, text in served.trace():
            log.log(level, "%s", text)
        access.look(served)
        if error := served.error():
            raise RuntimeError(error)


COMMANDS = (
    Command(
        "broker",
        "serve a log alone, for more than one machine or without a scheduler",
        broker,
        (
            arg("--bind", metavar="URI", help="tcp://HOST:PORT or ipc://PATH; default: where clients look"),
            LOG,
            KEYS,
            INSECURE,
            arg("--health", metavar="HOST:PORT", help="also tell /health and /metrics over HTTP, on this machine"),
            arg(
                "--retain",
                action="append",
                metavar="NS=AGE,COUNT",
                help="let events of a namespace (exact, prefix* or *) go that are older than AGE, as 30d, or beyond "
                "the newest COUNT; one of the two is enough; may be given for several namespaces",
            ),
        ),
        "example: aiflow broker --bind tcp://127.0.0.1:7788 --log sqlite:/var/lib/aiflow/events.db "
        "--retain 'airflow=7d' --retain 'metrics*=1d,1000000'",
    ),
    Command(
        "broker status",
        "print what brokers say of themselves, to a key that may read *; exit code 1 when one is not well",
        status,
        (OUTPUT, *CONNECTION),
        "example: aiflow broker status --uri tcp://127.0.0.1:7788,tcp://127.0.0.1:7789 -o json",
    ),
)
