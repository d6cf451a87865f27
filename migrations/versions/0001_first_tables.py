"""The first tables: images, analyses, garments, corrections, ingestions.

Revision: 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "ingestion_items",
    "ingestions",
    "idempotency_keys",
    "corrections",
    "garments",
    "analyses",
    "image_sources",
    "images",
)


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    _images()
    _analyses()
    _garments()
    _idempotency_keys()
    _ingestions()


def downgrade() -> None:
    # The extension stays: other schemas of the database may use it.
    for table in TABLES:
        op.drop_table(table)
    op.execute("DROP TYPE ingestion_item_state")


def _images() -> None:
    op.create_table(
        "images",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("format", sa.Text, nullable=False),
        _now("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_images"),
        sa.UniqueConstraint("sha256", name="uq_images_sha256"),
        sa.CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name=op.f("ck_images_sha256")),
        sa.CheckConstraint("width > 0 AND height > 0 AND bytes > 0", name=op.f("ck_images_size")),
        sa.CheckConstraint(
            "format IN ('jpeg', 'png', 'webp', 'gif')", name=op.f("ck_images_format")
        ),
    )
    op.create_table(
        "image_sources",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("image_id", sa.Uuid, nullable=False),
        sa.Column("external_id", sa.Text),
        sa.Column("url", sa.Text),
        sa.Column("digest", sa.Text, nullable=False),
        _now("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_image_sources"),
        _foreign_key("image_sources", "image_id", "images", ondelete="CASCADE"),
        sa.UniqueConstraint("image_id", "digest", name="uq_image_sources_image_id_digest"),
        sa.CheckConstraint(
            "external_id IS NOT NULL OR url IS NOT NULL", name=op.f("ck_image_sources_named")
        ),
    )
    op.create_index("ix_image_sources_external_id", "image_sources", ["external_id"])


def _analyses() -> None:
    op.create_table(
        "analyses",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("image_id", sa.Uuid, nullable=False),
        sa.Column("models", JSONB, nullable=False),
        sa.Column("options", JSONB, nullable=False),
        sa.Column("models_key", sa.Text, nullable=False),
        sa.Column("classified_whole", sa.Boolean, nullable=False),
        sa.Column("timings_ms", JSONB, nullable=False),
        _now("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_analyses"),
        _foreign_key("analyses", "image_id", "images", ondelete="CASCADE"),
        sa.UniqueConstraint("image_id", "models_key", name="uq_analyses_image_id_models_key"),
    )
    op.create_index("ix_analyses_created_at_id", "analyses", ["created_at", "id"])


def _garments() -> None:
    op.create_table(
        "garments",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("analysis_id", sa.Uuid, nullable=False),
        sa.Column("ordinal", sa.SmallInteger, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("category", sa.Text),
        sa.Column("score", sa.Float),
        sa.Column("x1", sa.Float, nullable=False),
        sa.Column("y1", sa.Float, nullable=False),
        sa.Column("x2", sa.Float, nullable=False),
        sa.Column("y2", sa.Float, nullable=False),
        sa.Column("mask", JSONB),
        sa.Column("gender", sa.Text),
        sa.Column("master_category", sa.Text),
        sa.Column("sub_category", sa.Text),
        sa.Column("article_type", sa.Text),
        sa.Column("base_colour", sa.Text),
        sa.Column("season", sa.Text),
        sa.Column("usage", sa.Text),
        sa.Column("attributes", JSONB),
        sa.Column("colours", JSONB, nullable=False),
        sa.Column("style", JSONB),
        sa.Column("style_label", sa.Text),
        sa.Column("embedding", HALFVEC(256)),
        sa.PrimaryKeyConstraint("id", name="pk_garments"),
        _foreign_key("garments", "analysis_id", "analyses", ondelete="CASCADE"),
        sa.UniqueConstraint("analysis_id", "ordinal", name="uq_garments_analysis_id_ordinal"),
        sa.CheckConstraint("ordinal >= 0", name=op.f("ck_garments_ordinal")),
        sa.CheckConstraint(
            "source IN ('detection', 'style', 'whole_image')", name=op.f("ck_garments_source")
        ),
        sa.CheckConstraint("score BETWEEN 0 AND 1", name=op.f("ck_garments_score")),
        sa.CheckConstraint("x1 <= x2 AND y1 <= y2", name=op.f("ck_garments_box")),
    )
    op.create_index("ix_garments_category", "garments", ["category"])
    op.create_index("ix_garments_article_type_gender", "garments", ["article_type", "gender"])
    op.create_index("ix_garments_sub_category", "garments", ["sub_category"])
    op.create_index("ix_garments_base_colour", "garments", ["base_colour"])
    op.create_index("ix_garments_style_label", "garments", ["style_label"])
    op.create_index(
        "ix_garments_embedding",
        "garments",
        ["embedding"],
        postgresql_using="hnsw",
        postgresql_with={"m": 16, "ef_construction": 64},
        postgresql_ops={"embedding": "halfvec_cosine_ops"},
    )
    op.create_table(
        "corrections",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("garment_id", sa.Uuid, nullable=False),
        sa.Column("attribute", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        _now("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_corrections"),
        _foreign_key("corrections", "garment_id", "garments", ondelete="CASCADE"),
        sa.CheckConstraint(
            "attribute IN ('category', 'gender', 'master_category', 'sub_category', "
            "'article_type', 'base_colour', 'season', 'usage')",
            name=op.f("ck_corrections_attribute"),
        ),
    )
    op.create_index(
        "ix_corrections_garment_id_created_at", "corrections", ["garment_id", "created_at"]
    )


def _idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("request_digest", sa.Text, nullable=False),
        sa.Column("locked_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.SmallInteger),
        sa.Column("headers", JSONB),
        sa.Column("body", JSONB),
        _now("created_at"),
        sa.PrimaryKeyConstraint("key", name="pk_idempotency_keys"),
        sa.CheckConstraint(
            "(status IS NULL) = (body IS NULL)", name=op.f("ck_idempotency_keys_answered")
        ),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def _ingestions() -> None:
    op.create_table(
        "ingestions",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        _now("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_ingestions"),
        sa.CheckConstraint("total >= 0", name=op.f("ck_ingestions_total")),
    )
    op.create_index("ix_ingestions_created_at_id", "ingestions", ["created_at", "id"])
    op.create_table(
        "ingestion_items",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("ingestion_id", sa.Uuid, nullable=False),
        sa.Column("row", sa.Integer, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("external_id", sa.Text),
        sa.Column("hints", JSONB, nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "pending", "running", "done", "failed", "cancelled", name="ingestion_item_state"
            ),
            server_default="pending",
            nullable=False,
        ),
        sa.Column("attempts", sa.SmallInteger, server_default="0", nullable=False),
        sa.Column("error_code", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("analysis_id", sa.Uuid),
        _now("created_at"),
        _now("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_ingestion_items"),
        _foreign_key("ingestion_items", "ingestion_id", "ingestions", ondelete="CASCADE"),
        _foreign_key("ingestion_items", "analysis_id", "analyses"),
        sa.UniqueConstraint("ingestion_id", "row", name="uq_ingestion_items_ingestion_id_row"),
        sa.CheckConstraint("row >= 1 AND attempts >= 0", name=op.f("ck_ingestion_items_counters")),
        sa.CheckConstraint(
            "(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_ingestion_items_lease")
        ),
        sa.CheckConstraint(
            "(state = 'failed') = (error_code IS NOT NULL)", name=op.f("ck_ingestion_items_error")
        ),
        sa.CheckConstraint(
            "state <> 'done' OR analysis_id IS NOT NULL", name=op.f("ck_ingestion_items_result")
        ),
    )
    op.create_index(
        "ix_ingestion_items_ingestion_id_state", "ingestion_items", ["ingestion_id", "state"]
    )
    op.create_index("ix_ingestion_items_analysis_id", "ingestion_items", ["analysis_id"])
    op.create_index(
        "ix_ingestion_items_lease_until",
        "ingestion_items",
        ["lease_until"],
        postgresql_where=sa.text("state = 'running'"),
    )


def _now(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False)


def _foreign_key(
    table: str, column: str, target: str, ondelete: str | None = None
) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], [f"{target}.id"], name=f"fk_{table}_{column}", ondelete=ondelete
    )
