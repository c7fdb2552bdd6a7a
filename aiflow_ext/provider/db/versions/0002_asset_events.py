"""A NOTIFY trigger for asset events, on PostgreSQL."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aiflow_ext.provider.db import notify

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make what is not there yet."""
    if op.get_bind().dialect.name == "postgresql":
        for statement in notify.create_statements():
            op.execute(sa.text(statement))


def downgrade() -> None:
    """Remove it; the others stay."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(sa.text("DROP FUNCTION IF EXISTS aiflow_notify_asset_event() CASCADE"))
