"""From the network's raw answers to instances in the upright photo's pixels.

Dimension glossary
    N: instances; V: attribute values of all groups together; H, W: the photo; S: a raw mask's
    side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from style_maskrcnn.preprocess import NetworkInput
from vision.bundle import METADATA, Bundle
from vision.errors import ErrorCode, PermanentError
from vision.garments import UNKNOWN, Prediction, StyleInstances
from vision.rle import Rle

Mask = NDArray[np.bool_]
# Garment classes that dress an upper body.
UPPER_BODY_CLASSES = ("top", "outerwear", "dress", "jumpsuit")
LEAST_UPPER_BODY_SCORE = 0.15
# An attribute that an instance may have or not is reported from this probability on.
PRESENT = 0.5
YES = "yes"


@dataclass(frozen=True, eq=False)
class RawOutput:
    """The network's answer for one photo, best first, in pixels of its input.

    boxes: (N, 4) float32. scores: (N,) float32. class_ids: (N,) int64. masks: (N, S, S) float32
    probabilities over each box. attributes: (N, V) float32 logits.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    masks: NDArray[np.float32]
    attributes: NDArray[np.float32]

    def only(self, keep: NDArray[np.intp]) -> RawOutput:
        """Those at the given indices."""
        return RawOutput(
            self.boxes[keep],
            self.scores[keep],
            self.class_ids[keep],
            self.masks[keep],
            self.attributes[keep],
        )


@dataclass(frozen=True)
class GroupSpec:
    """An attribute group of a bundle. values: in the order of the logits. min_confidence: below it
    the answer is `unknown`. categories: class names it is asked of; empty means all. temperature:
    divides the logits, so that confidences match how often they are right.
    """

    name: str
    values: tuple[str, ...]
    min_confidence: float = 0.0
    categories: tuple[str, ...] = ()
    temperature: float = 1.0


