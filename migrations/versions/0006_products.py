"""An index that finds what was asked for under a product's id among an analysis's many items.

Revision: 0006, after 0005.

A photo that a whole catalogue shares ("no picture available") has as many items as the catalogue
has rows.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_ingestion_items_analysis_id_external_id",
        "ingestion_items",
        ["analysis_id", "external_id"],
    )
    op.drop_index("ix_ingestion_items_analysis_id", "ingestion_items")


def downgrade() -> None:
    op.create_index("ix_ingestion_items_analysis_id", "ingestion_items", ["analysis_id"])
    op.drop_index("ix_ingestion_items_analysis_id_external_id", "ingestion_items")
