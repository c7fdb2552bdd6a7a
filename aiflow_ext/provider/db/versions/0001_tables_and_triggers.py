"""Consumer, runs, rule state, actions; NOTIFY triggers on PostgreSQL."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aiflow_ext.provider.db import notify

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = ("aiflow_action", "aiflow_rule_state", "aiflow_run", "aiflow_consumer")


def upgrade() -> None:
    """Make them.  On MySQL 0008 makes the constraint of aiflow_action: with these columns its key would be too long."""
    once = sa.UniqueConstraint("dag_id", "run_id", "task_id", "rule", "cause", name="aiflow_action_once")
    name = sa.String(250)
    op.create_table(
        "aiflow_consumer",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("offset", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "aiflow_run",
        sa.Column("dag_id", name, primary_key=True),
        sa.Column("run_id", name, primary_key=True),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("context", sa.Text, nullable=True),
        sa.Column("seen", sa.Text, nullable=False),
    )
    op.create_table(
        "aiflow_rule_state",
        sa.Column("dag_id", name, primary_key=True),
        sa.Column("run_id", name, primary_key=True),
        sa.Column("task_id", name, primary_key=True),
        sa.Column("rules_hash", sa.String(64), nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.Column("due_ms", sa.BigInteger, nullable=True),
        sa.Column("pending", sa.Text, nullable=False),
        sa.Column("started", sa.Text, nullable=True),
        sa.Column("stopping", sa.Text, nullable=True),
    )
    op.create_table(
        "aiflow_action",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("dag_id", name, nullable=False),
        sa.Column("run_id", name, nullable=False),
        sa.Column("task_id", name, nullable=False),
        sa.Column("rule", name, nullable=False),
        sa.Column("cause", sa.String(32), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("offsets", sa.Text, nullable=False),
        sa.Column("before", sa.String(32), nullable=False),
        sa.Column("after", sa.String(32), nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        *([] if op.get_bind().dialect.name == "mysql" else [once]),
    )
    op.create_index("aiflow_action_run", "aiflow_action", ["dag_id", "run_id"])
    if op.get_bind().dialect.name == "postgresql":
        for statement in notify.create_statements():
            op.execute(sa.text(statement))


def downgrade() -> None:
    """Remove them."""
    if op.get_bind().dialect.name == "postgresql":
        for statement in notify.drop_statements():
            op.execute(sa.text(statement))
    for table in TABLES:
        op.drop_table(table)
