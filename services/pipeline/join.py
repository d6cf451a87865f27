"""Join the detector's boxes and the style model's instances into garments, one to one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vision.boxes import pairwise_iou
from vision.garments import Belief, Detections, Style, StyleInstances
from vision.image import RgbImage
from vision.rle import Rle
from vision.taxonomy import Taxonomy

# Less overlap than this is two garments.
MIN_IOU = 0.4
# The two models name the same garment alike more often than not, so agreement breaks near-ties:
# a shirt under an open jacket has nearly the jacket's box.
AGREEMENT_BONUS = 0.25
# An instance that the detector did not confirm must be surer than one it did. On the 83 validation
# and calibration photos of Clothing Co-Parsing the F1 of all garments rises from .758 at the style
# model's own threshold of .31 to .768 here, and falls again (`python -m benchmarks.joining`).
MIN_LEFT_OVER_SCORE = 0.5
# One of which this share or more lies in a garment of its category is that garment.
MOST_INSIDE = 0.6


@dataclass(frozen=True, slots=True, eq=False)
class FoundGarment:
    """A garment that a model saw, or the photo taken for one. Fields as in `Garment`."""

    xyxy: tuple[float, float, float, float]
    category: str | None
    score: float | None
    source: str
    mask: Rle | None
    style: Style | None


def join(
    detections: Detections,
    style: StyleInstances,
    taxonomy: Taxonomy,
    min_left_over_score: float = MIN_LEFT_OVER_SCORE,
) -> tuple[FoundGarment, ...]:
    """Every detection with its style instance, if any, then the instances left over and sure.

    A detection keeps its box and category; the instance adds mask and style.
    """
    partner = match(detections, style, taxonomy)
    found = [_from_detection(detections, i, style, partner.get(i)) for i in range(len(detections))]
    taken = set(partner.values())
    for index in range(len(style)):
        if index not in taken and style.scores[index] >= min_left_over_score:
            garment = _from_style(style, index, taxonomy)
            if not any(_is_part_of(garment, other) for other in found):
                found.append(garment)
    return tuple(found)


def whole_image(image: RgbImage) -> FoundGarment:
    """The photo taken for a close-up of one garment."""
    width, height = image.resolution_wh
    return FoundGarment(
        xyxy=(0.0, 0.0, float(width), float(height)),
        category=None,
        score=None,
        source="whole_image",
        mask=None,
        style=None,
    )


def belief_of(garment: FoundGarment, taxonomy: Taxonomy) -> Belief | None:
    """What the garment's category says of its article type; its score is how sure that is."""
    if garment.category is None or garment.score is None:
        return None
    return Belief(taxonomy.article_types_of_class[garment.category], garment.score)


def match(detections: Detections, style: StyleInstances, taxonomy: Taxonomy) -> dict[int, int]:
    """Detection → instance, greedily by box IoU plus a bonus where the categories agree."""
    iou = pairwise_iou(detections.xyxy, style.xyxy)
    instance_category = [taxonomy.class_of_tag.get(label) for label in style.labels]
    agree = np.array(
        [[label == category for category in instance_category] for label in detections.labels],
        dtype=bool,
    ).reshape(iou.shape)
    affinity = np.where(iou >= MIN_IOU, iou + AGREEMENT_BONUS * agree, 0.0)
    pairs: dict[int, int] = {}
    while affinity.size and affinity.max() > 0:
        i, j = (int(k) for k in np.unravel_index(affinity.argmax(), affinity.shape))
        pairs[i] = j
        affinity[i, :] = 0
        affinity[:, j] = 0
    return pairs


def _is_part_of(garment: FoundGarment, other: FoundGarment) -> bool:
    """Whether a garment lies in another one of its category: a second opinion on it, or a part."""
    if garment.category != other.category:
        return False
    x1, y1, x2, y2 = garment.xyxy
    width = min(x2, other.xyxy[2]) - max(x1, other.xyxy[0])
    height = min(y2, other.xyxy[3]) - max(y1, other.xyxy[1])
    return max(0.0, width) * max(0.0, height) >= MOST_INSIDE * (x2 - x1) * (y2 - y1)


def _from_detection(
    detections: Detections, index: int, style: StyleInstances, partner: int | None
) -> FoundGarment:
    return FoundGarment(
        xyxy=_box(detections.xyxy[index]),
        category=detections.labels[index],
        score=float(detections.scores[index]),
        source="detection",
        mask=None if partner is None else style.masks[partner],
        style=None if partner is None else _style(style, partner),
    )


def _from_style(style: StyleInstances, index: int, taxonomy: Taxonomy) -> FoundGarment:
    return FoundGarment(
        xyxy=_box(style.xyxy[index]),
        category=taxonomy.class_of_tag.get(style.labels[index]),
        score=float(style.scores[index]),
        source="style",
        mask=style.masks[index],
        style=_style(style, index),
    )


def _style(style: StyleInstances, index: int) -> Style:
    return Style(
        label=style.labels[index],
        score=float(style.scores[index]),
        attributes=style.attributes[index],
    )


def _box(xyxy: NDArray[np.float32]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in xyxy)
    return x1, y1, x2, y2
