"""Another host: a network namespace of its own, where that is allowed (root), joined to this host by one cable."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """The other host.

    :param here: the address of this host, as the other one sees it.
    :param enter: what a command begins with that runs there.
    """

    here: str
    enter: tuple[str, ...]


@contextmanager
def other_host() -> Iterator[Host]:
    """Make it; it is gone with the last process in it.  Whoever is not root gets this host once more."""
    if os.geteuid() != 0:
        yield Host("127.0.0.1", ())
        return
    name = f"aif{secrets.token_hex(4)}"
    subnet = f"198.18.{secrets.randbelow(256)}"  # of those that are kept for tests of networks
    _ip(f"netns add {name}")
    try:
        _ip(f"link add {name} type veth peer name eth0 netns {name}")
        _ip(f"addr add {subnet}.1/24 dev {name}")
        _ip(f"link set {name} up")
        _ip(f"-n {name} addr add {subnet}.2/24 dev eth0")
        _ip(f"-n {name} link set eth0 up")
        _ip(f"-n {name} link set lo up")
        yield Host(f"{subnet}.1", ("ip", "netns", "exec", name))
    finally:
        _ip(f"netns delete {name}")


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)
