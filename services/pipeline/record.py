"""The analysed-once rule: one image, one set of model versions and options, one analysis."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from services.pipeline.report_json import report_as_json
from services.pipeline.run import DEFAULT_OPTIONS, AnalysisOptions, Pipeline
from services.store.analyses import AnalysisStore, ImageFile
from services.store.records import StoredAnalysis
from vision.garments import ModelVersion
from vision.image import EncodedImage, sniff

RULES_VERSION = 1
"""Raise it when code around the models changes what a report says, so that images get a new one."""


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
            image_format = sniff(encoded.data[:12])
            assert image_format is not None  # The pipeline has decoded it.
            image = ImageFile(encoded.sha256, len(encoded.data), image_format.lower())
            return claim.save(report, image, choices)


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
