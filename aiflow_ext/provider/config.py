"""The [aiflow] section of Airflow's configuration, read once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.configuration import AIRFLOW_HOME, conf

if TYPE_CHECKING:
    from aiflow_ext.events.client import EventClient
    from aiflow_ext.events.keyfile import ClientKey

FOLDER = Path(AIRFLOW_HOME) / "aiflow"  # of the default log, and of the embedded broker's socket
EVENT_MODE_ENV = "AIRFLOW__AIFLOW__EVENT_MODE"
MYSQL = "mysql:"
SOURCES = frozenset({"broker", "database", "executor", "api"})


@dataclass(frozen=True)
class Config:
    """What event mode runs with.

    :param broker: address clients connect to, ``ipc://PATH`` or ``tcp://HOST:PORT``.
    :param embedded: the scheduler has a broker of its own serve that address.
    :param log: URI of the event log, ``sqlite:PATH``, ``postgresql://...`` or ``mysql://...``.
    :param database: URI to watch for commits of others, as libpq or ``sqlite:`` takes it; "" for none.  Airflow's own
        database, which ``[aiflow] listen`` may name by another address.  MYSQL: Airflow's engine looks.
    :param safety_pass_sec: seconds between two full stock passes.
    :param stop_grace_sec: seconds a stopped task has to end by itself, before SIGTERM; as long again before its row.
    :param wake_sources: which hints are listened to.
    :param asset_events: asset events become events, too.
    :param tell_all: also states and asset events that no rule and no asset watcher asks for are published.
    :param retention: what the log lets go, see :mod:`aiflow_ext.broker.retention`; each ``NAMESPACE=AGE,COUNT``.
    :param history: how long what is kept of a run outlives the run's end; None: as long as the run is there.
    :param key_file: of ``aiflow keys new``, for a broker at ``tcp://``; "": see `aiflow_ext.events.keyfile.client_key`.
    """

    broker: str
    embedded: bool
    log: str
    database: str
    safety_pass_sec: float
    stop_grace_sec: float
    wake_sources: frozenset[str]
    asset_events: bool
    tell_all: bool = False
    retention: tuple[str, ...] = ()
    history: timedelta | None = None
    key_file: str = ""

    @classmethod
    def from_airflow(cls) -> Config:
        """Read it.

        :raises ValueError: a key has a value it cannot have.
        """
        from aiflow_ext.events.address import broker_uri

        database = native_uri(conf.get("database", "sql_alchemy_conn"))
        broker = conf.get("aiflow", "broker", fallback="embedded").strip()
        sources = {
            s.strip() for s in conf.get("aiflow", "wake_sources", fallback=",".join(SOURCES)).split(",") if s.strip()
        }
        if unknown := sources - SOURCES:
            raise ValueError(f"[aiflow] wake_sources has {sorted(unknown)}; it may have {sorted(SOURCES)}")
        return cls(
            broker=broker_uri() if broker == "embedded" else broker,
            embedded=broker == "embedded",
            log=conf.get("aiflow", "log", fallback="").strip() or _default_log(database),
            database=_listen() or database,
            safety_pass_sec=_positive("safety_pass_sec", 2.0),
            stop_grace_sec=_positive("stop_grace_sec", 2.0),
            wake_sources=frozenset(sources),
            asset_events=conf.getboolean("aiflow", "asset_events", fallback=True),
            tell_all=_tell() == "all",
            retention=_retention(),
            history=_history(),
            key_file=conf.get("aiflow", "key_file", fallback="").strip(),
        )

    def client(self, namespace: str = "default", broker: str | None = None) -> EventClient:
        """Return a client, with our key; broker: not ours, but this one."""
        from aiflow_ext.events.client import EventClient

        return EventClient(broker or self.broker, namespace, key_file=self.key_file or None)

    def curve(self) -> ClientKey | None:
        """Return the keys to talk to the broker with, where it needs some."""
        from aiflow_ext.events.keyfile import client_key

        return client_key(self.broker, self.key_file or None)


_by_option = False


def ask_for_event_mode() -> None:
    """Do what ``--event-mode`` says, for this process and those that it starts."""
    global _by_option
    _by_option = True
    os.environ[EVENT_MODE_ENV] = "True"


def who_asks() -> str:
    """Return what has turned event mode on, for the log."""
    return "--event-mode was given" if _by_option else "[aiflow] event_mode is on"


def event_mode() -> bool:
    """Return whether the configuration (or ``--event-mode``) asks for event mode."""
    if EVENT_MODE_ENV in os.environ:  # before providers' defaults are loaded, conf does not know the section
        return os.environ[EVENT_MODE_ENV].strip().lower() in {"true", "t", "1", "yes", "on"}
    return bool(conf.getboolean("aiflow", "event_mode", fallback=False))


def native_uri(sqlalchemy_uri: str) -> str:
    """Turn Airflow's database URL into what libpq and SQLite take, or into MYSQL; "" where there is no watch for it."""
    scheme, _, rest = sqlalchemy_uri.partition("://")
    if scheme.split("+")[0] in {"postgresql", "postgres"}:
        return f"postgresql://{rest}"
    if scheme.split("+")[0] == "sqlite" and rest.startswith("/"):
        return f"sqlite:{rest[1:].split('?')[0]}"
    return MYSQL if scheme.split("+")[0] == "mysql" else ""


