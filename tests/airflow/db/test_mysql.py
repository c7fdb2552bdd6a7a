"""Our tables in a MySQL of Airflow's: their keys fit, what grows has room, and each version becomes the newest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from airflows import DAGS, Deployment, server_of

NEWEST, FIRST = 8, 1
TO = """if True:
    import sys
    from airflow.utils.session import create_session
    from alembic import command
    from aiflow_ext.provider.db.manager import AiflowDBManager
    with create_session() as session:
        manager = AiflowDBManager(session)
        session.commit()
        for revision in sys.argv[1:]:
            up = command.upgrade if revision.startswith("+") else command.downgrade
            up(manager.get_alembic_config(), revision.strip("+"))
"""
# In a process with Airflow's configuration: what db/dialect.py and db/look.py do.
HELD = """if True:
    from airflow import settings
    from airflow.utils.session import create_session
    from sqlalchemy import text
    from aiflow_ext.provider.db import models
    from aiflow_ext.provider.db.consumers import Place, begin_at
    from aiflow_ext.provider.db.dialect import hold, is_undone
    from aiflow_ext.provider.db.session import savepoint
    from sqlalchemy.exc import OperationalError

    settings.initialize()
    timeout = text("SELECT @@SESSION.wait_timeout")
    row = models.consumer.c.name == "scheduler"
    with create_session(scoped=False) as one, create_session(scoped=False) as other:
        assert begin_at(one, "scheduler", Place(3, 9)) and not begin_at(one, "scheduler", Place(4, 9))
        assert begin_at(one, "SCHEDULER", Place(3, 9))  # the case of a name matters
        one.commit()
        before = one.scalar(timeout)
        assert hold(one, row, 60)
        assert one.scalar(timeout) == 60
        assert not hold(other, row, 60)
        assert other.scalar(timeout) == before
        one.commit()
        assert hold(other, row, 60)
        one.close()  # to the pool
        assert one.scalar(timeout) == before
        other.rollback()
        # Each has what the other wants.
        names = [models.consumer.c.name == name for name in ("scheduler", "SCHEDULER")]
        change = models.consumer.update().values(gone_ms=1)
        one.execute(change.where(names[0]))
        other.execute(change.where(names[1]))
        import threading
        found = []
        def try_it(session, where):
            try:
                with savepoint(session):
                    session.execute(change.where(where))
            except OperationalError as e:
                assert is_undone(e)
                found.append(e.orig.args[0])
                session.rollback()
        waits = threading.Thread(target=try_it, args=(one, names[1]))
        waits.start()
        try_it(other, names[0])
        waits.join()
        assert found == [1213]
        one.rollback()
        other.rollback()
"""
SORTS = """if True:
    import asyncio
    from airflow import settings
    from sqlalchemy import text
    from aiflow_ext.provider.db.dialect import SORT_BYTES, give_room_to_sort

    settings.initialize()
    room = text("SELECT @@SESSION.sort_buffer_size")
    with settings.engine.connect() as connection:
        assert connection.scalar(room) < SORT_BYTES
    for _ in range(2):
        give_room_to_sort(settings.engine)
    give_room_to_sort(settings.async_engine.sync_engine)
    with settings.engine.connect() as connection:  # the same one, of the pool
        assert connection.scalar(room) == SORT_BYTES
        connection.execute(text("CREATE TEMPORARY TABLE big (n INT, text JSON)"))
        connection.execute(text("INSERT INTO big VALUES (1, JSON_QUOTE(REPEAT('x', 5000000))), (0, '1')"))
        assert [n for n, _ in connection.execute(text("SELECT n, text FROM big ORDER BY n"))] == [0, 1]

    async def beside():
        async with settings.async_engine.connect() as connection:
            assert await connection.scalar(room) == SORT_BYTES
        await settings.async_engine.dispose()
    asyncio.run(beside())
"""
LOOKS = """if True:
    from airflow import settings
    from airflow.utils.session import create_session
    from sqlalchemy import text
    from aiflow_ext.provider.db.look import Look
    import aiflow_ext.provider.db.look as module

    settings.initialize()
    module.RETRY_SEC = module.TIMES = 0
    look = Look(settings.engine)
    assert look.poll() == (True, [])
    assert look.poll() == (False, [])
    def change(statement):
        with create_session() as session:
            session.execute(text(statement))
    change("INSERT INTO asset_event (asset_id, extra, source_map_index, timestamp) VALUES (1, '{}', -1, now(6))")
    assert look.poll() == (True, [])
    assert look.poll() == (False, [])
    with settings.engine.connect() as connection:
        connection.execute(text(f"KILL {look._connection.thread_id()}"))
    assert look.poll() == (False, [])
    assert look.poll() == (True, [])  # something may have changed meanwhile
    assert look.poll() == (False, [])
    look.close()
    assert look.poll() == (False, [])
    look.close()
