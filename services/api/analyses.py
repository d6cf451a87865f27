"""`/v1/analyses`: hand an image in, read reports."""

from __future__ import annotations

import uuid
from typing import Any

import structlog
from apiflask import APIBlueprint
from flask import request, url_for

from services.api.errors import ApiCode, ProblemError
from services.api.idempotency import answer_once
from services.api.schemas import Analysis, AnalysisPage, AnalysisQuery
from services.api.state import state
from services.api.submissions import Submission, read_submission
from services.pipeline.record import stored_as_json
from services.store.analyses import AnalysisFilter
from services.store.idempotency import Answer
from vision.errors import VestiaryError

log = structlog.get_logger(__name__)

bp = APIBlueprint("analyses", __name__, url_prefix="/v1/analyses", tag="Analyses")


@bp.post("")
@bp.output(Analysis, status_code=201, description="A new analysis.")
def create_analysis() -> Any:
    """Analyse an image

    Finds every garment, describes it, and stores the report. The same image with the same options
    is analysed once: later requests get the stored report with 200. With an `Idempotency-Key`, a
    repeated request gets the first answer again, for 24 hours.
    """
    submission = read_submission(request, state().container.settings.fetch_max_bytes)
    answer = answer_once(submission.digest, lambda: _analyse(submission))
    return answer.body, answer.status, dict(answer.headers)


@bp.get("/<uuid:analysis_id>")
@bp.output(Analysis)
def get_analysis(analysis_id: uuid.UUID) -> Any:
    """Read a report"""
    stored = state().container.analyses.get(analysis_id)
    if stored is None:
        raise ProblemError(ApiCode.NOT_FOUND, "there is no analysis with this id")
    return stored_as_json(stored)


@bp.get("")
@bp.input(AnalysisQuery, location="query")
@bp.output(AnalysisPage)
def list_analyses(query_data: AnalysisQuery) -> Any:
    """List reports, newest first

    Garment filters (`category`, `article_type`, …) must all hold on one and the same garment.
    """
    choices = query_data.model_dump()
    limit, cursor = choices.pop("limit"), choices.pop("cursor")
    page = state().container.analyses.list(AnalysisFilter(**choices), limit, cursor)
    return {
        "items": [stored_as_json(stored) for stored in page.items],
        "next_cursor": page.next_cursor,
    }


def _analyse(submission: Submission) -> Answer:
    container, metrics = state().container, state().metrics
    try:
        encoded = submission.encoded
        if encoded is None:
            assert submission.image_url is not None
            encoded = container.fetcher.fetch(submission.image_url)
        stored, created = container.recorder.record(
            encoded,
            submission.options,
            external_id=submission.external_id,
            # As it was named, not where redirects led: that is what the caller knows it by.
            source_url=submission.image_url,
        )
    except VestiaryError as error:
        metrics.count_analysis(str(error.code))
        raise
    metrics.count_analysis("created" if created else "existing")
    if created:
        metrics.time_stages(stored.report.timings_ms)
    log.info(
        "analysis_created" if created else "analysis_found",
        analysis_id=str(stored.id),
        garments=len(stored.garment_ids),
    )
    location = url_for("analyses.get_analysis", analysis_id=stored.id)
    return Answer(201 if created else 200, {"Location": location}, stored_as_json(stored))
