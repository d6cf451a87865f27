"""Rows of Parquet, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO

import pyarrow as pa
from pyarrow import compute as pc
from pyarrow import parquet as pq

from services.ingestion.columns import ColumnMap
from services.ingestion.rows import Record, RowProblem
from vision.errors import ErrorCode, PermanentError

BATCH_BYTES = 8 * 1024 * 1024
MAX_BATCH_ROWS = 2048
MAX_GROUP_BYTES = 16 * 1024**3
"""Of a row group as it says itself, or with the longest text its rows share in every row."""
MAX_CELL_CHARS = 1024 * 1024

# What pyarrow raises for a damaged file, by where it is damaged.
_DAMAGE = (pa.ArrowException, OSError, LookupError, ValueError)

# The default allocator keeps what batches let go of: 95 MB, in place of 22, for a million rows.
pa.set_memory_pool(pa.system_memory_pool())


class ParquetRows:
    """Records of a Parquet file: row number and column → value.

    A row group that is damaged is one problem, and reading goes on with the next group. Raises
    `PermanentError` (`validation_error`) for what is no Parquet file.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._source = file
        try:
            self._file = pq.ParquetFile(file, buffer_size=1024 * 1024, pre_buffer=False)
        except _DAMAGE as error:
            raise _invalid(f"not a readable Parquet file: {error}") from error
        self.names: tuple[str, ...] = tuple(self._file.schema_arrow.names)

    def check_types(self, columns: ColumnMap) -> None:
        """Raises `PermanentError` (`validation_error`) naming a column of a type it cannot have."""
        for name in columns.names:
            found = self._file.schema_arrow.field(name).type
            if name in columns.images:
                fits, needed = _is_text(found) or _is_list_of_text(found), "text or a list of text"
            elif name in (columns.external_id, columns.product_url):
                fits, needed = _is_text(found) or pa.types.is_integer(found), "text or integers"
            else:
                fits, needed = _is_text(found), "text"
            if not fits:
                raise _invalid(f"column {name!r} is {found}; it must be {needed}")

    def rows(self, columns: ColumnMap) -> Iterator[Record | RowProblem]:
        first = 1
        for group in range(self._file.num_row_groups):
            count = self._file.metadata.row_group(group).num_rows
            done = 0
            try:
                for batch in self._batches(group, columns.names):
                    yield from _records(first + done, batch)
                    done += batch.num_rows
            except (*_DAMAGE, PermanentError) as error:
                code = getattr(error, "code", ErrorCode.SOURCE_INCOMPLETE)
                message = f"rows {first + done} to {first + count - 1} cannot be read: {error}"
                yield RowProblem(first + done, code, message)
            first += count

    def _batches(self, group: int, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """A row group in pieces of at most `BATCH_BYTES`, or of one row."""
        # Not `metadata.column`: pyarrow 26 ends the process there when a footer is damaged.
        metadata = self._file.metadata.row_group(group)
        rows = max(1, metadata.num_rows)
        # What a row can take: its share of the pages, or the longest text they refer to.
        longest = self._longest_shared_text(group, wanted)
        if max(metadata.total_byte_size, longest * rows) > MAX_GROUP_BYTES:
            raise PermanentError(ErrorCode.SOURCE_TOO_LARGE, "the row group is too large")
        row_bytes = max(1, longest, metadata.total_byte_size // rows)
        batch_rows = max(1, min(MAX_BATCH_ROWS, BATCH_BYTES // row_bytes))
        yield from self._file.iter_batches(batch_rows, row_groups=[group], columns=list(wanted))

    def _longest_shared_text(self, group: int, wanted: Sequence[str]) -> int:
        """Bytes of the longest entry of a dictionary, which rows may repeat without end."""
        leaves = map(self._file.schema.column, range(len(self._file.schema)))
        paths = [
            leaf.path
            for leaf in leaves
            if leaf.physical_type == "BYTE_ARRAY" and leaf.path.partition(".")[0] in wanted
        ]
        if not paths:
            return 0
        file = pq.ParquetFile(
            self._source, metadata=self._file.metadata, read_dictionary=paths, pre_buffer=False
        )
        names = list(dict.fromkeys(path.partition(".")[0] for path in paths))
        batch = next(file.iter_batches(1, row_groups=[group], columns=names), None)
        longest = [_longest(column) for column in batch.columns] if batch is not None else []
        return max(longest, default=0)


def _longest(column: pa.Array) -> int:
    """Bytes of the longest text in a column's dictionary; of a list's, in that of its values."""
    while hasattr(column, "values") and not pa.types.is_dictionary(column.type):
        column = column.values
    texts = column.dictionary if pa.types.is_dictionary(column.type) else column
    return pc.max(pc.binary_length(texts)).as_py() or 0


def _records(first: int, batch: pa.RecordBatch) -> Iterator[Record | RowProblem]:
    names = batch.schema.names
    columns = [column.to_pylist() for column in batch.columns]
    for number, cells in enumerate(zip(*columns, strict=True), start=first):
        values = dict(zip(names, cells, strict=True))
        long = [
            name
            for name, value in values.items()
            if isinstance(value, str) and len(value) > MAX_CELL_CHARS
        ]
        if long:
            message = f"{long[0]!r} is longer than {MAX_CELL_CHARS:,} characters"
            yield RowProblem(number, ErrorCode.VALIDATION_ERROR, message)
        else:
            yield number, values


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_list_of_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ) and _is_text(kind.value_type)


def _invalid(message: str) -> PermanentError:
    return PermanentError(ErrorCode.VALIDATION_ERROR, message)
