"""NOTIFY triggers that name no column of Airflow's, so that PostgreSQL lets Airflow change its tables."""

from __future__ import annotations

from alembic import op

from aiflow_ext.provider.db import notify

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make them anew."""
    notify.renew(op)


def downgrade() -> None:
    """They say the same as before; nothing is to be done."""
