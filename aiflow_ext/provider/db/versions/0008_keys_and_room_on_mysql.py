"""On MySQL: a key of aiflow_action that fits, room for text that grows, and ids that compare as Airflow's do."""

from __future__ import annotations

import sqlalchemy as sa
from airflow.models.base import StringID
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

ONCE = "aiflow_action_once"
# The ids and the cause have no line end in them, so two keys that differ are two texts.
DIGEST = "(CAST(UNHEX(SHA2(CONCAT_WS('\\n', dag_id, run_id, task_id, cause, rule), 256)) AS BINARY(32)))"

ID = StringID()
LONG = mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin")
RULE = mysql.VARCHAR(250, charset="utf8mb4", collation="utf8mb4_bin")
COLUMNS: dict[str, list[sa.Column[str] | sa.Column[bytes]]] = {
    "aiflow_consumer": [sa.Column("name", StringID(length=64), nullable=False)],
    "aiflow_run": [
        sa.Column("dag_id", ID, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("context", LONG, nullable=True),
        sa.Column("seen", LONG, nullable=False),
    ],
    "aiflow_rule_state": [
        sa.Column("dag_id", ID, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("task_id", ID, nullable=False),
        sa.Column("rules_hash", StringID(length=64), nullable=False),
        sa.Column("state", mysql.LONGBLOB, nullable=False),
        sa.Column("pending", LONG, nullable=False),
        sa.Column("started", LONG, nullable=True),
        sa.Column("stopping", LONG, nullable=True),
    ],
    "aiflow_action": [
        sa.Column("dag_id", ID, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("task_id", ID, nullable=False),
        sa.Column("rule", RULE, nullable=False),
        sa.Column("cause", StringID(length=32), nullable=False),
        sa.Column("action", StringID(length=16), nullable=False),
        sa.Column("offsets", LONG, nullable=False),
        sa.Column("before", StringID(length=32), nullable=False),
        sa.Column("after", StringID(length=32), nullable=False),
    ],
}


def upgrade() -> None:
    """Change what differs.  MySQL commits each statement by itself, so all of this can be done again.

    An earlier version of ours was refused there at aiflow_action, and left the other tables behind, without a version.
    Airflow takes them for version 0001 then.
    """
    if op.get_bind().dialect.name != "mysql":
        return
    there = sa.inspect(op.get_bind())
    if not there.has_table("aiflow_action"):
        number = sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=True)
        at = sa.Column("at_ms", sa.BigInteger, nullable=False)
        op.create_table("aiflow_action", number, *COLUMNS["aiflow_action"], at)
        op.create_index("aiflow_action_run", "aiflow_action", ["dag_id", "run_id"])
    for table, columns in COLUMNS.items():
        changes = ", ".join(f"MODIFY {_definition(column)}" for column in columns)  # one rewrite of the table
        op.execute(sa.text(f"ALTER TABLE {table} {changes}"))
    _drop_key()
    op.execute(sa.text(f"CREATE UNIQUE INDEX {ONCE} ON aiflow_action ({DIGEST})"))


def downgrade() -> None:
    """Remove the key, which earlier versions could not make; the rest does them good."""
    if op.get_bind().dialect.name == "mysql":
        _drop_key()


def _definition(column: sa.Column[str] | sa.Column[bytes]) -> str:
    return str(sa.schema.CreateColumn(column).compile(dialect=op.get_bind().dialect))


def _drop_key() -> None:
    """Where it is there: with its columns instead of the digest, in a database of which a character is one byte."""
    names = sa.text(
        "SELECT 1 FROM information_schema.statistics"
        " WHERE table_schema = DATABASE() AND table_name = 'aiflow_action' AND index_name = :name"
    )
    if op.get_bind().execute(names, {"name": ONCE}).first() is not None:
        op.drop_index(ONCE, "aiflow_action")
