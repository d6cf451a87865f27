"""`/v1/ingestions`: many images at once, analysed in the background.

An uploaded catalogue is stored in one transaction while it is read, so a broken connection or a
crash leaves nothing behind; it waits on disk meanwhile, and memory stays flat.
"""

from __future__ import annotations

import csv
import hashlib
import io
import uuid
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import structlog
from apiflask import APIBlueprint
from flask import Response, request, url_for
from werkzeug.datastructures import FileStorage

from services.api.errors import STATUS, ApiCode, ProblemError, validation_problem
from services.api.idempotency import answer_once
from services.api.schemas import (
    Ingestion,
    IngestionForm,
    IngestionItemPage,
    IngestionItemQuery,
    IngestionRequest,
)
from services.api.state import state
from services.api.submissions import FORM, JSON, read_json
from services.ingestion.intake import items_of
from services.ingestion.sources import open_catalogue
from services.ingestion.webhooks import check_webhook, ingestion_as_json
from services.store.idempotency import Answer
from services.store.ingestions import NewIngestion, NewItem, StoredIngestion, StoredItem
from services.store.records import IngestionItemState
from vision.errors import ErrorCode, PermanentError

MAX_CATALOGUE_BYTES = 1024**3
MAX_CATALOGUE_ITEMS = 5_000_000
# Two minutes for a million rows on two busy cores.
CATALOGUE_LOCK = timedelta(minutes=30)

FAILURE_COLUMNS = ("row", "photo", "external_id", "url", "code", "message")
FAILURES_ANSWER: dict[int | str, Any] = {
    200: {
        "description": f"Columns: {', '.join(FAILURE_COLUMNS)}. Text that a spreadsheet would take "
        "for a formula has an apostrophe before it.",
        "content": {"text/csv": {"schema": {"type": "string"}}},
    }
}
# https://owasp.org/www-community/attacks/CSV_Injection
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")

log = structlog.get_logger(__name__)

bp = APIBlueprint("ingestions", __name__, url_prefix="/v1/ingestions", tag="Ingestions")


@bp.post("")
@bp.output(Ingestion, status_code=202, description="Accepted; the work has not begun.")
def create_ingestion() -> Any:
    """Analyse a list of images in the background

    As JSON, or as a catalogue file in a form: CSV, JSONL, Parquet or a list of URLs, also gzip'd,
    up to 1 GiB and 5,000,000 photos. Columns are found by their names, and every photo of a row
    is an item. Every row ends done or failed, with the same codes as a single analysis; a bad
    one never fails the others. `vestiary worker` does the work.
    """
    if request.mimetype == FORM:
        request.max_content_length = MAX_CATALOGUE_BYTES
        catalogue = _uploaded_catalogue()
        webhook_url = _form_webhook()
        content = hashlib.file_digest(catalogue.stream, "sha256").digest()  # type: ignore[arg-type]
        asked = b"catalogue:%b:%b" % (content, (webhook_url or "").encode())
        answer = answer_once(
            hashlib.sha256(asked).hexdigest(),
            lambda: _submit_catalogue(catalogue, webhook_url),
            CATALOGUE_LOCK,
        )
    elif request.mimetype == JSON:
        body = read_json(request, IngestionRequest)
        digest = hashlib.sha256(b"ingestion:" + body.model_dump_json().encode()).hexdigest()
        answer = answer_once(digest, lambda: _submit(body))
    else:
        raise ProblemError(ErrorCode.UNSUPPORTED_MEDIA, f"send {JSON} or {FORM}")
    return answer.body, answer.status, dict(answer.headers)


@bp.get("/<uuid:ingestion_id>")
@bp.output(Ingestion)
def get_ingestion(ingestion_id: uuid.UUID) -> Any:
    """Read how far an ingestion has come"""
    return ingestion_as_json(_existing(ingestion_id))


@bp.get("/<uuid:ingestion_id>/items")
@bp.input(IngestionItemQuery, location="query")
@bp.output(IngestionItemPage)
def list_items(ingestion_id: uuid.UUID, query_data: IngestionItemQuery) -> Any:
    """List the items of an ingestion, in the order of the list"""
    _existing(ingestion_id)
    wanted = None if query_data.state is None else IngestionItemState(query_data.state)
    page = state().ingestions.items(ingestion_id, query_data.limit, query_data.cursor, wanted)
    return {"items": [_item(item) for item in page.items], "next_cursor": page.next_cursor}