@dataclass(frozen=True)
class OutputSpec:
    """What a bundle's answers mean.

    class_names: C tags. coarse_of_class: the garment class of each. groups: in the order of the
    logits. serving_score: instances at least this sure are believed. mask_threshold: probability
    from which a pixel is inside. attribute_names: of which an instance has any number, their logits
    after the groups'. attributes_of_class: for each tag the indices of those it may have.
    """

    class_names: tuple[str, ...]
    coarse_of_class: tuple[str, ...]
    groups: tuple[GroupSpec, ...]
    serving_score: float
    mask_threshold: float = 0.5
    duplicate_iou: float = 0.6
    attribute_names: tuple[str, ...] = ()
    attributes_of_class: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> OutputSpec:
        """Raises `PermanentError` (`bundle_invalid`) naming what the metadata lacks."""
        try:
            classes: Mapping[str, str] = bundle.labels["classes"]
            output = bundle.output
            names = tuple(bundle.labels.get("multi_label", ()))
            allowed: Mapping[str, list[str]] = bundle.labels.get("multi_label_of_class", {})
            return cls(
                class_names=tuple(classes),
                coarse_of_class=tuple(classes.values()),
                groups=tuple(_group(g, output["confidence"]) for g in bundle.labels["attributes"]),
                serving_score=float(output["serving_score"]),
                mask_threshold=float(output["mask_threshold"]),
                duplicate_iou=float(output["duplicate_iou"]),
                attribute_names=names,
                attributes_of_class=tuple(
                    tuple(names.index(n) for n in of_class) for of_class in allowed.values()
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PermanentError(
                ErrorCode.BUNDLE_INVALID, f"{bundle.path / METADATA} is no style model: {error!r}"
            ) from error

    def labels_to_bundle(self) -> dict[str, Any]:
        """`labels` of `model.yaml`."""
        labels: dict[str, Any] = {
            "classes": dict(zip(self.class_names, self.coarse_of_class, strict=True)),
            "attributes": [
                {"name": g.name, "values": list(g.values), "categories": list(g.categories)}
                for g in self.groups
            ],
        }
        if self.attribute_names:
            pairs = zip(self.class_names, self.attributes_of_class, strict=True)
            labels["multi_label"] = list(self.attribute_names)
            labels["multi_label_of_class"] = {
                name: [self.attribute_names[i] for i in indices] for name, indices in pairs
            }
        return labels

    def output_to_bundle(self) -> dict[str, Any]:
        """`output` of `model.yaml`."""
        return {
            "serving_score": self.serving_score,
            "mask_threshold": self.mask_threshold,
            "duplicate_iou": self.duplicate_iou,
            "confidence": {
                g.name: {"temperature": g.temperature, "min_confidence": g.min_confidence}
                for g in self.groups
            },
        }


def postprocess(
    raw: RawOutput, source: NetworkInput, spec: OutputSpec, *, believed_only: bool
) -> StyleInstances:
    """Instances of one photo.

    believed_only: as the service wants them: those that are `believed` and no second opinion on the
    pixels of a surer one, and no two share a pixel. Otherwise every candidate with
    its mask as it is: average precision wants the doubtful ones too, and overlaps resolved in their
    favour would spoil the masks of others.
    """
    if believed_only:
        raw = raw.only(believed(raw, spec))
    width, height = source.original_wh
    boxes = source.to_original(raw.boxes)
    masks = {
        index: paste_mask(raw.masks[index], boxes[index], (height, width), spec.mask_threshold)
        for index in range(len(boxes))
    }
    if believed_only:
        masks = resolve_overlaps(without_duplicates(masks, spec.duplicate_iou))
    kept = [index for index in sorted(masks) if masks[index].any()]
    if not kept:
        return StyleInstances.empty(spec.class_names)
    return StyleInstances(
        xyxy=np.stack([mask_box(masks[i]) for i in kept]),
        scores=raw.scores[kept],
        class_ids=raw.class_ids[kept],
        class_names=spec.class_names,
        masks=tuple(Rle.encode(masks[i]) for i in kept),
        attributes=tuple(_answers(raw.attributes[i], int(raw.class_ids[i]), spec) for i in kept),
    )


def believed(raw: RawOutput, spec: OutputSpec) -> NDArray[np.intp]:
    """Indices of the instances at or above the serving score, and where none of them dresses an
    upper body, of the surest that does: hardly a photo shows a person without.

    Of that one the score stays as low as it is, so that whoever reads it may ask for a second
    opinion, as the service does of its detector.
    """
    sure = raw.scores >= spec.serving_score
    dresses = np.isin(np.array(spec.coarse_of_class)[raw.class_ids], UPPER_BODY_CLASSES)
    doubtful = np.flatnonzero(dresses & (raw.scores >= LEAST_UPPER_BODY_SCORE))
    if len(doubtful) and not (sure & dresses).any():
        sure[doubtful[0]] = True
    return np.flatnonzero(sure)


def paste_mask(
    probabilities: NDArray[np.float32],
    box: NDArray[np.float32],
    size_hw: tuple[int, int],
    threshold: float,
) -> Mask:
    """(H, W) bool from (S, S) probabilities over `box` (xyxy, in pixels of the photo).

    Bilinear, zero beyond the mask's edge, cell centres at half pixels (RoIAlign's convention). One
    axis after the other, two cells a pixel: unlike a product of matrices it takes no core from the
    stages beside it. The mask lies in memory column by column, as run-lengths go.
    """
    height, width = size_hw
    x1, y1, x2, y2 = (float(edge) for edge in box)
    left, top = max(0, int(np.floor(x1))), max(0, int(np.floor(y1)))
    right, bottom = min(width, int(np.ceil(x2))), min(height, int(np.ceil(y2)))
    pasted = np.zeros(size_hw, np.bool_, order="F")
    if right <= left or bottom <= top:
        return pasted
    cells = np.pad(probabilities.astype(np.float32, copy=False), 1)
    rows = _interpolate(cells, top, bottom, y1, y2)
    pixels = _interpolate(np.ascontiguousarray(rows.T), left, right, x1, x2)
    pasted[top:bottom, left:right] = (pixels >= threshold).T
    return pasted


def without_duplicates(masks: Mapping[int, Mask], duplicate_iou: float) -> dict[int, Mask]:
    """Masks, surest first by index, without those that a surer instance already has.

    The network suppresses duplicates within a tag; here a "blouse" and a "shirt" on the same pixels
    are one garment, and the surer name stays.
    """
    kept: dict[int, Mask] = {}
    for index in sorted(masks):
        if all(mask_iou(masks[index], other) < duplicate_iou for other in kept.values()):
            kept[index] = masks[index]
    return kept


def resolve_overlaps(masks: Mapping[int, Mask]) -> dict[int, Mask]:
    """Masks that share no pixel: a contested pixel goes to the smallest instance.

    A belt lies on a dress and a bag before a coat, so the smaller is the one in front. Masks may
    come out empty.
    """
    resolved: dict[int, Mask] = {}
    taken: Mask | None = None
    for index in sorted(masks, key=lambda i: (np.count_nonzero(masks[i]), i)):
        mask = masks[index]
        resolved[index] = mask if taken is None else mask & ~taken
        taken = mask.copy() if taken is None else taken | mask
    return resolved


def mask_iou(first: Mask, second: Mask) -> float:
    """Intersection over union of two (H, W) masks; 0 for two empty ones."""
    common = np.count_nonzero(first & second)
    union = np.count_nonzero(first) + np.count_nonzero(second) - common
    return common / union if union else 0.0


def mask_box(mask: Mask) -> NDArray[np.float32]:
    """(4,) float32 xyxy around the pixels of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def predictions(
    logits: NDArray[np.float32], groups: Sequence[GroupSpec], class_name: str
) -> dict[str, Prediction]:
    """Answers of one instance from its (V,) logits, for the groups asked of its class."""
    answers: dict[str, Prediction] = {}
    start = 0
    for group in groups:
        stop = start + len(group.values)
        if not group.categories or class_name in group.categories:
            answers[group.name] = _prediction(logits[start:stop], group)
        start = stop
    return answers


def present_attributes(
    logits: NDArray[np.float32], names: Sequence[str], allowed: Sequence[int]
) -> dict[str, Prediction]:
    """The attributes, of those allowed, that an instance more likely has than not.

    logits: (A,). Each is an answer of its own, `yes`; the ones it lacks are left out.
    """
    with np.errstate(over="ignore"):
        probabilities = 1 / (1 + np.exp(-logits))
    return {
        names[i]: Prediction(YES, float(probabilities[i]), ((YES, float(probabilities[i])),))
        for i in allowed
        if probabilities[i] >= PRESENT
    }


def _answers(logits: NDArray[np.float32], class_id: int, spec: OutputSpec) -> dict[str, Prediction]:
    answers = predictions(logits, spec.groups, spec.class_names[class_id])
    if not spec.attribute_names:
        return answers
    own = logits[len(logits) - len(spec.attribute_names) :]
    allowed = spec.attributes_of_class[class_id]
    return {**answers, **present_attributes(own, spec.attribute_names, allowed)}


def _group(labels: Mapping[str, Any], confidence: Mapping[str, Any]) -> GroupSpec:
    name = str(labels["name"])
    return GroupSpec(
        name=name,
        values=tuple(labels["values"]),
        min_confidence=float(confidence[name]["min_confidence"]),
        categories=tuple(labels["categories"]),
        temperature=float(confidence[name]["temperature"]),
    )


def _prediction(logits: NDArray[np.float32], group: GroupSpec) -> Prediction:
    probabilities = softmax(logits / group.temperature)
    order = np.argsort(-probabilities, kind="stable")
    best = int(order[0])
    confidence = float(probabilities[best])
    return Prediction(
        label=group.values[best] if confidence >= group.min_confidence else UNKNOWN,
        confidence=confidence,
        alternatives=tuple((group.values[i], float(probabilities[i])) for i in order[:3]),
    )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    normalised: NDArray[np.float32] = shifted / shifted.sum(axis=-1, keepdims=True)
    return normalised


def _interpolate(
    cells: NDArray[np.float32], first: int, last: int, start: float, end: float
) -> NDArray[np.float32]:
    """(S + 2, n) → (last - first, n): cells along a box's side [start, end) at each pixel's centre.

    cells: of the side, with one of zeros before and one behind.
    """
    count = len(cells) - 2
    pixels = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    positions = (pixels - np.float32(start)) * np.float32(count / max(end - start, 1e-6))
    positions += np.float32(0.5)  # half a cell back to its centre, and one on for the zeros
    lower = np.floor(positions).astype(np.intp)
    share = (positions - lower).astype(np.float32)[:, None]
    before, behind = np.clip(lower, 0, count + 1), np.clip(lower + 1, 0, count + 1)
    values: NDArray[np.float32] = cells[before] * (1 - share)
    values += cells[behind] * share
    return values
