"""Handing ingestions in: rows and jobs, in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from procrastinate.contrib.sqlalchemy import SQLAlchemyPsycopg2Connector

from services.ingestion.tasks import INGEST_CHUNK, queue_app
from services.store.ingestions import Chunk, IngestionStore, NewItem
from services.store.session import Database

# Enough that the queue's bookkeeping is nothing beside the work, few enough that workers share a
# list of a few hundred evenly.
CHUNK_SIZE = 20


class IngestionQueue:
    """Accepts lists of images. Jobs are written on the connection that writes the rows, so there
    is never a row without a job or a job without a row.
    """

    def __init__(self, database: Database) -> None:
        self._store = IngestionStore(database)
        connector = SQLAlchemyPsycopg2Connector()
        connector.open(database.engine)
        self._app = queue_app(connector)

    def submit(self, items: Sequence[NewItem]) -> uuid.UUID:
        """Store and queue; returns the ingestion's id. The work has then not begun."""
        return self._store.create(items, CHUNK_SIZE, self._enqueue)

    def _enqueue(self, connection: Any, chunks: Sequence[Chunk]) -> None:
        jobs: list[dict[str, Any]] = [
            {
                "ingestion_id": str(chunk.ingestion_id),
                "first_row": chunk.first_row,
                "last_row": chunk.last_row,
            }
            for chunk in chunks
        ]
        self._app.tasks[INGEST_CHUNK].configure(connection=connection).batch_defer(*jobs)
