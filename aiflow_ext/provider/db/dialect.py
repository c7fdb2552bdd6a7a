"""What differs between the databases that Airflow runs on, as far as SQLAlchemy and Airflow do not hide it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from airflow.utils.sqlalchemy import get_dialect_name
from sqlalchemy import CursorResult, Engine, Table, and_, event, func, insert, or_, select, text, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql import functions

# Of MySQL: a deadlock, for which it undoes the whole transaction and forgets its savepoints; and what it says then when
# SQLAlchemy goes back to one.
UNDONE = (1213, 1305)
BEFORE = "aiflow_wait_timeout"  # of a connection, what it was
SORTS = "aiflow_sorts"  # of a connection, that it has room to sort
SORT_BYTES = 16 << 20  # MySQL takes as much of it as a sort needs
# now() has whole seconds there.
NOW = {"mysql": "NOW(6)", "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now')"}


def insert_unless_there(session: Session, table: Table, row: dict[str, Any]) -> bool:
    """Insert a row; False: there is one with its primary key."""
    kind = get_dialect_name(session)
    if kind == "mysql":
        added: Any = insert(table).prefix_with("IGNORE").values(**row)
    else:
        added = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}[str(kind)](table).values(**row)
        added = added.on_conflict_do_nothing(index_elements=list(table.primary_key))
    return bool(cast("CursorResult[Any]", session.execute(added)).rowcount)


def hold(session: Session, row: Any, silent_sec: int) -> bool:
    """Lock one row of ours until the transaction ends; False: somebody else has it.

    :param row: a condition that names it: a comparison of its primary key.
    :param silent_sec: after so many seconds without a statement the server ends the session, so that nobody waits for a
        process that hangs, or whose host is gone; not on SQLite, where the system lets go.
    """
    kind, table = get_dialect_name(session), row.left.table
    if kind == "sqlite":  # it locks no row: a write of ours locks all of it
        session.execute(update(table).where(row).values({row.left: row.left}))
        return True
    column = select(row.left).where(row)
    if kind == "postgresql":  # for this transaction alone, whoever pools its session
        timeout = "idle_in_transaction_session_timeout"
        theirs = func.nullif(func.current_setting(timeout), "0")
        column = column.add_columns(func.set_config(timeout, func.coalesce(theirs, f"{silent_sec}s"), True))
    held = session.execute(column.with_for_update(skip_locked=True)).first() is not None
    if held and kind == "mysql":
        _end_when_silent(session, silent_sec)
    return held


def _end_when_silent(session: Session, silent_sec: int) -> None:
    """MySQL has this only for a session, which goes back into the pool as it was."""
    connection = session.connection()
    before = session.scalar(text("SELECT @@SESSION.wait_timeout"))
    if cast("int", before) <= silent_sec:
        return
    pool = connection.engine.pool
    if not event.contains(pool, "reset", _as_it_was):
        event.listen(pool, "reset", _as_it_was)
    connection.info[BEFORE] = before
    session.execute(text(f"SET SESSION wait_timeout = {silent_sec:d}"))


def _as_it_was(connection: Any, record: Any, state: Any) -> None:
    if (before := record.info.pop(BEFORE, None)) is not None:
        cursor = connection.cursor()
        cursor.execute(f"SET SESSION wait_timeout = {before:d}")
        cursor.close()


def give_room_to_sort(engine: Engine) -> None:
    """Let MySQL sort the rows of runs and tasks that carry events: up to 1 MiB, and as JSON more.

    It sorts whole rows, and where its buffer (256 KiB by default) has no room for one, everybody's query fails with
    error 1038: the scheduler's, and the api-server's.
    """
    if engine.dialect.name == "mysql" and not event.contains(engine, "checkout", _give_room):
        event.listen(engine, "checkout", _give_room)


def _give_room(connection: Any, record: Any, proxy: Any) -> None:
    if SORTS not in record.info:
        cursor = connection.cursor()
        larger = f"CAST(GREATEST(@@SESSION.sort_buffer_size, {SORT_BYTES}) AS UNSIGNED)"
        cursor.execute(f"SET SESSION sort_buffer_size = {larger}")
        cursor.close()
        record.info[SORTS] = True


def let_now_have_fractions(engine: Engine) -> None:
    """From now on, in this process, now() is the moment, and not the second in which it is.

    Airflow lets a run begin where its `run_after` is not after now(): one that a user makes would wait for the next
    second, of which nobody tells.
    """
    if (exact := NOW.get(engine.dialect.name)) is not None:
        compiles(functions.now, engine.dialect.name)(lambda element, compiler, **_: exact)


def is_undone(error: BaseException) -> bool:
    """Whether the server has undone the whole transaction: then nobody may go on in it, behind no savepoint either."""
    arguments = error.orig.args if isinstance(error, DBAPIError) and error.orig is not None else ()
    return bool(arguments) and arguments[0] in UNDONE


def beyond(session: Session, columns: Sequence[Any], values: Sequence[Any]) -> Any:
    """Return the condition of rows behind a row, in the order of the columns, so that an index over them is used.

    MySQL reads an index from its beginning for (a, b) > (1, 2), and only from there on for a > 1 OR a = 1 AND b > 2.
    PostgreSQL does it the other way round.
    """
    if get_dialect_name(session) != "mysql":
        return tuple_(*columns) > tuple(values)
    steps = []
    for n, (column, value) in enumerate(zip(columns, values, strict=True)):
        same = (c == v for c, v in zip(columns[:n], values[:n], strict=True))
        steps.append(and_(*same, column > value))
    return or_(*steps)
