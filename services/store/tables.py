"""The tables, as SQLAlchemy sees them. `migrations/` creates them; a test holds the two together.

Labels that people filter by are columns; what is only shown with them (confidences, runners-up,
masks) is JSON. Every time is `timestamptz`; every constraint has a name.
"""

from __future__ import annotations

import os
import time
import uuid
from datetime import datetime
from typing import Any

from pgvector.sqlalchemy import HALFVEC  # type: ignore[import-untyped]
from sqlalchemy import (
    CheckConstraint,
    DateTime,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from services.store.records import IngestionItemState

EMBEDDING_LENGTH = 256
"""Length of the classifier's embedding; the column and its index are declared with it."""


def uuid7() -> uuid.UUID:
    """A random id that sorts by creation time (RFC 9562, 5.7), so that indexes grow at one end.

    To a quarter of a microsecond (method 3 of 6.2): what one process makes is in order.
    """
    milliseconds, rest_ns = divmod(time.time_ns(), 1_000_000)
    fraction = rest_ns * 0x1000 // 1_000_000
    noise = int.from_bytes(os.urandom(8)) & (1 << 62) - 1
    return uuid.UUID(
        int=(milliseconds << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | noise
    )


class Base(DeclarativeBase):
    """Names every constraint the way the migrations do."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - the name and shape are SQLAlchemy's
        str: Text,
        datetime: DateTime(timezone=True),
        uuid.UUID: Uuid,
        dict[str, Any]: JSONB(none_as_null=True),
        list[dict[str, Any]]: JSONB(none_as_null=True),
    }


class ImageRow(Base):
    """One distinct image file, known by the digest of its bytes."""

    __tablename__ = "images"
    __table_args__ = (
        CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256"),
        CheckConstraint("width > 0 AND height > 0 AND bytes > 0", name="size"),
        CheckConstraint("format IN ('jpeg', 'png', 'webp', 'gif')", name="format"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    sha256: Mapped[str] = mapped_column(unique=True)
    width: Mapped[int]
    height: Mapped[int]
    bytes: Mapped[int]
    format: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    sources: Mapped[list[ImageSourceRow]] = relationship(lazy="raise", order_by="ImageSourceRow.id")


class ImageSourceRow(Base):
    """Where an image was seen: the caller's id and the URL. Two products may share one image.

    digest: of the pair, because a URL may be longer than an index entry.
    """

    __tablename__ = "image_sources"
    __table_args__ = (
        UniqueConstraint("image_id", "digest"),
        CheckConstraint("external_id IS NOT NULL OR url IS NOT NULL", name="named"),
        Index("ix_image_sources_external_id", "external_id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    image_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"))
    external_id: Mapped[str | None]
    url: Mapped[str | None]
    digest: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class AnalysisRow(Base):
    """What one set of model versions, with one set of options, says of one image."""

    __tablename__ = "analyses"
    __table_args__ = (
        UniqueConstraint("image_id", "models_key"),
        Index("ix_analyses_created_at_id", "created_at", "id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    image_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"))
    models: Mapped[dict[str, Any]]
    options: Mapped[dict[str, Any]]
    models_key: Mapped[str]
    classified_whole: Mapped[bool]
    timings_ms: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    image: Mapped[ImageRow] = relationship(lazy="raise")
    garments: Mapped[list[GarmentRow]] = relationship(lazy="raise", order_by="GarmentRow.ordinal")


class GarmentRow(Base):
    """One garment of an analysis. The box is in pixels of the upright photo."""

    __tablename__ = "garments"
    __table_args__ = (
        UniqueConstraint("analysis_id", "ordinal"),
        CheckConstraint("ordinal >= 0", name="ordinal"),
        CheckConstraint("source IN ('detection', 'style', 'whole_image')", name="source"),
        CheckConstraint("score BETWEEN 0 AND 1", name="score"),
        CheckConstraint("x1 <= x2 AND y1 <= y2", name="box"),
        Index("ix_garments_category", "category"),
        Index("ix_garments_article_type_gender", "article_type", "gender"),
        Index("ix_garments_sub_category", "sub_category"),
        Index("ix_garments_base_colour", "base_colour"),
        Index("ix_garments_style_label", "style_label"),
        Index(
            "ix_garments_embedding",
            "embedding",
            postgresql_using="hnsw",
            postgresql_with={"m": 16, "ef_construction": 64},
            postgresql_ops={"embedding": "halfvec_cosine_ops"},
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    analysis_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("analyses.id", ondelete="CASCADE"))
    ordinal: Mapped[int] = mapped_column(SmallInteger)
    source: Mapped[str]
    category: Mapped[str | None]
    score: Mapped[float | None]
    x1: Mapped[float]
    y1: Mapped[float]
    x2: Mapped[float]
    y2: Mapped[float]
    mask: Mapped[dict[str, Any] | None]
    gender: Mapped[str | None]
    master_category: Mapped[str | None]
    sub_category: Mapped[str | None]
    article_type: Mapped[str | None]
    base_colour: Mapped[str | None]
    season: Mapped[str | None]
    usage: Mapped[str | None]
    attributes: Mapped[dict[str, Any] | None]
    colours: Mapped[list[dict[str, Any]]]
    style: Mapped[dict[str, Any] | None]
    style_label: Mapped[str | None]
    embedding: Mapped[list[float] | None] = mapped_column(HALFVEC(EMBEDDING_LENGTH))


class CorrectionRow(Base):
    """What a person says of a garment; the prediction stays as it was."""

    __tablename__ = "corrections"
    __table_args__ = (
        CheckConstraint(
            "attribute IN ('category', 'gender', 'master_category', 'sub_category', "
            "'article_type', 'base_colour', 'season', 'usage')",
            name="attribute",
        ),
        Index("ix_corrections_garment_id_created_at", "garment_id", "created_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    garment_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("garments.id", ondelete="CASCADE"))
    attribute: Mapped[str]
    value: Mapped[str]
    author: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class IdempotencyKeyRow(Base):
    """A caller's `Idempotency-Key` and the answer it got.

    status, headers, body: null while the first request is still at work, until `locked_until`.
    """

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        CheckConstraint("(status IS NULL) = (body IS NULL)", name="answered"),
        Index("ix_idempotency_keys_created_at", "created_at"),
    )

    key: Mapped[str] = mapped_column(primary_key=True)
    request_digest: Mapped[str]
    locked_until: Mapped[datetime]
    status: Mapped[int | None] = mapped_column(SmallInteger)
    headers: Mapped[dict[str, Any] | None]
    body: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class IngestionRow(Base):
    """A list of images handed in at once, or a catalogue that is read piece by piece.

    total: items so far. reading: whether more may come; read_rows: the last row that was stored.
    source: the catalogue's name for people; source_digest: what tells it from others, null where
    nothing does. files_host: the machine whose files the rows may name besides URLs. refresh:
    whether analyses older than this ingestion are made again. webhook_url: who is told when it has
    finished; announced: whether that is under way or done.
    """

    __tablename__ = "ingestions"
    __table_args__ = (
        CheckConstraint("total >= 0", name="total"),
        CheckConstraint("read_rows >= 0", name="read_rows"),
        Index("ix_ingestions_created_at_id", "created_at", "id"),
        Index("ix_ingestions_source_digest", "source_digest"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    total: Mapped[int]
    source: Mapped[str | None]
    source_digest: Mapped[str | None]
    files_host: Mapped[str | None]
    reading: Mapped[bool] = mapped_column(server_default=false())
    read_rows: Mapped[int] = mapped_column(server_default="0")
    refresh: Mapped[bool] = mapped_column(server_default=false())
    cancelled_at: Mapped[datetime | None]
    webhook_url: Mapped[str | None]
    announced: Mapped[bool] = mapped_column(server_default=false())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class IngestionItemRow(Base):
    """One photo of one row of an ingestion, and how it went.

    row: place in the list, from 1; photo: place among the row's photos, from 1. url: null where the
    row names no photo, and the item failed with it. lease_until: a running item whose lease has
    ended belongs to a worker that died, and may be taken by another; drops: how often that was so.
    not_before: a pending item is left alone until then, null for "at once".
    """

    __tablename__ = "ingestion_items"
    __table_args__ = (
        UniqueConstraint("ingestion_id", "row", "photo"),
        CheckConstraint("row >= 1 AND photo >= 1 AND attempts >= 0", name="counters"),
        CheckConstraint("url IS NOT NULL OR state = 'failed'", name="url"),
        CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease"),
        CheckConstraint("(state = 'failed') = (error_code IS NOT NULL)", name="error"),
        CheckConstraint("state <> 'done' OR analysis_id IS NOT NULL", name="result"),
        Index("ix_ingestion_items_ingestion_id_state", "ingestion_id", "state"),
        Index("ix_ingestion_items_analysis_id_external_id", "analysis_id", "external_id"),
        Index(
            "ix_ingestion_items_lease_until",
            "lease_until",
            postgresql_where=text("state = 'running'"),
        ),
        Index(
            "ix_ingestion_items_unfinished",
            "state",
            "updated_at",
            postgresql_where=text("state IN ('pending', 'running')"),
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    ingestion_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("ingestions.id", ondelete="CASCADE"))
    row: Mapped[int]
    photo: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    url: Mapped[str | None]
    external_id: Mapped[str | None]
    product_url: Mapped[str | None]
    hints: Mapped[dict[str, Any]]
    state: Mapped[IngestionItemState] = mapped_column(
        Enum(
            IngestionItemState,
            name="ingestion_item_state",
            values_callable=lambda states: [state.value for state in states],
        ),
        server_default=IngestionItemState.PENDING.value,
    )
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    drops: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    not_before: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    analysis_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("analyses.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
