"""Where the broker is: one answer for clients, the command line and Airflow's configuration."""

import os
import re
import socket
from threading import Thread

IPC_MAX = 107
"""Bytes of a path in ``ipc://PATH``: what a Unix socket's address has room for."""


def broker_uri() -> str:
    """Return the address clients connect to when they are given none.

    ``$AIFLOW_BROKER``; else ``[aiflow] broker`` (see :func:`setting`) unless that is ``embedded``; else
    ``ipc://$AIRFLOW_HOME/aiflow/broker.sock``, with ``~/airflow`` when that is not set either.
    """
    uri = os.environ.get("AIFLOW_BROKER", "").strip() or setting("broker")
    return check_uri(uri if uri not in ("", "embedded") else f"ipc://{airflow_home()}/aiflow/broker.sock")


def setting(name: str) -> str:
    """Return ``[aiflow] name`` as Airflow does, without importing it: ``$AIRFLOW__AIFLOW__NAME``, else ``airflow.cfg``.

    :raises ValueError: that section is broken.
    """
    if (said := os.environ.get(f"AIRFLOW__AIFLOW__{name.upper()}")) is not None:
        return said.strip()
    path = _expanded(os.environ.get("AIRFLOW_CONFIG") or f"{airflow_home()}/airflow.cfg")
    try:
        with open(path, encoding="utf-8") as file:
            _, found, rest = f"\n{file.read()}".partition("\n[aiflow]")
    except OSError:
        return ""
    section = found.strip() + rest.partition("\n[")[0]  # of some 3,000 lines, which take 7 ms to parse
    from configparser import ConfigParser, Error

    parser = ConfigParser(interpolation=None)
    try:
        parser.read_string(section, path)
    except Error as e:
        raise ValueError(f"{path}: its section [aiflow] is broken ({type(e).__name__})") from None
    return _expanded(parser.get("aiflow", name, fallback="").strip())


def airflow_home() -> str:
    """Return ``$AIRFLOW_HOME``, or ``~/airflow``."""
    return os.path.abspath(_expanded(os.environ.get("AIRFLOW_HOME") or "~/airflow"))


def _expanded(text: str) -> str:
    return os.path.expanduser(os.path.expandvars(text))


def check_uri(uri: str) -> str:
    """Return uri: an address, or several with commas between.

    :raises ValueError: it is not an address of a broker; the text says what one looks like.
    """
    for one in split_uri(uri):
        _check(one)
    return uri


def split_uri(uri: str) -> list[str]:
    """Return its addresses; a comma belongs to a path unless another address follows it."""
    return re.split(r", *(?=(?:ipc|tcp)://)", uri)


def _check(uri: str) -> None:
    scheme, _, rest = uri.partition("://")
    port = re.fullmatch(r"[^@?/]+:(\d{1,5})", rest) if scheme == "tcp" else None
    if not (0 < int(port[1]) < 65536 if port else scheme == "ipc" and rest):
        raise ValueError(f"a broker is at ipc://PATH or tcp://HOST:PORT, not {safe_uri(uri)!r}")
    if scheme == "ipc" and (n := len(os.fsencode(rest))) > IPC_MAX:
        raise ValueError(
            f"the path of {uri} has {n} bytes, and a socket's may have {IPC_MAX}: "
            f"set AIFLOW_BROKER to a shorter one, such as ipc:///tmp/aiflow.sock, or to tcp://127.0.0.1:PORT"
        )


def seen_of(uri: str) -> str:
    """Return what can be seen from here of why nobody answers at uri; "": nothing."""
    found = []
    for one in split_uri(uri):
        scheme, _, rest = one.partition("://")
        if scheme == "ipc" and not os.path.exists(rest):
            found.append(f"there is no socket {rest}")
        elif scheme == "tcp" and (error := _unknown_host(rest.rpartition(":")[0].strip("[]"))):
            found.append(error)
    return "; ".join(found)


def _unknown_host(host: str) -> str:
    found: list[str] = []

    def look() -> None:
        try:
            socket.getaddrinfo(host, None)
        except (OSError, UnicodeError) as e:
            found.append(f"the host {host!r} is not known: {getattr(e, 'strerror', e)}")

    thread = Thread(target=look, daemon=True)  # a name server that is away takes long, and so would we
    thread.start()
    thread.join(1.0)
    return "".join(found)


def safe_uri(uri: str) -> str:
    """Return uri as it may be shown: without user, password and parameters, also where a password breaks it."""
    return ", ".join(map(_safe, split_uri(uri)))


def _safe(uri: str) -> str:
    scheme, colon, rest = uri.partition("://")
    if not colon:
        return uri if scheme.startswith(("sqlite:", "mem:")) or "@" not in uri else f"{uri.partition(':')[0]}:..."
    place, _, parameters = rest.partition("?")
    if "@" in parameters:  # of a password with a ? in it, or of a parameter: who knows
        return f"{scheme}://..."
    return f"{scheme}://{place.rpartition('@')[2]}"
