"""Rows of CSV and its relatives, where a broken row costs no other."""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from services.ingestion.rows import Record, RowProblem
from services.ingestion.text import MAX_LINE_CHARS, BoundedLines, LineTooLongError, text_problem
from vision.errors import ErrorCode

DELIMITERS = (",", ";", "\t", "|")
MAX_ROW_CHARS = MAX_LINE_CHARS
_UNCLOSED = "a quote is opened and never closed"
_EXCEL_HINT = re.compile(r"sep=(.)\s*", re.IGNORECASE)


def sniff_header(
    head: str, has_image_column: Callable[[Sequence[str]], bool], delimiter: str | None = None
) -> tuple[str, list[str], int]:
    """Delimiter, column names, and how many lines the header and what stands above it take.

    The delimiter is the one whose header has an image column and the most columns; a file of one
    column has none, so tabs, which no URL holds, leave its commas alone. Repeated names are
    numbered.
    """
    hint = _EXCEL_HINT.fullmatch(head.partition("\n")[0])
    if hint is not None:
        delimiter = delimiter or hint[1]
    found = []
    for candidate in DELIMITERS if delimiter is None else (delimiter,):
        names, lines = _first_record(head, candidate, skip=int(hint is not None))
        found.append(((has_image_column(names), len(names)), candidate, names, lines))
    (_, width), chosen, names, lines = max(found, key=lambda each: each[0])
    if delimiter is None and width == 1:
        chosen = "\t"
    return chosen, _distinct(names), lines


class DelimitedRows:
    """Records of a delimited file whose header has been read: row number and column → cell.

    A row with a quote out of place is reported, and reading goes on with the line after it. Row
    numbers count records, blank ones too, as a spreadsheet does.
    """

    def __init__(
        self,
        lines: BoundedLines,
        delimiter: str,
        names: Sequence[str],
        wanted: Sequence[str],
        header_lines: int,
    ) -> None:
        self._lines = _Rewindable(lines)
        for _ in range(header_lines):
            next(self._lines, None)
        self._encoding = lines.encoding
        self._delimiter = delimiter
        self._width = len(names)
        self._wanted = [(name, names.index(name)) for name in wanted]

    def __iter__(self) -> Iterator[Record | RowProblem]:
        csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_CHARS))  # It is the process's.
        reader = csv.reader(self._lines, delimiter=self._delimiter, strict=True)
        number = 0
        while True:
            number += 1
            self._lines.begin_record()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except LineTooLongError:
                what = f"longer than {MAX_ROW_CHARS:,} characters"
                yield self._problem(number, _UNCLOSED if self._swallowed_rows() else what)
                self._recover()
            except csv.Error as error:
                yield self._problem(number, f"quotes are out of place: {error}")
                self._recover()
            else:
                if any(cells):
                    yield self._record(number, cells)

    def _record(self, number: int, cells: Sequence[str]) -> Record | RowProblem:
        problem = text_problem(self._lines.record, self._encoding)
        if problem is None and len(cells) != self._width:
            problem = f"{len(cells)} cells where the header has {self._width}"
            if self._swallowed_rows():
                self._lines.rewind()
        if problem is not None:
            return self._problem(number, problem)
        return number, {name: cells[index] for name, index in self._wanted}

    def _problem(self, number: int, what: str) -> RowProblem:
        where = f"line {self._lines.record_line}"
        return RowProblem(number, ErrorCode.VALIDATION_ERROR, f"{where}: {what}")

    def _recover(self) -> None:
        """Go on after the broken record, or after its first line if it swallowed rows."""
        if self._swallowed_rows():
            self._lines.rewind()
        else:
            self._lines.skip_open_quote()

    def _swallowed_rows(self) -> bool:
        """Whether the second line of the record is a row of its own: its quote was never closed."""
        line = self._lines.second_line
        if line is None or self._width == 1:
            return line is not None
        try:
            cells = next(csv.reader([line], delimiter=self._delimiter, strict=True), [])
        except csv.Error:
            return False
        return len(cells) == self._width


class _Rewindable:
    """Lines for `csv.reader` that remembers those of the record being read."""

    def __init__(self, lines: BoundedLines) -> None:
        self._lines = lines
        self._again: deque[str] = deque()
        self._taken: list[str] = []
        self._chars = 0
        self.record_line = 0

    def begin_record(self) -> None:
        self._taken.clear()
        self._chars = 0
        self.record_line = self._lines.line_number - len(self._again) + 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self._taken.append(line)
        self._chars += len(line)
        if self._chars > MAX_ROW_CHARS:
            raise LineTooLongError
        return line

    @property
    def record(self) -> str:
        return self._taken[0] if len(self._taken) == 1 else "".join(self._taken)

    @property
    def second_line(self) -> str | None:
        return self._taken[1] if len(self._taken) > 1 else None

    def rewind(self) -> None:
        """Give out again what followed the record's first line."""
        self._again.extendleft(reversed(self._taken[1:]))

    def skip_open_quote(self) -> None:
        """Pass the lines up to the one that closes the quote the record has opened."""
        quotes = sum(line.count('"') for line in self._taken)
        while quotes % 2:
            try:
                line = self._again.popleft() if self._again else next(self._lines)
            except StopIteration:
                return
            except LineTooLongError:
                continue
            quotes += line.count('"')


def _first_record(head: str, delimiter: str, skip: int) -> tuple[list[str], int]:
    """The first record with anything in it, and the lines up to its end."""
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)
    try:
        for index, cells in enumerate(reader):
            if index >= skip and any(cell.strip() for cell in cells):
                return [cell.strip() for cell in cells], reader.line_num
    except csv.Error:  # A cell longer than the limit: that is no header.
        pass
    return [], reader.line_num


def _distinct(names: Sequence[str]) -> list[str]:
    """Column names, a repeated one numbered: two columns `image` are `image` and `image_2`."""
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 or not name else f"{name}_{seen[name]}")
    return distinct
