"""[aiflow] retention: the log is held to it by the scheduler's process, which knows what it has not read yet."""

from __future__ import annotations

from airflow.utils.session import create_session

from aiflow_ext.broker.retention import Keeper, parse_all
from aiflow_ext.provider.config import Config
from aiflow_ext.provider.db.consumers import offset_of
from aiflow_ext.provider.react.transaction import CONSUMER


def keeper(config: Config) -> Keeper:
    """Return what lets events go; to be started where there is a policy."""
    return Keeper(config.log, parse_all(config.retention), _offset)


def _offset() -> int:
    """Return up to where the scheduler has read the log."""
    with create_session() as session:
        return offset_of(session, CONSUMER) or 0
