"""Where the broker is: one answer for clients, the command line and Airflow's configuration."""

import os
from urllib.parse import urlsplit

IPC_MAX = 107
"""Bytes of a path in ``ipc://PATH``: what a Unix socket's address has room for."""


def broker_uri() -> str:
    """Return the address clients connect to when they are given none.

    ``$AIFLOW_BROKER``; else ``$AIFLOW__AIFLOW__BROKER`` (Airflow's way to set ``[aiflow] broker``) unless that is
    ``embedded``; else ``ipc://$AIRFLOW_HOME/aiflow/broker.sock``, with ``~/airflow`` when that is not set either.
    """
    if uri := os.environ.get("AIFLOW_BROKER", "").strip():
        return check_uri(uri)
    uri = os.environ.get("AIFLOW__AIFLOW__BROKER", "").strip()
    if uri and uri != "embedded":
        return check_uri(uri)
    home = os.path.expanduser(os.path.expandvars(os.environ.get("AIRFLOW_HOME") or "~/airflow"))
    return check_uri(f"ipc://{os.path.abspath(home)}/aiflow/broker.sock")


def check_uri(uri: str) -> str:
    """Return uri.

    :raises ValueError: it is not an address of a broker; the text says what one looks like.
    """
    scheme, _, rest = uri.partition("://")
    if scheme not in {"ipc", "tcp"} or not rest:
        raise ValueError(f"a broker is at ipc://PATH or tcp://HOST:PORT, not {safe_uri(uri)!r}")
    if scheme == "ipc" and (n := len(os.fsencode(rest))) > IPC_MAX:
        raise ValueError(
            f"the path of {uri} has {n} bytes, and a socket's may have {IPC_MAX}: "
            f"set AIFLOW_BROKER to a shorter one, such as ipc:///tmp/aiflow.sock, or to tcp://127.0.0.1:PORT"
        )
    return uri


def safe_uri(uri: str) -> str:
    """Return uri as it may be shown: without user, password and parameters."""
    if "@" not in uri and "?" not in uri:
        return uri
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
