"""Analyses: what the models said of an image, stored once for each set of model versions."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, joinedload, selectinload

from services.store.cursor import decode_cursor, encode_cursor
from services.store.garment_rows import garment_from_row, row_from_garment
from services.store.records import ImageSource, Page, StoredAnalysis
from services.store.session import Database
from services.store.tables import AnalysisRow, GarmentRow, ImageRow, ImageSourceRow, uuid7
from vision.garments import ImageReport, ModelVersion

# For somebody else's analysis of the same image. One takes a second; this one hangs.
LONGEST_WAIT_S = 60


@dataclass(frozen=True, slots=True)
class ImageFile:
    """What is stored of an image besides its report. format: `jpeg`, `png`, `webp` or `gif`."""

    sha256: str
    bytes: int
    format: str


@dataclass(frozen=True, slots=True)
class AnalysisFilter:
    """Which analyses to list. Everything given must hold, garment fields on one and the same
    garment. created_after: later than, exclusive. style: the style model's label.
    """

    external_id: str | None = None
    image_sha256: str | None = None
    created_after: datetime | None = None
    category: str | None = None
    gender: str | None = None
    master_category: str | None = None
    sub_category: str | None = None
    article_type: str | None = None
    base_colour: str | None = None
    season: str | None = None
    usage: str | None = None
    style: str | None = None


_ANALYSIS_FIELDS = ("external_id", "image_sha256", "created_after")
_GARMENT_COLUMNS = {
    field.name: GarmentRow.style_label if field.name == "style" else getattr(GarmentRow, field.name)
    for field in fields(AnalysisFilter)
    if field.name not in _ANALYSIS_FIELDS
}


class Claim:
    """The right, held by one transaction at a time, to analyse an image with some models."""

    def __init__(self, session: Session, image_sha256: str, models_key: str) -> None:
        self._session = session
        self._image_sha256 = image_sha256
        self._models_key = models_key

    def find(self) -> StoredAnalysis | None:
        """The analysis, if it was stored before the claim was granted."""
        return _one(self._session, _of_key(self._image_sha256, self._models_key))

    def supersede(self) -> None:
        """Make room for a newer report of the same models; the older one stays readable by its id,
        with the corrections people made to it. Undone unless `save` follows.
        """
        image_id = select(ImageRow.id).where(ImageRow.sha256 == self._image_sha256)
        key = func.concat(AnalysisRow.models_key, ":superseded:", AnalysisRow.id)
        self._session.execute(
            update(AnalysisRow)
            .where(
                AnalysisRow.image_id == image_id.scalar_subquery(),
                AnalysisRow.models_key == self._models_key,
            )
            .values(models_key=key)
        )

    def save(
        self, report: ImageReport, image: ImageFile, options: Mapping[str, Any]
    ) -> tuple[StoredAnalysis, bool]:
        """Store and commit; False when somebody without a claim was faster, with their analysis."""
        image_id = _save_image(self._session, report, image)
        analysis_id = _insert_analysis(self._session, image_id, self._models_key, report, options)
        if analysis_id is not None:
            self._session.add_all(
                row_from_garment(garment, analysis_id, ordinal)
                for ordinal, garment in enumerate(report.garments)
            )
        self._session.commit()
        stored = self.find()
        assert stored is not None  # Inserted above, or there already: analyses are never deleted.
        return stored, analysis_id is not None


class AnalysisStore:
    """Reads and writes analyses. Safe to share between threads."""

    def __init__(self, database: Database, longest_wait_s: int = LONGEST_WAIT_S) -> None:
        self._database = database
        self._longest_wait_s = longest_wait_s

    @contextmanager
    def claim(self, image_sha256: str, models_key: str) -> Iterator[Claim]:
        """Wait until nobody else holds the same claim, on this machine or another, and hold it.

        Ends with the block; nothing is stored unless `Claim.save` was called. Raises
        `TransientError` (`store_unavailable`) when that takes longer than a minute.
        """
        with self._database.session() as session:
            session.execute(text(f"SET LOCAL lock_timeout = '{self._longest_wait_s}s'"))
            lock_id = _lock_id(image_sha256, models_key)
            session.execute(select(func.pg_advisory_xact_lock(lock_id)))
            yield Claim(session, image_sha256, models_key)

    def find(self, image_sha256: str, models_key: str) -> StoredAnalysis | None:
        """The analysis of an image by a set of models, if there is one."""
        with self._database.session() as session:
            return _one(session, _of_key(image_sha256, models_key))

    def get(self, analysis_id: uuid.UUID) -> StoredAnalysis | None:
        with self._database.session() as session:
            return _one(session, select(AnalysisRow).where(AnalysisRow.id == analysis_id))

    def add_source(self, image_sha256: str, external_id: str | None, url: str | None) -> None:
        """Remember where an image was seen; the same place is remembered once."""
        if external_id is None and url is None:
            return
        image_id = select(ImageRow.id).where(ImageRow.sha256 == image_sha256).scalar_subquery()
        digest = hashlib.sha256(json.dumps([external_id, url]).encode()).hexdigest()
        with self._database.session() as session:
            session.execute(
                insert(ImageSourceRow)
                .values(
                    id=uuid7(), image_id=image_id, external_id=external_id, url=url, digest=digest
                )
                .on_conflict_do_nothing()
            )
            session.commit()

    def list(
        self, where: AnalysisFilter, limit: int, cursor: str | None = None
    ) -> Page[StoredAnalysis]:
        """Newest first. Raises `PermanentError` (`validation_error`) for a made-up cursor."""
        statement = _loaded(select(AnalysisRow).where(*_conditions(where)))
        if cursor is not None:
            after = decode_cursor(cursor, _position)
            statement = statement.where(tuple_(AnalysisRow.created_at, AnalysisRow.id) < after)
        statement = statement.order_by(AnalysisRow.created_at.desc(), AnalysisRow.id.desc())
        with self._database.session() as session:
            # One row more than asked for tells whether there is a next page.
            rows = session.scalars(statement.limit(limit + 1)).all()
            items = tuple(_analysis(row) for row in rows[:limit])
        if len(rows) <= limit:
            return Page(items, next_cursor=None)
        last = items[-1]
        return Page(items, encode_cursor(last.created_at.isoformat(), str(last.id)))


def _position(created_at: str, analysis_id: str) -> tuple[datetime, uuid.UUID]:
    moment = datetime.fromisoformat(created_at)
    if moment.tzinfo is None:
        raise ValueError("a position has a time zone")
    return moment, uuid.UUID(analysis_id)


def _conditions(where: AnalysisFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if where.image_sha256 is not None:
        conditions.append(AnalysisRow.image.has(ImageRow.sha256 == where.image_sha256))
    if where.external_id is not None:
        conditions.append(
            exists().where(
                ImageSourceRow.image_id == AnalysisRow.image_id,
                ImageSourceRow.external_id == where.external_id,
            )
        )
    if where.created_after is not None:
        conditions.append(AnalysisRow.created_at > where.created_after)
    garment = [
        column == getattr(where, name)
        for name, column in _GARMENT_COLUMNS.items()
        if getattr(where, name) is not None
    ]
    if garment:
        conditions.append(exists().where(GarmentRow.analysis_id == AnalysisRow.id, *garment))
    return conditions


def _of_key(image_sha256: str, models_key: str) -> Select[AnalysisRow]:
    return select(AnalysisRow).where(
        AnalysisRow.models_key == models_key, AnalysisRow.image.has(ImageRow.sha256 == image_sha256)
    )


def _loaded(statement: Select[AnalysisRow]) -> Select[AnalysisRow]:
    return statement.options(
        joinedload(AnalysisRow.image).selectinload(ImageRow.sources),
        selectinload(AnalysisRow.garments),
    )


def _one(session: Session, statement: Select[AnalysisRow]) -> StoredAnalysis | None:
    loaded = _loaded(statement).execution_options(populate_existing=True)
    row = session.scalars(loaded).one_or_none()
    return None if row is None else _analysis(row)


def _lock_id(image_sha256: str, models_key: str) -> int:
    """A signed 64-bit number, the form advisory locks take."""
    digest = hashlib.sha256(f"{image_sha256}:{models_key}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def _save_image(session: Session, report: ImageReport, image: ImageFile) -> uuid.UUID:
    width, height = report.resolution_wh
    inserted = session.scalar(
        insert(ImageRow)
        .values(
            id=uuid7(),
            sha256=image.sha256,
            width=width,
            height=height,
            bytes=image.bytes,
            format=image.format,
        )
        .on_conflict_do_nothing(constraint="uq_images_sha256")
        .returning(ImageRow.id)
    )
    if inserted is not None:
        return inserted
    return session.scalars(select(ImageRow.id).where(ImageRow.sha256 == image.sha256)).one()


def _insert_analysis(
    session: Session,
    image_id: uuid.UUID,
    models_key: str,
    report: ImageReport,
    options: Mapping[str, Any],
) -> uuid.UUID | None:
    """The new id, or None when there is one already: the constraint has the last word."""
    return session.scalar(
        insert(AnalysisRow)
        .values(
            id=uuid7(),
            image_id=image_id,
            models_key=models_key,
            models={
                stage: {"name": model.name, "version": model.version}
                for stage, model in report.models.items()
            },
            options=dict(options),
            classified_whole=report.classified_whole,
            timings_ms={stage: round(time, 3) for stage, time in report.timings_ms.items()},
        )
        .on_conflict_do_nothing(constraint="uq_analyses_image_id_models_key")
        .returning(AnalysisRow.id)
    )


def _analysis(row: AnalysisRow) -> StoredAnalysis:
    report = ImageReport(
        image_sha256=row.image.sha256,
        resolution_wh=(row.image.width, row.image.height),
        garments=tuple(garment_from_row(garment) for garment in row.garments),
        classified_whole=row.classified_whole,
        models={
            stage: ModelVersion(model["name"], model["version"])
            for stage, model in row.models.items()
        },
        timings_ms=row.timings_ms,
    )
    return StoredAnalysis(
        id=row.id,
        created_at=row.created_at,
        report=report,
        garment_ids=tuple(garment.id for garment in row.garments),
        options=row.options,
        sources=tuple(
            ImageSource(source.external_id, source.url, source.created_at)
            for source in row.image.sources
        ),
        image_format=row.image.format,
        image_bytes=row.image.bytes,
    )
