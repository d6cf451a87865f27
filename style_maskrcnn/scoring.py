"""How good instances are: average precision of tags and garment classes, foreground overlap.

Dimension glossary
    N: found instances of a photo; H, W: its size in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from style_maskrcnn.postprocess import mask_iou
from training.ccp import TagInstance
from training.coco_scores import FoundInstances, TrueInstance, coco_scores
from vision.boxes import pairwise_iou
from vision.garments import StyleInstances
from vision.rle import Rle
from vision.taxonomy import Taxonomy

# Tags with fewer instances than this in the scored photos say little: one figure leaves them out.
FREQUENT = 5
# Two tags of one garment class that overlap by at least this are two opinions on one garment.
SAME_GARMENT_IOU = 0.5
# What covering more pixels may cost in F1.
F1_TO_SPARE = 0.03

Truth = Mapping[str, Sequence[TagInstance]]
Found = Mapping[str, StyleInstances]


def all_scores(
    truth: Truth,
    found: Found,
    class_names: Sequence[str],
    taxonomy: Taxonomy,
    believed_score: float,
) -> dict[str, Any]:
    """Every figure of a model card, from the annotated and the predicted instances by photo id."""
    return {
        "fine_tags": fine_scores(truth, found, class_names),
        "garment_classes": coarse_scores(truth, found, taxonomy),
        "foreground": {
            "min_score": believed_score,
            "iou": foreground_iou(truth, found, taxonomy, believed_score),
        },
    }


def fine_scores(truth: Truth, found: Found, class_names: Sequence[str]) -> dict[str, Any]:
    """Mask and box AP over the model's own tags; instances of other tags are ignore regions."""
    index = {name: i for i, name in enumerate(class_names)}
    wanted = [[_true_instance(i, index.get(i.tag)) for i in truth[photo]] for photo in truth]
    given = [_found_instances(found[photo]) for photo in truth]
    scores: dict[str, Any] = {}
    for kind, name in (("segm", "mask"), ("bbox", "box")):
        values = coco_scores(wanted, given, class_names, kind=kind)  # type: ignore[arg-type]
        frequent = [
            tag["AP50"] for tag in values["per_class"].values() if tag["instances"] >= FREQUENT
        ]
        scores[name] = {
            **_summary(values),
            f"AP50_tags_with_{FREQUENT}": _mean(frequent),
            f"tags_with_{FREQUENT}": len(frequent),
        }
        if kind == "segm":
            scores["per_tag"] = _per_class(values)
    return scores


def coarse_scores(truth: Truth, found: Found, taxonomy: Taxonomy) -> dict[str, Any]:
    """Mask and box AP over the garment classes that tags belong to."""
    names = taxonomy.garment_classes
    index = {tag: names.index(name) for tag, name in taxonomy.class_of_tag.items()}
    wanted = [[_true_instance(i, index.get(i.tag)) for i in truth[photo]] for photo in truth]
    given = [as_garment_classes(found[photo], taxonomy) for photo in truth]
    scores: dict[str, Any] = {}
    for kind, name in (("segm", "mask"), ("bbox", "box")):
        values = coco_scores(wanted, given, names, kind=kind)  # type: ignore[arg-type]
        scores[name] = _summary(values)
        if kind == "segm":
            scores["per_class"] = _per_class(values)
    return scores


def as_garment_classes(found: StyleInstances, taxonomy: Taxonomy) -> FoundInstances:
    """Fine instances under their garment classes, best first, one for each garment.

    Where two tags of one class overlap, the surer instance stays with its own score.
    """
    names = taxonomy.garment_classes
    class_ids = np.array(
        [names.index(taxonomy.class_of_tag[tag]) for tag in found.labels], np.int64
    )
    overlaps = pairwise_iou(found.xyxy, found.xyxy)
    kept: list[int] = []
    for index in np.argsort(-found.scores, kind="stable"):
        rivals = [k for k in kept if class_ids[k] == class_ids[index]]
        if (overlaps[index, rivals] < SAME_GARMENT_IOU).all():
            kept.append(int(index))
    return FoundInstances(
        xyxy=found.xyxy[kept],
        scores=found.scores[kept],
        class_ids=class_ids[kept],
        masks=[found.masks[i] for i in kept],
    )


