"""Scores of a bundle on labelled photos in any layout; runs without any training framework."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection.datasets import ids_of_split, read_photo
from detection.layouts import layout_of, open_set, read_all
from detection.layouts.records import Findings, Instance, LabelledPhoto, LabelledSet, Problem
from detection.predictor import evaluation_min_score
from detection.rcnn.labels import garment_class_of
from detection.serving import Detector, open_detector
from training.ccp import CcpDataset, Skipped
from training.coco_scores import CocoEvaluation, FoundInstances, TrueInstance, evaluate_coco
from training.progress import with_progress
from vision.boxes import pairwise_iou
from vision.bundle import Bundle
from vision.errors import ErrorCode, PermanentError
from vision.garments import Detections
from vision.image import EncodedImage, RgbImage, decode
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
# Points of a class's precision-recall curve in the figures: recall 0, .1, …, 1.
_EVERY_TENTH = slice(None, None, 10)


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


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A bundle's answers on a labelled set, and their scores.

    photos, predicted: in the same order. min_score: the bundle's serving threshold.
    """

    bundle: Bundle
    labelled: LabelledSet
    layout: str
    split: str
    photos: tuple[LabelledPhoto, ...]
    predicted: PredictedPhotos
    findings: Findings
    scores: CocoEvaluation
    min_score: float

    def pixels(self, photo: LabelledPhoto) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of one of the photos."""
        return decode(EncodedImage(self.labelled.photo_bytes(photo))).pixels


def evaluate(
    bundle: Bundle,
    data: Path,
    split: str = "all",
    threads: int = 0,
    images: Path | None = None,
) -> dict[str, Any]:
    """COCO's box figures of `bundle` on the photos of `split` at `data`, ready for JSON."""
    return figures(evaluation_of(bundle, data, split, threads, images))


def evaluation_of(
    bundle: Bundle,
    data: Path,
    split: str = "all",
    threads: int = 0,
    images: Path | None = None,
) -> Evaluation:
    """The bundle's answers on `data`, in any of `detection.layouts.LAYOUTS`.

    All boxes down to the bundle's `evaluation_min_score` are scored, as average precision needs
    the whole ranking. A network of DeepFashion2's own categories is scored in these on their data.

    Raises `PermanentError`: `dataset_invalid` when nothing can be evaluated or a class of the data
    is unknown, `bundle_invalid` when the bundle does not find the classes of the data.
    """
    layout = layout_of(data)
    labelled = open_set(data, layout, split, images)
    native = tuple(bundle.labels.get("network", ())) == labelled.class_names
    detector = open_detector(bundle, threads, evaluation_min_score(bundle), native)
    class_ids = _class_ids(labelled.class_names, detector.class_names, bundle)
    findings = Findings()
    photos, truth, found = [], [], []
    for photo in read_all(labelled, findings, "evaluating"):
        image = _decoded(labelled, photo, findings)
        if image is not None:
            photos.append(photo)
            truth.append(tuple(_true_instance(i, class_ids) for i in photo.instances))
            found.extend(detector.predict([image]))
    if not photos:
        first = findings.listed[0].reason if findings.listed else "it lists none"
        raise PermanentError(
            ErrorCode.DATASET_INVALID,
            f"none of the {len(labelled.photo_ids)} photos can be used; first: {first}",
        )
    return Evaluation(
        bundle=bundle,
        labelled=labelled,
        layout=layout,
        split=split,
        photos=tuple(photos),
        predicted=PredictedPhotos(tuple(truth), tuple(found), ()),
        findings=findings,
        scores=evaluate_coco(truth, [as_found(f) for f in found], detector.class_names),
        min_score=float(bundle.output["min_score"]),
    )


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """All figures of an evaluation, ready for JSON. What was wrong is counted and listed."""
    scores = evaluation.scores.figures()
    per_class = scores["per_class"]
    for class_id, name in enumerate(evaluation.scores.class_names):
        curve = evaluation.scores.curve(class_id)[_EVERY_TENTH]
        per_class[name]["precision_at_recall"] = [round(float(value), 4) for value in curve]
    findings = evaluation.findings
    return {
        "model": evaluation.bundle.name,
        "version": evaluation.bundle.version,
        "layout": evaluation.layout,
        "split": evaluation.split,
        **scores,
        "frequent_classes": _frequent(per_class),
        "served": _served(evaluation),
        "skipped": {
            "count": len(findings.listed),
            "by_reason": findings.counts,
            "photos": [{"photo_id": f.where, "reason": f.reason} for f in findings.listed],
        },
    }