@bp.delete("/<uuid:ingestion_id>")
@bp.output(Ingestion)
def cancel_ingestion(ingestion_id: uuid.UUID) -> Any:
    """Cancel what has not begun

    Waiting items become `cancelled`; those in hand are ended. Reports stay. Cancelling what is
    finished changes nothing.
    """
    _existing(ingestion_id)
    state().ingestions.cancel(ingestion_id)
    state().ingestion_queue.announce(ingestion_id)
    log.info("ingestion_cancelled", ingestion_id=str(ingestion_id))
    return ingestion_as_json(_existing(ingestion_id))


@bp.post("/<uuid:ingestion_id>/retry")
@bp.output(Ingestion, status_code=202, description="The failed items wait again.")
def retry_ingestion(ingestion_id: uuid.UUID) -> Any:
    """Try failed items again

    All but rows without a usable photo: their catalogue has to be put right first.
    """
    _existing(ingestion_id)
    count = state().ingestion_queue.retry_failed(ingestion_id)
    log.info("ingestion_retried", ingestion_id=str(ingestion_id), items=count)
    return ingestion_as_json(_existing(ingestion_id)), 202


@bp.get("/<uuid:ingestion_id>/failures.csv")
@bp.doc(responses=FAILURES_ANSWER)
def export_failures(ingestion_id: uuid.UUID) -> Response:
    """Download the failed items, with reasons, as CSV"""
    _existing(ingestion_id)
    lines = failures_csv(state().ingestions.failures(ingestion_id))
    name = f"ingestion-{ingestion_id}-failures.csv"
    return Response(
        lines,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def failures_csv(items: Iterable[StoredItem]) -> Iterator[str]:
    """Lines of the CSV, the header first."""
    yield _csv_line(FAILURE_COLUMNS)
    for item in items:
        texts = (item.external_id, item.url, item.error_code, item.error_message)
        yield _csv_line((str(item.row), str(item.photo), *map(_defused, texts)))


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue()


def _defused(text: str | None) -> str:
    text = text or ""
    return f"'{text}" if text.startswith(FORMULA_SIGNS) else text


def _uploaded_catalogue() -> FileStorage:
    files = request.files
    if set(files) != {"catalogue"} or len(files.getlist("catalogue")) > 1:
        message = "send one file, as `catalogue`"
        raise validation_problem([{"field": "catalogue", "message": message}])
    return files["catalogue"]


def _form_webhook() -> str | None:
    """The one field that may come beside the file."""
    fields = IngestionForm.model_validate(request.form.to_dict(), strict=False)
    return fields.webhook_url


def _submit(body: IngestionRequest) -> Answer:
    items = [
        NewItem(row, item.image_url, item.external_id, item.known)
        for row, item in enumerate(body.items, start=1)
    ]
    return _accepted(state().ingestion_queue.create(items, _new(body.webhook_url)))


def _new(webhook_url: str | None, source: str | None = None) -> NewIngestion:
    if webhook_url is not None:
        check_webhook(webhook_url, state().container.settings.webhook_secret)
    return NewIngestion(source=source, webhook_url=webhook_url)


def _submit_catalogue(catalogue: FileStorage, webhook_url: str | None) -> Answer:
    catalogue.stream.seek(0)
    # It is shown to people, and comes from a stranger.
    name = "".join(c for c in catalogue.filename or "" if c.isprintable())[:255] or None
    new = _new(webhook_url, name)
    try:
        with open_catalogue(catalogue.stream) as rows:  # type: ignore[arg-type]
            ingestion_id = state().ingestion_queue.create(
                items_of(rows), new, max_items=MAX_CATALOGUE_ITEMS
            )
    except PermanentError as error:
        # Codes of a source stand for a gateway's failure where it is fetched. This one was sent.
        status = STATUS[error.code] if STATUS[error.code] in (413, 415) else 422
        raise ProblemError(error.code, error.message, status=status) from error
    return _accepted(ingestion_id)


def _accepted(ingestion_id: uuid.UUID) -> Answer:
    # Where no row has a usable photo, it has finished already.
    state().ingestion_queue.announce(ingestion_id)
    log.info("ingestion_accepted", ingestion_id=str(ingestion_id))
    location = url_for("ingestions.get_ingestion", ingestion_id=ingestion_id)
    return Answer(202, {"Location": location}, ingestion_as_json(_existing(ingestion_id)))


def _existing(ingestion_id: uuid.UUID) -> StoredIngestion:
    stored = state().ingestions.get(ingestion_id)
    if stored is None:
        raise ProblemError(ApiCode.NOT_FOUND, "there is no ingestion with this id")
    return stored


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
