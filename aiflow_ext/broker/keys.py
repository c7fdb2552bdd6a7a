"""Keys for brokers that are reached over ``tcp://``: a folder of files, made and read here.

``broker.key`` is the broker's own; ``access.toml`` says which key may publish to and read which namespaces, and may be
edited by hand; ``NAME.key`` is what the client called NAME is given.  No secret is ever part of an error, a log or a
``repr``.
"""

import contextlib
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import _core
from ..errors import ConflictError
from ..events.address import airflow_home
from ..events.keyfile import ClientKey, check_mode, load_key, parse_toml, read_text

BROKER = "broker.key"
ACCESS = "access.toml"
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
HEADER = """\
# Which key may publish to and read which namespaces: exact, a prefix such as "team-a.*", or "*".
# The broker looks at this file once a second; no restart is needed.
"""


@dataclass(frozen=True)
class Grant:
    """What the key called name may do."""

    name: str
    public: str
    publish: tuple[str, ...]
    read: tuple[str, ...]

    def row(self) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
        """Return it as ``_core.Broker.set_access`` takes it."""
        return (self.public, self.name, self.publish, self.read)


def keys_folder() -> Path:
    """Return where keys are when nobody says so: ``$AIFLOW_KEYS``, else ``$AIRFLOW_HOME/aiflow/keys``."""
    if folder := os.environ.get("AIFLOW_KEYS", "").strip():
        return Path(folder).expanduser()
    return Path(airflow_home()) / "aiflow" / "keys"


def load_broker_key(folder: Path) -> str:
    """Return the broker's secret.

    :raises AccessError: others may read it, or change the folder.
    :raises ValueError: it is no such file.
    """
    check_mode(folder, folder.stat(), stat.S_IWGRP | stat.S_IWOTH)
    return load_key(folder / BROKER, ("public", "secret"))["secret"]


def load_access(folder: Path) -> list[Grant]:
    """Return what ``access.toml`` says.

    :raises AccessError: others may change it.
    :raises ValueError: there is none; it is broken, and the text says where.
    """
    if not (folder / ACCESS).exists():
        raise ValueError(f"there is no {folder / ACCESS}, so there are no keys: `aiflow keys new NAME` makes one")
    return _grants(folder / ACCESS, read_text(folder / ACCESS, stat.S_IWGRP | stat.S_IWOTH))


