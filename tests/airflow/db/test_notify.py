"""Our triggers on Airflow's tables, in PostgreSQL: what they say, and that they are in nobody's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg2
from airflows import DAGS
from deployment import Deployment

FILLED = {"uuid": "gen_random_uuid()", "integer": "0", "character varying": "'x'", "json": "'{}'", "jsonb": "'{}'"}
VERSION = "00000000-0000-0000-0000-000000000001"
CHANGES = (  # each was refused, or made the next UPDATE of the table fail
    "ALTER TABLE task_instance ALTER COLUMN state TYPE varchar(40)",
    "ALTER TABLE task_instance DROP COLUMN trigger_id",
    "ALTER TABLE dag_run ALTER COLUMN state TYPE varchar(100)",
    "ALTER TABLE dag ALTER COLUMN is_paused DROP DEFAULT",
    "ALTER TABLE dag ALTER COLUMN is_paused TYPE integer USING is_paused::integer",
    "ALTER TABLE slot_pool ALTER COLUMN slots TYPE bigint",
)


def insert(cursor: Any, table: str, **values: str) -> None:
    """Insert a row of which only these columns matter; others have what their type asks for."""
    cursor.execute(
        "SELECT column_name, data_type FROM information_schema.columns"
        " WHERE table_name = %s AND is_nullable = 'NO' AND column_default IS NULL",
        [table],
    )
    filled = {name: FILLED.get(kind, "now()" if "time" in kind else "false") for name, kind in cursor.fetchall()}
    filled |= {name: f"'{value}'" for name, value in values.items()}
    cursor.execute(f"INSERT INTO {table} ({', '.join(filled)}) VALUES ({', '.join(filled.values())})")


def heard(connection: Any) -> list[str]:
    """What was notified since the last time."""
    connection.poll()
    said = [notice.payload for notice in connection.notifies]
    connection.notifies.clear()
    return said


def test_a_migration_of_airflow_may_change_what_triggers_look_at(server: str, tmp_path: Path) -> None:
    airflow = Deployment(tmp_path, DAGS, database=server)
    airflow.names = []  # its database is enough
    with airflow:
        uri = airflow.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")
        connection = psycopg2.connect(uri)
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("SET session_replication_role = replica")  # rows that refer to none
        insert(cursor, "task_instance", dag_id="d", run_id="r", state="running")
        insert(cursor, "dag", dag_id="d")
        cursor.execute("SET session_replication_role = origin")
        cursor.execute("LISTEN aiflow_wake")
        update = "UPDATE task_instance SET state = %s WHERE dag_id = 'd'"
        pool = "UPDATE slot_pool SET description = 'x'"
        try:
            for state, said in (("success", ["dirty\x1fd\x1fr"]), ("scheduled", []), ("running", ["status\x1fd\x1fr"])):
                cursor.execute(update, [state])
                assert heard(connection) == said
            remembered = "INSERT INTO aiflow_run (dag_id, run_id, since, dag_run_id, version, seen)"
            cursor.execute(f"{remembered} VALUES ('d', 'r', 0, 0, 0, '{{}}')")
            cursor.execute("INSERT INTO trigger (id, classpath, kwargs, created_date) VALUES (1, 'x', '{}', now())")
            for trigger, said in ((1, ["dirty\x1fd\x1fr"]), (1, []), (None, [])):
                cursor.execute("UPDATE task_instance SET trigger_id = %s WHERE dag_id = 'd'", [trigger])
                assert heard(connection) == said
            cursor.execute("DELETE FROM aiflow_run")
            sooner = "UPDATE dag SET next_dagrun_create_after = now() - %s * interval '1 hour' WHERE dag_id = 'd'"
            for hours, said in ((1, ["full"]), (0, []), (2, ["full"]), (2, [])):
                cursor.execute(sooner, [hours])
                assert heard(connection) == said
            insert(cursor, "dag_bundle", name="x")
            insert(cursor, "dag", dag_id="e", bundle_name="x")
            assert heard(connection) == ["full"]
            insert(cursor, "slot_pool", pool="small")
            assert heard(connection) == ["full"]
            for full, said in (("true", []), ("false", ["full"])):  # of runs
                cursor.execute(f"UPDATE dag SET exceeds_max_non_backfill = {full} WHERE dag_id = 'd'")
                assert heard(connection) == said
            insert(cursor, "dag_version", id=VERSION, dag_id="e")
            insert(cursor, "serialized_dag", dag_id="e", dag_hash="one", dag_version_id=VERSION)
            assert heard(connection) == ["full", "run\x1fe\x1f"]
            for hash_, said in (("one", []), ("two", ["full", "run\x1fe\x1f"])):
                cursor.execute("UPDATE serialized_dag SET dag_hash = %s", [hash_])
                assert heard(connection) == said
            for change in CHANGES:
                cursor.execute(change)
            for statement in ("UPDATE dag_run SET state = 'queued'", "UPDATE dag SET is_paused = 1", pool):
                cursor.execute(statement)
            assert heard(connection) == ["full"]
            cursor.execute(update, [None])
            assert heard(connection) == ["dirty\x1fd\x1fr"]
        finally:
            connection.close()
