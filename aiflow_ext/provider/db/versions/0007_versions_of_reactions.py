"""Which reaction was the newest, and which one changed a run last; hints that name every run that changed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aiflow_ext.provider.db import notify

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NEW = ("task_instance_made", "task_instance_gone")


def upgrade() -> None:
    """Add them; no row is rewritten."""
    for table in ("aiflow_consumer", "aiflow_run"):
        op.add_column(table, sa.Column("version", sa.BigInteger, nullable=False, server_default="0"))
    notify.renew(op)


def downgrade() -> None:
    """Remove them; the other hints say more than before, which does no harm."""
    if op.get_bind().dialect.name == "postgresql":
        for name in NEW:
            op.execute(sa.text(f"DROP FUNCTION IF EXISTS aiflow_notify_{name}() CASCADE"))
    for table in ("aiflow_consumer", "aiflow_run"):
        with op.batch_alter_table(table) as batch:
            batch.drop_column("version")
