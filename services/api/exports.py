"""`/v1/export`: everything, or what passes a filter, as one streamed file out of one moment."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO

import structlog
from apiflask import APIBlueprint
from flask import Response

from services.api.errors import validation_problem
from services.api.schemas import ExportQuery
from services.api.state import state
from services.exports import Embeddings, Format, export
from services.product_exports import export_products
from services.store.analyses import AnalysisFilter
from services.store.exports import open_product_snapshot, open_snapshot

CHUNK_BYTES = 1 << 16
CONTENT_TYPES = {
    Format.JSONL: "application/jsonl",
    Format.CSV: "text/csv; charset=utf-8",
    Format.PARQUET: "application/vnd.apache.parquet",
    Format.COCO: "application/json",
}
SUFFIXES = {form: str(form) for form in Format} | {Format.COCO: "coco.json"}
EXPORT_ANSWER: dict[int | str, Any] = {
    200: {
        "description": "The file. A connection that ends before its time has left rows out.",
        "content": {
            content_type.partition(";")[0]: {
                "schema": {"type": "object" if form is Format.COCO else "string"}
            }
            for form, content_type in CONTENT_TYPES.items()
        },
    }
}

Write = Callable[[BinaryIO], object]

log = structlog.get_logger(__name__)

bp = APIBlueprint("exports", __name__, url_prefix="/v1/export", tag="Export")


@bp.get("")
@bp.input(ExportQuery, location="query")
@bp.doc(responses=EXPORT_ANSWER)
def export_everything(query_data: ExportQuery) -> Response:
    """Download analyses or products

    All of one moment, whatever is written meanwhile. `jsonl` has each as this API gives it,
    embeddings added; `csv` and `parquet` have a row for each garment or product; `coco` has the
    boxes and masks of each image's newest analysis. Filters hold for analyses only.
    """
    form, embeddings = Format(query_data.format), Embeddings(query_data.embeddings)
    database = state().container.database
    with ExitStack() as opening:
        write: Write
        if query_data.what == "products":
            _check_products(query_data)
            products = opening.enter_context(open_product_snapshot(database, query_data.since))
            write = lambda out: export_products(products, out, form, embeddings)  # noqa: E731
        else:
            newest_only = query_data.newest_only or form is Format.COCO
            analyses = opening.enter_context(
                open_snapshot(
                    database,
                    AnalysisFilter(**query_data.filters()),
                    since=query_data.since,
                    newest_only=newest_only,
                )
            )
            write = lambda out: export(analyses, out, form, embeddings)  # noqa: E731
        # From here on the answer closes what is open.
        opened = opening.pop_all()
    response = Response(streamed(write), content_type=CONTENT_TYPES[form])
    response.call_on_close(opened.close)
    name = f"vestiary-{query_data.what}.{SUFFIXES[form]}"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def streamed(write: Write) -> Iterator[bytes]:
    """What `write` writes, while it does so in a thread of its own.

    What it raises is raised here, so that the connection breaks instead of ending as if the file
    were complete; a reader who stops breaks the pipe, and with it the writing.
    """
    reading, writing = os.pipe()
    failure: list[BaseException] = []

    def run() -> None:
        try:
            with os.fdopen(writing, "wb", buffering=CHUNK_BYTES) as out:
                write(out)
        except BaseException as error:  # noqa: BLE001 - raised again by the reader
            failure.append(error)

    writer = threading.Thread(target=run, name="write-export")
    writer.start()
    try:
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            while chunk := pipe.read(CHUNK_BYTES):
                yield chunk
    finally:
        writer.join()
    if failure:
        log.error("export_failed", exc_info=failure[0])
        raise failure[0]


def _check_products(query: ExportQuery) -> None:
    wrong = [
        {"field": name, "message": "does not hold for products"}
        for name in (*query.filters(), *(["newest_only"] if query.newest_only else []))
    ]
    if Format(query.format) is Format.COCO:
        wrong.append({"field": "format", "message": "COCO has photos, not products"})
    if wrong:
        raise validation_problem(wrong)