class AccessFile:
    """``access.toml`` as it changes.  For one thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: tuple[str | None, str | None] | None = None  # its text, and why that cannot be had
        self._missing = 0

    def changed(self) -> list[Grant] | None:
        """Return its content where it is another one than at the last call, else None.

        A file that is gone or empty lets nobody in, but only at the second look: an editor may be writing it.

        :raises OSError, AccessError, ValueError: it cannot be read or is broken; said once for each change.
        """
        text, error = self._read()
        seen = (text, str(error) if error else None)
        self._missing = self._missing + 1 if seen == (None, None) else 0
        if seen == self._seen or (self._missing == 1 and self._seen):
            return None
        self._seen = seen
        if error:
            raise error
        return [] if text is None else _grants(self.folder / ACCESS, text)

    def _read(self) -> tuple[str | None, OSError | ValueError | None]:
        """Read all of it: its time does not tell two changes in a few milliseconds apart."""
        try:
            return read_text(self.folder / ACCESS, stat.S_IWGRP | stat.S_IWOTH) or None, None
        except FileNotFoundError:
            return None, None
        except (OSError, ValueError) as e:
            return None, e


def new_key(
    name: str, publish: Sequence[str], read: Sequence[str], folder: Path, out: Path | None = None
) -> tuple[Path, bool]:
    """Make a key, let the broker know it, and write its client's file; return that, and whether broker.key is new too.

    :raises ConflictError: there is such a key, or such a file.
    """
    _check_name(name)
    with _locked(folder), contextlib.ExitStack() as undo:
        out = out or folder / f"{name}.key"
        text = read_text(folder / ACCESS, stat.S_IWGRP | stat.S_IWOTH) if (folder / ACCESS).exists() else HEADER
        if any(grant.name == name for grant in _grants(folder / ACCESS, text)):
            raise ConflictError(f"{folder / ACCESS} has a key {name}: choose another name, or revoke it first")
        public, secret = _core.curve_keypair()
        text = text.rstrip("\n") + "\n\n" + _section(Grant(name, public, tuple(publish), tuple(read)))
        _grants(folder / ACCESS, text)  # what the broker would refuse is not written
        if first := not (folder / BROKER).exists():
            server = _make_broker_key(folder)
            undo.callback((folder / BROKER).unlink)
        else:
            server = _core.curve_public(load_broker_key(folder))
        _write_new(out, _client_file(name, ClientKey(server, public, secret)))
        undo.callback(out.unlink)
        _replace(folder / ACCESS, text)
        undo.pop_all()
    return out, first


def revoke_key(name: str, folder: Path) -> Path | None:
    """Take a key out of ``access.toml``; return its client's file where that was in the folder, and is removed.

    :raises ValueError: there is no such key.
    """
    path = folder / ACCESS
    if not path.exists():
        raise ValueError(f"there is no {path}, so there are no keys to revoke")
    with _locked(folder):
        text = read_text(path, stat.S_IWGRP | stat.S_IWOTH)
        grants = {grant.name: grant for grant in _grants(path, text)}
        if name not in grants:
            raise ValueError(f"{path} has no key {name!r}: it has {', '.join(sorted(grants)) or 'none'}")
        _replace(path, _without(path, text, name))
        return _remove_client_file(folder / f"{name}.key", grants[name].public)


def _remove_client_file(path: Path, public: str) -> Path | None:
    try:
        found = parse_toml(path, path.read_text())
    except (OSError, ValueError):
        return None
    if found.get("public") != public:
        return None
    path.unlink()
    return path


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or name == "broker":
        raise ValueError(f"{name!r} is no name for a key: up to 64 letters, digits, - and _, and not broker")


def _make_broker_key(folder: Path) -> str:
    public, secret = _core.curve_keypair()
    head = "# The broker's own key.  Who has the secret can pass for the broker.\n"
    _write_new(folder / BROKER, f'{head}public = "{public}"\nsecret = "{secret}"\n')
    return public


def _client_file(name: str, key: ClientKey) -> str:
    head = f"# The key of {name}: whoever has this file may do what {name} may.  $AIFLOW_KEY_FILE is its path.\n"
    return f'{head}server = "{key.server}"\npublic = "{key.public}"\nsecret = "{key.secret}"\n'


def _section(grant: Grant) -> str:
    def array(texts: Sequence[str]) -> str:
        return "[" + ", ".join(map(_quoted, texts)) + "]"

    body = f'public = "{grant.public}"\npublish = {array(grant.publish)}\nread = {array(grant.read)}\n'
    return f"[keys.{grant.name}]\n{body}"


def _quoted(text: str) -> str:
    escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return f'"{escaped}"'


def _without(path: Path, text: str, name: str) -> str:
    """Return text without the section of name; the comments of all others stay.

    Where a section ends is tried: what is left must say the same of every other key.
    """
    wanted = [grant for grant in _grants(path, text) if grant.name != name]
    lines = text.splitlines(keepends=True)
    header = re.compile(rf"""\s*\[\s*keys\s*\.\s*(["']?){re.escape(name)}\1\s*\]""")
    for start in (i for i, line in enumerate(lines) if header.match(line)):
        ends = [i for i in range(start + 1, len(lines)) if lines[i].lstrip().startswith("[")]
        for end in (*ends, len(lines)):
            left = "".join(lines[:start] + lines[_own_end(lines, start, end) :])
            with contextlib.suppress(ValueError):
                if _grants(path, left) == wanted:
                    return left
    raise ValueError(f"{path} says [keys.{name}] in a way that is not ours: take it out by hand")


def _own_end(lines: list[str], start: int, end: int) -> int:
    """Comments right above the next section are that one's."""
    kept = end
    while kept - 1 > start and lines[kept - 1].lstrip().startswith("#"):
        kept -= 1
    return kept if end < len(lines) else end


def _grants(path: Path, text: str) -> list[Grant]:
    found = parse_toml(path, text)
    if unknown := found.keys() - {"keys"}:
        raise ValueError(f"{path} has {sorted(unknown)}: only [keys.NAME] belongs there")
    keys = found.get("keys", {})
    if not isinstance(keys, dict):
        raise ValueError(f"{path}: keys is no table: [keys.NAME] belongs there")
    grants = [_grant(path, name, key) for name, key in keys.items()]
    try:
        _core.check_access([grant.row() for grant in grants])
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from None
    return grants


def _grant(path: Path, name: str, key: object) -> Grant:
    where = f"{path}: [keys.{name}]"
    if not isinstance(key, dict):
        raise ValueError(f"{where} is no table: public, publish and read belong there")
    if unknown := key.keys() - {"public", "publish", "read"}:
        raise ValueError(f"{where} has {sorted(unknown)}: public, publish and read belong there")
    public = key.get("public")
    if not isinstance(public, str):
        raise ValueError(f"{where} has no public key")
    return Grant(name, public, _namespaces(where, key, "publish"), _namespaces(where, key, "read"))


def _namespaces(where: str, key: Mapping[str, object], name: str) -> tuple[str, ...]:
    found = key.get(name, [])
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError(f'{where} {name} is no list of texts, such as ["team-a.*"]')
    return tuple(found)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One at a time changes the folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_mode(folder, folder.stat(), stat.S_IWGRP | stat.S_IWOTH)
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _write_new(path: Path, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConflictError(f"{path} is there already: a key is never written over; move it away") from None
    try:
        _write(fd, text, 0o600)
    except BaseException:
        path.unlink()
        raise


def _write(fd: int, text: str, mode: int) -> None:
    with open(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fchmod(fd, mode)
        os.fsync(fd)


def _replace(path: Path, text: str) -> None:
    """All of it or nothing, whatever happens: a broker may read it at any moment."""
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        _write(fd, text, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
