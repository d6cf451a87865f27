"""Catalogues as streams of rows, in memory that does not grow with them.

    with open_catalogue(Path("catalogue.csv.gz")) as catalogue:
        for row in catalogue:  # CatalogueRow or RowProblem
            …

What makes a catalogue unreadable as a whole (no header, no image column, zero rows, a directory
in place of a file) is raised when it is opened; what is wrong with one row is a `RowProblem` in
its place, and the rows around it are read. Where a file breaks off, the rows before are given out
and one last problem says so.

A product's id may stand in a catalogue once: later rows with it are problems that name the first
one. The ids seen are kept in a temporary SQLite file, so memory stays flat; `repeats="keep"` gives
out every row, for catalogues that list the photos of one product in several.
"""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Literal

from services.ingestion.columns import FIELDS, ColumnMap, has_image_column, map_columns, read_row
from services.ingestion.delimited import DelimitedRows, sniff_header
from services.ingestion.formats import Format, binary_format, text_format, unsupported
from services.ingestion.jsonlines import JsonRows
from services.ingestion.photos import folder_rows, open_zip, zip_rows
from services.ingestion.rows import CatalogueRow, Record, RowProblem, until_broken
from services.ingestion.streams import GZIP_MAGIC, split_head, spool, ungzip
from services.ingestion.text import (
    MARK_ERRORS,
    MAX_LINE_CHARS,
    BoundedLines,
    LineTooLongError,
    check_encoding,
    sniff_encoding,
    text_problem,
)
from vision.errors import ErrorCode, PermanentError

Rows = Iterator[CatalogueRow | RowProblem]

