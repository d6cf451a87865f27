"""What the store gives out: frozen records, never rows."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from vision.garments import ImageReport

T = TypeVar("T")


class IngestionItemState(StrEnum):
    """Where one row of an ingestion stands."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Where an image was seen: the caller's id for it, its URL, or both."""

    external_id: str | None
    url: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, eq=False)
class StoredAnalysis:
    """An analysis as it stands in the store.

    report: as the pipeline made it, embeddings in half precision. garment_ids: one id for each of
    the report's garments, in order. sources: every place the image was seen, oldest first.
    image_format: `jpeg`, `png`, `webp` or `gif`. image_bytes: size of the file.
    """

    id: uuid.UUID
    created_at: datetime
    report: ImageReport
    garment_ids: tuple[uuid.UUID, ...]
    options: Mapping[str, Any]
    sources: tuple[ImageSource, ...]
    image_format: str
    image_bytes: int


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing. next_cursor: where the next one starts; None on the last page."""

    items: tuple[T, ...]
    next_cursor: str | None
