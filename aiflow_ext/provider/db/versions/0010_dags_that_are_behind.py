"""How far the rules of each Dag have heard, where a flood for some is acted on later than what others wait for."""

from __future__ import annotations

import sqlalchemy as sa
from airflow.models.base import StringID
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; without rows all have heard what aiflow_consumer says."""
    op.create_table(
        "aiflow_progress",
        sa.Column("dag_id", StringID(), primary_key=True),
        sa.Column("offset", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """The least of its offsets is in aiflow_consumer, and each rule knows what it has heard."""
    op.drop_table("aiflow_progress")
