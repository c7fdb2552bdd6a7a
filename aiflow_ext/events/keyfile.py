"""Files with keys, read with care: nobody else may read a secret, and none is part of an error, a log or a ``repr``."""

import os
import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import _core
from ..errors import AccessError
from .address import setting


class ClientKey(NamedTuple):
    """What a client needs to talk to a broker over tcp: Z85 texts."""

    server: str
    public: str
    secret: str

    def __repr__(self) -> str:
        return f"ClientKey(public={self.public!r})"


def client_key(uri: str, path: str | os.PathLike[str] | None = None) -> ClientKey | None:
    """Return the key to talk to uri with, or None where none is needed or none was given.

    :param uri: one address, or several with commas; only ``tcp://`` has keys.
    :param path: what ``aiflow keys new`` wrote; None: ``$AIFLOW_KEY_FILE``, else ``[aiflow] key_file``, see
        :func:`aiflow_ext.events.address.setting`.
    """
    path = key_path(uri, path)
    return load_client_key(path) if path else None


def key_path(uri: str, path: str | os.PathLike[str] | None = None) -> str | os.PathLike[str]:
    """Return the path of the file that :func:`client_key` reads; "": none."""
    path = path or os.environ.get("AIFLOW_KEY_FILE", "").strip() or setting("key_file")
    return path if "tcp://" in uri else ""


def load_client_key(path: str | os.PathLike[str]) -> ClientKey:
    """Return what is in a client's key file.

    :raises AccessError: others may read the file.
    :raises OSError: it cannot be read.
    :raises ValueError: it is no such file.
    """
    return ClientKey(**load_key(Path(path).expanduser(), ClientKey._fields))


def load_key(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the texts of these names in a key file; its ``public`` and ``secret`` belong together.

    :raises AccessError: others may read the file.
    :raises OSError: it cannot be read.
    :raises ValueError: it is no such file.
    """
    try:
        content = _read_secret(path)
    except AccessError:
        raise
    except OSError as e:
        raise type(e)(
            f"the key file {path} cannot be read: {e.strerror}; name another one, as by $AIFLOW_KEY_FILE, "
            "or bring the one that `aiflow keys new` has made for it where the broker runs"
        ) from None
    found = parse_toml(path, content)
    texts = {name: text for name in names if isinstance(text := found.get(name), str)}
    if len(texts) < len(names):
        raise ValueError(f"{path} is no key file: it has no {sorted(set(names) - set(texts))[0]}")
    try:
        same = _core.curve_public(texts["secret"]) == texts["public"]
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from None
    if not same:
        raise ValueError(f"{path}: its public key does not belong to its secret one")
    return texts


def parse_toml(path: Path, text: str) -> dict[str, Any]:
    """Return what is in text, a file's.

    :raises ValueError: it is no TOML; the text says where, and nothing of what is there.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise ValueError(f"{path}: {e}") from None


def read_text(path: Path, forbidden: int) -> str:
    """Return what is in a file.

    :param forbidden: bits that its mode must not have.
    :raises AccessError: it has one.
    :raises ValueError: it is no UTF-8.
    """
    with open(path, "rb") as file:
        check_mode(path, os.fstat(file.fileno()), forbidden)
        content = file.read()
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no UTF-8") from None


def _read_secret(path: Path) -> str:
    """As libpq has it: a file of root's, made for a service, may be readable for the group."""
    group = 0 if path.stat().st_uid == 0 != os.geteuid() else stat.S_IRWXG
    return read_text(path, group | stat.S_IRWXO)


def check_mode(path: Path, found: os.stat_result, forbidden: int) -> None:
    """Refuse a file or folder that others may read or change.

    :raises AccessError: its mode has one of the forbidden bits.
    """
    if found.st_mode & forbidden:
        may, cure = ("read", "go-rwx") if forbidden & stat.S_IROTH else ("change", "go-w")
        raise AccessError(f"others may {may} {path} (mode {stat.S_IMODE(found.st_mode):o}): chmod {cure} {path}")
