"""Products: the photos known by one external id, each with the analysis that speaks for it.

Nothing is stored: a product is read from its photos, so it is never behind them. An analysis that
was made again, a photo that has just been done and a correction are in the next answer, and there
is no order of events in which it could be wrong.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import case, column, exists, false, func, literal, select, true
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by, distinct_on
from sqlalchemy.orm import Session, joinedload, selectinload
from sqlalchemy.types import Text

from services.pipeline.merge import Correction, ProductPhoto
from services.store.cursor import decode_cursor, encode_cursor
from services.store.garment_rows import report_from_row
from services.store.records import Page
from services.store.session import Database
from services.store.tables import (
    AnalysisRow,
    CorrectionRow,
    GarmentRow,
    ImageSourceRow,
    IngestionItemRow,
)
from vision.boxes import pairwise_iou

MAX_PHOTOS = 100
"""Of one product: the first that were handed in. An id that stands for half a catalogue
(`unknown`) must not be read at once.
"""
EXPORT_PAGE = 200
# A correction of an older analysis is about the garment that lies where the corrected one lay.
SAME_GARMENT_IOU = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class StoredPhoto:
    """A photo of a product. urls: where it was seen under the product's id, oldest first.
    garment_ids: one for each garment of the report, in order.
    """

    analysis_id: uuid.UUID
    created_at: datetime
    urls: tuple[str, ...]
    garment_ids: tuple[uuid.UUID, ...]
    photo: ProductPhoto


@dataclass(frozen=True, slots=True, eq=False)
class StoredProduct:
    """product_url: the newest that a catalogue gave, if any. updated_at: when an analysis or a
    correction last changed it. photos: in the order they were first handed in, at least one.
    """

    external_id: str
    product_url: str | None
    updated_at: datetime
    photos: tuple[StoredPhoto, ...]


class ProductStore:
    """Reads products. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, external_id: str) -> StoredProduct | None:
        with self._database.session() as session:
            return next(read_products(session, [external_id]), None)

    def list(self, limit: int, cursor: str | None = None) -> Page[StoredProduct]:
        """By external id. Raises `PermanentError` (`validation_error`) for a made-up cursor."""
        after = None if cursor is None else decode_cursor(cursor, _position)
        with self._database.session() as session:
            ids = _ids(session, after, limit + 1)
            items = tuple(read_products(session, ids[:limit]))
        return Page(items, encode_cursor(ids[limit - 1]) if len(ids) > limit else None)


def every_product(session: Session) -> Iterator[StoredProduct]:
    """All of them, by external id, in memory that does not grow."""
    after: str | None = None
    while ids := _ids(session, after, EXPORT_PAGE):
        yield from read_products(session, ids)
        session.expunge_all()
        after = ids[-1]


def count_products(session: Session) -> int:
    return session.scalars(select(func.count(ImageSourceRow.external_id.distinct()))).one()


def read_products(session: Session, external_ids: Sequence[str]) -> Iterator[StoredProduct]:
    """The products of these ids that exist, in the order of the ids."""
    chosen = _chosen(session, external_ids)
    analyses = _analyses(session, {choice.analysis_id for choice in chosen})
    corrections = _corrections(session, {row.image_id for row in analyses.values()})
    urls = _product_urls(session, external_ids, analyses)
    of_product: dict[str, list[StoredPhoto]] = defaultdict(list)
    for choice in chosen:
        row = analyses[choice.analysis_id]
        photo = _stored_photo(row, choice.urls or (), corrections.get(row.image_id, ()))
        of_product[choice.external_id].append(photo)
    for external_id in dict.fromkeys(external_ids):
        photos = tuple(of_product[external_id])
        if photos:
            yield StoredProduct(
                external_id, urls.get(external_id), max(map(_changed_at, photos)), photos
            )


def _ids(session: Session, after: str | None, limit: int) -> list[str]:
    statement = select(ImageSourceRow.external_id).where(ImageSourceRow.external_id.is_not(None))
    if after is not None:
        statement = statement.where(ImageSourceRow.external_id > after)
    ordered = statement.group_by(ImageSourceRow.external_id).order_by(ImageSourceRow.external_id)
    return [str(external_id) for external_id in session.scalars(ordered.limit(limit))]


def _position(external_id: Any) -> str:
    if not isinstance(external_id, str) or "\0" in external_id:
        raise ValueError("no position")
    external_id.encode()  # A lone surrogate is no text to Postgres.
    return external_id


