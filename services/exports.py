"""Stored analyses as files: JSONL, CSV, Parquet, and COCO JSON.

JSONL has a line for each analysis, whole, as the API gives it. CSV and Parquet have a row for each
garment, in the same columns; CSV leaves embeddings out and writes lists as JSON. COCO has boxes and
masks of each image's newest analysis, for annotation tools and training. Every writer takes a
stream of analyses and holds a batch of them at most; `services.product_exports` writes products
with the same means. Cells are written as they are: ids and URLs
are their senders', and a spreadsheet may take one that begins with `=` for a formula.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet as pq
from rich.console import Console
from rich.progress import track

from services.pipeline.record import stored_as_json
from services.store.analyses import AnalysisFilter
from services.store.exports import open_snapshot
from services.store.records import StoredAnalysis
from services.store.session import Database
from vision.deepfashion2 import deepfashion2_name
from vision.errors import ErrorCode, PermanentError
from vision.garments import ATTRIBUTES, Garment
from vision.taxonomy import load_taxonomy

T = TypeVar("T")

STDOUT = "-"
EMBEDDING_LENGTH = 256
BATCH_ROWS = 512
ROW_GROUP_BATCHES = 16
"""A row group is 8,192 garments, about 15 MB while it is gathered."""
UNNAMED = "garment"
"""COCO category of a garment that no model gave a class, only attributes."""


class Format(StrEnum):
    """Every kind of file. coco: JSON of boxes and masks."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    COCO = "coco"


class Embeddings(StrEnum):
    """How embeddings are written. They are stored as float16, which not every reader of Parquet
    knows; float32 holds the same numbers.
    """

    NONE = "none"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


@dataclass(frozen=True, slots=True)
class ExportCount:
    """What was written."""

    analyses: int
    garments: int


_SUFFIXES = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".parquet": Format.PARQUET,
    ".json": Format.COCO,
}


