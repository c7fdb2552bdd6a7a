"""Whose fault an error is: a run's, which is then set aside while the others go on, or everybody's."""

from __future__ import annotations

from types import TracebackType

from sqlalchemy import exc

from aiflow_ext.errors import CorruptError, Error

Key = tuple[str, str]  # dag_id, run_id; run_id "" for the rules of a Dag


class RunError(Exception):
    """What one run, or Dag, contains made the reaction fail; `key` says which."""

    def __init__(self, key: Key) -> None:
        super().__init__(*key)
        self.key = key


DATABASE_FAILS = (
    exc.OperationalError,
    exc.InterfaceError,
    exc.InternalError,  # of a server that is read-only after a failover, of a transaction that has failed
    exc.PendingRollbackError,  # what follows a lost connection
    exc.TimeoutError,
)
EVERYBODYS = (RunError, Error, MemoryError, TimeoutError)


class Blame:
    """``with Blame(key)``: an error inside it becomes RunError(key), unless it may happen to anybody."""

    __slots__ = ("_key",)

    def __init__(self, key: Key) -> None:
        self._key = key

    def __enter__(self) -> None: ...

    def __exit__(self, cls: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None and is_its_own(error):
            raise RunError(self._key) from error


def is_its_own(error: BaseException) -> bool:
    """Whether an error comes from what somebody's data say: not from a database, a log or a broker that fails."""
    if isinstance(error, CorruptError):  # a stored state of rules
        return True
    return isinstance(error, Exception) and not isinstance(error, EVERYBODYS) and not is_of_database(error)


def is_of_database(error: BaseException) -> bool:
    """Whether a database fails: it is away, full, or asks for the transaction to be made again."""
    lost = isinstance(error, exc.DBAPIError) and error.connection_invalidated
    return lost or isinstance(error, DATABASE_FAILS)
