"""Handing ingestions in: items and jobs, in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from procrastinate.contrib.sqlalchemy import SQLAlchemyPsycopg2Connector

from services.ingestion.tasks import ANNOUNCE, INGEST_CHUNK, queue_app, queue_of
from services.store.ingestions import PLAIN, Chunk, IngestionStore, NewIngestion, NewItem
from services.store.session import Database


class IngestionQueue:
    """Accepts lists of images. Jobs are written on the connection that writes the items, so there
    is never an item without a job or a job without an item.

    Its methods are those of `IngestionStore` that make work, under the same names.
    """

    def __init__(self, database: Database) -> None:
        self._store = IngestionStore(database)
        connector = SQLAlchemyPsycopg2Connector()
        connector.open(database.engine)
        self._app = queue_app(connector)

    def create(
        self,
        items: Iterable[NewItem],
        new: NewIngestion = PLAIN,
        max_items: int | None = None,
    ) -> uuid.UUID:
        return self._store.create(items, self._enqueue, new, max_items)

    def append(self, ingestion_id: uuid.UUID, after_row: int, batch: Sequence[NewItem]) -> bool:
        return self._store.append(ingestion_id, after_row, batch, self._enqueue)

    def retry_failed(self, ingestion_id: uuid.UUID) -> int:
        return self._store.retry_failed(ingestion_id, self._enqueue)

    def requeue(self, ingestion_id: uuid.UUID, files_host: str | None) -> None:
        self._store.requeue(ingestion_id, files_host, self._enqueue)

    def announce(self, ingestion_id: uuid.UUID) -> None:
        def enqueue(connection: Any) -> None:
            news = self._app.tasks[ANNOUNCE].configure(connection=connection)
            news.defer(ingestion_id=str(ingestion_id))

        self._store.announce(ingestion_id, enqueue)

    def _enqueue(self, connection: Any, chunks: Sequence[Chunk]) -> None:
        for host, group in groupby(chunks, key=lambda chunk: chunk.files_host):
            jobs: list[dict[str, Any]] = [
                {
                    "ingestion_id": str(chunk.ingestion_id),
                    "first_row": chunk.first_row,
                    "last_row": chunk.last_row,
                }
                for chunk in group
            ]
            task = self._app.tasks[INGEST_CHUNK]
            task.configure(connection=connection, queue=queue_of(host)).batch_defer(*jobs)
