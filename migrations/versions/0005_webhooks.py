"""Who is told that an ingestion has finished, and whether they were.

Revision: 0005, after 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("ingestions", sa.Column("webhook_url", sa.Text))
    op.add_column(
        "ingestions",
        sa.Column("announced", sa.Boolean, server_default=sa.false(), nullable=False),
    )


def downgrade() -> None:
    op.drop_column("ingestions", "announced")
    op.drop_column("ingestions", "webhook_url")
