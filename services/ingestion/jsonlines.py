"""Rows of JSONL: one object a line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

from services.ingestion.rows import Record, RowProblem, until_broken
from services.ingestion.text import MAX_LINE_CHARS, BoundedLines, LineTooLongError, text_problem
from vision.errors import ErrorCode

SAMPLE_ROWS = 100
"""Objects whose keys together are the columns."""


class JsonRows:
    """Records of a JSONL file: row number and key → value. Row numbers count lines that hold any.

    names: every key of the first objects, in order of appearance.
    """

    def __init__(self, lines: BoundedLines) -> None:
        self._lines = lines
        self._rows = until_broken(self._read())
        self._sample = list(itertools.islice(self._rows, SAMPLE_ROWS))
        self.names = tuple(
            dict.fromkeys(
                key for row in self._sample if not isinstance(row, RowProblem) for key in row[1]
            )
        )

    def __iter__(self) -> Iterator[Record | RowProblem]:
        return itertools.chain(self._sample, self._rows)

    def _read(self) -> Iterator[Record | RowProblem]:
        number = 0
        while True:
            try:
                line = next(self._lines)
            except StopIteration:
                return
            except LineTooLongError:
                number += 1
                yield self._problem(number, f"longer than {MAX_LINE_CHARS:,} characters")
                continue
            if line.isspace():
                continue
            number += 1
            yield self._row(number, line)

    def _row(self, number: int, line: str) -> Record | RowProblem:
        problem = text_problem(line, self._lines.encoding)
        if problem is not None:
            return self._problem(number, problem)
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            return self._problem(number, f"no JSON: {error}")
        if not isinstance(row, dict):
            return self._problem(number, f"a JSON {type(row).__name__}, not an object")
        return number, row

    def _problem(self, number: int, what: str) -> RowProblem:
        where = f"line {self._lines.line_number}"
        return RowProblem(number, ErrorCode.VALIDATION_ERROR, f"{where}: {what}")
