"""Ingestions: lists of images to analyse, and where each of them stands.

An item is one photo of one row. A row's photos are items of their own, with the same row number
and external id: each has its own fate (one of five links is dead), its own retries and its own
analysis, and the reports of a product are found together by its external id. A row that names no
usable photo is one item, failed from the start, so that every row ends as an item.

The state of an item lives here, not in the queue: the queue only carries which rows to look at.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    Integer,
    Text,
    Uuid,
    and_,
    case,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine

from services.store.bulk import recordset
from services.store.cursor import decode_cursor, encode_cursor
from services.store.records import IngestionItemState, Page
from services.store.session import Database
from services.store.tables import IngestionItemRow, IngestionRow, uuid7
from vision.errors import ErrorCode, PermanentError

# Of a job: what one transaction stores, with the shipped models four seconds of two cores. Twice as
# many would save a tenth of what is not inference, be shared less evenly between workers, and be
# twice as much to do again after a crash.
CHUNK_ITEMS = 32
BATCH_ITEMS = 1000
"""Written at once; a megabyte or so of memory."""
PAGE_ITEMS = 1000

UNFINISHED = (IngestionItemState.PENDING, IngestionItemState.RUNNING)


@dataclass(frozen=True, slots=True)
class NewItem:
    """A photo to ingest, or (with error_code) a row that has none. row, photo: places, from 1.

    url: None only with an error. hints: known attribute → label.
    """

    row: int
    url: str | None
    external_id: str | None = None
    hints: Mapping[str, str] = field(default_factory=dict)
    photo: int = 1
    product_url: str | None = None
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class NewIngestion:
    """A catalogue about to be read. See `services.store.tables.IngestionRow`."""

    source: str | None = None
    source_digest: str | None = None
    files_host: str | None = None
    refresh: bool = False
    webhook_url: str | None = None


PLAIN = NewIngestion()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of an ingestion, both ends included: what one job works on.

    files_host: the machine that has to do it, because the rows name files; None for any.
    """

    ingestion_id: uuid.UUID
    first_row: int
    last_row: int
    files_host: str | None = None


@dataclass(frozen=True, slots=True)
class StoredIngestion:
    """counts: every state → how many items are in it. failures: error code → how many items.

    See `services.store.tables.IngestionRow` for the rest.
    """

    id: uuid.UUID
    created_at: datetime
    total: int
    source: str | None
    source_digest: str | None
    files_host: str | None
    reading: bool
    read_rows: int
    refresh: bool
    cancelled: bool
    webhook_url: str | None
    counts: Mapping[IngestionItemState, int]
    failures: Mapping[str, int]

    @property
    def finished(self) -> bool:
        """Whether no item will change any more, and none will come."""
        return not self.reading and not any(self.counts[state] for state in UNFINISHED)


@dataclass(frozen=True, slots=True)
class StoredItem:
    """One item. attempts: how often it was begun; drops: how often of these its worker vanished.
    error_code, error_message: when it failed.
    """

    id: uuid.UUID
    row: int
    photo: int
    url: str | None
    external_id: str | None
    product_url: str | None
    hints: Mapping[str, str]
    state: IngestionItemState
    attempts: int
    drops: int
    error_code: str | None
    error_message: str | None
    analysis_id: uuid.UUID | None

    @property
    def position(self) -> Position:
        return self.row, self.photo