def predict_split(detector: Detector, dataset: CcpDataset, split: str) -> PredictedPhotos:
    """Run the detector over a split of Clothing Co-Parsing, one photo at a time.

    Raises `PermanentError` (`dataset_invalid`) when no photo of the split can be used.
    """
    truth: list[tuple[TrueInstance, ...]] = []
    found: list[Detections] = []
    skipped = list(dataset.skipped)
    for photo_id in with_progress(ids_of_split(dataset, split), "evaluating"):
        try:
            photo = read_photo(dataset, photo_id)
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
    right, claimed, real = _counts(predicted, min_score, iou)
    return 2 * right / (claimed + real) if claimed + real else 0.0


def matches(
    instances: Sequence[TrueInstance], found: Detections, iou: float = 0.5
) -> NDArray[np.int64]:
    """(N,) for each box the index of the instance it finds, -1 for none; see `f1_score`."""
    matched = np.full(len(found), -1, np.int64)
    if not instances or not len(found):
        return matched
    boxes = np.array([t.xyxy for t in instances], np.float32)
    class_ids = np.array([-1 if is_region(t) else t.class_id for t in instances])
    overlaps = pairwise_iou(found.xyxy, boxes)
    overlaps[found.class_ids[:, None] != class_ids[None, :]] = 0
    for row, overlap in enumerate(overlaps):  # detections come strongest first
        best = int(overlap.argmax())
        if overlap[best] >= iou:
            matched[row] = best
            overlaps[:, best] = 0
    return matched


def is_region(instance: TrueInstance) -> bool:
    """Whether it is a region that nothing is judged in, and no garment."""
    return instance.class_id is None or instance.crowd


def _counts(predicted: PredictedPhotos, min_score: float, iou: float) -> tuple[int, int, int]:
    """How many boxes are right, are there, and should be."""
    right = claimed = real = 0
    for truth, found in zip(predicted.truth, predicted.found, strict=True):
        kept = found.above(min_score)
        right += int((matches(truth, kept, iou) >= 0).sum())
        claimed += len(kept)
        real += sum(not is_region(t) for t in truth)
    return right, claimed, real


def _served(evaluation: Evaluation) -> dict[str, float | None]:
    """Precision and recall at the bundle's threshold; a box in an ignore region counts as wrong."""
    right, claimed, real = _counts(evaluation.predicted, evaluation.min_score, 0.5)
    return {
        "min_score": evaluation.min_score,
        "precision": round(right / claimed, 4) if claimed else None,
        "recall": round(right / real, 4) if real else None,
    }


def _frequent(per_class: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    chosen = {name: per_class[name]["AP50"] for name in FREQUENT_CLASSES if name in per_class}
    known = [value for value in chosen.values() if value is not None]
    return {
        "AP50": round(float(np.mean(known)), 4) if known else None,
        "per_class_AP50": chosen,
    }


def _class_ids(
    names: Iterable[str], class_names: tuple[str, ...], bundle: Bundle
) -> tuple[int, ...]:
    """For each class of the data its index in the detector's."""
    taxonomy = load_taxonomy()
    wanted = [name if name in class_names else garment_class_of(name, taxonomy) for name in names]
    for name, found_as in zip(names, wanted, strict=True):
        if found_as is None:
            raise PermanentError(
                ErrorCode.DATASET_INVALID,
                f"the data's class {name!r} is none of {', '.join(class_names)}",
            )
        if found_as not in class_names:
            raise PermanentError(
                ErrorCode.BUNDLE_INVALID,
                f"{bundle.path} finds other classes than the data's {name!r}: "
                f"{', '.join(class_names)}",
            )
    return tuple(class_names.index(str(name)) for name in wanted)


def _decoded(labelled: LabelledSet, photo: LabelledPhoto, findings: Findings) -> RgbImage | None:
    try:
        return decode(EncodedImage(labelled.photo_bytes(photo)))
    except PermanentError as error:
        findings.note(photo.photo_id, Problem.IMAGE_BROKEN, f"{photo.file}: {error.message}")
        return None


def _true_instance(instance: Instance, class_ids: Sequence[int]) -> TrueInstance:
    class_id = None if instance.class_id is None else class_ids[instance.class_id]
    return TrueInstance(class_id, instance.xyxy, area=instance.area, crowd=instance.crowd)
