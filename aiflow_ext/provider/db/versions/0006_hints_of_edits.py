"""NOTIFY triggers for what had no hint: a Dag file that is edited, a Dag that is back, a run that is deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aiflow_ext.provider.db import notify

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make them anew."""
    notify.renew(op)


def downgrade() -> None:
    """Remove the one that is new; the others say more than before, which does no harm."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(sa.text("DROP FUNCTION IF EXISTS aiflow_notify_serialized_dag() CASCADE"))
