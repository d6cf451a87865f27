"""Everything the store holds, analyses or products, as a stream out of one moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import ColumnElement, exists, func, select, text, tuple_
from sqlalchemy.orm import Session, aliased

from services.store.analyses import AnalysisFilter, _analysis, _conditions, _loaded
from services.store.products import StoredProduct, count_products, every_product
from services.store.records import StoredAnalysis
from services.store.session import Database
from services.store.tables import AnalysisRow

LONGEST_STALL = "10min"
"""Between two batches; the transaction ends after it, and the export with an error."""
BATCH_ANALYSES = 200
"""Analyses fetched at once: a few MB with their garments."""
EVERYTHING = AnalysisFilter()


class Snapshot:
    """Analyses as they stood when the snapshot was taken, whatever is written meanwhile.

    count: how many there are.
    """

    def __init__(self, session: Session, conditions: list[ColumnElement[bool]]) -> None:
        self._session = session
        self._conditions = conditions
        counted = select(func.count()).select_from(AnalysisRow).where(*conditions)
        self.count: int = session.scalars(counted).one()

    def __iter__(self) -> Iterator[StoredAnalysis]:
        """Oldest first, through a cursor on the server, in memory that does not grow."""
        statement = (
            _loaded(select(AnalysisRow).where(*self._conditions))
            .order_by(AnalysisRow.created_at, AnalysisRow.id)
            .execution_options(yield_per=BATCH_ANALYSES)
        )
        for row in self._session.scalars(statement):
            yield _analysis(row)


@contextmanager
def open_snapshot(
    database: Database,
    where: AnalysisFilter = EVERYTHING,
    *,
    since: datetime | None = None,
    newest_only: bool = False,
) -> Iterator[Snapshot]:
    """A snapshot, good until the block ends; it holds one connection and blocks nobody.

    since: stored at that time or later. newest_only: of each image only its newest analysis, and
    that only if it is among those asked for. Raises `TransientError` (`store_unavailable`).
    """
    conditions = _conditions(where)
    if since is not None:
        conditions.append(AnalysisRow.created_at >= since)
    if newest_only:
        conditions.append(~_newer_exists())
    with _moment(database) as session:
        yield Snapshot(session, conditions)


class ProductSnapshot:
    """Products as they stood when the snapshot was taken.

    count: how many there are, whenever they were updated.
    """

    def __init__(self, session: Session, since: datetime | None) -> None:
        self._session = session
        self._since = since
        self.count = count_products(session)

    def __iter__(self) -> Iterator[StoredProduct]:
        """By external id, in memory that does not grow."""
        for product in every_product(self._session):
            if self._since is None or product.updated_at >= self._since:
                yield product


@contextmanager
def open_product_snapshot(
    database: Database, since: datetime | None = None
) -> Iterator[ProductSnapshot]:
    """As `open_snapshot`. since: updated at that time or later."""
    with _moment(database) as session:
        yield ProductSnapshot(session, since)


@contextmanager
def _moment(database: Database) -> Iterator[Session]:
    with database.session() as session:
        # In READ COMMITTED, every batch would see another moment.
        session.connection(
            execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        )
        # Whoever stops reading in the middle must not keep old rows from being cleaned away.
        session.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{LONGEST_STALL}'"))
        yield session


def _newer_exists() -> ColumnElement[bool]:
    newer = aliased(AnalysisRow)
    return exists().where(
        newer.image_id == AnalysisRow.image_id,
        tuple_(newer.created_at, newer.id) > tuple_(AnalysisRow.created_at, AnalysisRow.id),
    )
