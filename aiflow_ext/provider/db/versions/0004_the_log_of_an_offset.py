"""The id of the log beside an offset: another id says that the log is another one, whatever the offsets are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it, empty: the next reaction fills it in.  No row is rewritten: a scheduler that runs waits for moments."""
    op.add_column("aiflow_consumer", sa.Column("log_id", sa.BigInteger, nullable=True))


def downgrade() -> None:
    """Remove it."""
    with op.batch_alter_table("aiflow_consumer") as table:
        table.drop_column("log_id")
