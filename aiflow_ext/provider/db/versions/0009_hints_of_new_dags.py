"""NOTIFY triggers for what a full pass found soon enough, and finds late where there is nothing to do (ADR 0018)."""

from __future__ import annotations

from alembic import op

from aiflow_ext.provider.db import notify

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make them anew."""
    notify.renew(op)


def downgrade() -> None:
    """They say more than before, which does no harm."""
