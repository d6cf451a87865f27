"""COCO's average precision of boxes and masks, with what was found and missed per class.

Definitions: https://cocodataset.org/#detection-eval, computed by faster-coco-eval. Glossary: K
classes, one dictionary a photo. Boxes are xyxy in pixels, far edges exclusive.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from vision.rle import Rle

Kind = Literal["bbox", "segm"]

# faster-coco-eval's order of summary figures for boxes and masks, by COCO's names.
_SUMMARY = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR_1",
    "AR_10",
    "AR_100",
    "AR_small",
    "AR_medium",
    "AR_large",
)


@dataclass(frozen=True, eq=False)
class TrueInstance:
    """What is really there.

    class_id: None for an ignore region: a detection of any class that lies in it is neither right
    nor wrong. mask: needed for "segm" only. area: pixels, that COCO sorts sizes by; where the set
    does not say, the mask's or else the box's. crowd: a region that `class_id` alone is not judged
    in.
    """

    class_id: int | None
    xyxy: tuple[float, float, float, float]
    mask: Rle | None = None
    area: float | None = None
    crowd: bool = False


@dataclass(frozen=True, eq=False)
class FoundInstances:
    """What a model says: (N, 4) boxes, (N,) scores and class ids, and N masks for "segm"."""

    xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    masks: Sequence[Rle] = ()

    def __post_init__(self) -> None:
        if not len(self.xyxy) == len(self.scores) == len(self.class_ids):
            raise ValueError("xyxy, scores and class_ids differ in length")


@dataclass(frozen=True, eq=False)
class CocoEvaluation:
    """What COCO's evaluation counts.

    instances: of each class. summary: the twelve figures of `_SUMMARY`. precision: (10 IoUs, 101
    recalls 0, .01, …, 1, K, 4 sizes), recall: (10, K, 4), both -1 where nothing true exists. Sizes
    are all, small (under 32² pixels), medium and large (over 96²).
    """

    class_names: tuple[str, ...]
    photos: int
    instances: tuple[int, ...]
    summary: Mapping[str, float | None]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    def figures(self) -> dict[str, Any]:
        """Each in [0, 1] or None where nothing true exists to measure it by; see `coco_scores`."""
        return {
            "photos": self.photos,
            "instances": sum(self.instances),
            **self.summary,
            "per_class": {name: self._of_class(i) for i, name in enumerate(self.class_names)},
        }

    def curve(self, class_id: int, iou: float = 0.5) -> NDArray[np.float64]:
        """(101,) precision at the recalls 0, .01, …, 1; empty where nothing true exists."""
        precision = self.precision[round((iou - 0.5) / 0.05), :, class_id, 0]
        return precision if precision[0] > -1 else precision[:0]

    def _of_class(self, class_id: int) -> dict[str, Any]:
        precision = self.precision[:, :, class_id]
        small, medium, large = (_mean_known(precision[:, :, size]) for size in (1, 2, 3))
        return {
            "AP": _mean_known(precision[:, :, 0]),
            "AP50": _mean_known(precision[0, :, 0]),
            "AP75": _mean_known(precision[5, :, 0]),
            "AP_small": small,
            "AP_medium": medium,
            "AP_large": large,
            "AR_100": _mean_known(self.recall[:, class_id, 0]),
            "instances": self.instances[class_id],
        }


def coco_scores(
    truth: Sequence[Sequence[TrueInstance]],
    found: Sequence[FoundInstances],
    class_names: Sequence[str],
    kind: Kind = "bbox",
    max_detections: int = 100,
) -> dict[str, Any]:
    """COCO's figures, each in [0, 1] or None where nothing true exists to measure it by.

    truth, found: one entry a photo, in the same order.

    Returns `photos`, `instances`, the twelve figures of `_SUMMARY` (AP is the mean over IoU .50 to
    .95 and over the classes that occur), and `per_class`: name → its figures and `instances`.

    Raises `ValueError` when the two differ in length or a mask is missing for "segm".
    """
    return evaluate_coco(truth, found, class_names, kind, max_detections).figures()


def evaluate_coco(
    truth: Sequence[Sequence[TrueInstance]],
    found: Sequence[FoundInstances],
    class_names: Sequence[str],
    kind: Kind = "bbox",
    max_detections: int = 100,
) -> CocoEvaluation:
    """As `coco_scores`, with the curves behind the figures."""
    if len(truth) != len(found):
        raise ValueError(f"{len(truth)} photos are annotated, {len(found)} were predicted")
    counts = (
        sum(t.class_id == class_id and not t.crowd for photo in truth for t in photo)
        for class_id in range(len(class_names))
    )
    evaluation = _evaluate(truth, found, class_names, kind, max_detections)
    return CocoEvaluation(
        class_names=tuple(class_names),
        photos=len(truth),
        instances=tuple(counts),
        summary=dict(zip(_SUMMARY, map(_known, evaluation.stats[: len(_SUMMARY)]), strict=True)),
        precision=np.asarray(evaluation.eval["precision"])[..., -1],
        recall=np.asarray(evaluation.eval["recall"])[..., -1],
    )


def _evaluate(
    truth: Sequence[Sequence[TrueInstance]],
    found: Sequence[FoundInstances],
    class_names: Sequence[str],
    kind: Kind,
    max_detections: int,
) -> Any:
    # The library reports its progress on stdout, which belongs to the caller's JSON.
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO(_truth_as_coco(truth, class_names, kind))
        results = annotations.loadRes(_found_as_coco(found, kind))
        evaluation = COCOeval_faster(annotations, results, iouType=kind)
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _truth_as_coco(
    truth: Sequence[Sequence[TrueInstance]], class_names: Sequence[str], kind: Kind
) -> dict[str, Any]:
    """Photos and classes are numbered from 1, as COCO's matching takes id 0 for "no match"."""
    annotations: list[dict[str, Any]] = []
    for image_id, photo in enumerate(truth, start=1):
        for instance in photo:
            # COCO's crowd regions belong to one class, so that an ignore region becomes one each.
            owner = instance.class_id
            for class_id in range(len(class_names)) if owner is None else (owner,):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": class_id + 1,
                        "iscrowd": int(owner is None or instance.crowd),
                        **_shape(instance.xyxy, instance.mask, kind, instance.area),
                    }
                )
    return {
        "info": {},
        "images": [
            {"id": image_id, "height": height, "width": width}
            for image_id, (height, width) in enumerate(map(_mask_size, truth), start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(class_names, start=1)],
    }


def _found_as_coco(found: Sequence[FoundInstances], kind: Kind) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image_id,
            "category_id": int(photo.class_ids[index]) + 1,
            "score": float(photo.scores[index]),
            **_shape(photo.xyxy[index], photo.masks[index] if kind == "segm" else None, kind),
        }
        for image_id, photo in enumerate(found, start=1)
        for index in range(len(photo.scores))
    ]


def _shape(
    xyxy: Sequence[float] | NDArray[np.float32],
    mask: Rle | None,
    kind: Kind,
    area: float | None = None,
) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(value) for value in xyxy)
    box = [x1, y1, x2 - x1, y2 - y1]
    if kind == "bbox":
        return {"bbox": box, "area": area or (float(mask.area) if mask else box[2] * box[3])}
    if mask is None:
        raise ValueError("mask scores need a mask for every instance")
    return {"bbox": box, "area": area or float(mask.area), "segmentation": mask.as_coco()}


def _mask_size(photo: Sequence[TrueInstance]) -> tuple[int, int]:
    """(H, W) of the photo's masks, which is what the library decodes them to; boxes need none."""
    return next((instance.mask.size for instance in photo if instance.mask), (0, 0))


def _mean_known(precision: NDArray[np.float64]) -> float | None:
    valid = precision[precision > -1]
    return round(float(valid.mean()), 4) if valid.size else None


def _known(value: float) -> float | None:
    return round(float(value), 4) if value > -1 else None
