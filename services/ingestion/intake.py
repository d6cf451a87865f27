"""From rows of a catalogue to items of an ingestion, a batch at a time."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from services.ingestion.queue import IngestionQueue
from services.ingestion.rows import CatalogueRow, RowProblem
from services.ingestion.sources import ReadOptions
from services.store.ingestions import IngestionStore, NewItem, batches
from vision.errors import ErrorCode, PermanentError

Row = CatalogueRow | RowProblem


def items_of(rows: Iterable[Row]) -> Iterator[NewItem]:
    """An item for every photo of every row, and one for every row that has a problem instead."""
    for row in rows:
        if isinstance(row, RowProblem):
            # Names out of a stranger's file stand in messages, and Postgres stores no NUL.
            message = row.message.encode(errors="replace").decode().replace("\0", "")
            yield NewItem(row.row_number, None, error_code=row.code, error_message=message)
            continue
        for photo, ref in enumerate(row.image_refs, start=1):
            yield NewItem(
                row.row_number, ref, row.external_id, row.hints, photo, product_url=row.product_url
            )


def store_rows(
    rows: Iterable[Row],
    store: IngestionStore,
    queue: IngestionQueue,
    ingestion_id: uuid.UUID,
    read_rows: int,
    stop: threading.Event,
) -> None:
    """Store and queue the rows after `read_rows`, batch by batch, until the end or until told to
    stop: then the next call goes on.

    Returns early also when the ingestion is cancelled. Raises `PermanentError`
    (`validation_error`) when another process is reading into the same ingestion.
    """
    last_row = read_rows
    for batch in batches(items_of(row for row in rows if row.row_number > read_rows)):
        if stop.is_set():
            return
        if not queue.append(ingestion_id, last_row, batch):
            stored = store.get(ingestion_id)
            if stored is not None and stored.cancelled:
                return
            raise PermanentError(
                ErrorCode.VALIDATION_ERROR,
                f"another process is reading into ingestion {ingestion_id}; leave it to that one, "
                "or start again once it has ended",
            )
        last_row = batch[-1].row
    if not stop.is_set():
        store.end_reading(ingestion_id)


def source_digest(path: Path, options: ReadOptions) -> str:
    """What tells a source from another and from its own earlier state: where it is, size and time
    of every file, and how it is read. Contents are not looked at.

    Raises `PermanentError` (`source_unreachable`).
    """
    digest = hashlib.sha256()
    how = [str(path.resolve()), options.format, options.encoding, options.delimiter]
    columns = sorted((field, str(column)) for field, column in options.columns.items())
    root = None if options.image_root is None else str(options.image_root.resolve())
    digest.update(json.dumps([*how, columns, root, options.repeats]).encode())
    try:
        for file in _files(path):
            found = file.stat()
            digest.update(os.fsencode(file) + b"\0%d %d\n" % (found.st_size, found.st_mtime_ns))
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise PermanentError(ErrorCode.SOURCE_UNREACHABLE, f"{path}: {reason}") from error
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for parent, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            file = Path(parent, name)
            if file.is_file():  # Not a link that leads nowhere.
                yield file
