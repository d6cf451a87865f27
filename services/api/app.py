"""The Flask app: resources, errors, logs and metrics put together."""

from __future__ import annotations

import re
import time
import uuid
from pathlib import Path

import structlog
from apiflask import APIFlask
from flask import Response, g, request

from services.api import analyses, exports, health, ingestions, models, products
from services.api.errors import register_error_handlers
from services.api.metrics import Metrics
from services.api.openapi import complete
from services.api.state import EXTENSION, State
from services.bootstrap import Container
from services.ingestion.queue import IngestionQueue
from services.store.idempotency import IdempotencyStore
from services.store.ingestions import IngestionStore
from services.store.products import ProductStore
from services.web import docs

# Base64 makes the 20 MB that an image may have a third longer.
MAX_BODY_BYTES = 30_000_000

DESCRIPTION = """\
Fashion photos in, structured catalogue data out: every garment with its box, mask, category,
attributes, colours and style. Errors are RFC 9457 problem details with a stable `code`.
"""
VERSION = "1"

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = structlog.get_logger(__name__)


def create_app(container: Container, multiprocess_dir: Path | None = None) -> APIFlask:
    """The API around `container`.

    multiprocess_dir: see `services.api.metrics.Metrics`.
    """
    app = APIFlask(
        __name__,
        title="Vestiary",
        version=VERSION,
        json_errors=False,
        docs_path=None,
        spec_path="/openapi.json",
    )
    app.description = DESCRIPTION
    app.servers = [{"url": "/"}]
    app.config.update(
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES,
        OPENAPI_VERSION="3.1.0",
        SYNC_LOCAL_SPEC=False,
        AUTO_404_RESPONSE=False,
        AUTO_VALIDATION_ERROR_RESPONSE=False,
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.strict_slashes = True
    app.extensions[EXTENSION] = State(
        container=container,
        idempotency=IdempotencyStore(container.database),
        ingestions=IngestionStore(container.database),
        ingestion_queue=IngestionQueue(container.database),
        products=ProductStore(container.database),
        metrics=Metrics(multiprocess_dir),
    )
    for resource in (analyses, products, ingestions, exports, models, health):
        app.register_blueprint(resource.bp)
    app.register_blueprint(docs.bp)
    app.spec_processor(complete)
    register_error_handlers(app)
    _observe(app)
    return app


def _observe(app: APIFlask) -> None:
    """Give every request an id, a log line and a count."""
    metrics: Metrics = app.extensions[EXTENSION].metrics

    @app.before_request
    def start() -> None:
        given = request.headers.get("X-Request-ID", "")
        g.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        g.started = time.perf_counter()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=g.request_id)

    @app.after_request
    def finish(response: Response) -> Response:
        seconds = time.perf_counter() - g.started
        # The rule, not the path: no ids in labels, no strangers' text in logs.
        route = request.url_rule.rule if request.url_rule is not None else "unmatched"
        metrics.count_request(request.method, route, response.status_code, seconds)
        log.info(
            "http_request",
            method=request.method,
            route=route,
            status=response.status_code,
            duration_ms=round(seconds * 1000, 1),
        )
        response.headers["X-Request-ID"] = g.request_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.teardown_request
    def forget(_error: BaseException | None) -> None:
        structlog.contextvars.clear_contextvars()
