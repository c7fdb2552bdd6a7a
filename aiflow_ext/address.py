"""Where the broker is: one answer for clients, the command line and Airflow's configuration."""

import os
import re
import sys

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
    """Return what ``[aiflow] name`` is, "" where it is not set.

    ``$AIRFLOW__AIFLOW__NAME``; else, in Airflow's own processes and its tasks, what Airflow's configuration has.
    Elsewhere airflow.cfg is not looked at: Airflow takes seconds to read it.
    """
    if text := os.environ.get(f"AIRFLOW__AIFLOW__{name.upper()}", "").strip():
        return text
    conf = getattr(sys.modules.get("airflow.configuration"), "conf", None)
    return conf.get("aiflow", name, fallback="").strip() if conf is not None else ""


def airflow_home() -> str:
    """Return ``$AIRFLOW_HOME``, or ``~/airflow``."""
    return os.path.abspath(os.path.expanduser(os.path.expandvars(os.environ.get("AIRFLOW_HOME") or "~/airflow")))


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
