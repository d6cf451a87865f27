"""`/live`, `/ready`, `/metrics`: for whoever runs the service."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from flask import Response
from prometheus_client import CONTENT_TYPE_LATEST

from services.api.errors import ApiCode, ProblemError
from services.api.schemas import Health
from services.api.state import state
from vision.errors import TransientError

METRICS_ANSWER: dict[int | str, Any] = {
    200: {
        "description": "Prometheus's text format.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}

bp = APIBlueprint("health", __name__, tag="Operation")


@bp.get("/live")
@bp.output(Health)
def live() -> Any:
    """Whether the process answers

    Looks at nothing else: a database that is down is no reason to restart this process.
    """
    return {"status": "ok"}


@bp.get("/ready")
@bp.output(Health)
def ready() -> Any:
    """Whether requests can be served

    Ready means that the models are loaded, the database answers, and its tables are current.
    """
    container = state().container
    container.pipeline.load()  # At once when they are loaded; a worker loads them when it starts.
    if not container.database.is_current():
        raise ProblemError(
            ApiCode.NOT_READY, "the database needs `vestiary db upgrade`, or is of a newer version"
        )
    return {"status": "ok"}


@bp.get("/metrics")
@bp.doc(responses=METRICS_ANSWER)
def metrics() -> Response:
    """Counts, timings and the queue's depth for Prometheus"""
    try:
        depth = state().ingestions.queue_depth()
    except TransientError:
        depth = None  # What this process has counted is wanted most when the store is away.
    return Response(state().metrics.render(depth), content_type=CONTENT_TYPE_LATEST)