@dataclass(frozen=True, slots=True)
class Ending:
    """How it went with an item that was begun; made by `done`, `failed`, `put_back`, `released`.

    rest_s: how long a pending item is left alone. counted: whether the attempt was one.
    """

    item: StoredItem
    state: IngestionItemState
    analysis_id: uuid.UUID | None = None
    error_code: str | None = None
    error_message: str | None = None
    rest_s: float | None = None
    counted: bool = True

    @classmethod
    def done(cls, item: StoredItem, analysis_id: uuid.UUID) -> Ending:
        return cls(item, IngestionItemState.DONE, analysis_id=analysis_id)

    @classmethod
    def failed(cls, item: StoredItem, code: str, message: str) -> Ending:
        """For good."""
        # Postgres stores neither, and a message may hold a part of what a stranger sent.
        clean = message.replace("\0", "").encode(errors="replace").decode()
        return cls(item, IngestionItemState.FAILED, error_code=code, error_message=clean)

    @classmethod
    def put_back(cls, item: StoredItem, rest_s: float = 0.0) -> Ending:
        """It may succeed later: it waits again, unless its ingestion was cancelled."""
        return cls(item, IngestionItemState.PENDING, rest_s=rest_s)

    @classmethod
    def released(cls, item: StoredItem, rest_s: float = 0.0) -> Ending:
        """As `put_back`, of an item that was not really tried."""
        return replace(cls.put_back(item, rest_s), counted=False)


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """What is unfinished in all ingestions. oldest_wait_s: since the first that waits has waited,
    whether it is new, put back or retried; 0 when none waits.
    """

    pending: int
    running: int
    oldest_wait_s: float


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What is left of a chunk. count: items that wait or are in somebody's hands. suspected: those
    that `begin_suspected` would find. next_in_s: until the first of all may be begun, or its lease
    ends; 0 when there is none.
    """

    count: int
    suspected: int
    next_in_s: float


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for every item of an ingestion.

    files: whether items may name files of the machine that works on them. not_before: analyses
    that are older are made again. webhook: whether somebody is to be told of the end.
    """

    files: bool
    not_before: datetime | None
    webhook: bool = False


Position = tuple[int, int]
"""Row and photo: the order of a list's items."""
START: Position = (0, 0)
"""Before the first."""

Enqueue = Callable[[Any, Sequence[Chunk]], None]
"""Puts jobs for chunks into the queue, on the database connection it is given."""


