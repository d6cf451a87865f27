"""A garment as a row, and back."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from services.store.tables import EMBEDDING_LENGTH, AnalysisRow, GarmentRow, uuid7
from vision.garments import (
    ATTRIBUTES,
    Colour,
    Garment,
    ImageReport,
    Labels,
    ModelVersion,
    Prediction,
    Style,
)
from vision.rle import Rle

_VECTOR = "[" + ",".join(["%.5g"] * EMBEDDING_LENGTH) + "]"


def values_of_garment(garment: Garment, analysis_id: uuid.UUID, ordinal: int) -> dict[str, Any]:
    """Every column of a garment's row, as JSON has them (see `services.store.bulk`).

    Raises `ValueError` for an embedding of another length than the column's.
    """
    x1, y1, x2, y2 = (float(value) for value in garment.xyxy)
    labels, style = garment.labels, garment.style
    return {
        "id": str(uuid7()),
        "analysis_id": str(analysis_id),
        "ordinal": ordinal,
        "source": garment.source,
        "category": garment.category,
        "score": None if garment.score is None else float(garment.score),
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
        "mask": None if garment.mask is None else garment.mask.as_coco(),
        "attributes": None if labels is None else _predictions_to_json(labels.attributes),
        "colours": [
            {"name": colour.name, "hex": colour.hex, "share": float(colour.share)}
            for colour in garment.colours
        ],
        "style": None
        if style is None
        else {
            "label": style.label,
            "score": float(style.score),
            "attributes": _predictions_to_json(style.attributes),
        },
        "style_label": None if style is None else style.label,
        "embedding": None if labels is None else _embedding(labels),
        **_label_columns(labels),
    }


def garment_from_row(row: GarmentRow) -> Garment:
    """The garment, its embedding (loaded with the row) at the precision of the column."""
    return Garment(
        xyxy=(row.x1, row.y1, row.x2, row.y2),
        category=row.category,
        score=row.score,
        source=row.source,
        labels=None
        if row.attributes is None
        else Labels(
            attributes=_predictions_from_json(row.attributes),
            embedding=np.asarray(row.embedding, dtype=np.float32),
        ),
        mask=None
        if row.mask is None
        else Rle(size=(row.mask["size"][0], row.mask["size"][1]), counts=row.mask["counts"]),
        style=None if row.style is None else _style_from_json(row.style),
        colours=tuple(
            Colour(name=colour["name"], hex=colour["hex"], share=colour["share"])
            for colour in row.colours
        ),
    )


def _label_columns(labels: Labels | None) -> dict[str, str | None]:
    answers = {} if labels is None else labels.attributes
    return {name: answers[name].label if name in answers else None for name in ATTRIBUTES}


def _embedding(labels: Labels) -> str:
    """As pgvector reads it."""
    if labels.embedding.shape != (EMBEDDING_LENGTH,):
        raise ValueError(f"embeddings are ({EMBEDDING_LENGTH},), not {labels.embedding.shape}")
    # Five digits tell any two numbers of half precision apart.
    return _VECTOR % tuple(labels.embedding.astype(np.float16).tolist())


def _predictions_to_json(predictions: Mapping[str, Prediction]) -> dict[str, Any]:
    return {
        name: {
            "label": answer.label,
            "confidence": float(answer.confidence),
            "alternatives": [[label, float(share)] for label, share in answer.alternatives],
        }
        for name, answer in predictions.items()
    }


def _predictions_from_json(content: Mapping[str, Any]) -> dict[str, Prediction]:
    return {
        name: Prediction(
            label=answer["label"],
            confidence=answer["confidence"],
            alternatives=tuple((label, share) for label, share in answer["alternatives"]),
        )
        for name, answer in content.items()
    }


def _style_from_json(content: Mapping[str, Any]) -> Style:
    return Style(
        label=content["label"],
        score=content["score"],
        attributes=_predictions_from_json(content["attributes"]),
    )


def report_from_row(row: AnalysisRow) -> ImageReport:
    """The report as it was stored, its image and garments read with it."""
    return ImageReport(
        image_sha256=row.image.sha256,
        resolution_wh=(row.image.width, row.image.height),
        garments=tuple(garment_from_row(garment) for garment in row.garments),
        classified_whole=row.classified_whole,
        models={
            stage: ModelVersion(model["name"], model["version"])
            for stage, model in row.models.items()
        },
        timings_ms=row.timings_ms,
    )
