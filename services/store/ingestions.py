"""Ingestions: lists of images to analyse, and where each row of them stands.

The state of a row lives here, not in the queue: the queue only carries which rows to look at.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, insert, or_, select, update

from services.store.cursor import decode_cursor, encode_cursor
from services.store.records import IngestionItemState, Page
from services.store.session import Database
from services.store.tables import IngestionItemRow, IngestionRow, uuid7


@dataclass(frozen=True, slots=True)
class NewItem:
    """A row to ingest. hints: known attribute → label."""

    url: str
    external_id: str | None
    hints: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of an ingestion, both ends included: what one job works on."""

    ingestion_id: uuid.UUID
    first_row: int
    last_row: int


@dataclass(frozen=True, slots=True)
class StoredIngestion:
    """counts: every state → how many rows are in it."""

    id: uuid.UUID
    created_at: datetime
    total: int
    counts: Mapping[IngestionItemState, int]

    @property
    def finished(self) -> bool:
        """Whether no row will change any more."""
        unfinished = (IngestionItemState.PENDING, IngestionItemState.RUNNING)
        return not any(self.counts[state] for state in unfinished)


@dataclass(frozen=True, slots=True)
class StoredItem:
    """One row. attempts: how often it was begun. error_code, error_message: when it failed."""

    id: uuid.UUID
    row: int
    url: str
    external_id: str | None
    hints: Mapping[str, str]
    state: IngestionItemState
    attempts: int
    error_code: str | None
    error_message: str | None
    analysis_id: uuid.UUID | None


Enqueue = Callable[[Any, Sequence[Chunk]], None]
"""Puts jobs for chunks into the queue, on the database connection it is given."""


class IngestionStore:
    """Reads and writes ingestions. Safe to share between threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, items: Sequence[NewItem], chunk_size: int, enqueue: Enqueue) -> uuid.UUID:
        """Store the rows and queue the work on them, both or neither."""
        with self._database.session() as session:
            ingestion = IngestionRow(id=uuid7(), total=len(items))
            session.add(ingestion)
            session.flush()
            rows = [
                {
                    "ingestion_id": ingestion.id,
                    "row": row,
                    "url": item.url,
                    "external_id": item.external_id,
                    "hints": dict(item.hints),
                }
                for row, item in enumerate(items, start=1)
            ]
            session.execute(insert(IngestionItemRow), rows)
            chunks = [
                Chunk(ingestion.id, first, min(first + chunk_size - 1, len(items)))
                for first in range(1, len(items) + 1, chunk_size)
            ]
            enqueue(session.connection(), chunks)
            session.commit()
            return ingestion.id

    def get(self, ingestion_id: uuid.UUID) -> StoredIngestion | None:
        with self._database.session() as session:
            ingestion = session.get(IngestionRow, ingestion_id)
            if ingestion is None:
                return None
            counted = session.execute(
                select(IngestionItemRow.state, func.count())
                .where(IngestionItemRow.ingestion_id == ingestion_id)
                .group_by(IngestionItemRow.state)
            )
            found = {row[0]: row[1] for row in counted}
        return StoredIngestion(
            id=ingestion.id,
            created_at=ingestion.created_at,
            total=ingestion.total,
            counts={state: found.get(state, 0) for state in IngestionItemState},
        )

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
            statement = statement.where(IngestionItemRow.row > decode_cursor(cursor, _row_number))
        if state is not None:
            statement = statement.where(IngestionItemRow.state == state)
        with self._database.session() as session:
            rows = session.scalars(statement.order_by(IngestionItemRow.row).limit(limit + 1)).all()
            items = tuple(_item(row) for row in rows[:limit])
        return Page(items, encode_cursor(items[-1].row) if len(rows) > limit else None)

    def begin_next(self, chunk: Chunk, after_row: int, lease: timedelta) -> StoredItem | None:
        """Take the chunk's next waiting row after `after_row`; None when there is none.

        A row whose worker let its lease run out is waiting, too. Two workers never get the same.
        """
        waiting = (
            select(IngestionItemRow.id)
            .where(_in_chunk(chunk), IngestionItemRow.row > after_row, _waiting())
            .order_by(IngestionItemRow.row)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with self._database.session() as session:
            row = session.scalars(
                update(IngestionItemRow)
                .where(IngestionItemRow.id == waiting.scalar_subquery())
                .values(
                    state=IngestionItemState.RUNNING,
                    attempts=IngestionItemRow.attempts + 1,
                    lease_until=func.now() + lease,
                )
                .returning(IngestionItemRow)
            ).one_or_none()
            session.commit()
            return None if row is None else _item(row)

    def finish(self, item: StoredItem, analysis_id: uuid.UUID) -> None:
        """The row is done."""
        self._end(item, state=IngestionItemState.DONE, analysis_id=analysis_id)

    def fail(self, item: StoredItem, code: str, message: str) -> None:
        """The row failed for good."""
        self._end(item, state=IngestionItemState.FAILED, error_code=code, error_message=message)

    def put_back(self, item: StoredItem) -> None:
        """The row may succeed later: it waits again."""
        self._end(item, state=IngestionItemState.PENDING)

    def unfinished(self, chunk: Chunk) -> int:
        """How many of the chunk's rows are waiting or in somebody's hands."""
        states = (IngestionItemState.PENDING, IngestionItemState.RUNNING)
        with self._database.session() as session:
            count = session.scalar(
                select(func.count())
                .select_from(IngestionItemRow)
                .where(_in_chunk(chunk), IngestionItemRow.state.in_(states))
            )
        return count or 0

    def _end(self, item: StoredItem, **values: Any) -> None:
        with self._database.session() as session:
            session.execute(
                update(IngestionItemRow)
                .where(
                    IngestionItemRow.id == item.id,
                    # Not if the lease ran out and somebody else has begun the row since.
                    IngestionItemRow.state == IngestionItemState.RUNNING,
                    IngestionItemRow.attempts == item.attempts,
                )
                .values(lease_until=None, **values)
            )
            session.commit()


def _in_chunk(chunk: Chunk) -> ColumnElement[bool]:
    return and_(
        IngestionItemRow.ingestion_id == chunk.ingestion_id,
        IngestionItemRow.row.between(chunk.first_row, chunk.last_row),
    )


def _waiting() -> ColumnElement[bool]:
    return or_(
        IngestionItemRow.state == IngestionItemState.PENDING,
        and_(
            IngestionItemRow.state == IngestionItemState.RUNNING,
            IngestionItemRow.lease_until < func.now(),
        ),
    )


def _row_number(row: Any) -> int:
    if not isinstance(row, int) or not 0 <= row < 2**31:
        raise ValueError("no row number")
    return row


def _item(row: IngestionItemRow) -> StoredItem:
    return StoredItem(
        id=row.id,
        row=row.row,
        url=row.url,
        external_id=row.external_id,
        hints=row.hints,
        state=row.state,
        attempts=row.attempts,
        error_code=row.error_code,
        error_message=row.error_message,
        analysis_id=row.analysis_id,
    )
