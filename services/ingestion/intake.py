"""From rows of a catalogue to items of an ingestion, a batch at a time."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import TypeVar

from services.ingestion.lasting import RESTS_S
from services.ingestion.queue import IngestionQueue
from services.ingestion.rows import CatalogueRow, RowProblem
from services.ingestion.sources import ReadOptions
from services.store.ingestions import IngestionStore, NewItem, batches
from vision.errors import ErrorCode, PermanentError, TransientError

T = TypeVar("T")

Row = CatalogueRow | RowProblem

LONGEST_AWAY_S = 600.0
"""For so long reading waits for a database that is away."""


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
        if not _append(batch, last_row, store, queue, ingestion_id, stop):
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
        _once_the_store_is_there(lambda: store.end_reading(ingestion_id), stop)


def _append(
    batch: Sequence[NewItem],
    last_row: int,
    store: IngestionStore,
    queue: IngestionQueue,
    ingestion_id: uuid.UUID,
    stop: threading.Event,
) -> bool:
    """Whether the batch is stored; not if somebody else stored what comes after `last_row`."""
    answer_lost = False

    def append() -> bool:
        nonlocal answer_lost
        try:
            if queue.append(ingestion_id, last_row, batch):
                return True
            # It may be there from a try whose answer was lost.
            stored = store.get(ingestion_id) if answer_lost else None
            return stored is not None and stored.read_rows == batch[-1].row
        except TransientError:
            answer_lost = True
            raise

    return _once_the_store_is_there(append, stop)


def _once_the_store_is_there(action: Callable[[], T], stop: threading.Event) -> T:
    """Raises what `action` does; `TransientError` only after a long wait, or when told to stop."""
    until = time.monotonic() + LONGEST_AWAY_S
    rests_s = chain(RESTS_S, repeat(RESTS_S[-1]))
    while True:
        try:
            return action()
        except TransientError:
            if time.monotonic() > until or stop.wait(next(rests_s)):
                raise


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
