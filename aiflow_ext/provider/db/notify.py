"""PostgreSQL triggers that wake the scheduler, and what they say.

A payload is ``KIND`` or ``KIND <1f> DAG_ID <1f> RUN_ID``; a hint only.  Heartbeats, and the scheduler's own None ->
scheduled -> queued, say nothing.

The triggers name no column of Airflow's tables (no ``UPDATE OF``, no ``WHEN``), because PostgreSQL would then refuse
to ALTER that column, and ``airflow db migrate`` would fail.  Their functions do, and may fail after such a change:
then the statement of Airflow goes on, and the hint is lost.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

CHANNEL = "aiflow_wake"
SEPARATOR = "\x1f"
DIRTY = "dirty"  # a task instance ended, was cleared, ...: examine its run
STATUS = "status"  # one began to run: only rules may care
FULL = "full"  # anything else: a full stock pass
EVENTS = "events"  # there may be something to tell: react

_TI = f"""
IF NEW.state IS NOT DISTINCT FROM OLD.state THEN
    RETURN NULL;
ELSIF NEW.state = 'running' THEN
    hint := '{STATUS}';
ELSIF OLD.state IN ('deferred', 'awaiting_input') AND NEW.state = 'scheduled' THEN
    IF OLD.trigger_id IS NOT NULL THEN
        PERFORM pg_notify('{CHANNEL}', '{FULL}');
    END IF;
    RETURN NULL;
ELSIF OLD.state IN ('running', 'deferred', 'restarting', 'awaiting_input') AND NEW.state IS DISTINCT FROM 'scheduled'
    OR NEW.state IS NULL THEN
    hint := '{DIRTY}';
ELSE
    RETURN NULL;
END IF;
PERFORM pg_notify('{CHANNEL}', hint || chr(31) || NEW.dag_id || chr(31) || NEW.run_id);
"""


def _full_if(condition: str) -> str:
    return f"IF {condition} THEN PERFORM pg_notify('{CHANNEL}', '{FULL}'); END IF;"


_TRIGGERS = {  # table: (when, what its function does)
    "task_instance": ("AFTER UPDATE ON task_instance FOR EACH ROW", _TI),
    "dag_run": (
        "AFTER INSERT OR UPDATE OR DELETE ON dag_run FOR EACH ROW",
        _full_if("TG_OP = 'DELETE' OR NEW.state = 'queued' AND (TG_OP = 'INSERT' OR OLD.state <> 'queued')"),
    ),
    "dag": (
        "AFTER UPDATE ON dag FOR EACH ROW",
        _full_if("OLD.is_paused AND NOT NEW.is_paused OR OLD.is_stale AND NOT NEW.is_stale"),
    ),
    "serialized_dag": (  # its file was edited, and a run goes on
        "AFTER INSERT OR UPDATE ON serialized_dag FOR EACH ROW",
        _full_if(
            "(TG_OP = 'INSERT' OR NEW.dag_hash <> OLD.dag_hash) AND EXISTS"
            " (SELECT 1 FROM dag_run WHERE dag_id = NEW.dag_id AND state IN ('queued', 'running'))"
        ),
    ),
    "slot_pool": ("AFTER UPDATE ON slot_pool FOR EACH STATEMENT", f"PERFORM pg_notify('{CHANNEL}', '{FULL}');"),
    "asset_event": ("AFTER INSERT ON asset_event FOR EACH STATEMENT", f"PERFORM pg_notify('{CHANNEL}', '{EVENTS}');"),
    "asset_dag_run_queue": (
        "AFTER INSERT ON asset_dag_run_queue FOR EACH STATEMENT",
        f"PERFORM pg_notify('{CHANNEL}', '{FULL}');",
    ),
}


def create_statements() -> list[str]:
    """Return the DDL that makes functions and triggers; running it again changes nothing."""
    return [
        statement
        for table, (when, body) in _TRIGGERS.items()
        for statement in (
            f"CREATE OR REPLACE FUNCTION aiflow_notify_{table}() RETURNS trigger LANGUAGE plpgsql AS $$"
            f" DECLARE hint text; BEGIN {body} RETURN NULL; EXCEPTION WHEN OTHERS THEN RETURN NULL; END $$",
            f"CREATE OR REPLACE TRIGGER aiflow_{table} {when} EXECUTE FUNCTION aiflow_notify_{table}()",
        )
    ]


def renew(op: Any) -> None:
    """Make functions and triggers anew, where the database is PostgreSQL.

    :param op: alembic's, of a migration.
    """
    if op.get_bind().dialect.name == "postgresql":
        for statement in drop_statements() + create_statements():
            op.execute(sa.text(statement.replace(":=", r"\:=")))


def drop_statements() -> list[str]:
    """Return the DDL that removes them, also those that named columns; fine where they are not."""
    names = (*_TRIGGERS, DIRTY, STATUS, FULL, EVENTS)
    return [f"DROP FUNCTION IF EXISTS aiflow_notify_{name}() CASCADE" for name in names]