MYSQL_TLS = {"required": "ssl=required", "verify_ca": "ssl=verify", "verify_identity": "ssl=verify"}


def mysql_log(sqlalchemy_uri: str) -> str:
    """Return the URI of a log in Airflow's MySQL database: of the driver's options those that say where it is.

    :raises ValueError: it is known by an option that a log does not take.
    """
    where, _, query = sqlalchemy_uri.partition("://")[2].partition("?")
    kept = []
    for name, _, value in (option.partition("=") for option in query.split("&")):
        if name in {"unix_socket", "ssl_ca", "ssl_cert", "ssl_key"}:
            kept.append(f"{name}={value}")
        elif name == "ssl_mode" and value.lower() in {*MYSQL_TLS, "preferred", "disabled"}:
            kept.append(MYSQL_TLS.get(value.lower(), ""))
        elif name.startswith("ssl"):
            raise ValueError(
                f"[database] sql_alchemy_conn has {name}=, which [aiflow] log cannot take over; "
                "set [aiflow] log to mysql://user:password@host:port/database?ssl=verify"
            )
    return "?".join(part for part in (f"mysql://{where}", "&".join(filter(None, kept))) if part)


def _listen() -> str:
    uri = conf.get("aiflow", "listen", fallback="").strip()
    if uri and not native_uri(uri).startswith("postgresql:"):  # it may have a password in it: do not show it
        raise ValueError("[aiflow] listen is not postgresql://user:password@host:port/database")
    return native_uri(uri)


def _default_log(database: str) -> str:
    if database.startswith("postgresql://"):
        return database
    if database == MYSQL:
        return mysql_log(conf.get("database", "sql_alchemy_conn"))
    return f"sqlite:{FOLDER / 'events.db'}"


def _tell() -> str:
    tell = conf.get("aiflow", "tell", fallback="asked").strip()
    if tell not in {"asked", "all"}:
        raise ValueError(f"[aiflow] tell is {tell!r}; it is asked or all")
    return str(tell)


def _retention() -> tuple[str, ...]:
    from aiflow_ext.broker.retention import parse_all

    texts = tuple(conf.get("aiflow", "retention", fallback="").split())
    try:
        parse_all(texts)
    except ValueError as e:
        raise ValueError(f"[aiflow] retention: {e}") from None
    return texts


def _history() -> timedelta | None:
    days = float(conf.getfloat("aiflow", "history_days", fallback=0))
    if not 0 <= days <= 36500:  # of a time that can be computed
        raise ValueError(f"[aiflow] history_days is {days:g}; it is a number of days, or 0: as long as the run")
    return timedelta(days=days) or None


def _positive(key: str, default: float) -> float:
    value = float(conf.getfloat("aiflow", key, fallback=default))
    if value <= 0:
        raise ValueError(f"[aiflow] {key} is {value}; it is a number of seconds above 0")
    return value
