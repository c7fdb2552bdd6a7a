"""PostgreSQL triggers that wake the scheduler, and what they say.

A payload is ``KIND`` or ``KIND <1f> DAG_ID <1f> RUN_ID``; a hint only.  The WHEN clauses keep heartbeats and the
scheduler's own None -> scheduled -> queued out.  Cost: 0.1 to 0.25 ms for each row that does fire.
"""

from __future__ import annotations

CHANNEL = "aiflow_wake"
SEPARATOR = "\x1f"
DIRTY = "dirty"  # a task instance ended, was cleared, ...: examine its run
STATUS = "status"  # one began to run: only rules may care
FULL = "full"  # anything else: a full stock pass
EVENTS = "events"  # there may be something to tell: react

_ENDED = (
    "NEW.state IS DISTINCT FROM OLD.state"
    " AND (OLD.state IN ('running', 'deferred', 'restarting', 'awaiting_input') OR NEW.state IS NULL)"
    " AND NEW.state IS DISTINCT FROM 'scheduled'"
)
_TRIGGERS = {  # name: (table, when it fires, function)
    "aiflow_ti_ended": ("task_instance", f"AFTER UPDATE OF state ON {{}} FOR EACH ROW WHEN ({_ENDED})", DIRTY),
    "aiflow_ti_resumed": (
        "task_instance",
        "AFTER UPDATE OF state ON {} FOR EACH ROW"
        " WHEN (OLD.state IN ('deferred', 'awaiting_input') AND NEW.state = 'scheduled'"
        " AND OLD.trigger_id IS NOT NULL)",
        FULL,
    ),
    "aiflow_ti_running": (
        "task_instance",
        "AFTER UPDATE OF state ON {} FOR EACH ROW"
        " WHEN (NEW.state = 'running' AND OLD.state IS DISTINCT FROM 'running')",
        STATUS,
    ),
    "aiflow_run_made": ("dag_run", "AFTER INSERT ON {} FOR EACH ROW WHEN (NEW.state = 'queued')", FULL),
    "aiflow_run_queued": (
        "dag_run",
        "AFTER UPDATE OF state ON {} FOR EACH ROW WHEN (NEW.state = 'queued' AND OLD.state <> 'queued')",
        FULL,
    ),
    "aiflow_asset_event": ("asset_event", "AFTER INSERT ON {} FOR EACH STATEMENT", EVENTS),
    "aiflow_asset": ("asset_dag_run_queue", "AFTER INSERT ON {} FOR EACH STATEMENT", FULL),
    "aiflow_pool": ("slot_pool", "AFTER UPDATE OF slots ON {} FOR EACH STATEMENT", FULL),
    "aiflow_unpaused": (
        "dag",
        "AFTER UPDATE OF is_paused ON {} FOR EACH ROW WHEN (OLD.is_paused AND NOT NEW.is_paused)",
        FULL,
    ),
}


def create_statements() -> list[str]:
    """Return the DDL that makes functions and triggers; running it again changes nothing."""
    functions = [
        _function(DIRTY, f"'{DIRTY}' || chr(31) || NEW.dag_id || chr(31) || NEW.run_id"),
        _function(STATUS, f"'{STATUS}' || chr(31) || NEW.dag_id || chr(31) || NEW.run_id"),
        _function(FULL, f"'{FULL}'"),
        _function(EVENTS, f"'{EVENTS}'"),
    ]
    triggers = [
        f"CREATE OR REPLACE TRIGGER {name} {clause.format(table)} EXECUTE FUNCTION aiflow_notify_{kind}()"
        for name, (table, clause, kind) in _TRIGGERS.items()
    ]
    return functions + triggers


def drop_statements() -> list[str]:
    """Return the DDL that removes them; fine where they are not."""
    return [f"DROP FUNCTION IF EXISTS aiflow_notify_{kind}() CASCADE" for kind in (DIRTY, STATUS, FULL, EVENTS)]


def _function(kind: str, payload: str) -> str:
    return (
        f"CREATE OR REPLACE FUNCTION aiflow_notify_{kind}() RETURNS trigger LANGUAGE plpgsql AS $$"
        f" BEGIN PERFORM pg_notify('{CHANNEL}', {payload}); RETURN NULL; END $$"
    )