REPEATS_CACHE_KIB = 8 * 1024
_DELIMITER = re.compile(r"[^\r\n\" \0]")


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the caller knows better; None is found out.

    columns: field (`image_url`, `external_id`, `product_url`, an attribute) → column, several for
    `image_url`. image_root: the folder whose files a catalogue may name besides URLs; without one
    it is the catalogue's own folder when that is a path, and only URLs are taken from uploads.
    repeats: what becomes of rows whose external id was there before.
    """

    format: Format | None = None
    columns: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    encoding: str | None = None
    delimiter: str | None = None
    image_root: Path | None = None
    repeats: Literal["report", "keep"] = "report"


DEFAULT_OPTIONS = ReadOptions()


def read_options(
    columns: Sequence[str] = (),
    form: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    image_root: Path | None = None,
    keep_repeats: bool = False,
) -> ReadOptions:
    """Options as they stand on a command line; columns: `FIELD=COLUMN`, a field several times.

    Raises `PermanentError` (`validation_error`); whether the catalogue has them shows later.
    """
    mapping: dict[str, list[str]] = {}
    for column in columns:
        name, equals, value = column.partition("=")
        if not (equals and name and value):
            raise _invalid(f"{column!r} is no mapping; FIELD=COLUMN is, of {', '.join(FIELDS)}")
        mapping.setdefault(name, []).append(value)
    return ReadOptions(
        format=None if form is None else Format(form),
        columns=mapping,
        encoding=encoding,
        delimiter=delimiter,
        image_root=image_root,
        repeats="keep" if keep_repeats else "report",
    )


class Catalogue:
    """An open catalogue with at least one row. To be gone through once.

    columns: None where rows are photos or bare URLs.
    """

    def __init__(self, form: Format, columns: ColumnMap | None, rows: Rows) -> None:
        self.format = form
        self.columns = columns
        self._rows = rows

    def __iter__(self) -> Rows:
        return self._rows


@contextmanager
def open_catalogue(
    source: Path | BinaryIO, options: ReadOptions = DEFAULT_OPTIONS
) -> Iterator[Catalogue]:
    """A file or folder by its path, or an open file: an upload, standard input.

    Raises `PermanentError`: `source_unreachable` when there is none, `unsupported_media` when its
    format is not known, `validation_error` when it has no header, no image column or no row.
    """
    with ExitStack() as opened:
        if isinstance(source, Path):
            catalogue = _open_path(source, options, opened)
        else:
            catalogue = _open_stream(source, "", None, options, opened)
        yield _checked(catalogue, options, opened)


def rows_of_items(items: Iterable[str | Mapping[str, Any]]) -> Rows:
    """A list that came with a request: URLs, or objects with the fields of a JSONL line."""
    for number, item in enumerate(items, start=1):
        if isinstance(item, str):
            yield read_row(number, {"image_url": item}, ColumnMap(("image_url",)), None)
            continue
        try:
            columns = map_columns([str(name) for name in item])
        except PermanentError as error:
            yield RowProblem(number, error.code, error.message)
        else:
            yield read_row(number, item, columns, None)


def without_repeats(rows: Rows) -> Rows:
    """Rows whose external id was given before become problems that name the first row with it."""
    # An empty name is a file of its own that SQLite deletes.
    with closing(sqlite3.connect("", isolation_level=None, check_same_thread=False)) as seen:
        for setting in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{REPEATS_CACHE_KIB}"):
            seen.execute(f"PRAGMA {setting}")
        seen.execute("BEGIN")  # One transaction; committing each id takes three times as long.
        seen.execute("CREATE TABLE ids (digest BLOB PRIMARY KEY, row INTEGER) WITHOUT ROWID")
        for row in rows:
            first = _first_row_of(seen, row) if isinstance(row, CatalogueRow) else None
            if first is None:
                yield row
            else:
                message = f"the external id stands in row {first} already"
                yield RowProblem(row.row_number, ErrorCode.VALIDATION_ERROR, message)


def _first_row_of(seen: sqlite3.Connection, row: CatalogueRow) -> int | None:
    """The earlier row with the same external id; remembers this one when there is none."""
    if row.external_id is None:
        return None
    digest = blake2b(row.external_id.encode(), digest_size=16).digest()
    added = seen.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (digest, row.row_number))
    if added.rowcount:
        return None
    found: int = seen.execute("SELECT row FROM ids WHERE digest = ?", (digest,)).fetchone()[0]
    return found


def _checked(catalogue: Catalogue, options: ReadOptions, opened: ExitStack) -> Catalogue:
    """The catalogue with its repeats reported, once it is known to have a row."""
    rows = catalogue._rows
    first = next(rows, None)
    if first is None:
        raise _invalid(f"the catalogue has no rows ({_EMPTY[catalogue.format]})")
    rows = itertools.chain([first], rows)
    if options.repeats == "report":
        rows = without_repeats(rows)
        opened.callback(rows.close)  # type: ignore[attr-defined]
    return Catalogue(catalogue.format, catalogue.columns, rows)


_EMPTY = {
    Format.CSV: "nothing below the header",
    Format.JSONL: "no line with an object",
    Format.PARQUET: "nothing below the column names",
    Format.URLS: "no line with a URL",
    Format.FOLDER: "no photos in the folder or below",
    Format.ZIP: "no photos in the zip",
}


def _open_path(path: Path, options: ReadOptions, opened: ExitStack) -> Catalogue:
    if path.is_dir():
        if options.format not in (None, Format.FOLDER):
            raise _invalid(f"{path} is a folder; {options.format} is read from a file")
        return Catalogue(Format.FOLDER, None, folder_rows(path))
    try:
        file = opened.enter_context(path.open("rb"))
    except OSError as error:
        reason = error.strerror or "cannot be opened"
        raise PermanentError(ErrorCode.SOURCE_UNREACHABLE, f"{path}: {reason.lower()}") from error
    return _open_stream(file, path.name, path, options, opened)


def _open_stream(
    stream: BinaryIO, name: str, path: Path | None, options: ReadOptions, opened: ExitStack
) -> Catalogue:
    head, stream = split_head(stream)
    path_within = path
    if head.startswith(GZIP_MAGIC):
        path_within, name = None, name.removesuffix(".gz")
        head, stream = split_head(ungzip(stream))
    form = options.format if options.format is not None else binary_format(head)
    if form is Format.FOLDER:
        raise _invalid("a folder was expected, and this is a file")
    if form is Format.ZIP:
        return _open_zip(path_within, opened)
    image_root = options.image_root or (path.parent if path is not None else None)
    if form is Format.PARQUET:
        return _open_parquet(stream, path_within, image_root, options, opened)
    return _open_text(head, stream, name, image_root, options)


def _open_zip(path: Path | None, opened: ExitStack) -> Catalogue:
    if path is None:
        raise _invalid("a zip of photos is read from a file on disk, not from a stream or gzip")
    archive = opened.enter_context(open_zip(path))
    names = set(archive.NameToInfo)
    if "[Content_Types].xml" in names:
        raise unsupported("an Office document; save it as CSV")
    return Catalogue(Format.ZIP, None, zip_rows(archive, path))


def _open_parquet(
    stream: BinaryIO,
    path: Path | None,
    image_root: Path | None,
    options: ReadOptions,
    opened: ExitStack,
) -> Catalogue:
    from services.ingestion.parquet import ParquetRows  # A hundred modules, for one format.

    file = opened.enter_context(spool(stream) if path is None else path.open("rb"))
    table = ParquetRows(file)
    columns = map_columns(table.names, options.columns)
    table.check_types(columns)
    rows = _rows(table.rows(columns), columns, image_root)
    return Catalogue(Format.PARQUET, columns, rows)


def _open_text(
    head: bytes, stream: BinaryIO, name: str, image_root: Path | None, options: ReadOptions
) -> Catalogue:
    if options.delimiter is not None and not _DELIMITER.fullmatch(options.delimiter):
        raise _invalid(f"{options.delimiter!r} cannot be a delimiter; one character can")
    encoding = check_encoding(options.encoding) if options.encoding else sniff_encoding(head)
    text = head.decode(encoding, MARK_ERRORS)
    form = options.format if options.format is not None else text_format(text, name)
    lines = BoundedLines(stream, encoding)
    if form is Format.URLS:
        return Catalogue(form, None, _rows(_url_records(lines), ColumnMap(("url",)), None))
    if form is Format.JSONL:
        objects = JsonRows(lines)
        columns = map_columns(objects.names, options.columns)
        return Catalogue(form, columns, _rows(iter(objects), columns, image_root))

    def is_header(names: Sequence[str]) -> bool:
        return has_image_column(names, options.columns)

    delimiter, names, header_lines = sniff_header(text, is_header, options.delimiter)
    columns = map_columns(names, options.columns)
    table = DelimitedRows(lines, delimiter, names, columns.names, header_lines)
    return Catalogue(Format.CSV, columns, _rows(iter(table), columns, image_root))


def _rows(
    records: Iterator[Record | RowProblem], columns: ColumnMap, image_root: Path | None
) -> Rows:
    for record in until_broken(records):
        if isinstance(record, RowProblem):
            yield record
        else:
            yield read_row(*record, columns, image_root)


def _url_records(lines: BoundedLines) -> Iterator[Record | RowProblem]:
    number = 0
    while True:
        problem = None
        try:
            line = next(lines).strip()
        except StopIteration:
            return
        except LineTooLongError:
            line, problem = "…", f"longer than {MAX_LINE_CHARS:,} characters"
        if not line or line.startswith("#"):
            continue
        number += 1
        problem = problem or text_problem(line, lines.encoding)
        if problem is not None:
            message = f"line {lines.line_number}: {problem}"
            yield RowProblem(number, ErrorCode.VALIDATION_ERROR, message)
        else:
            yield number, {"url": line}


def _invalid(message: str) -> PermanentError:
    return PermanentError(ErrorCode.VALIDATION_ERROR, message)