"""


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    made = Deployment(tmp_path_factory.mktemp("mysql"), DAGS, database=server_of("mysql"))
    made.names = []  # its database is enough
    with made:
        yield made


def in_airflow(airflow: Deployment, script: str, *args: str) -> None:
    """Run a script with its configuration."""
    subprocess.run([sys.executable, "-c", script, *args], env=airflow.env, cwd=airflow.home, check=True)


def tables(airflow: Deployment) -> dict[str, str]:
    """How each of ours is made."""
    names = [name for (name,) in airflow.sql("SHOW TABLES LIKE 'aiflow\\\\_%'") if name != "aiflow_alembic_version"]
    made = {name: airflow.sql(f'SHOW CREATE TABLE "{name}"')[0][1] for name in names}
    return {name: statement.split(" AUTO_INCREMENT=")[0] for name, statement in made.items()}


def test_each_version_becomes_the_newest(airflow: Deployment) -> None:
    wanted = tables(airflow)
    assert sorted(wanted) == ["aiflow_action", "aiflow_consumer", "aiflow_rule_state", "aiflow_run"]
    for number in range(NEWEST - 1, FIRST - 1, -1):
        in_airflow(airflow, TO, f"{number:04}", f"+{NEWEST:04}")
        assert tables(airflow) == wanted, f"from {number:04}"
    in_airflow(airflow, TO, "base", f"+{NEWEST:04}")
    assert tables(airflow) == wanted


@pytest.mark.core
def test_what_an_earlier_version_left_is_completed(airflow: Deployment) -> None:
    """It was refused at aiflow_action with error 1071, and MySQL kept the tables that it had made before."""
    wanted = tables(airflow)
    in_airflow(airflow, TO, "base", "+0001")
    airflow.sql("DROP TABLE aiflow_action")
    airflow.sql("DELETE FROM aiflow_alembic_version")
    airflow.run_airflow("db", "migrate")
    assert {name: sorted(made.splitlines()) for name, made in tables(airflow).items()} == {
        name: sorted(made.splitlines()) for name, made in wanted.items()
    }


@pytest.mark.core
def test_keys_of_the_longest_ids_fit_and_refuse_a_second_one(airflow: Deployment) -> None:
    ids = ["d" * 250, "r" * 250, "t" * 250]
    airflow.sql(
        "INSERT INTO aiflow_run (dag_id, run_id, since, dag_run_id, seen) VALUES (?, ?, 0, 1, ?)", *ids[:2], "{}"
    )
    state = (
        "INSERT INTO aiflow_rule_state (dag_id, run_id, task_id, rules_hash, state, pending) VALUES (?, ?, ?, ?, ?, ?)"
    )
    airflow.sql(state, *ids, "h" * 64, b"\0" * 100_000, "[" + "1," * 500_000 + "1]")
    airflow.sql(state, ids[0], ids[1], "T" * 250, "h", b"", "[]")  # the case of an id matters
    values = [*ids, "\N{ROCKET}" * 250, "1" * 32]
    once = (
        "INSERT INTO aiflow_action (dag_id, run_id, task_id, rule, cause, action, offsets, before, after, at_ms)"
        " VALUES (?, ?, ?, ?, ?, 'start', ?, '', '', 0)"
    ).replace("before, after", '"before", "after"')
    airflow.sql(once, *values, "[" + "1," * 50_000 + "1]")
    airflow.sql(once, *values[:4], "2", "[]")
    with pytest.raises(Exception, match="aiflow_action_once"):
        airflow.sql(once, *values, "[]")


@pytest.mark.core
def test_a_row_is_held_and_a_silent_session_ends(airflow: Deployment) -> None:
    in_airflow(airflow, HELD)


@pytest.mark.core
def test_rows_that_carry_events_are_sorted(airflow: Deployment) -> None:
    in_airflow(airflow, SORTS)


@pytest.mark.core
def test_a_look_sees_what_others_change(airflow: Deployment) -> None:

    in_airflow(airflow, LOOKS)
