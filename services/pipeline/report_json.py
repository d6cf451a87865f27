"""The report as plain JSON types, the one form the API, the command line and exports share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vision.deepfashion2 import deepfashion2_name
from vision.garments import ATTRIBUTES, Garment, ImageReport, Prediction
from vision.taxonomy import load_taxonomy


def report_as_json(report: ImageReport) -> dict[str, Any]:
    """A report as `json.dumps` takes it; the API adds ids and times of its own."""
    width, height = report.resolution_wh
    return {
        "image": {"sha256": report.image_sha256, "width": width, "height": height},
        "classified_whole": report.classified_whole,
        "garments": [garment_as_json(garment) for garment in report.garments],
        "models": {
            stage: {"name": model.name, "version": model.version}
            for stage, model in report.models.items()
        },
        "timings_ms": {stage: round(value, 1) for stage, value in report.timings_ms.items()},
    }


def garment_as_json(garment: Garment) -> dict[str, Any]:
    """One garment, without its embedding, which only exports and look-ups carry."""
    style = garment.style
    return {
        "source": garment.source,
        "category": garment.category,
        "deepfashion2": deepfashion2_name(garment.category, garment.style, load_taxonomy()),
        "score": None if garment.score is None else round(garment.score, 4),
        "box": [round(value, 1) for value in garment.xyxy],
        "mask": None if garment.mask is None else garment.mask.as_coco(),
        "attributes": {} if garment.labels is None else _attributes(garment.labels.attributes),
        "colours": [
            {"name": colour.name, "hex": colour.hex, "share": colour.share}
            for colour in garment.colours
        ],
        "style": None
        if style is None
        else {
            "label": style.label,
            "score": round(style.score, 4),
            "attributes": {
                name: prediction_as_json(answer) for name, answer in style.attributes.items()
            },
        },
    }


def prediction_as_json(answer: Prediction) -> dict[str, Any]:
    return {
        "label": answer.label,
        "confidence": round(answer.confidence, 4),
        "alternatives": [
            {"label": label, "confidence": round(confidence, 4)}
            for label, confidence in answer.alternatives
        ],
    }


def _attributes(answers: Mapping[str, Prediction]) -> dict[str, Any]:
    return {name: prediction_as_json(answers[name]) for name in ATTRIBUTES if name in answers}
