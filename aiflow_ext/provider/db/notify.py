"""PostgreSQL triggers that wake the scheduler, and what they say.

A payload is ``KIND`` or ``KIND <1f> DAG_ID <1f> RUN_ID``; a hint only.  Heartbeats say nothing, nor do the scheduler's
own None -> scheduled -> queued, but where the scheduler remembers the run: it has a row in aiflow_run.

The triggers name no column of Airflow's tables (no ``UPDATE OF``, no ``WHEN``), because PostgreSQL would then refuse
to ALTER that column, and ``airflow db migrate`` would fail.  Their functions do, and may fail after such a change:
then the statement of Airflow goes on, and the hint is lost.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

CHANNEL = "aiflow_wake"
SEPARATOR = "\x1f"
DIRTY = "dirty"  # a task instance ended (or was marked as if), was cleared, ...: examine its run
STATUS = "status"  # one began to run: only rules may care
RUN = "run"  # a row of it changed (of its Dag, with no run_id): what is remembered is read again; wakes nobody
FULL = "full"  # anything else: a full stock pass
EVENTS = "events"  # there may be something to tell: react

_KNOWN = "EXISTS (SELECT 1 FROM aiflow_run AS known WHERE known.dag_id = NEW.dag_id AND known.run_id = NEW.run_id)"

_NAMED = f"PERFORM pg_notify('{CHANNEL}', hint || chr(31) || NEW.dag_id || chr(31) || NEW.run_id);"

_TI = f"""
IF NEW.state IS NOT DISTINCT FROM OLD.state AND NEW.id = OLD.id AND NEW.map_index = OLD.map_index THEN
    IF OLD.trigger_id IS NULL AND NEW.trigger_id IS NOT NULL AND {_KNOWN} THEN
        hint := '{DIRTY}'; -- a stock scheduler gave a task that waits for its rules to the triggerer
        {_NAMED}
    END IF;
    RETURN NULL;
ELSIF NEW.state = 'running' THEN
    hint := '{STATUS}';
ELSIF OLD.state IN ('deferred', 'awaiting_input') AND NEW.state = 'scheduled' THEN
    IF OLD.trigger_id IS NOT NULL THEN
        PERFORM pg_notify('{CHANNEL}', '{FULL}');
    END IF;
ELSIF OLD.state IN ('running', 'deferred', 'restarting', 'awaiting_input') AND NEW.state IS DISTINCT FROM 'scheduled'
    OR NEW.state IS NULL OR NEW.state IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed') THEN
    hint := '{DIRTY}';
END IF;
IF hint IS NULL AND (NEW.state = 'deferred' OR {_KNOWN}) THEN
    hint := '{RUN}';
END IF;
IF hint IS NOT NULL THEN
    {_NAMED}
END IF;
"""


def _full_if(condition: str) -> str:
    return f"IF {condition} THEN PERFORM pg_notify('{CHANNEL}', '{FULL}'); END IF;"


def _named(dag_id: str, run_id: str) -> str:
    return f"PERFORM pg_notify('{CHANNEL}', '{RUN}' || chr(31) || {dag_id} || chr(31) || {run_id});"


def _run_of(row: str) -> str:
    return _named(f"{row}.dag_id", f"{row}.run_id")


def _runs_of(rows: str) -> str:
    """Name the runs that are remembered of these rows: once each, however many they are."""
    return (
        f"PERFORM pg_notify('{CHANNEL}', '{RUN}' || chr(31) || dag_id || chr(31) || run_id) FROM"
        f" (SELECT DISTINCT dag_id, run_id FROM {rows}) AS changed JOIN aiflow_run USING (dag_id, run_id);"
    )


_TRIGGERS = {  # name: (when, what its function does)
    "task_instance": ("AFTER UPDATE ON task_instance FOR EACH ROW", _TI),
    "task_instance_made": (
        "AFTER INSERT ON task_instance REFERENCING NEW TABLE AS made FOR EACH STATEMENT",
        _runs_of("made"),
    ),
    "task_instance_gone": (
        "AFTER DELETE ON task_instance REFERENCING OLD TABLE AS gone FOR EACH STATEMENT",
        _runs_of("gone"),
    ),
    "dag_run": (
        "AFTER INSERT OR UPDATE OR DELETE ON dag_run FOR EACH ROW",
        _full_if("TG_OP = 'DELETE' OR NEW.state = 'queued' AND (TG_OP = 'INSERT' OR OLD.state <> 'queued')")
        + f" IF TG_OP = 'DELETE' THEN {_run_of('OLD')}"
        f" ELSIF TG_OP = 'INSERT' OR NEW.state <> OLD.state THEN {_run_of('NEW')} END IF;",
    ),
    "dag": (  # it is new, makes its next run sooner, or has room for one again
        "AFTER INSERT OR UPDATE OR DELETE ON dag FOR EACH ROW",
        _full_if(
            "TG_OP = 'INSERT' OR OLD.is_paused AND NOT NEW.is_paused OR OLD.is_stale AND NOT NEW.is_stale"
            " OR NEW.next_dagrun_create_after < coalesce(OLD.next_dagrun_create_after, 'infinity')"
            " OR OLD.exceeds_max_non_backfill AND NOT NEW.exceeds_max_non_backfill"
        )
        + f" IF TG_OP = 'DELETE' THEN {_named('OLD.dag_id', repr(''))} END IF;",
    ),
    "serialized_dag": (  # its file was edited: runs that go on, or assets that wait, may have become work
        "AFTER INSERT OR UPDATE ON serialized_dag FOR EACH ROW",
        "IF TG_OP = 'INSERT' OR NEW.dag_hash <> OLD.dag_hash THEN"
        f" PERFORM pg_notify('{CHANNEL}', '{FULL}'); {_named('NEW.dag_id', repr(''))} END IF;",
    ),
    "slot_pool": (
        "AFTER INSERT OR UPDATE ON slot_pool FOR EACH STATEMENT",
        f"PERFORM pg_notify('{CHANNEL}', '{FULL}');",
    ),
    "asset_active": ("AFTER INSERT ON asset_active FOR EACH STATEMENT", f"PERFORM pg_notify('{CHANNEL}', '{FULL}');"),
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
        for name, (when, body) in _TRIGGERS.items()
        for statement in (
            f"CREATE OR REPLACE FUNCTION aiflow_notify_{name}() RETURNS trigger LANGUAGE plpgsql AS $$"
            f" DECLARE hint text; BEGIN {body} RETURN NULL; EXCEPTION WHEN OTHERS THEN RETURN NULL; END $$",
            f"CREATE OR REPLACE TRIGGER aiflow_{name} {when} EXECUTE FUNCTION aiflow_notify_{name}()",
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


def run_in(payload: str) -> tuple[str, str] | None:
    """Return which run a payload names (dag_id, run_id), or which Dag, with run_id ""; None: none."""
    kind, _, rest = payload.partition(SEPARATOR)
    dag_id, _, run_id = rest.partition(SEPARATOR)
    return (dag_id, run_id) if kind in (DIRTY, STATUS, RUN) else None
