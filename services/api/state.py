"""What the views of one app share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from flask import current_app

from services.api.metrics import Metrics
from services.bootstrap import Container
from services.ingestion.queue import IngestionQueue
from services.store.idempotency import IdempotencyStore
from services.store.ingestions import IngestionStore
from services.store.products import ProductStore

EXTENSION = "vestiary"


@dataclass(frozen=True)
class State:
    container: Container
    idempotency: IdempotencyStore
    ingestions: IngestionStore
    ingestion_queue: IngestionQueue
    products: ProductStore
    metrics: Metrics


def state() -> State:
    """Of the app that answers the current request."""
    return cast(State, current_app.extensions[EXTENSION])
