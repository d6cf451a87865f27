"""When an item may be begun again, and how often its worker vanished with it.

Revision: 0007, after 0006.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("ingestion_items", sa.Column("not_before", sa.DateTime(timezone=True)))
    op.add_column(
        "ingestion_items", sa.Column("drops", sa.SmallInteger, server_default="0", nullable=False)
    )


def downgrade() -> None:
    for name in ("drops", "not_before"):
        op.drop_column("ingestion_items", name)
