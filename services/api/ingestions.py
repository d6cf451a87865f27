"""`/v1/ingestions`: many images at once, analysed in the background."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import structlog
from apiflask import APIBlueprint
from flask import request, url_for

from services.api.errors import ApiCode, ProblemError
from services.api.idempotency import answer_once
from services.api.schemas import (
    Ingestion,
    IngestionItemPage,
    IngestionItemQuery,
    IngestionRequest,
)
from services.api.state import state
from services.api.submissions import read_json
from services.store.idempotency import Answer
from services.store.ingestions import NewItem, StoredIngestion, StoredItem
from services.store.records import IngestionItemState

log = structlog.get_logger(__name__)

bp = APIBlueprint("ingestions", __name__, url_prefix="/v1/ingestions", tag="Ingestions")


@bp.post("")
@bp.output(Ingestion, status_code=202, description="Accepted; the work has not begun.")
def create_ingestion() -> Any:
    """Analyse a list of images in the background

    Every row ends done or failed, with the same codes as a single analysis; a bad image never
    fails the others. `vestiary worker` does the work.
    """
    body = read_json(request, IngestionRequest)
    digest = hashlib.sha256(b"ingestion:" + body.model_dump_json().encode()).hexdigest()
    answer = answer_once(digest, lambda: _submit(body))
    return answer.body, answer.status, dict(answer.headers)


@bp.get("/<uuid:ingestion_id>")
@bp.output(Ingestion)
def get_ingestion(ingestion_id: uuid.UUID) -> Any:
    """Read how far an ingestion has come"""
    return _ingestion(_existing(ingestion_id))


@bp.get("/<uuid:ingestion_id>/items")
@bp.input(IngestionItemQuery, location="query")
@bp.output(IngestionItemPage)
def list_items(ingestion_id: uuid.UUID, query_data: IngestionItemQuery) -> Any:
    """List the rows of an ingestion, in the order of the list"""
    _existing(ingestion_id)
    wanted = None if query_data.state is None else IngestionItemState(query_data.state)
    page = state().ingestions.items(ingestion_id, query_data.limit, query_data.cursor, wanted)
    return {"items": [_item(item) for item in page.items], "next_cursor": page.next_cursor}


def _submit(body: IngestionRequest) -> Answer:
    items = [
        NewItem(row, item.image_url, item.external_id, item.known)
        for row, item in enumerate(body.items, start=1)
    ]
    ingestion_id = state().ingestion_queue.create(items)
    log.info("ingestion_accepted", ingestion_id=str(ingestion_id))
    location = url_for("ingestions.get_ingestion", ingestion_id=ingestion_id)
    return Answer(202, {"Location": location}, _ingestion(_existing(ingestion_id)))


def _existing(ingestion_id: uuid.UUID) -> StoredIngestion:
    stored = state().ingestions.get(ingestion_id)
    if stored is None:
        raise ProblemError(ApiCode.NOT_FOUND, "there is no ingestion with this id")
    return stored


def _ingestion(stored: StoredIngestion) -> dict[str, Any]:
    return {
        "id": str(stored.id),
        "created_at": stored.created_at.isoformat(),
        "state": _state(stored),
        "source": stored.source,
        "total": stored.total,
        "counts": {str(name): count for name, count in stored.counts.items()},
        "failures": dict(stored.failures),
    }


def _state(stored: StoredIngestion) -> str:
    if not stored.finished:
        return "running"
    return "cancelled" if stored.cancelled else "finished"


def _item(item: StoredItem) -> dict[str, Any]:
    failed = item.error_code is not None
    return {
        "row": item.row,
        "photo": item.photo,
        "image_url": item.url,
        "external_id": item.external_id,
        "product_url": item.product_url,
        "context": dict(item.hints),
        "state": str(item.state),
        "attempts": item.attempts,
        "error": {"code": item.error_code, "message": item.error_message} if failed else None,
        "analysis_id": None if item.analysis_id is None else str(item.analysis_id),
    }
