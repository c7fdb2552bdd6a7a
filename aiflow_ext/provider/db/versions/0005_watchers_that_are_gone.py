"""Since when an asset watcher is gone; which run a row is of; and room for 10,000 pending starts on MySQL."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it, empty.  No row is rewritten, but on MySQL those of aiflow_rule_state."""
    op.add_column("aiflow_consumer", sa.Column("gone_ms", sa.BigInteger, nullable=True))
    with op.batch_alter_table("aiflow_run") as table:  # it was 0 in all rows
        table.alter_column(
            "created_ms", new_column_name="dag_run_id", existing_type=sa.BigInteger, existing_nullable=False
        )
    if op.get_bind().dialect.name == "mysql":
        op.alter_column("aiflow_rule_state", "pending", existing_nullable=False, type_=mysql.LONGTEXT())


def downgrade() -> None:
    """Remove it; the room stays."""
    with op.batch_alter_table("aiflow_run") as table:
        table.alter_column(
            "dag_run_id", new_column_name="created_ms", existing_type=sa.BigInteger, existing_nullable=False
        )
    with op.batch_alter_table("aiflow_consumer") as table:
        table.drop_column("gone_ms")
