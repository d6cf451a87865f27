"""An index of what waits, so that its number and age can be asked for all the time.

Revision: 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_ingestion_items_unfinished",
        "ingestion_items",
        ["state", "updated_at"],
        postgresql_where=sa.text("state IN ('pending', 'running')"),
    )


def downgrade() -> None:
    op.drop_index("ix_ingestion_items_unfinished", "ingestion_items")
