"""`vestiary ingest`: a catalogue read, queued, worked on and watched, in one process."""

from __future__ import annotations

import contextlib
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from services.ingestion.intake import source_digest, store_rows
from services.ingestion.queue import IngestionQueue
from services.ingestion.sources import ReadOptions, open_catalogue
from services.ingestion.tasks import this_host
from services.ingestion.worker import require_current, run_worker
from services.store.ingestions import UNFINISHED, IngestionStore, NewIngestion, StoredIngestion
from services.store.records import IngestionItemState
from vision.errors import ErrorCode, PermanentError

if TYPE_CHECKING:
    from services.bootstrap import Container

STDIN = "-"

Read = Callable[[threading.Event], None]
"""Stores rows until there are no more, or until the event."""


@dataclass(frozen=True, slots=True)
class IngestChoices:
    """refresh: analyse again what was analysed before. resume: the ingestion to go on with, in
    place of the one found by its source. retry_failed: failed items, too. work: else only queue.
    """

    refresh: bool = False
    resume: uuid.UUID | None = None
    retry_failed: bool = False
    work: bool = True


def run_ingest(
    container: Container, source: str, options: ReadOptions, choices: IngestChoices
) -> StoredIngestion:
    """Ingest a file, a folder or standard input (`-`), or go on with it; returns how it stands.

    It is finished unless somebody interrupted it, `choices.work` is off, or it was cancelled while
    it was read. Raises `PermanentError` and `TransientError`.
    """
    require_current(container.database)
    store, queue = IngestionStore(container.database), IngestionQueue(container.database)
    path = None if source == STDIN else Path(source)
    digest = None if path is None else source_digest(path, options)
    earlier = _earlier(store, digest, choices)
    if earlier is not None:
        if choices.retry_failed:
            queue.retry_failed(earlier.id)
        if not earlier.finished:
            queue.requeue(earlier.id, this_host())
    with ExitStack() as opened:
        read: Read | None = None
        if earlier is None or earlier.reading:
            stream = path if path is not None else opened.enter_context(_standard_input())
            rows = iter(opened.enter_context(open_catalogue(stream, options)))
            if earlier is None:
                new = NewIngestion(source, digest, this_host(), choices.refresh)
                ingestion_id, read_rows = store.begin_reading(new), 0
            else:
                ingestion_id, read_rows = earlier.id, earlier.read_rows
            read = partial(store_rows, rows, store, queue, ingestion_id, read_rows)
        else:
            ingestion_id = earlier.id
        if choices.work:
            _read_and_work(container, store, ingestion_id, read)
        elif read is not None:
            with contextlib.suppress(KeyboardInterrupt):
                read(threading.Event())
    stored = store.get(ingestion_id)
    assert stored is not None
    return stored


def summary_table(stored: StoredIngestion) -> Table:
    """Counts by state, and of the failed ones by error code."""
    title = f"ingestion {stored.id}"
    table = Table(title=title, title_justify="left", min_width=len(title))
    table.add_column("state")
    table.add_column("items", justify="right")
    for state, count in stored.counts.items():
        if count or state is IngestionItemState.DONE:
            table.add_row(str(state), f"{count:,}")
        if state is IngestionItemState.FAILED:
            for code, failed in stored.failures.items():
                table.add_row(f"  {code}", f"{failed:,}", style="dim")
    table.add_section()
    table.add_row("all", f"{stored.total:,}")
    return table


def outcome(stored: StoredIngestion, worked: bool) -> tuple[str, int]:
    """A sentence about how an ingestion stands at the end of the command, and its exit status:
    0 when every row is accounted for (or was only to be queued), 1 after a cancellation, 130 when
    it was interrupted.
    """
    failed = stored.counts[IngestionItemState.FAILED]
    if stored.cancelled:
        return "cancelled", 1
    if stored.finished:
        rest = f", {failed:,} of them failed" if failed else ""
        return f"every row is accounted for: {stored.total:,} items{rest}", 0
    if not worked and not stored.reading:
        return f"{stored.total:,} items are queued; `vestiary worker` works on them", 0
    left = sum(stored.counts[state] for state in UNFINISHED)
    rows = f" and the rows after {stored.read_rows:,}" if stored.reading else ""
    return f"interrupted; {left:,} items{rows} are left, the same command goes on with them", 130


def _earlier(
    store: IngestionStore, digest: str | None, choices: IngestChoices
) -> StoredIngestion | None:
    """The ingestion to go on with; None to begin one."""
    if choices.resume is None:
        found = None if digest is None else store.find_by_source(digest, choices.refresh)
        # Who asks for a refresh a second time wants another one, once the first is finished.
        return None if found is not None and found.refresh and found.finished else found
    stored = store.get(choices.resume)
    if stored is None:
        raise _invalid(f"there is no ingestion {choices.resume}")
    if stored.cancelled:
        raise _invalid(f"ingestion {choices.resume} was cancelled")
    identified = stored.reading or stored.source_digest is not None
    if identified and stored.source_digest != digest:
        raise _invalid(
            f"ingestion {choices.resume} is of {stored.source} as it was, and not of this"
        )
    return stored


def _read_and_work(
    container: Container,
    store: IngestionStore,
    ingestion_id: uuid.UUID,
    read: Read | None,
) -> None:
    with _Reading(read) as reading, _Bar() as bar:

        def is_finished() -> bool:
            reading.check()
            stored = store.get(ingestion_id)
            assert stored is not None
            bar.show(stored)
            return stored.finished

        if read is None and is_finished():
            return
        # The bar says what the log would.
        run_worker(container, until=is_finished, log_level="WARNING")


class _Reading:
    """Reading in a thread of its own, beside the work on what has been read."""

    def __init__(self, read: Read | None) -> None:
        self._read = read
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="read-catalogue")

    def __enter__(self) -> _Reading:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is None:
            self.check()

    def check(self) -> None:
        """Raise what ended the reading before its time."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            if self._read is not None:
                self._read(self._stop)
        except BaseException as error:  # noqa: BLE001 - raised again by `check`
            self._error = error


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(
            "" if task.speed is None else f"{task.speed:.1f}/s", style="progress.data.speed"
        )


class _Bar:
    """Done, rate, time left and failures by code, where somebody watches."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("[red]{task.fields[failures]}"),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=60,
        )
        self._task = self._progress.add_task("starting", total=None, failures="")

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, stored: StoredIngestion) -> None:
        left = sum(stored.counts[state] for state in UNFINISHED)
        failures = (f"{count:,} {code}" for code, count in stored.failures.items())
        self._progress.update(
            self._task,
            description="reading, analysing" if stored.reading else "analysing",
            total=stored.total,
            completed=stored.total - left,
            failures=" · ".join(failures),
        )


@contextlib.contextmanager
def _standard_input() -> Iterator[BinaryIO]:
    # Not sys.stdin: closing that, or dying while a thread reads it, upsets the interpreter.
    with open(sys.stdin.fileno(), "rb", closefd=False) as stream:
        yield stream


def _invalid(message: str) -> PermanentError:
    return PermanentError(ErrorCode.VALIDATION_ERROR, message)
