"""Products as files: JSONL has each as the API gives it, CSV and Parquet a row for each.

In CSV and Parquet the columns are those of the garment that is the product; what is worn with it
is a list. CSV leaves embeddings out and writes lists as JSON. COCO is of photos, not of products.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from services.exports import (
    Embeddings,
    Format,
    embedding_as_json,
    embedding_field,
    in_utc,
    opened,
    target_format,
    with_progress,
    write_csv,
    write_parquet,
)
from services.pipeline.merge import MergedGarment, Vote
from services.pipeline.products import garment_ids, merge_product, product_as_json
from services.store.exports import open_product_snapshot
from services.store.products import StoredProduct
from services.store.session import Database
from vision.errors import ErrorCode, PermanentError
from vision.garments import ATTRIBUTES


def run_product_export(
    database: Database,
    out: Path,
    form: Format | None = None,
    since: datetime | None = None,
    embeddings: Embeddings = Embeddings.FLOAT32,
) -> int:
    """What `vestiary export --what products` does; returns how many were written.

    out: `-` is standard output, which needs a format. since: updated at this time or later; without
    a time zone it is UTC.
    """
    form = target_format(out, form)
    with open_product_snapshot(database, in_utc(since)) as snapshot:
        products = with_progress(snapshot, snapshot.count)
        with opened(out, form) as stream:
            return export_products(products, stream, form, embeddings)


def export_products(
    products: Iterable[StoredProduct],
    out: BinaryIO,
    form: Format,
    embeddings: Embeddings = Embeddings.FLOAT32,
) -> int:
    """Write to a stream, which stays open; returns how many were written.

    Raises `PermanentError` (`validation_error`) for COCO.
    """
    counted = _Counted(products)
    match form:
        case Format.JSONL:
            _write_jsonl(counted, out, embeddings is not Embeddings.NONE)
        case Format.CSV:
            write_csv(_rows(counted), product_schema(Embeddings.NONE).names, out)
        case Format.PARQUET:
            write_parquet(_rows(counted), product_schema(embeddings), out)
        case Format.COCO:
            message = "COCO has photos, not products; export analyses, or products as jsonl"
            raise PermanentError(ErrorCode.VALIDATION_ERROR, message)
    return counted.products


def product_schema(embeddings: Embeddings) -> pa.Schema:
    """Columns of CSV and Parquet."""
    text, number, count = pa.string(), pa.float32(), pa.int16()
    vote = pa.struct([("label", text), ("confidence", number), ("votes", count)])
    return pa.schema(
        [
            ("external_id", text),
            ("product_url", text),
            ("updated_at", pa.timestamp("us", tz="UTC")),
            ("photos", count),
            ("analysis_ids", pa.list_(text)),
            ("image_urls", pa.list_(text)),
            ("garment_ids", pa.list_(text)),
            ("category", text),
            ("share", number),
            *(
                column
                for name in ATTRIBUTES
                for column in (
                    (name, text),
                    (f"{name}_confidence", number),
                    (f"{name}_votes", count),
                )
            ),
            ("colours", pa.list_(pa.struct([("name", text), ("hex", text), ("share", number)]))),
            ("style_label", text),
            ("style_confidence", number),
            ("style_attributes", pa.map_(text, vote)),
            ("worn_with", pa.list_(pa.struct([("category", text), ("article_type", text)]))),
            *embedding_field(embeddings),
        ]
    )


class _Counted:
    def __init__(self, products: Iterable[StoredProduct]) -> None:
        self._source = products
        self.products = 0

    def __iter__(self) -> Iterator[StoredProduct]:
        for stored in self._source:
            yield stored
            self.products += 1


def _write_jsonl(products: Iterable[StoredProduct], out: BinaryIO, embeddings: bool) -> None:
    for stored in products:
        product = merge_product(stored)
        content = product_as_json(stored, product)
        if embeddings and product.main is not None:
            content["garment"]["embedding"] = embedding_as_json(product.main.embedding)
        out.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")


def _rows(products: Iterable[StoredProduct]) -> Iterator[dict[str, Any]]:
    for stored in products:
        product = merge_product(stored)
        yield {
            "external_id": stored.external_id,
            "product_url": stored.product_url,
            "updated_at": stored.updated_at,
            "photos": len(stored.photos),
            "analysis_ids": [str(photo.analysis_id) for photo in stored.photos],
            "image_urls": list(dict.fromkeys(url for photo in stored.photos for url in photo.urls)),
            **_main_cells(product.main, stored),
            "worn_with": [
                {"category": other.category, "article_type": _label(other, "article_type")}
                for other in product.others
            ],
        }


def _main_cells(main: MergedGarment | None, stored: StoredProduct) -> dict[str, Any]:
    """A product that no photo shows has empty cells."""
    style = None if main is None else main.style
    cells: dict[str, Any] = {
        "garment_ids": [] if main is None else garment_ids(main, stored),
        "category": None if main is None else main.category,
        "share": None if main is None else main.share,
        "colours": [] if main is None else [asdict(colour) for colour in main.colours],
        "style_label": None if style is None else style.label,
        "style_confidence": None if style is None else style.confidence,
        "style_attributes": None
        if main is None or style is None
        else {name: _vote_cell(vote) for name, vote in main.style_attributes.items()},
        "embedding": None if main is None else main.embedding,
    }
    for name in ATTRIBUTES:
        vote = None if main is None else main.attributes.get(name)
        cells[name] = None if vote is None else vote.label
        cells[f"{name}_confidence"] = None if vote is None else vote.confidence
        cells[f"{name}_votes"] = None if vote is None else vote.votes
    return cells


def _label(garment: MergedGarment, attribute: str) -> str | None:
    vote = garment.attributes.get(attribute)
    return None if vote is None else vote.label


def _vote_cell(vote: Vote) -> dict[str, Any]:
    return {"label": vote.label, "confidence": vote.confidence, "votes": vote.votes}