def format_of(path: Path) -> Format:
    """The format a file's name asks for: `.jsonl`, `.csv`, `.parquet`, `.json` (COCO), or with .gz.

    Raises `PermanentError` (`validation_error`) for another name.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in _SUFFIXES:
        raise _invalid(f"{path.name!r} names no format; {', '.join(_SUFFIXES)} do, or --format")
    return _SUFFIXES[suffix]


def run_export(
    database: Database,
    out: Path,
    form: Format | None = None,
    conditions: Sequence[str] = (),
    since: datetime | None = None,
    newest_only: bool = False,
    embeddings: Embeddings = Embeddings.FLOAT32,
) -> ExportCount:
    """What `vestiary export` does, with a progress bar where somebody watches.

    out: `-` is standard output, which needs a format. conditions: `field=value`, all of which must
    hold; the fields are those of `AnalysisFilter`. since: without a time zone it is UTC.
    """
    form = target_format(out, form)
    where = parse_conditions(conditions)
    # Two analyses of one image would draw each garment twice.
    newest_only = newest_only or form is Format.COCO
    with open_snapshot(database, where, since=in_utc(since), newest_only=newest_only) as snapshot:
        analyses = with_progress(snapshot, snapshot.count)
        with opened(out, form) as stream:
            return export(analyses, stream, form, embeddings)


def target_format(out: Path, form: Format | None) -> Format:
    """The format that was asked for, or the one the file's name says.

    Raises `PermanentError` (`validation_error`) where neither does.
    """
    if str(out) == STDOUT and form is None:
        raise _invalid(f"standard output needs --format: {', '.join(Format)}")
    return form or format_of(out)


def in_utc(moment: datetime | None) -> datetime | None:
    """A moment without a time zone is taken for UTC."""
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=UTC)


def with_progress(items: Iterable[T], total: int) -> Iterable[T]:
    """The items, with a progress bar where somebody watches."""
    console = Console(stderr=True)
    hidden = not console.is_terminal
    return track(items, "exporting", total, console=console, transient=True, disable=hidden)


def parse_conditions(conditions: Sequence[str]) -> AnalysisFilter:
    """`["category=dress", "gender=Women"]` as a filter.

    Raises `PermanentError` (`validation_error`), which lists the fields there are.
    """
    known = [field.name for field in fields(AnalysisFilter) if field.name != "created_after"]
    values: dict[str, Any] = {}
    for condition in conditions:
        name, equals, value = condition.partition("=")
        if not equals or name not in known:
            raise _invalid(f"{condition!r} is no condition; FIELD=VALUE is, of {', '.join(known)}")
        values[name] = value
    return AnalysisFilter(**values)


def export_file(
    analyses: Iterable[StoredAnalysis],
    path: Path,
    form: Format,
    embeddings: Embeddings = Embeddings.FLOAT32,
) -> ExportCount:
    """Write a file. Raises what `opened` raises."""
    with opened(path, form) as out:
        return export(analyses, out, form, embeddings)


@contextmanager
def opened(path: Path, form: Format) -> Iterator[BinaryIO]:
    """A file to write to, gzip'd when its name ends in `.gz`, which appears when the block has
    ended without an error; standard output for `-`.

    Raises `PermanentError` (`validation_error`) where it cannot be written.
    """
    if str(path) == STDOUT:
        yield sys.stdout.buffer
        return
    if path.suffix == ".gz" and form is Format.PARQUET:
        raise _invalid("Parquet is compressed within; leave .gz out")
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file, _maybe_gzip(file, path.suffix == ".gz") as out:
            yield out
        partial.replace(path)
    except OSError as error:
        raise _invalid(f"{path} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def export(
    analyses: Iterable[StoredAnalysis],
    out: BinaryIO,
    form: Format,
    embeddings: Embeddings = Embeddings.FLOAT32,
) -> ExportCount:
    """Write to a stream, which stays open."""
    counted = _Counted(analyses)
    match form:
        case Format.JSONL:
            _write_jsonl(counted, out, embeddings is not Embeddings.NONE)
        case Format.CSV:
            write_csv(_garment_rows(counted), garment_schema(Embeddings.NONE).names, out)
        case Format.PARQUET:
            write_parquet(_garment_rows(counted), garment_schema(embeddings), out)
        case Format.COCO:
            _write_coco(counted, out)
    return ExportCount(counted.analyses, counted.garments)


class _Counted:
    def __init__(self, analyses: Iterable[StoredAnalysis]) -> None:
        self._source = analyses
        self.analyses = 0
        self.garments = 0

    def __iter__(self) -> Iterator[StoredAnalysis]:
        for stored in self._source:
            yield stored
            self.analyses += 1
            self.garments += len(stored.garment_ids)


def _write_jsonl(analyses: Iterable[StoredAnalysis], out: BinaryIO, embeddings: bool) -> None:
    for stored in analyses:
        content = stored_as_json(stored)
        if embeddings:
            for shown, garment in zip(content["garments"], stored.report.garments, strict=True):
                shown["embedding"] = (
                    None if garment.labels is None else embedding_as_json(garment.labels.embedding)
                )
        out.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")


def embedding_as_json(embedding: NDArray[np.float32] | None) -> list[float] | None:
    """Five digits, which tell every half-precision number from its neighbours."""
    return None if embedding is None else [float(f"{value:.5g}") for value in embedding.tolist()]


def write_csv(rows: Iterable[Mapping[str, Any]], names: Sequence[str], out: BinaryIO) -> None:
    """These columns of the rows, lists and structures as JSON."""
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=False)
    writer = csv.DictWriter(text, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _csv_cell(value) for name, value in row.items()})
    text.flush()
    text.detach()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    return value


def write_parquet(rows: Iterable[Mapping[str, Any]], schema: pa.Schema, out: BinaryIO) -> None:
    """The schema's columns of the rows; a column `embedding` holds arrays or None."""
    # pyarrow would close the file it is given.
    with pq.ParquetWriter(pa.PythonFile(_Unclosed(out), "w"), schema, compression="zstd") as writer:
        batches = _record_batches(iter(rows), schema)
        while group := list(itertools.islice(batches, ROW_GROUP_BATCHES)):
            writer.write_table(pa.Table.from_batches(group))


