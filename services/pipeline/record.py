"""The analysed-once rule: one image, one set of model versions and options, one analysis."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.pipeline.report_json import report_as_json
from services.pipeline.run import DEFAULT_OPTIONS, AnalysisOptions, Photo, Pipeline
from services.store.analyses import (
    AnalysisKey,
    AnalysisStore,
    ImageFile,
    NewAnalysis,
    NewSource,
)
from services.store.records import StoredAnalysis
from vision.garments import ImageReport, ModelVersion
from vision.image import EncodedImage, sniff

RULES_VERSION = 2
"""Raise it when code around the models changes what a report says, so that images get a new one."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A photo to analyse and store, and where it was seen."""

    photo: Photo
    external_id: str | None = None
    source_url: str | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """A submission and what it is stored once for."""

    submission: Submission
    key: AnalysisKey
    choices: Mapping[str, Any]


class Recorder:
    """Analyses an image unless that was done before, and stores the report."""

    def __init__(self, pipeline: Pipeline, store: AnalysisStore) -> None:
        self._pipeline = pipeline
        self._store = store

    def record(
        self,
        encoded: EncodedImage,
        options: AnalysisOptions = DEFAULT_OPTIONS,
        *,
        external_id: str | None = None,
        source_url: str | None = None,
        not_before: datetime | None = None,
    ) -> tuple[StoredAnalysis, bool]:
        """The stored analysis, and whether it was made now.

        Of several callers with the same image and options, in any process on any machine, one
        analyses and the others wait for its result. The image's source (`source_url`, or where it
        was fetched from) is remembered in either case. not_before: a stored analysis that is older
        is made again.

        Raises `PermanentError` for bytes that are no usable image, and `TransientError`
        (`store_unavailable`).
        """
        choices = canonical_options(options)
        key = models_key(self._pipeline.models, choices)
        stored = self._store.find(encoded.sha256, key)
        created = False
        if stored is None or _is_stale(stored, not_before):
            stored, created = self._analyze_once(encoded, options, choices, key, not_before)
        url = encoded.source_url if source_url is None else source_url
        known = {(source.external_id, source.url) for source in stored.sources} | {(None, None)}
        if (external_id, url) in known:
            return stored, created
        self._store.add_source(encoded.sha256, external_id, url)
        return self._store.get(stored.id) or stored, created

    def record_many(
        self, submissions: Sequence[Submission], not_before: datetime | None = None
    ) -> list[uuid.UUID | Exception]:
        """As `record`, of many photos together: the analysis' id of each, or why it has none.

        One photo that fails fails no other. All of them are stored in one transaction, which is
        open, with a claim on each photo, while they are analysed. Raises `TransientError`
        (`store_unavailable`); then nothing was stored, or all of it, and doing it again is right.
        """
        plans = [self._plan(submission) for submission in submissions]
        with self._store.claim_many({plan.key for plan in plans}) as claims:
            known = claims.find()
            stale = {
                key
                for key, found in known.items()
                if not_before is not None and found.created_at < not_before
            }
            wanted = {plan.key: plan for plan in plans if plan.key not in known.keys() - stale}
            made, failed = self._analyze(list(wanted.values()))
            ids = {key: found.id for key, found in known.items()}
            superseded = stale & {new.key for new in made}
            if superseded:
                claims.supersede(superseded)
            ids |= claims.save(made, [_source(plan) for plan in plans if plan.key not in failed])
        return [failed[plan.key] if plan.key in failed else ids[plan.key] for plan in plans]

    def _plan(self, submission: Submission) -> _Plan:
        choices = canonical_options(submission.photo.options)
        key = models_key(self._pipeline.models, choices)
        return _Plan(submission, AnalysisKey(submission.photo.encoded.sha256, key), choices)

    def _analyze(
        self, plans: Sequence[_Plan]
    ) -> tuple[list[NewAnalysis], dict[AnalysisKey, Exception]]:
        made: list[NewAnalysis] = []
        failed: dict[AnalysisKey, Exception] = {}
        reports = self._pipeline.analyze_many([plan.submission.photo for plan in plans])
        for plan, report in zip(plans, reports, strict=True):
            if isinstance(report, ImageReport):
                image = _image_file(plan.submission.photo.encoded)
                made.append(NewAnalysis(plan.key, report, image, plan.choices))
            else:
                failed[plan.key] = report
        return made, failed

    def _analyze_once(
        self,
        encoded: EncodedImage,
        options: AnalysisOptions,
        choices: Mapping[str, Any],
        key: str,
        not_before: datetime | None,
    ) -> tuple[StoredAnalysis, bool]:
        with self._store.claim(encoded.sha256, key) as claim:
            stored = claim.find()
            if stored is not None and not _is_stale(stored, not_before):
                return stored, False
            report = self._pipeline.analyze(encoded, options)
            if stored is not None:
                claim.supersede()
            return claim.save(report, _image_file(encoded), choices)


def _image_file(encoded: EncodedImage) -> ImageFile:
    image_format = sniff(encoded.data[:12])
    assert image_format is not None  # The pipeline has decoded it.
    return ImageFile(encoded.sha256, len(encoded.data), image_format.lower())


def _source(plan: _Plan) -> NewSource:
    submission = plan.submission
    return NewSource(plan.key.image_sha256, submission.external_id, submission.source_url)


def _is_stale(stored: StoredAnalysis, not_before: datetime | None) -> bool:
    return not_before is not None and stored.created_at < not_before


def canonical_options(options: AnalysisOptions) -> dict[str, Any]:
    """The options as plain JSON, less those that no chosen stage looks at."""
    detects, classifies = "detect" in options.stages, "classify" in options.stages
    scored = detects and options.min_score is not None
    return {
        "stages": sorted(options.stages),
        "min_score": float(options.min_score or 0) if scored else None,
        "context": dict(sorted(options.context.items())) if classifies else {},
    }


def models_key(models: Mapping[str, ModelVersion], choices: Mapping[str, Any]) -> str:
    """Digest of all that decides a report besides the image: versions, options, our own rules."""
    content = {
        "rules": RULES_VERSION,
        "versions": {stage: models[stage].version for stage in choices["stages"]},
        "options": dict(choices),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def stored_as_json(stored: StoredAnalysis) -> dict[str, Any]:
    """A stored analysis as the API, the command line and exports show it."""
    content = report_as_json(stored.report)
    garments = [
        {"id": str(garment_id), **garment}
        for garment_id, garment in zip(stored.garment_ids, content["garments"], strict=True)
    ]
    return {
        "id": str(stored.id),
        "created_at": stored.created_at.isoformat(),
        **content,
        "image": {
            **content["image"],
            "format": stored.image_format,
            "bytes": stored.image_bytes,
            "sources": [
                {"external_id": source.external_id, "url": source.url} for source in stored.sources
            ],
        },
        "options": dict(stored.options),
        "garments": garments,
    }
