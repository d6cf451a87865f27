"""What a catalogue is read into: one record a row, or what is wrong with the row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vision.errors import ErrorCode, PermanentError


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """One product of a catalogue.

    row_number: from 1, headers not counted. external_id: the caller's own id. image_refs: at least
    one; `http(s)://…`, or `file:///folder/photo.jpg` and `file:///photos.zip#member.jpg` for what
    lies on this machine (`images.LocalImages` reads those). product_url: as it stood in the
    catalogue, unchecked. hints: attribute → label of the taxonomy; what names none is left out.
    """

    row_number: int
    external_id: str | None
    image_refs: tuple[str, ...]
    product_url: str | None
    hints: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RowProblem:
    """A row that cannot be used. The message is for whoever wrote the catalogue."""

    row_number: int
    code: ErrorCode
    message: str


Record = tuple[int, Mapping[str, Any]]
"""A row as it stands in a table: its number, and column → value of the columns that are read."""


def until_broken(records: Iterator[Record | RowProblem]) -> Iterator[Record | RowProblem]:
    """The records up to where the stream breaks off, and then a problem that says so."""
    number = 0
    try:
        for record in records:
            number = record.row_number if isinstance(record, RowProblem) else record[0]
            yield record
    except PermanentError as error:
        yield RowProblem(number + 1, error.code, f"{error.message}; nothing after it can be read")
