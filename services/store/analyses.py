"""Analyses: what the models said of an image, stored once for each set of model versions."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    cast,
    exists,
    func,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, joinedload, selectinload

from services.store.bulk import insert_rows
from services.store.cursor import decode_cursor, encode_cursor
from services.store.garment_rows import report_from_row, values_of_garment
from services.store.records import ImageSource, Page, StoredAnalysis
from services.store.session import Database
from services.store.tables import AnalysisRow, Base, GarmentRow, ImageRow, ImageSourceRow, uuid7
from vision.garments import ImageReport

ANALYSES, GARMENTS, IMAGES, SOURCES = (
    Base.metadata.tables[row.__tablename__]
    for row in (AnalysisRow, GarmentRow, ImageRow, ImageSourceRow)
)

# For somebody else's analysis of the same image. One takes a second; this one hangs.
LONGEST_WAIT_S = 60


@dataclass(frozen=True, slots=True)
class ImageFile:
    """What is stored of an image besides its report. format: `jpeg`, `png`, `webp` or `gif`."""

    sha256: str
    bytes: int
    format: str


class AnalysisKey(NamedTuple):
    """What an analysis is stored once for. models_key: see `services.pipeline.record`."""

    image_sha256: str
    models_key: str


@dataclass(frozen=True, slots=True)
class NewAnalysis:
    """An analysis to store. options: as plain JSON."""

    key: AnalysisKey
    report: ImageReport
    image: ImageFile
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KnownAnalysis:
    """An analysis that is in the store already."""

    id: uuid.UUID
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewSource:
    """Where an image was seen; see `services.store.records.ImageSource`."""

    image_sha256: str
    external_id: str | None
    url: str | None


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

    def __init__(self, session: Session, key: AnalysisKey) -> None:
        self._session = session
        self._key = key

    def find(self) -> StoredAnalysis | None:
        """The analysis, if it was stored before the claim was granted."""
        return _one(self._session, _of_key(self._key))

    def supersede(self) -> None:
        """Make room for a newer report of the same models; the older one stays readable by its id,
        with the corrections people made to it. Undone unless `save` follows.
        """
        _supersede(self._session, [self._key])

    def save(
        self, report: ImageReport, image: ImageFile, options: Mapping[str, Any]
    ) -> tuple[StoredAnalysis, bool]:
        """Store and commit; False when somebody without a claim was faster, with their analysis."""
        made = _insert(self._session, [NewAnalysis(self._key, report, image, options)])
        self._session.commit()
        stored = self.find()
        assert stored is not None  # Inserted above, or there already: analyses are never deleted.
        return stored, bool(made)


class Claims:
    """As `Claim`, of many images at a time."""

    def __init__(self, session: Session, keys: Collection[AnalysisKey]) -> None:
        self._session = session
        self._keys = keys

    def find(self) -> dict[AnalysisKey, KnownAnalysis]:
        """The analyses that were stored before the claims were granted."""
        return _known(self._session, self._keys)

    def supersede(self, keys: Collection[AnalysisKey]) -> None:
        """See `Claim.supersede`."""
        _supersede(self._session, keys)

    def save(
        self, analyses: Sequence[NewAnalysis], sources: Iterable[NewSource]
    ) -> dict[AnalysisKey, uuid.UUID]:
        """Store and commit all of it: the ids of the analyses, by key.

        sources: of these images, and of others that are in the store.
        """
        made = _insert(self._session, analyses)
        rest = {new.key for new in analyses} - made.keys()
        faster = _known(self._session, rest) if rest else {}
        _insert_sources(self._session, sources)
        self._session.commit()
        return made | {key: known.id for key, known in faster.items()}


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
            key = AnalysisKey(image_sha256, models_key)
            self._lock(session, [key])
            yield Claim(session, key)

    @contextmanager
    def claim_many(self, keys: Collection[AnalysisKey]) -> Iterator[Claims]:
        """As `claim`, for many images at a time."""
        with self._database.session() as session:
            self._lock(session, keys)
            yield Claims(session, keys)

    def _lock(self, session: Session, keys: Collection[AnalysisKey]) -> None:
        session.execute(text(f"SET LOCAL lock_timeout = '{self._longest_wait_s}s'"))
        # In one order everywhere, so that no two wait for each other.
        lock_ids = sorted({_lock_id(key) for key in keys})
        lock_id = func.unnest(cast(lock_ids, ARRAY(BigInteger))).column_valued("lock_id")
        session.execute(select(func.pg_advisory_xact_lock(lock_id)))

    def find(self, image_sha256: str, models_key: str) -> StoredAnalysis | None:
        """The analysis of an image by a set of models, if there is one."""
        with self._database.session() as session:
            return _one(session, _of_key(AnalysisKey(image_sha256, models_key)))

    def get(self, analysis_id: uuid.UUID) -> StoredAnalysis | None:
        with self._database.session() as session:
            return _one(session, select(AnalysisRow).where(AnalysisRow.id == analysis_id))

    def add_source(self, image_sha256: str, external_id: str | None, url: str | None) -> None:
        """Remember where an image was seen; the same place is remembered once."""
        with self._database.session() as session:
            _insert_sources(session, [NewSource(image_sha256, external_id, url)])
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


def _of_key(key: AnalysisKey) -> Select[AnalysisRow]:
    return select(AnalysisRow).where(
        AnalysisRow.models_key == key.models_key,
        AnalysisRow.image.has(ImageRow.sha256 == key.image_sha256),
    )


def _known(session: Session, keys: Collection[AnalysisKey]) -> dict[AnalysisKey, KnownAnalysis]:
    found = session.execute(
        select(ImageRow.sha256, AnalysisRow.models_key, AnalysisRow.id, AnalysisRow.created_at)
        .join(ImageRow, ImageRow.id == AnalysisRow.image_id)
        .where(
            # The first is what the index is asked; an image has few analyses.
            ImageRow.sha256.in_({key.image_sha256 for key in keys}),
            AnalysisRow.models_key.in_({key.models_key for key in keys}),
        )
    )
    known = {
        AnalysisKey(sha256, models_key): KnownAnalysis(analysis_id, created_at)
        for sha256, models_key, analysis_id, created_at in found
    }
    return {key: known[key] for key in keys if key in known}


def _loaded(statement: Select[AnalysisRow]) -> Select[AnalysisRow]:
    return statement.options(
        joinedload(AnalysisRow.image).selectinload(ImageRow.sources),
        selectinload(AnalysisRow.garments),
    )


def _one(session: Session, statement: Select[AnalysisRow]) -> StoredAnalysis | None:
    loaded = _loaded(statement).execution_options(populate_existing=True)
    row = session.scalars(loaded).one_or_none()
    return None if row is None else _analysis(row)


def _lock_id(key: AnalysisKey) -> int:
    """A signed 64-bit number, the form advisory locks take."""
    digest = hashlib.sha256(f"{key.image_sha256}:{key.models_key}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def _supersede(session: Session, keys: Collection[AnalysisKey]) -> None:
    ids = [known.id for known in _known(session, keys).values()]
    superseded = func.concat(AnalysisRow.models_key, ":superseded:", AnalysisRow.id)
    session.execute(
        update(AnalysisRow)
        .where(AnalysisRow.id.in_(ids))
        .values(models_key=superseded)
        .execution_options(synchronize_session=False)
    )


def _insert(session: Session, analyses: Sequence[NewAnalysis]) -> dict[AnalysisKey, uuid.UUID]:
    """Images, analyses and garments; the ids of the analyses that were not there already."""
    if not analyses:
        return {}
    # In one order everywhere, so that of two that insert the same none waits for the other.
    ordered = sorted(analyses, key=lambda new: new.key)
    _insert_images(session, ordered)
    image_ids = _image_ids(session, (new.key.image_sha256 for new in ordered))
    ids = {new.key: uuid7() for new in ordered}
    rows = [_analysis_values(new, ids[new.key], image_ids[new.key.image_sha256]) for new in ordered]
    inserted = set(
        session.scalars(
            insert_rows(ANALYSES, rows)
            # The constraint has the last word.
            .on_conflict_do_nothing(constraint="uq_analyses_image_id_models_key")
            .returning(ANALYSES.c.id)
        )
    )
    made = {key: analysis_id for key, analysis_id in ids.items() if analysis_id in inserted}
    garments = [
        values_of_garment(garment, made[new.key], ordinal)
        for new in ordered
        if new.key in made
        for ordinal, garment in enumerate(new.report.garments)
    ]
    if garments:
        session.execute(insert_rows(GARMENTS, garments))
    return made


def _insert_images(session: Session, analyses: Iterable[NewAnalysis]) -> None:
    images = {
        new.image.sha256: {
            "id": str(uuid7()),
            "sha256": new.image.sha256,
            "width": new.report.resolution_wh[0],
            "height": new.report.resolution_wh[1],
            "bytes": new.image.bytes,
            "format": new.image.format,
        }
        for new in analyses
    }
    session.execute(
        insert_rows(IMAGES, list(images.values())).on_conflict_do_nothing(
            constraint="uq_images_sha256"
        )
    )


def _image_ids(session: Session, sha256s: Iterable[str]) -> dict[str, uuid.UUID]:
    found = session.execute(
        select(ImageRow.sha256, ImageRow.id).where(ImageRow.sha256.in_(set(sha256s)))
    )
    return {sha256: image_id for sha256, image_id in found}  # noqa: C416 - a row is no pair


def _analysis_values(
    new: NewAnalysis, analysis_id: uuid.UUID, image_id: uuid.UUID
) -> dict[str, Any]:
    report = new.report
    return {
        "id": str(analysis_id),
        "image_id": str(image_id),
        "models_key": new.key.models_key,
        "models": {
            stage: {"name": model.name, "version": model.version}
            for stage, model in report.models.items()
        },
        "options": dict(new.options),
        "classified_whole": report.classified_whole,
        "timings_ms": {stage: round(time, 3) for stage, time in report.timings_ms.items()},
    }


def _insert_sources(session: Session, sources: Iterable[NewSource]) -> None:
    named = [source for source in sources if (source.external_id, source.url) != (None, None)]
    if not named:
        return
    image_ids = _image_ids(session, (source.image_sha256 for source in named))
    rows = [
        {
            # Given here, so that sources come back in the order they were named in.
            "id": str(uuid7()),
            "image_id": str(image_ids[source.image_sha256]),
            "external_id": source.external_id,
            "url": source.url,
            "digest": _source_digest(source),
        }
        for source in dict.fromkeys(named)
    ]
    # In one order everywhere, see `_insert`.
    rows.sort(key=lambda row: (row["image_id"], row["digest"]))
    session.execute(insert_rows(SOURCES, rows).on_conflict_do_nothing())


def _source_digest(source: NewSource) -> str:
    return hashlib.sha256(json.dumps([source.external_id, source.url]).encode()).hexdigest()


def _analysis(row: AnalysisRow) -> StoredAnalysis:
    report = report_from_row(row)
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