class IngestionStore:
    """Reads and writes ingestions. Safe to share between threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        items: Iterable[NewItem],
        enqueue: Enqueue,
        new: NewIngestion = PLAIN,
        max_items: int | None = None,
    ) -> uuid.UUID:
        """Store a whole list, as it streams in, and queue the work on it: all of it or nothing.

        items: in order of row and photo. Raises `PermanentError` (`source_too_large`) for more
        than `max_items`, and whatever `items` raises.
        """
        with self._database.session() as session:
            ingestion = _ingestion_row(new)
            session.add(ingestion)
            session.flush()
            for batch in batches(items):
                _add(session, ingestion, batch, enqueue)
                if max_items is not None and ingestion.total > max_items:
                    message = f"more than the {max_items:,} photos that one list may have"
                    raise PermanentError(ErrorCode.SOURCE_TOO_LARGE, message)
            session.commit()
            return ingestion.id

    def begin_reading(self, new: NewIngestion) -> uuid.UUID:
        """An ingestion whose items come by `append`."""
        with self._database.session() as session:
            ingestion = _ingestion_row(new)
            ingestion.reading = True
            session.add(ingestion)
            session.commit()
            return ingestion.id

    def append(
        self, ingestion_id: uuid.UUID, after_row: int, batch: Sequence[NewItem], enqueue: Enqueue
    ) -> bool:
        """Store the items of whole rows that come after `after_row`, and queue the work on them.

        False, and nothing is stored, unless the ingestion is being read and `after_row` is the last
        row it has: it was cancelled, or somebody else is reading into it.
        """
        with self._database.session() as session:
            ingestion = _locked(session, ingestion_id)
            if not ingestion.reading or ingestion.read_rows != after_row:
                return False
            _add(session, ingestion, batch, enqueue)
            session.commit()
            return True

    def end_reading(self, ingestion_id: uuid.UUID) -> None:
        """No item will come any more."""
        with self._database.session() as session:
            _locked(session, ingestion_id).reading = False
            session.commit()

    def find_by_source(self, source_digest: str, refresh: bool) -> StoredIngestion | None:
        """The newest ingestion of a source that was not cancelled."""
        newest = (
            select(IngestionRow.id)
            .where(
                IngestionRow.source_digest == source_digest,
                IngestionRow.refresh == refresh,
                IngestionRow.cancelled_at.is_(None),
            )
            .order_by(IngestionRow.created_at.desc(), IngestionRow.id.desc())
            .limit(1)
        )
        with self._database.session() as session:
            found = session.scalar(newest)
        return None if found is None else self.get(found)

    def get(self, ingestion_id: uuid.UUID) -> StoredIngestion | None:
        with self._database.session() as session:
            ingestion = session.get(IngestionRow, ingestion_id)
            if ingestion is None:
                return None
            counted = session.execute(
                select(IngestionItemRow.state, IngestionItemRow.error_code, func.count())
                .where(IngestionItemRow.ingestion_id == ingestion_id)
                .group_by(IngestionItemRow.state, IngestionItemRow.error_code)
            ).all()
        counts = dict.fromkeys(IngestionItemState, 0)
        failures: dict[str, int] = {}
        for state, code, count in counted:
            counts[state] += count
            if code is not None:
                failures[code] = count
        return StoredIngestion(
            id=ingestion.id,
            created_at=ingestion.created_at,
            total=ingestion.total,
            source=ingestion.source,
            source_digest=ingestion.source_digest,
            files_host=ingestion.files_host,
            reading=ingestion.reading,
            read_rows=ingestion.read_rows,
            refresh=ingestion.refresh,
            cancelled=ingestion.cancelled_at is not None,
            webhook_url=ingestion.webhook_url,
            counts=counts,
            failures=dict(sorted(failures.items())),
        )

    def is_cancelled(self, ingestion_id: uuid.UUID) -> bool:
        cancelled = select(IngestionRow.cancelled_at.is_not(None))
        with self._database.session() as session:
            return bool(session.scalar(cancelled.where(IngestionRow.id == ingestion_id)))

    def terms(self, ingestion_id: uuid.UUID) -> Terms:
        with self._database.session() as session:
            ingestion = session.get_one(IngestionRow, ingestion_id)
        return Terms(
            files=ingestion.files_host is not None,
            not_before=ingestion.created_at if ingestion.refresh else None,
            webhook=ingestion.webhook_url is not None,
        )

    def cancel(self, ingestion_id: uuid.UUID) -> None:
        """Waiting items are cancelled, no more are read; photos in analysis end as they turn out.

        Changes nothing about an ingestion that is finished or cancelled.
        """
        with self._database.session() as session:
            ingestion = _locked(session, ingestion_id)
            cancelled = session.execute(
                update(IngestionItemRow)
                .where(IngestionItemRow.ingestion_id == ingestion_id, or_(_pending(), _dropped()))
                .values(state=IngestionItemState.CANCELLED, lease_until=None, not_before=None)
            )
            in_hand = select(func.count()).where(
                IngestionItemRow.ingestion_id == ingestion_id,
                IngestionItemRow.state == IngestionItemState.RUNNING,
            )
            if cancelled.rowcount or ingestion.reading or session.scalar(in_hand):  # type: ignore[attr-defined]
                ingestion.cancelled_at = ingestion.cancelled_at or datetime.now(UTC)
                ingestion.reading = False
            session.commit()

    def retry_failed(self, ingestion_id: uuid.UUID, enqueue: Enqueue) -> int:
        """Failed items wait again, as if new; returns how many.

        Rows without a photo stay as they are: their catalogue has to be put right.
        """
        again = (
            update(IngestionItemRow)
            .where(
                IngestionItemRow.ingestion_id == ingestion_id,
                IngestionItemRow.state == IngestionItemState.FAILED,
                IngestionItemRow.url.is_not(None),
            )
            .values(
                state=IngestionItemState.PENDING,
                attempts=0,
                drops=0,
                not_before=None,
                error_code=None,
                error_message=None,
            )
            .returning(IngestionItemRow.row)
            .cte("again")
        )
        with self._database.session() as session:
            ingestion = _locked(session, ingestion_id)
            ranges = session.execute(_ranges(select(again.c.row))).all()
            ingestion.announced = ingestion.announced and not ranges
            enqueue(session.connection(), _chunks_of(ingestion, ranges))
            session.commit()
        return sum(count for _, _, count in ranges)

    def requeue(self, ingestion_id: uuid.UUID, files_host: str | None, enqueue: Enqueue) -> None:
        """Queue all unfinished work anew, in place of what is in the queue.

        For an ingestion that is resumed: its jobs may wait for a machine that is gone, or have
        met a bug. files_host: the machine that has the files now.
        """
        with self._database.session() as session:
            ingestion = _locked(session, ingestion_id)
            if ingestion.files_host is not None:
                ingestion.files_host = files_host
            session.execute(
                text(
                    "DELETE FROM procrastinate_jobs WHERE status IN ('todo', 'failed') "
                    "AND args ->> 'ingestion_id' = :id"
                ),
                {"id": str(ingestion_id)},
            )
            rows = select(IngestionItemRow.row).where(
                IngestionItemRow.ingestion_id == ingestion_id,
                IngestionItemRow.state.in_(UNFINISHED),
            )
            ranges = session.execute(_ranges(rows)).all()
            enqueue(session.connection(), _chunks_of(ingestion, ranges))
            session.commit()

    def announce(self, ingestion_id: uuid.UUID, enqueue: Callable[[Any], None]) -> None:
        """Queue the news that an ingestion has finished, if it has, somebody is to be told, and
        that was not done since it was last at work. To be called whenever it may have.

        enqueue: puts the job into the queue, on the database connection it is given.
        """
        left = select(func.count()).where(
            IngestionItemRow.ingestion_id == ingestion_id, IngestionItemRow.state.in_(UNFINISHED)
        )
        with self._database.session() as session:
            # Of several that end the last items at a time, the last one here sees them all ended.
            ingestion = _locked(session, ingestion_id)
            wanted = ingestion.webhook_url is not None and not ingestion.announced
            if not wanted or ingestion.reading or session.scalar(left):
                return
            ingestion.announced = True
            enqueue(session.connection())
            session.commit()

    def queue_depth(self) -> QueueDepth:
        """How much there is to do; read from an index of nothing else."""
        age = func.extract("epoch", func.now() - func.min(IngestionItemRow.updated_at))
        statement = (
            select(IngestionItemRow.state, func.count(), age)
            .where(IngestionItemRow.state.in_(UNFINISHED))
            .group_by(IngestionItemRow.state)
        )
        with self._database.session() as session:
            found = {state: (count, float(age)) for state, count, age in session.execute(statement)}
        pending, oldest_wait_s = found.get(IngestionItemState.PENDING, (0, 0.0))
        running, _ = found.get(IngestionItemState.RUNNING, (0, 0.0))
        return QueueDepth(pending, running, max(0.0, oldest_wait_s))

    def failures(self, ingestion_id: uuid.UUID) -> Iterator[StoredItem]:
        """Every failed item, in order, in memory that does not grow; holds no connection while
        the caller takes its time.
        """
        after = START
        while True:
            statement = (
                select(IngestionItemRow)
                .where(
                    IngestionItemRow.ingestion_id == ingestion_id,
                    IngestionItemRow.state == IngestionItemState.FAILED,
                    _after(after),
                )
                .order_by(IngestionItemRow.row, IngestionItemRow.photo)
                .limit(PAGE_ITEMS)
            )
            with self._database.session() as session:
                page = [_item(row) for row in session.scalars(statement)]
            yield from page
            if len(page) < PAGE_ITEMS:
                return
            after = page[-1].position

    def items(
        self,
        ingestion_id: uuid.UUID,
        limit: int,
        cursor: str | None = None,
        state: IngestionItemState | None = None,
    ) -> Page[StoredItem]:
        """In the order of the list. Raises `PermanentError` (`validation_error`) for a made-up
        cursor.
        """
        statement = select(IngestionItemRow).where(IngestionItemRow.ingestion_id == ingestion_id)
        if cursor is not None:
            statement = statement.where(_after(decode_cursor(cursor, _position)))
        if state is not None:
            statement = statement.where(IngestionItemRow.state == state)
        with self._database.session() as session:
            ordered = statement.order_by(IngestionItemRow.row, IngestionItemRow.photo)
            rows = session.scalars(ordered.limit(limit + 1)).all()
            items = tuple(_item(row) for row in rows[:limit])
        return Page(items, encode_cursor(*items[-1].position) if len(rows) > limit else None)

    def begin(self, chunk: Chunk, lease: timedelta) -> list[StoredItem]:
        """Take all of the chunk's waiting items, in order, but those that a worker let drop.

        No two workers get the same.
        """
        with self._database.session() as session:
            items = _take(session, chunk, _waiting(), lease)
            session.commit()
        return items

    def begin_suspected(self, chunk: Chunk, lease: timedelta) -> StoredItem | None:
        """Take the first waiting item that a worker let drop, if there is one.

        It may be what took the worker down, so it is to be worked on alone: then it takes down
        no more than itself.
        """
        with self._database.session() as session:
            items = _take(session, chunk, _suspected(), lease, limit=1)
            session.commit()
        return items[0] if items else None

    def end(self, ingestion_id: uuid.UUID, endings: Sequence[Ending]) -> None:
        """Store how it went with items of an ingestion, all together.

        Passes over an item that was taken over by another worker meanwhile.
        """
        if not endings:
            return
        with self._database.session() as session:
            waiting = IngestionItemState.PENDING
            if any(ending.state is waiting for ending in endings) and _is_cancelled(
                session, ingestion_id
            ):
                waiting = IngestionItemState.CANCELLED
            _end(session, endings, waiting)
            session.commit()

    def renew(self, items: Sequence[StoredItem], lease: timedelta) -> None:
        """The items are still in hand: their lease begins anew."""
        if not items:
            return
        with self._database.session() as session:
            session.execute(
                update(IngestionItemRow)
                .where(
                    tuple_(IngestionItemRow.id, IngestionItemRow.attempts).in_(
                        [(item.id, item.attempts) for item in items]
                    ),
                    IngestionItemRow.state == IngestionItemState.RUNNING,
                )
                .values(lease_until=func.now() + lease)
            )
            session.commit()

    def unfinished(self, chunk: Chunk) -> Unfinished:
        moment = case(
            (_pending(), func.coalesce(IngestionItemRow.not_before, func.now())),
            else_=IngestionItemRow.lease_until,
        )
        statement = select(
            func.count(),
            func.count().filter(_suspected()),
            func.extract("epoch", func.min(moment) - func.now()),
        ).where(_in_chunk(chunk), IngestionItemRow.state.in_(UNFINISHED))
        with self._database.session() as session:
            count, suspected, next_in_s = session.execute(statement).one()
        return Unfinished(count, suspected, max(0.0, float(next_in_s or 0.0)))


def batches(items: Iterable[NewItem]) -> Iterator[list[NewItem]]:
    """Items in lists of `BATCH_ITEMS` and a few: the photos of a row stay together."""
    batch: list[NewItem] = []
    for item in items:
        if len(batch) >= BATCH_ITEMS and item.row != batch[-1].row:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _ingestion_row(new: NewIngestion) -> IngestionRow:
    return IngestionRow(
        id=uuid7(),
        total=0,
        read_rows=0,
        source=new.source,
        source_digest=new.source_digest,
        files_host=new.files_host,
        refresh=new.refresh,
        webhook_url=new.webhook_url,
    )


def _locked(session: Session, ingestion_id: uuid.UUID) -> IngestionRow:
    """The ingestion, which nobody else changes until the end of the transaction."""
    return session.get_one(IngestionRow, ingestion_id, with_for_update=True)


def _add(
    session: Session, ingestion: IngestionRow, batch: Sequence[NewItem], enqueue: Enqueue
) -> None:
    session.execute(insert(IngestionItemRow), [_new_row(ingestion.id, item) for item in batch])
    enqueue(session.connection(), _new_chunks(ingestion, batch))
    ingestion.total += len(batch)
    ingestion.read_rows = batch[-1].row
    session.flush()


def _new_row(ingestion_id: uuid.UUID, item: NewItem) -> dict[str, Any]:
    failed = item.error_code is not None
    return {
        "ingestion_id": ingestion_id,
        "row": item.row,
        "photo": item.photo,
        "url": item.url,
        "external_id": item.external_id,
        "product_url": item.product_url,
        "hints": dict(item.hints),
        "state": IngestionItemState.FAILED if failed else IngestionItemState.PENDING,
        "error_code": item.error_code,
        "error_message": item.error_message,
    }


def _new_chunks(ingestion: IngestionRow, batch: Sequence[NewItem]) -> list[Chunk]:
    """Chunks of all items that have work to do. Only those that name files are bound to a host."""
    groups: list[list[NewItem]] = []
    waiting = (item for item in batch if item.error_code is None)
    for _, photos in groupby(waiting, key=lambda item: item.row):
        if not groups or len(groups[-1]) >= CHUNK_ITEMS:
            groups.append([])
        groups[-1] += photos
    return [
        Chunk(
            ingestion.id,
            group[0].row,
            group[-1].row,
            ingestion.files_host if any(_names_file(item) for item in group) else None,
        )
        for group in groups
    ]


def _names_file(item: NewItem) -> bool:
    return item.url is not None and item.url.startswith("file:")


def _ranges(rows: Any) -> Any:
    """First row, last row and number of items of each chunk that a query of row numbers makes."""
    place = func.row_number().over(order_by=rows.selected_columns.row)
    numbered = rows.add_columns(((place - 1) // literal(CHUNK_ITEMS)).label("chunk")).subquery()
    return (
        select(func.min(numbered.c.row), func.max(numbered.c.row), func.count())
        .group_by(numbered.c.chunk)
        .order_by(func.min(numbered.c.row))
    )


def _chunks_of(ingestion: IngestionRow, ranges: Sequence[Any]) -> list[Chunk]:
    host = ingestion.files_host
    return [Chunk(ingestion.id, first, last, host) for first, last, _ in ranges]


def _take(
    session: Session,
    chunk: Chunk,
    which: ColumnElement[bool],
    lease: timedelta,
    limit: int | None = None,
) -> list[StoredItem]:
    waiting = (
        select(IngestionItemRow.id)
        .where(_in_chunk(chunk), which)
        .order_by(IngestionItemRow.row, IngestionItemRow.photo)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("waiting")  # Run once, whatever the plan: a plain subquery need not be.
    )
    taken = session.scalars(
        update(IngestionItemRow)
        .where(IngestionItemRow.id.in_(select(waiting.c.id)))
        .values(
            state=IngestionItemState.RUNNING,
            attempts=IngestionItemRow.attempts + 1,
            drops=IngestionItemRow.drops
            + case((IngestionItemRow.state == IngestionItemState.RUNNING, 1), else_=0),
            lease_until=func.now() + lease,
            not_before=None,
        )
        .returning(IngestionItemRow)
        .execution_options(synchronize_session=False)
    )
    return sorted((_item(row) for row in taken), key=lambda item: item.position)


def _is_cancelled(session: Session, ingestion_id: uuid.UUID) -> bool:
    """Holds until the end of the transaction: whoever cancels meanwhile finds what it put back."""
    cancelled = session.scalar(
        select(IngestionRow.cancelled_at.is_not(None))
        .where(IngestionRow.id == ingestion_id)
        .with_for_update(read=True)
    )
    return bool(cancelled)


_ENDING_TYPES: Mapping[str, TypeEngine[Any]] = {
    "id": Uuid(),
    "attempts": Integer(),
    "counted": Integer(),
    "state": IngestionItemRow.state.type,
    "analysis_id": Uuid(),
    "error_code": Text(),
    "error_message": Text(),
    "rest_s": Float(),
}


def _end(session: Session, endings: Sequence[Ending], waiting: IngestionItemState) -> None:
    """One statement. waiting: the state of what is put back."""
    # Rows that several workers write are locked in one order, so that none waits for the other.
    content = [
        {
            "id": str(ending.item.id),
            "attempts": ending.item.attempts,
            "counted": int(ending.counted),
            "state": str(waiting if ending.rest_s is not None else ending.state),
            "analysis_id": None if ending.analysis_id is None else str(ending.analysis_id),
            "error_code": ending.error_code,
            "error_message": ending.error_message,
            "rest_s": ending.rest_s or None,
        }
        for ending in sorted(endings, key=lambda ending: ending.item.id)
    ]
    ended = recordset(content, _ENDING_TYPES, "ended")
    session.execute(
        update(IngestionItemRow)
        .where(
            IngestionItemRow.id == ended.c.id,
            # Not if the lease ran out and somebody else has begun the item since.
            IngestionItemRow.state == IngestionItemState.RUNNING,
            IngestionItemRow.attempts == ended.c.attempts,
        )
        .values(
            state=ended.c.state,
            attempts=IngestionItemRow.attempts - 1 + ended.c.counted,
            analysis_id=ended.c.analysis_id,
            error_code=ended.c.error_code,
            error_message=ended.c.error_message,
            not_before=func.now() + ended.c.rest_s * timedelta(seconds=1),
            lease_until=None,
        )
        .execution_options(synchronize_session=False)
    )


def _after(position: Position) -> ColumnElement[bool]:
    return tuple_(IngestionItemRow.row, IngestionItemRow.photo) > position


def _in_chunk(chunk: Chunk) -> ColumnElement[bool]:
    return and_(
        IngestionItemRow.ingestion_id == chunk.ingestion_id,
        IngestionItemRow.row.between(chunk.first_row, chunk.last_row),
    )


def _pending() -> ColumnElement[bool]:
    return IngestionItemRow.state == IngestionItemState.PENDING


def _due() -> ColumnElement[bool]:
    not_before = IngestionItemRow.not_before
    return and_(_pending(), or_(not_before.is_(None), not_before <= func.now()))


def _dropped() -> ColumnElement[bool]:
    """In the hands of a worker that let its lease run out."""
    return and_(
        IngestionItemRow.state == IngestionItemState.RUNNING,
        IngestionItemRow.lease_until < func.now(),
    )


def _waiting() -> ColumnElement[bool]:
    return and_(_due(), IngestionItemRow.drops == 0)


def _suspected() -> ColumnElement[bool]:
    return or_(and_(_due(), IngestionItemRow.drops > 0), _dropped())


def _position(row: Any, photo: Any) -> Position:
    if not all(
        isinstance(n, int) and 0 <= n < limit for n, limit in ((row, 2**31), (photo, 2**15))
    ):
        raise ValueError("no position")
    return row, photo


def _item(row: IngestionItemRow) -> StoredItem:
    return StoredItem(
        id=row.id,
        row=row.row,
        photo=row.photo,
        url=row.url,
        external_id=row.external_id,
        product_url=row.product_url,
        hints=row.hints,
        state=row.state,
        attempts=row.attempts,
        drops=row.drops,
        error_code=row.error_code,
        error_message=row.error_message,
        analysis_id=row.analysis_id,
    )
