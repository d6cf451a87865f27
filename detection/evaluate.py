"""Scores of a shipped bundle on Clothing Co-Parsing; runs without any training framework."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from detection.datasets import AnnotatedPhoto, ids_of_split, read_photo
from detection.predictor import GarmentDetector, evaluation_min_score
from training.ccp import CcpDataset, Skipped
from training.coco_scores import FoundInstances, TrueInstance, coco_scores
from vision.boxes import pairwise_iou
from vision.bundle import Bundle
from vision.errors import ErrorCode, PermanentError
from vision.garments import Detections
from vision.taxonomy import load_taxonomy

# The classes with enough instances in Clothing Co-Parsing for a figure of their own to be steady.
FREQUENT_CLASSES = (
    "footwear",
    "top",
    "bag",
    "outerwear",
    "trousers",
    "eyewear",
    "dress",
    "belt",
    "skirt",
)


@dataclass(frozen=True, eq=False)
class PredictedPhotos:
    """What is there and what was found, photo by photo, and what could not be used."""

    truth: tuple[tuple[TrueInstance, ...], ...]
    found: tuple[Detections, ...]
    skipped: tuple[Skipped, ...]

    def joined(self, other: PredictedPhotos) -> PredictedPhotos:
        return PredictedPhotos(
            self.truth + other.truth, self.found + other.found, self.skipped + other.skipped
        )


def evaluate(bundle: Bundle, data: Path, split: str = "all", threads: int = 0) -> dict[str, Any]:
    """COCO's box figures of `bundle` on the photos of `split` at `data`, ready for JSON.

    Photos that cannot be used are counted and listed under `skipped`. All boxes down to the
    bundle's `evaluation_min_score` are scored, as average precision needs the whole ranking.

    Raises `PermanentError`: `dataset_invalid` when nothing can be evaluated, `bundle_invalid` when
    the bundle's classes are not the taxonomy's, which the annotations are mapped to.
    """
    dataset = CcpDataset(data)
    detector = GarmentDetector(bundle, threads, evaluation_min_score(bundle))
    if detector.class_names != load_taxonomy().garment_classes:
        raise PermanentError(
            ErrorCode.BUNDLE_INVALID,
            f"{bundle.path} finds other classes than the taxonomy's: "
            f"{', '.join(detector.class_names)}",
        )
    predicted = predict_split(detector, dataset, split)
    scores = coco_scores(
        predicted.truth, [as_found(f) for f in predicted.found], detector.class_names
    )
    per_class = scores["per_class"]
    frequent = {name: per_class[name]["AP50"] for name in FREQUENT_CLASSES if name in per_class}
    known = [value for value in frequent.values() if value is not None]
    return {
        "model": bundle.name,
        "version": bundle.version,
        "split": split,
        **scores,
        "frequent_classes": {
            "AP50": round(float(np.mean(known)), 4) if known else None,
            "per_class_AP50": frequent,
        },
        "skipped": {
            "count": len(predicted.skipped),
            "photos": [{"photo_id": s.photo_id, "reason": s.reason} for s in predicted.skipped],
        },
    }


def predict_split(detector: GarmentDetector, dataset: CcpDataset, split: str) -> PredictedPhotos:
    """Run the detector over a split, one photo at a time.

    Raises `PermanentError` (`dataset_invalid`) when no photo of the split can be used.
    """
    truth: list[tuple[TrueInstance, ...]] = []
    found: list[Detections] = []
    skipped = list(dataset.skipped)
    for photo_id in _with_progress(ids_of_split(dataset, split)):
        try:
            photo: AnnotatedPhoto = read_photo(dataset, photo_id)
        except PermanentError as error:
            skipped.append(Skipped(photo_id, error.message))
            continue
        truth.append(photo.truth)
        found.extend(detector.predict([photo.image]))
    if not truth:
        raise PermanentError(
            ErrorCode.DATASET_INVALID,
            f"none of the {len(skipped)} photos can be used; first: {skipped[0].reason}",
        )
    return PredictedPhotos(tuple(truth), tuple(found), tuple(skipped))


def as_found(detections: Detections) -> FoundInstances:
    """The same boxes as `training.coco_scores` takes them."""
    return FoundInstances(detections.xyxy, detections.scores, detections.class_ids)


def best_min_score(
    predicted: PredictedPhotos, candidates: Sequence[float], iou: float = 0.5
) -> tuple[float, float]:
    """(threshold, F1): the candidate with the highest F1 over all classes, the lower of equals."""
    best = (candidates[0], -1.0)
    for min_score in candidates:
        f1 = f1_score(predicted, min_score, iou)
        if f1 > best[1]:
            best = (min_score, f1)
    return best


def f1_score(predicted: PredictedPhotos, min_score: float, iou: float = 0.5) -> float:
    """Harmonic mean of precision and recall of boxes at one threshold, over all classes.

    A box is right when it overlaps a true box of its class by `iou` or more that no stronger box
    has taken. Ignore regions play no part.
    """
    right = claimed = real = 0
    for truth, found in zip(predicted.truth, predicted.found, strict=True):
        instances = [t for t in truth if t.class_id is not None]
        kept = found.above(min_score)
        right += _matches(instances, kept, iou)
        claimed += len(kept)
        real += len(instances)
    return 2 * right / (claimed + real) if claimed + real else 0.0


def _matches(instances: Sequence[TrueInstance], found: Detections, iou: float) -> int:
    if not instances or not len(found):
        return 0
    boxes = np.array([t.xyxy for t in instances], np.float32)
    class_ids = np.array([t.class_id for t in instances])
    overlaps = pairwise_iou(found.xyxy, boxes)
    overlaps[found.class_ids[:, None] != class_ids[None, :]] = 0
    count = 0
    for row in overlaps:  # detections come strongest first
        best = int(row.argmax())
        if row[best] >= iou:
            count += 1
            overlaps[:, best] = 0
    return count


def _with_progress(photo_ids: Sequence[str]) -> Iterable[str]:
    """The ids, with a bar on stderr where somebody watches."""
    watched = sys.stderr.isatty()
    return track(photo_ids, "evaluating", console=Console(stderr=True), disable=not watched)