def _chosen(session: Session, external_ids: Sequence[str]) -> Sequence[Any]:
    """Each photo of each product with the analysis that speaks for it, in the photos' order.

    Of a photo's analyses the newest one that classified it; one that a catalogue asked for under
    other ids only comes last, because it may be conditioned on what is known of another product.
    """
    given = func.unnest(literal(list(external_ids), ARRAY(Text)))
    wanted = given.table_valued(column("external_id", Text)).render_derived("wanted")
    first_seen = func.min(ImageSourceRow.created_at)
    seen = (
        select(
            ImageSourceRow.image_id,
            first_seen.label("first_seen"),
            func.array_agg(aggregate_order_by(ImageSourceRow.url, ImageSourceRow.id))
            .filter(ImageSourceRow.url.is_not(None))
            .label("urls"),
        )
        .where(ImageSourceRow.external_id == wanted.c.external_id)
        .group_by(ImageSourceRow.image_id)
        .order_by(first_seen, ImageSourceRow.image_id)
        .limit(MAX_PHOTOS)
        .lateral("seen")
    )
    asked = exists().where(IngestionItemRow.analysis_id == AnalysisRow.id)
    here = IngestionItemRow.external_id == wanted.c.external_id
    asked_here = asked.where(here).correlate(AnalysisRow, wanted)
    classified = func.coalesce(AnalysisRow.options["stages"].contains(["classify"]), false())
    newest = (
        select(AnalysisRow.id)
        .where(AnalysisRow.image_id == seen.c.image_id)
        .order_by(
            classified.desc(),
            case((asked_here, true()), else_=~asked).desc(),
            AnalysisRow.created_at.desc(),
            AnalysisRow.id.desc(),
        )
        .limit(1)
        .lateral("newest")
    )
    return session.execute(
        select(wanted.c.external_id, seen.c.urls, newest.c.id.label("analysis_id"))
        .select_from(wanted)
        .join(seen, true())
        .join(newest, true())
        .order_by(seen.c.first_seen, seen.c.image_id)
    ).all()


def _analyses(session: Session, ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, AnalysisRow]:
    # Without the photo's sources: one that a whole catalogue shares has millions.
    statement = (
        select(AnalysisRow)
        .where(AnalysisRow.id.in_(list(ids)))
        .options(joinedload(AnalysisRow.image), selectinload(AnalysisRow.garments))
    )
    return {row.id: row for row in session.scalars(statement)}


def _corrections(
    session: Session, image_ids: Iterable[uuid.UUID]
) -> dict[uuid.UUID, list[tuple[GarmentRow, Correction]]]:
    """What people said of the garments of these photos, in whichever of their analyses."""
    statement = (
        select(AnalysisRow.image_id, GarmentRow, CorrectionRow)
        .join(GarmentRow, GarmentRow.analysis_id == AnalysisRow.id)
        .join(CorrectionRow, CorrectionRow.garment_id == GarmentRow.id)
        .where(AnalysisRow.image_id.in_(list(image_ids)))
        .order_by(CorrectionRow.created_at, CorrectionRow.id)
    )
    found: dict[uuid.UUID, list[tuple[GarmentRow, Correction]]] = defaultdict(list)
    for image_id, garment, said in session.execute(statement):
        correction = Correction(said.attribute, said.value, said.created_at)
        found[image_id].append((garment, correction))
    return found


def _product_urls(
    session: Session, external_ids: Sequence[str], analyses: Mapping[uuid.UUID, Any]
) -> dict[str, str]:
    item = IngestionItemRow
    statement = (
        select(item.external_id, item.product_url)
        .ext(distinct_on(item.external_id))
        .where(
            item.analysis_id.in_(list(analyses)),
            item.external_id.in_(external_ids),
            item.product_url.is_not(None),
        )
        .order_by(item.external_id, item.updated_at.desc(), item.id.desc())
    )
    return {str(external_id): str(url) for external_id, url in session.execute(statement)}


def _stored_photo(
    row: AnalysisRow,
    urls: Iterable[str],
    corrections: Sequence[tuple[GarmentRow, Correction]],
) -> StoredPhoto:
    report = report_from_row(row)
    hints: Mapping[str, str] = row.options.get("context", {})
    said = _said_of(row.garments, corrections)
    return StoredPhoto(
        analysis_id=row.id,
        created_at=row.created_at,
        urls=tuple(dict.fromkeys(urls)),
        garment_ids=tuple(garment.id for garment in row.garments),
        photo=ProductPhoto(report, hints, said),
    )


def _said_of(
    garments: Sequence[GarmentRow], corrections: Sequence[tuple[GarmentRow, Correction]]
) -> tuple[tuple[Correction, ...], ...]:
    """For each garment the corrections of it, or of one that lay there in an older analysis."""
    said: list[list[Correction]] = [[] for _ in garments]
    if garments and corrections:
        overlap = pairwise_iou(_boxes([of for of, _ in corrections]), _boxes(garments))
        for (of, correction), overlaps in zip(corrections, overlap, strict=True):
            own = [place for place, garment in enumerate(garments) if garment.id == of.id]
            place = own[0] if own else int(overlaps.argmax())
            if own or overlaps[place] >= SAME_GARMENT_IOU:
                said[place].append(correction)
    return tuple(map(tuple, said))


def _boxes(garments: Sequence[GarmentRow]) -> Any:
    return np.array([(g.x1, g.y1, g.x2, g.y2) for g in garments], np.float32)


def _changed_at(photo: StoredPhoto) -> datetime:
    said = (correction.created_at for per in photo.photo.corrections for correction in per)
    return max((photo.created_at, *said))