def foreground_iou(
    truth: Truth, found: Found, taxonomy: Taxonomy, min_score: float
) -> float | None:
    """Overlap of all garment pixels with all predicted ones, over the pixels of all photos.

    Pixels of ignored tags count for neither side. None when there is no garment pixel at all.
    """
    common = union = 0
    for photo, instances in truth.items():
        garments = [i.mask for i in instances if i.tag in taxonomy.class_of_tag]
        ignored = [i.mask for i in instances if i.tag not in taxonomy.class_of_tag]
        predicted = [
            mask.decode()
            for mask, score in zip(found[photo].masks, found[photo].scores, strict=True)
            if score >= min_score
        ]
        shapes = [m.shape for m in (*garments, *ignored, *predicted)]
        if not shapes:
            continue
        counted = ~_union(ignored, shapes[0])
        wanted, given = _union(garments, shapes[0]), _union(predicted, shapes[0])
        common += int((wanted & given & counted).sum())
        union += int(((wanted | given) & counted).sum())
    return round(common / union, 4) if union else None


def best_score_threshold(truth: Truth, found: Found, taxonomy: Taxonomy) -> tuple[float, float]:
    """(score, F1): the score, in steps of .01, from which instances are best believed.

    Garments found and pixels covered count alike: of the scores whose F1 is within `F1_TO_SPARE` of
    the best it is the one with the greatest sum of F1 and `foreground_iou`. F1 alone leaves out
    coats that may be jackets, which are garments all the same. (.5, 0) where no garment is found.
    """
    f1_of = f1_by_score(truth, found, taxonomy)
    if not any(f1_of.values()):
        return 0.5, 0.0
    least = max(f1_of.values()) - F1_TO_SPARE
    together = {
        score: f1 + (foreground_iou(truth, found, taxonomy, score) or 0.0)
        for score, f1 in f1_of.items()
        if f1 >= least
    }
    best = max(together, key=lambda score: together[score])
    return best, round(f1_of[best], 4)


def f1_by_score(truth: Truth, found: Found, taxonomy: Taxonomy) -> dict[float, float]:
    """Score, in steps of .01, → F1 of the garments found by the instances from it on.

    A garment is found when an instance of its class overlaps its mask by half; each counts once.
    """
    scores: list[float] = []
    right: list[bool] = []
    wanted = 0
    for photo, instances in truth.items():
        garments = [i for i in instances if i.tag in taxonomy.class_of_tag]
        wanted += len(garments)
        given = as_garment_classes(found[photo], taxonomy)
        scores += [float(score) for score in given.scores]
        right += _matches(given, garments, taxonomy)
    f1_of = {}
    for threshold in (step / 100 for step in range(5, 96)):
        kept = [
            is_right for score, is_right in zip(scores, right, strict=True) if score >= threshold
        ]
        f1_of[threshold] = 2 * sum(kept) / max(1, len(kept) + wanted)
    return f1_of


def _matches(
    given: FoundInstances, garments: Sequence[TagInstance], taxonomy: Taxonomy
) -> list[bool]:
    """Whether each instance, best first, finds a garment of its class that none before found."""
    free = list(garments)
    right = []
    for class_id, mask in zip(given.class_ids, given.masks, strict=True):
        name, pixels = taxonomy.garment_classes[class_id], mask.decode()
        hits = [
            garment
            for garment in free
            if taxonomy.class_of_tag[garment.tag] == name
            and mask_iou(pixels, garment.mask) >= SAME_GARMENT_IOU
        ]
        if hits:
            free.remove(hits[0])
        right.append(bool(hits))
    return right


def _union(masks: Sequence[NDArray[np.bool_]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    union = np.zeros(shape, np.bool_)
    for mask in masks:
        union |= mask
    return union


def _true_instance(instance: TagInstance, class_id: int | None) -> TrueInstance:
    return TrueInstance(class_id, instance.xyxy, Rle.encode(instance.mask))


def _found_instances(found: StyleInstances) -> FoundInstances:
    return FoundInstances(found.xyxy, found.scores, found.class_ids, found.masks)


def _summary(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in ("instances", "AP", "AP50", "AP75")}


def _per_class(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in values["per_class"].items() if entry["instances"]}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return round(sum(known) / len(known), 4) if known else None