def _record_batches(
    rows: Iterator[Mapping[str, Any]], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        columns = [_column(batch, field) for field in schema]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(rows: Sequence[Mapping[str, Any]], field: pa.Field) -> pa.Array:
    values = [row[field.name] for row in rows]
    if field.name == "embedding":
        precision = field.type.value_type.to_pandas_dtype()
        values = [None if value is None else value.astype(precision) for value in values]
    if pa.types.is_map(field.type):
        values = [None if value is None else list(value.items()) for value in values]
    return pa.array(values, type=field.type)


class _Unclosed(io.RawIOBase):
    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._out.write(data)


def garment_schema(embeddings: Embeddings) -> pa.Schema:
    """Columns of CSV and Parquet. Boxes are in pixels of the upright photo, far edges exclusive."""
    text, number = pa.string(), pa.float32()
    answer = pa.struct([("label", text), ("confidence", number)])
    fields = [
        ("analysis_id", text),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("image_sha256", text),
        ("image_width", pa.int32()),
        ("image_height", pa.int32()),
        ("image_format", text),
        ("external_ids", pa.list_(text)),
        ("image_urls", pa.list_(text)),
        ("models", pa.map_(text, pa.struct([("name", text), ("version", text)]))),
        ("garment_id", text),
        ("ordinal", pa.int16()),
        ("source", text),
        ("category", text),
        ("deepfashion2", text),
        ("score", number),
        *((edge, number) for edge in ("x1", "y1", "x2", "y2")),
        ("mask", pa.struct([("size", pa.list_(pa.int32(), 2)), ("counts", text)])),
        *(
            column
            for name in ATTRIBUTES
            for column in ((name, text), (f"{name}_confidence", number))
        ),
        ("colours", pa.list_(pa.struct([("name", text), ("hex", text), ("share", number)]))),
        ("style_label", text),
        ("style_score", number),
        ("style_attributes", pa.map_(text, answer)),
    ]
    return pa.schema(fields + embedding_field(embeddings))


def embedding_field(embeddings: Embeddings) -> list[tuple[str, pa.DataType]]:
    """The one column of embeddings, or none."""
    if embeddings is Embeddings.NONE:
        return []
    precision = pa.float16() if embeddings is Embeddings.FLOAT16 else pa.float32()
    return [("embedding", pa.list_(precision, EMBEDDING_LENGTH))]


def _garment_rows(analyses: Iterable[StoredAnalysis]) -> Iterator[dict[str, Any]]:
    for stored in analyses:
        shared = _analysis_cells(stored)
        garments = zip(stored.garment_ids, stored.report.garments, strict=True)
        for ordinal, (garment_id, garment) in enumerate(garments):
            own = {"garment_id": str(garment_id), "ordinal": ordinal}
            yield shared | own | _garment_cells(garment)


def _analysis_cells(stored: StoredAnalysis) -> dict[str, Any]:
    width, height = stored.report.resolution_wh
    sources = stored.sources
    return {
        "analysis_id": str(stored.id),
        "created_at": stored.created_at,
        "image_sha256": stored.report.image_sha256,
        "image_width": width,
        "image_height": height,
        "image_format": stored.image_format,
        "external_ids": list(dict.fromkeys(s.external_id for s in sources if s.external_id)),
        "image_urls": list(dict.fromkeys(source.url for source in sources if source.url)),
        "models": {stage: asdict(model) for stage, model in stored.report.models.items()},
    }


def _garment_cells(garment: Garment) -> dict[str, Any]:
    labels, style = garment.labels, garment.style
    answers = {} if labels is None else labels.attributes
    cells: dict[str, Any] = {
        "source": garment.source,
        "category": garment.category,
        "deepfashion2": deepfashion2_name(garment.category, garment.style, load_taxonomy()),
        "score": garment.score,
        **dict(zip(("x1", "y1", "x2", "y2"), garment.xyxy, strict=True)),
        "mask": None if garment.mask is None else garment.mask.as_coco(),
        "colours": [asdict(colour) for colour in garment.colours],
        "style_label": None if style is None else style.label,
        "style_score": None if style is None else style.score,
        "style_attributes": None
        if style is None
        else {
            name: {"label": answer.label, "confidence": answer.confidence}
            for name, answer in style.attributes.items()
        },
        "embedding": None if labels is None else labels.embedding,
    }
    for name in ATTRIBUTES:
        answer = answers.get(name)
        cells[name] = None if answer is None else answer.label
        cells[f"{name}_confidence"] = None if answer is None else answer.confidence
    return cells


def _write_coco(analyses: Iterable[StoredAnalysis], out: BinaryIO) -> None:
    """Images go straight out; annotations wait on disk, because COCO keeps them in another list.

    Format: https://cocodataset.org/#format-data. Classes of the detector have the same ids in
    every export; others follow in order of appearance.
    """
    category_ids = {name: id_ for id_, name in enumerate(load_taxonomy().garment_classes, start=1)}
    info = {"description": "Vestiary export", "date_created": datetime.now(UTC).isoformat()}
    annotation_id = 0
    with tempfile.TemporaryFile() as annotations:
        out.write(b'{"info": %b, "licenses": [], "images": [' % json.dumps(info).encode())
        for image_id, stored in enumerate(analyses, start=1):
            _write_item(out, _coco_image(image_id, stored), first=image_id == 1)
            for garment_id, garment in zip(stored.garment_ids, stored.report.garments, strict=True):
                annotation_id += 1
                name = garment.category or (garment.style.label if garment.style else UNNAMED)
                category_id = category_ids.setdefault(name, len(category_ids) + 1)
                content = {
                    "id": annotation_id,
                    "image_id": image_id,
                    "category_id": category_id,
                    "garment_id": str(garment_id),
                    **_coco_garment(garment),
                }
                _write_item(annotations, content, first=annotation_id == 1)
        out.write(b'], "annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, out)
    categories = [
        {"id": id_, "name": name, "supercategory": "garment"} for name, id_ in category_ids.items()
    ]
    out.write(b'], "categories": %b}\n' % json.dumps(categories).encode())


def _write_item(out: IO[bytes], content: Mapping[str, Any], first: bool) -> None:
    out.write((b"" if first else b",") + b"\n" + json.dumps(content).encode())


def _coco_image(image_id: int, stored: StoredAnalysis) -> dict[str, Any]:
    cells = _analysis_cells(stored)
    urls = cells["image_urls"]
    return {
        "id": image_id,
        "file_name": f"{cells['image_sha256']}.{cells['image_format']}",
        "width": cells["image_width"],
        "height": cells["image_height"],
        "date_captured": stored.created_at.isoformat(),
        **({"coco_url": urls[0]} if urls else {}),
        "external_ids": cells["external_ids"],
        "analysis_id": cells["analysis_id"],
    }


def _coco_garment(garment: Garment) -> dict[str, Any]:
    """Box as [x, y, width, height]; a garment without a mask has an empty segmentation."""
    x1, y1, x2, y2 = garment.xyxy
    attributes = {} if garment.labels is None else garment.labels.attributes
    return {
        "bbox": [round(edge, 2) for edge in (x1, y1, x2 - x1, y2 - y1)],
        "area": round((x2 - x1) * (y2 - y1), 2) if garment.mask is None else garment.mask.area,
        "segmentation": [] if garment.mask is None else garment.mask.as_coco(),
        "iscrowd": 0,
        "score": garment.score,
        "attributes": {name: answer.label for name, answer in attributes.items()},
    }


@contextmanager
def _maybe_gzip(file: BinaryIO, wanted: bool) -> Iterator[BinaryIO]:
    if not wanted:
        yield file
        return
    with gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as zipped:
        yield zipped  # type: ignore[misc]


def _invalid(message: str) -> PermanentError:
    return PermanentError(ErrorCode.VALIDATION_ERROR, message)
