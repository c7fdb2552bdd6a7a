"""``aiflow broker``: serve a log, alone or as the child of a scheduler; ``aiflow broker status``."""

import argparse
import logging
import os
import resource
import select
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConflictError
from ..events.address import broker_uri, safe_uri, split_uri
from .command import LOG, OUTPUT, Command, UsageError, arg, connection
from .keys import INSECURE, KEYS, Access
from .output import print_tree

if TYPE_CHECKING:
    from .._core import Broker
    from ..broker.retention import Policy


ENDS = {signal.SIGTERM, signal.SIGINT}
STATUS_SEC = 5.0  # between two statuses that a supervisor is told
ALONE_SEC = 2.0  # for the last turn, once the supervisor is gone; then another broker may have the address
LAST_SEC = 5.0  # for the last turn, once somebody has told it to end

log = logging.getLogger("aiflow_ext.broker")


def broker(args: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT; with --supervised until the process that started it is gone."""
    log_at = log_uri(args)
    policies = _policies(args.retain)
    if policies and log_at.startswith("mem:"):
        raise UsageError("--retain: a mem: log is the broker's alone, and nobody else can look after it")
    uri = args.bind or broker_uri()
    if uri.startswith("ipc://"):
        Path(uri.removeprefix("ipc://")).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    host = _Supervisor() if args.supervised else _Terminal()
    _allow_connections()
    access = Access(args, uri)
    served = _open(uri, log_at, access, host)
    if served is None:
        return
    with served, host, ExitStack() as stack:  # from here on host takes the signals: they are for this thread
        said = access.first(served)
        served.start()
        host.say(f"serving {served.uri}, log {safe_uri(log_at)}{said}")
        if args.health:
            from ..broker.health import Health

            host.say(f"health at {stack.enter_context(Health(served, args.health)).url}/health")
        if policies:
            from ..broker.retention import Keeper

            keeper = Keeper(log_at, policies)
            keeper.start()
            stack.callback(keeper.stop)
        _wait_for(served, host, access)
        threading.Thread(target=_end_for_sure, args=(host, LAST_SEC), daemon=True).start()
        stack.close()
        served.stop()
    host.say(f"stopped; {', '.join(f'{n} {name}' for name, n in served.stats().items())}")


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


class _Terminal:
    """Who typed the command: reads stderr, and ends it by SIGTERM or Ctrl-C."""

    waits = False  # for an address that another process serves

    def __init__(self) -> None:
        logging.basicConfig(format="%(asctime)s %(levelname)s aiflow broker: %(message)s", level=logging.INFO)

    def __enter__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)

    def __exit__(self, *exc: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def say(self, text: str) -> None:
        print(f"aiflow broker: {text}", file=sys.stderr, flush=True)

    def tell(self, served: "Broker | None") -> None:
        """Tell nothing: there is `aiflow broker status`."""

    def ended(self, seconds: float) -> bool:
        """Wait so long; return whether the broker was told to end."""
        got = signal.sigtimedwait(ENDS, seconds)  # CPython 3.11 returns none of ENDS after a SIGCONT
        return got is not None and got.si_signo in ENDS


class _OneLine(logging.Formatter):
    """A text that a peer has a part in cannot begin a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", "\\n")


class _Supervisor(_Terminal):
    """The process that started this one, as `aiflow_ext.provider.scheduler.embedded` does.

    It holds the other end of stdin and writes nothing there: at its end it is gone, however that came about.  Signals
    do not end the broker: what a terminal or systemd sends to all processes at once comes before the scheduler's last
    events.  On stdout it reads lines: a level of logging and a text, "status" and JSON, or "waits" for another broker.
    """

    waits = True

    def __init__(self) -> None:
        for number in (*ENDS, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        lines = logging.StreamHandler(sys.stdout)
        lines.setFormatter(_OneLine("%(levelno)d %(message)s"))
        logging.basicConfig(handlers=[lines], level=logging.DEBUG)
        self._next = 0.0
        threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        os.read(0, 1)
        time.sleep(ALONE_SEC)
        os._exit(1)  # whatever other threads wait for, or to whom they have something to say: nobody reads stdout now

    def say(self, text: str) -> None:
        log.info("%s", text)

    def tell(self, served: "Broker | None") -> None:
        if time.monotonic() >= self._next and select.select([], [1], [], 0)[1]:  # else the scheduler does not read
            self._next = time.monotonic() + STATUS_SEC
            print("waits" if served is None else f"status {served.status()}", flush=True)

    def ended(self, seconds: float) -> bool:
        return bool(select.select([0], [], [], seconds)[0])


def _end_for_sure(host: _Terminal, seconds: float) -> None:
    """End this process, whatever its other threads wait for, as a database that hangs: what was answered is there."""
    time.sleep(seconds)
    host.say(f"ended without its last turn, which has taken more than {seconds:g} s: the log does not answer")
    os._exit(1)


def _open(uri: str, log_at: str, access: Access, host: _Terminal) -> "Broker | None":
    """Return the broker; None: told to end while another process served the address."""
    from .._core import Broker

    told = False
    while True:
        try:
            return Broker(uri, log_at, access.secret, access.insecure)
        except ConflictError as e:
            if not host.waits:
                raise
            if not told:
                host.say(f"{e}; this one takes over when that has ended")
            told = True
        host.tell(None)
        if host.ended(1.0):
            return None


def _allow_connections() -> None:
    """Each connection is a descriptor, and the usual limit of 1,024 is one for select(), which is not used."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _wait_for(served: "Broker", host: _Terminal, access: Access) -> None:
    """Wait for the end; once a second look whether it still serves, who may do what, and what it has to say."""
    ended = False
    while not ended:
        host.tell(served)
        ended = host.ended(1.0)
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
            arg(
                "--supervised", action="store_true", help=argparse.SUPPRESS
            ),  # by aiflow_ext.provider.scheduler.embedded
        ),
        "example: aiflow broker --bind tcp://127.0.0.1:7788 --log sqlite:/var/lib/aiflow/events.db "
        "--retain 'airflow=7d' --retain 'metrics*=1d,1000000'",
    ),
    Command(
        "broker status",
        "print what brokers say of themselves, to a key that may read *; exit code 1 when one is not well",
        status,
        (OUTPUT, *connection(8)),
        "example: aiflow broker status --uri tcp://127.0.0.1:7788,tcp://127.0.0.1:7789 -o json",
    ),
)
