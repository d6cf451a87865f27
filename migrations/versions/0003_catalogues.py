"""Ingestions of whole catalogues: read piece by piece, resumed, cancelled; several photos a row.

Revision: 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NEW_COLUMNS = ("source", "source_digest", "files_host", "reading", "read_rows", "refresh")


def upgrade() -> None:
    for name in ("source", "source_digest", "files_host"):
        op.add_column("ingestions", sa.Column(name, sa.Text))
    for name in ("reading", "refresh"):
        op.add_column(
            "ingestions", sa.Column(name, sa.Boolean, server_default=sa.false(), nullable=False)
        )
    op.add_column(
        "ingestions", sa.Column("read_rows", sa.Integer, server_default="0", nullable=False)
    )
    op.add_column("ingestions", sa.Column("cancelled_at", sa.DateTime(timezone=True)))
    op.create_check_constraint(op.f("ck_ingestions_read_rows"), "ingestions", "read_rows >= 0")
    op.create_index("ix_ingestions_source_digest", "ingestions", ["source_digest"])

    op.alter_column("ingestion_items", "url", nullable=True)
    op.add_column("ingestion_items", sa.Column("product_url", sa.Text))
    op.add_column(
        "ingestion_items", sa.Column("photo", sa.SmallInteger, server_default="1", nullable=False)
    )
    op.drop_constraint("uq_ingestion_items_ingestion_id_row", "ingestion_items")
    op.create_unique_constraint(
        "uq_ingestion_items_ingestion_id_row_photo",
        "ingestion_items",
        ["ingestion_id", "row", "photo"],
    )
    _replace_counters("row >= 1 AND photo >= 1 AND attempts >= 0")
    op.create_check_constraint(
        op.f("ck_ingestion_items_url"), "ingestion_items", "url IS NOT NULL OR state = 'failed'"
    )


def downgrade() -> None:
    # What the older tables cannot hold: rows without a photo, and further photos of a row.
    op.execute("DELETE FROM ingestion_items WHERE url IS NULL OR photo > 1")
    op.drop_constraint(op.f("ck_ingestion_items_url"), "ingestion_items")
    _replace_counters("row >= 1 AND attempts >= 0")
    op.drop_constraint("uq_ingestion_items_ingestion_id_row_photo", "ingestion_items")
    op.create_unique_constraint(
        "uq_ingestion_items_ingestion_id_row", "ingestion_items", ["ingestion_id", "row"]
    )
    for name in ("photo", "product_url"):
        op.drop_column("ingestion_items", name)
    op.alter_column("ingestion_items", "url", nullable=False)

    op.drop_index("ix_ingestions_source_digest", "ingestions")
    op.drop_constraint(op.f("ck_ingestions_read_rows"), "ingestions")
    for name in ("cancelled_at", *NEW_COLUMNS):
        op.drop_column("ingestions", name)


def _replace_counters(condition: str) -> None:
    name = op.f("ck_ingestion_items_counters")
    op.drop_constraint(name, "ingestion_items")
    op.create_check_constraint(name, "ingestion_items", condition)
